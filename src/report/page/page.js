"use strict";
// The page from its data. Text that comes from runs becomes text nodes and attributes, never markup.
(() => {
  const COLOURS = 6;
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "14 4"];
  const POLL = 3000; // milliseconds between two looks for news on a live page
  const live = "live" in document.documentElement.dataset;
  let data = JSON.parse(document.getElementById("data").textContent);

  // What the reader has chosen; it outlives redrawing.
  const chosen = { hidden: new Set(), open: new Set(), epoch: null };

  // ---- Elements ----

  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children.flat().filter((child) => child != null && child !== false));
    return node;
  }

  const p = (...children) => el("p", {}, ...children);
  const note = (...children) => el("p", { class: "note" }, ...children);
  const h3 = (text) => el("h3", {}, text);

  /** A number that shows some digits and carries all of them. */
  const number = (value, digits = 4) => ({ value, text: value == null ? "–" : value.toFixed(digits) });
  const date = (seconds) => new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  const count = (value) => ({ value, text: value == null ? "–" : value.toLocaleString("en") });

  function cell(content, head) {
    if (content instanceof Node) return el("td", {}, content);
    if (typeof content === "object" && content !== null) {
      return el("td", { class: "number", "data-value": content.value }, content.text);
    }
    return el("td", { class: head?.long && "long" }, content ?? "–");
  }

  /** A table that scrolls by itself where it is too wide. The first cell of a row is its header. */
  function table(id, caption, heads, rows) {
    const head = el("tr", {}, heads.map((h) => el("th", { scope: "col", class: h.number && "number" }, h.name)));
    const body = rows.map(({ cells: [first, ...rest], sub, best }) => {
      const header = typeof first === "object" && "text" in first ? first.text : first;
      return el("tr", { class: best && "best" },
        el("th", { scope: "row", class: sub && "sub" }, header), rest.map((c, i) => cell(c, heads[i + 1])));
    });
    const label = `${id}-caption`;
    return el("div", { class: "scroll", id, role: "region", tabindex: 0, "aria-labelledby": label },
      el("table", {}, el("caption", { id: label }, caption), el("thead", {}, head), el("tbody", {}, body)));
  }

  const words = (...names) => names.map((name) => ({ name }));
  const numbers = (...names) => names.map((name) => ({ name, number: true }));

  /** A part that is built when it is first opened. */
  function details(id, summary, build) {
    const node = el("details", { id, open: chosen.open.has(id) }, el("summary", { id: `${id}-summary` }, summary));
    const fill = () => { if (node.open && node.childElementCount === 1) node.append(build()); };
    node.addEventListener("toggle", () => {
      if (node.open) chosen.open.add(id); else chosen.open.delete(id);
      fill();
    });
    fill();
    return node;
  }

  // ---- Runs ----

  const colour = (i) => `var(--run-${i % COLOURS})`;
  const dash = (i) => DASHES[i % DASHES.length];

  function swatch(i) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ class: "swatch", viewBox: "0 0 36 12", "aria-hidden": "true" })) {
      svg.setAttribute(name, value);
    }
    const attributes = { x1: 0, x2: 36, y1: 6, y2: 6, stroke: colour(i), "stroke-width": 3, "stroke-dasharray": dash(i) };
    for (const [name, value] of Object.entries(attributes)) line.setAttribute(name, value);
    svg.append(line);
    return svg;
  }

  const runs = () => data.runs.map((run, i) => ({ ...run, i }));
  const shown = () => runs().filter((run) => !chosen.hidden.has(run.label));
  const named = (run) => el("span", { class: "named" }, swatch(run.i), run.label);
  const summaryOf = (run) => run.result?.result.test ?? run.evaluation?.summary ?? null;

  /** Which samples a run's numbers are over, in words. */
  function basis(run) {
    if (run.result) return run.result.result.split === "test" ? "test sequences" : "validation sequences";
    return run.evaluation ? `validation after epoch ${run.evaluation.epoch + 1}` : null;
  }

  const column = (rows, name) => rows[name] ?? [];

  /** The points of a column over another one; what is no number is left out. */
  function points(rows, x, y, shift = 0) {
    const xs = column(rows, x);
    return column(rows, y).map((value, i) => [xs[i] + shift, value]).filter(([a, b]) => a != null && b != null);
  }

  // ---- Charts ----

  /**
   * A chart with its text alternative and its numbers.
   * series: [{ name, colour, dash, points: [[x, y]], thin, dots, line, symbol }]
   */
  function chart({ id, title, about, x, y, series, xDomain, yDomain, whole, height = 240, rule, diagonal, heads, rows }) {
    series = series.filter((s) => s.points.length > 0);
    const caption = el("figcaption", {}, el("b", {}, title), about && el("small", {}, about));
    const figure = el("figure", { id }, caption);
    if (series.length === 0) {
      figure.append(note("No numbers yet."));
      return figure;
    }
    const draw = () => {
      const width = Math.max(260, Math.floor(figure.clientWidth || 420));
      const flat = series.flatMap((s) => s.points.map(([a, b, text]) => ({ a, b, text: text ?? `${x} ${short(a)}: ${short(b)}`, name: s.name })));
      const [low, high] = d3.extent(flat, (d) => d.a);
      const ticks = Math.max(2, Math.floor(width / 80));
      const marks = [
        diagonal && Plot.line([[0, 0], [1, 1]], { stroke: "currentColor", strokeOpacity: .5, strokeDasharray: "3 3" }),
        rule != null && Plot.ruleY([rule], { stroke: "currentColor", strokeOpacity: .6, strokeDasharray: "3 3" }),
        ...series.flatMap((s) => [
          s.line !== false && Plot.line(s.points, {
            stroke: s.colour, strokeWidth: s.thin ? 1.2 : 2.2, strokeOpacity: s.thin ? .55 : 1, strokeDasharray: s.dash,
          }),
          (s.dots || s.points.length === 1) && Plot.dot(s.points, {
            fill: s.symbol === "times" ? "none" : s.colour, stroke: s.colour, strokeWidth: s.symbol === "times" ? 2.5 : 1,
            r: s.symbol ? 6 : 3, symbol: s.symbol ?? "circle", fillOpacity: s.faint ? .55 : 1,
          }),
        ]),
        Plot.tip(flat, Plot.pointer({ x: "a", y: "b", title: (d) => `${d.name}\n${d.text}`, fontSize: 12, lineHeight: 1.2 })),
      ].filter(Boolean);
      const svg = Plot.plot({
        width, height, marginLeft: 52, marginRight: 12, marginBottom: 36, className: "chart",
        ariaLabel: `${title}. ${alternative(series, x)}`,
        x: { label: x, domain: xDomain ?? (low === high ? [low - 1, high + 1] : undefined), 
          ticks: whole ? d3.ticks(low, high, ticks).filter(Number.isInteger) : ticks, tickFormat: (value) => short(value) },
        y: { label: y, domain: yDomain, grid: true, ticks: 5, nice: !yDomain, tickFormat: (value) => short(value) },
        marks,
      });
      svg.setAttribute("role", "img");
      figure.querySelector("svg.chart")?.remove();
      caption.after(svg);
    };
    drawings.push(draw);
    heads ??= [...numbers(x), ...numbers(...series.map((s) => s.name))];
    figure.append(details(`${id}-numbers`, "Numbers", () => table(`${id}-table`, title, heads, rows?.() ?? join(series))));
    return figure;
  }

  let drawings = [];

  const short = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return d3.format(".3~e")(value);
    return size >= 1000 ? value.toLocaleString("en") : d3.format(".4~r")(value).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  };

  /** One row for each x, one column for each series. */
  function join(series) {
    const byX = new Map();
    series.forEach((s, i) => s.points.forEach(([a, b]) => {
      if (!byX.has(a)) byX.set(a, new Array(series.length).fill(null));
      byX.get(a)[i] = b;
    }));
    return [...byX].sort(([a], [b]) => a - b)
      .map(([a, values]) => ({ cells: [{ text: short(a), value: a }, ...values.map((value) => number(value))] }));
  }

  /** A chart in words: where each line begins and ends and its extremes. */
  function alternative(series, x) {
    return series.filter((s) => !s.silent).map(({ name, points: all }) => {
      const at = ([a, b]) => `${short(b)} at ${x} ${short(a)}`;
      if (all.length === 1) return `${name}: ${at(all[0])}`;
      const least = d3.least(all, (q) => q[1]), greatest = d3.greatest(all, (q) => q[1]);
      return `${name}: from ${at(all[0])} to ${at(all[all.length - 1])}, lowest ${at(least)}, highest ${at(greatest)}`;
    }).join("; ");
  }

  const line = (run, all, more) => ({ name: run.label, colour: colour(run.i), dash: dash(run.i), points: all, ...more });

  /** Dotted lines of what copying the last frame scores: one where the runs share their samples, else one a run in its colour. */
  function baselines(all) {
    all = all.filter(([, its]) => its.length > 0).sort(([, a], [, b]) => b.length - a.length);
    const shared = all.every(([, its]) => its.every(([x, y], i) => all[0][1][i][0] === x && all[0][1][i][1] === y));
    const name = "copying the last frame", dotted = { dash: "1 4", thin: false };
    return (shared ? all.slice(0, 1) : all).map(([run, its]) =>
      line(run, its, shared ? { ...dotted, name, colour: "currentColor" } : { ...dotted, name: `${run.label}, ${name}` }));
  }

  /** A metric of the validation, with that of the training as a thin line. */
  function byEpoch(id, title, about, metric, { training, baseline, y = title.toLowerCase(), rule } = {}) {
    const series = shown().flatMap((run) => [
      training && line(run, points(run.epochs, "epoch", training, 1), { name: `${run.label}, training`, thin: true }),
      line(run, points(run.epochs, "epoch", metric, 1), { dots: column(run.epochs, "epoch").length <= 40 }),
    ].filter(Boolean));
    if (baseline) series.push(...baselines(shown().map((run) => [run, points(run.epochs, "epoch", baseline, 1)])));
    return chart({ id, title, about, x: "epoch", y, series, whole: true, rule });
  }

  const charts = (...all) => el("div", { class: "charts" }, all);

  // ---- Sections ----

  function verdict() {
    const parts = [];
    const box = (headline, ...rest) => el("div", { class: "verdict" }, el("strong", {}, headline), rest);
    const against = (run) => {
      const { at_threshold: at, copy_last: copy } = summaryOf(run);
      const gain = at.scores.f1 - copy.f1;
      return p(`Copying the last frame scores F1 ${copy.f1.toFixed(4)} on the same samples: ${run.label} is ` +
        `${Math.abs(gain).toFixed(4)} ${gain > 0 ? "above" : "below"} it.`);
    };
    if (data.runs.length === 1) {
      const [run] = runs();
      const summary = summaryOf(run);
      if (!summary) {
        parts.push(box(run.state === "running" ? "No epoch is done yet" : "Nothing was evaluated yet"));
      } else {
        const { scores, threshold } = summary.at_threshold;
        const enough = scores.precision > data.min_precision ? "above" : "not above";
        parts.push(box(`F1 ${scores.f1.toFixed(4)} on ${basis(run)}`,
          p(`At threshold ${short(threshold)}: precision ${scores.precision.toFixed(4)}, ${enough} the ${data.min_precision} that a ` +
            `winner needs, and recall ${scores.recall.toFixed(4)}.`), against(run)));
      }
      parts.push(note(progress(run)));
    } else {
      const winner = data.winner == null ? null : runs()[data.winner];
      const none = runs().filter((run) => run.result).length < 2 ? "No verdict yet" : "No winner";
      parts.push(box(winner ? `Winner: ${winner.label}` : none, p(`${data.reason}.`), winner && against(winner)));
      parts.push(note(`The winner has the highest F1 at the configured threshold among the finished runs with precision above ${data.min_precision}.`));
      for (const run of runs().filter((run) => run.state !== "finished")) parts.push(note(`Not compared: ${run.label}. ${progress(run)}`));
    }
    parts.push(...data.warnings.map((text) => el("p", { class: "warning" }, el("b", {}, "Warning: "), text)));
    return parts;
  }

  /** How far a run is, in words. */
  function progress(run) {
    const done = column(run.epochs, "epoch").length;
    if (run.result) {
      const { epochs, steps, stopped_early: early, best_epoch: best, monitor } = run.result.result;
      const chosenBy = best == null ? "" : `, best epoch ${best + 1} by ${monitor}`;
      return `Finished after ${epochs} epochs and ${steps.toLocaleString("en")} steps${early ? ", stopped early" : ""}${chosenBy}.`;
    }
    const most = data.configuration.find((s) => s.key === "train.epochs")?.values[run.i];
    const state = run.state === "running" ? "Training" : "Not finished (train --resume goes on)";
    return `${state}: ${done} of at most ${most ?? "?"} epochs are done.`;
  }

  function comparison() {
    const heads = [...words("Run"), ...numbers("Threshold", "Precision", "Recall", "F1", "IoU", "AP", "Growth F1", "Growth AP", "Best epoch", "Epochs", "Parameters")];
    const rows = [], baselines = new Map();
    for (const run of runs()) {
      const summary = summaryOf(run);
      const { result } = run;
      const parameters = result?.parameters ?? run.starts.at(-1)?.parameters;
      const finished = result ? [count(result.result.best_epoch == null ? null : result.result.best_epoch + 1), count(result.result.epochs)]
        : [count(null), count(column(run.epochs, "epoch").length)];
      if (!summary) {
        rows.push({ cells: [named(run), ...new Array(8).fill(number(null)), ...finished, count(parameters)] });
        continue;
      }
      const at = ({ threshold, scores, growth }) => [number(threshold, 3), number(scores.precision), number(scores.recall), number(scores.f1),
        number(scores.iou), number(summary.average_precision), number(growth.f1), number(summary.growth_average_precision)];
      rows.push({ cells: [named(run), ...at(summary.at_threshold), ...finished, count(parameters)], best: run.i === data.winner });
      const { expected } = result ?? {};
      if (expected && Object.values(expected).some((value) => value != null)) {
        rows.push({ sub: true, cells: ["expected", number(null), number(expected.precision), number(expected.recall), number(expected.f1),
          number(expected.iou), number(expected.average_precision), ...new Array(5).fill(number(null))] });
      }
      rows.push({ sub: true, cells: ["at validation's best threshold", ...at(summary.at_best), ...new Array(3).fill(number(null))] });
      const copy = JSON.stringify(summary.copy_last);
      if (!baselines.has(copy)) baselines.set(copy, run.label);
    }
    for (const [copy, label] of baselines) {
      const { precision, recall, f1, iou } = JSON.parse(copy);
      const name = `copying the last frame${baselines.size > 1 ? ` (samples of ${label})` : ""}`;
      rows.push({ cells: [name, number(null), number(precision), number(recall), number(f1), number(iou), number(null), number(0), ...new Array(4).fill(number(null))] });
    }
    const bases = [...new Set(runs().map(basis).filter(Boolean))];
    return [
      table("comparison-table", `Scores over all valid pixels of the ${bases.join(" or ") || "evaluations to come"}`, heads, rows),
      note("AP: average precision. Growth: the same over the pixels that do not burn in the last frame, where copying it predicts nothing. Copying the last frame: the baseline that any use of the network must beat."),
    ];
  }

  function curves() {
    const thin = shown().some((run) => run.steps_logged > column(run.steps, "step").length);
    const rates = ["temporal", "spatial", "refinement"].flatMap((group, g) => shown().map((run) =>
      line(run, points(run.steps, "step", `train/lr_${group}`), { name: `${run.label}, ${group}`, thin: g > 0, dash: DASHES[g] })));
    const vary = rates.some((s) => new Set(s.points.map((q) => q[1])).size > 1);
    return [
      note("Thick lines: validation. Thin lines: training."),
      charts(
        chart({
          id: "loss-step", title: "Training loss", x: "step", y: "loss",
          about: "thin: single steps" + (thin ? " (every n-th of those logged)" : "") + "; thick: mean of an epoch",
          series: shown().flatMap((run) => [
            line(run, points(run.steps, "step", "train/loss_step"), { name: `${run.label}, step`, thin: true, dash: "" }),
            line(run, points(run.epochs, "step", "train/loss_epoch"), { name: `${run.label}, epoch` }),
          ]),
        }),
        byEpoch("val-loss", "Validation loss", "losses of different kinds cannot be compared", "val/loss_epoch", { y: "loss" }),
        byEpoch("f1", "F1", "dotted: copying the last frame", "val/f1_epoch", { y: "F1", training: "train/f1_epoch", baseline: "val/copy_last_f1_epoch" }),
        byEpoch("precision", "Precision", `dashed: the ${data.min_precision} that a winner's precision exceeds`, "val/prec_epoch", { training: "train/prec_epoch", rule: data.min_precision }),
        byEpoch("recall", "Recall", "dotted: copying the last frame", "val/rec_epoch", { training: "train/rec_epoch", baseline: "val/copy_last_rec_epoch" }),
        byEpoch("iou", "Intersection over union", "dotted: copying the last frame", "val/iou_epoch", { training: "train/iou_epoch", baseline: "val/copy_last_iou_epoch", y: "IoU" }),
        byEpoch("ap", "Average precision", null, "val/ap_epoch"),
        vary && chart({ id: "rates", title: "Learning rates", about: "thick: temporal; thin: spatial, refinement", x: "step", y: "rate", series: rates }),
      ),
    ];
  }

  const evaluated = () => shown().filter((run) => run.evaluation);
  const missing = (what) => note(`No run that is shown holds ${what} (evaluations.jsonl).`);

  function curve() {
    const all = evaluated();
    if (all.length === 0) return [missing("a precision-recall curve")];
    const one = (id, title, key, which, baseline) => {
      const series = all.map((run) => line(run, run.evaluation[key].map(([t, precision, recall]) => [recall, precision, `threshold ${short(t)}: precision ${short(precision)}, recall ${short(recall)}`])));
      const mark = (run, symbol, at, what) => {
        const { precision, recall } = at[which];
        return line(run, [[recall, precision, `${what} ${short(at.threshold)}: precision ${short(precision)}, recall ${short(recall)}`]],
          { line: false, symbol, dots: true, name: run.label, silent: true });
      };
      for (const run of all) {
        const { at_threshold, at_best } = run.evaluation.summary;
        series.push(mark(run, "circle", at_threshold, "configured threshold"), mark(run, "triangle", at_best, "validation's best threshold"));
      }
      const copy = all[0].evaluation.summary.copy_last;
      if (baseline) {
        series.push({ name: "copying the last frame", colour: "currentColor", line: false, dots: true, symbol: "times", points: [[copy.recall, copy.precision]] });
      }
      return chart({
        id, title, x: "recall", y: "precision", series, xDomain: [0, 1], yDomain: [0, 1], height: 320,
        about: `● configured threshold, ▲ validation's best threshold${baseline ? ", ✕ copying the last frame" : ""}`,
        heads: [...words("Run"), ...numbers("Threshold", "Precision", "Recall")],
        rows: () => all.flatMap((run) => run.evaluation[key].map(([t, precision, recall]) => ({ cells: [run.label, number(t), number(precision), number(recall)] }))),
      });
    };
    const heads = [...words("Run", "At"), ...numbers("Threshold", "Precision", "Recall", "F1", "Growth precision", "Growth recall", "Growth F1")];
    const rows = all.flatMap((run) => {
      const { at_threshold, at_best } = run.evaluation.summary;
      return [["configured", at_threshold], ["best on validation", at_best]].map(([what, at]) => ({
        cells: [named(run), what, number(at.threshold, 3), ...[at.scores, at.growth].flatMap((s) => [number(s.precision), number(s.recall), number(s.f1)])],
      }));
    });
    return [
      charts(one("pr", "All valid pixels", "curve", "scores", true), one("pr-growth", "Growth: pixels that do not burn in the last frame", "growth_curve", "growth", false)),
      table("thresholds", "Scores at the two thresholds", heads, rows),
    ];
  }

  function confusion() {
    const heads = [...words("Run", "At"), ...numbers("Threshold", "Hits (TP)", "False alarms (FP)", "Misses (FN)", "Rightly quiet (TN)", "Pixels")];
    const rows = shown().filter(summaryOf).flatMap((run) => {
      const { at_threshold, at_best } = summaryOf(run);
      return [["configured", at_threshold], ["best on validation", at_best]].map(([what, { threshold, counts: c }]) => ({
        cells: [named(run), what, number(threshold, 3), count(c.tp), count(c.fp), count(c.fn), count(c.tn), count(c.tp + c.fp + c.fn + c.tn)],
      }));
    });
    return rows.length ? [table("confusion-table", "Pixels by what was predicted and what burned", heads, rows)] : [missing("confusion counts")];
  }

  const PART = numbers("Samples", "Loss", "Precision", "Recall", "F1", "IoU", "Growth F1", "Copy-last F1");
  const partCells = (part) => [count(part.samples), number(part.loss), number(part.scores.precision), number(part.scores.recall),
    number(part.scores.f1), number(part.scores.iou), number(part.growth.f1), number(part.copy_last.f1)];

  function breakdown() {
    const all = evaluated().filter((run) => run.evaluation.by_history.length > 0);
    if (all.length === 0) return [note("Known when a run has finished.")];
    const byHistory = (id, title, about, value, baseline) => {
      const series = all.map((run) => line(run, run.evaluation.by_history.map(([n, part]) => [n, value(part)]), { dots: true }));
      if (baseline) series.push(...baselines(all.map((run) => [run, run.evaluation.by_history.map(([n, part]) => [n, part.copy_last.f1])])));
      return chart({
        id, title, about, x: "frames of history", y: "F1", series, whole: true, yDomain: [0, 1],
        heads: [...words("Run"), ...numbers("Frames"), ...PART],
        rows: () => all.flatMap((run) => run.evaluation.by_history.map(([n, part]) => ({ cells: [run.label, count(n), ...partCells(part)] }))),
      });
    };
    const bySequence = chart({
      id: "sequences", title: "F1 by sequence, against copying the last frame", about: "a point is a sequence; above the diagonal the network is better",
      x: "copy-last F1", y: "F1", diagonal: true, xDomain: [0, 1], yDomain: [0, 1], height: 320,
      series: all.map((run) => line(run, run.evaluation.by_sequence.map(([id, part]) => [part.copy_last.f1, part.scores.f1, `${id}: F1 ${short(part.scores.f1)}, copy-last ${short(part.copy_last.f1)}`]),
        { line: false, dots: true, faint: true, symbol: ["circle", "triangle", "square", "diamond", "star"][run.i % 5] })),
      heads: [...words("Run", "Sequence"), ...PART],
      rows: () => all.flatMap((run) => [...run.evaluation.by_sequence].sort((a, b) => a[1].scores.f1 - b[1].scores.f1).map(([id, part]) => ({ cells: [run.label, id, ...partCells(part)] }))),
    });
    return [charts(
      byHistory("by-history", "F1 by length of history", "dotted: copying the last frame", (part) => part.scores.f1, true),
      byHistory("by-history-growth", "Growth F1 by length of history", "over the pixels that do not burn in the last frame", (part) => part.growth.f1, false),
      bySequence,
    )];
  }

  function growth() {
    const heads = [...words("Run"), ...numbers("F1", "Copy-last F1", "Difference", "Growth precision", "Growth recall", "Growth F1", "Growth IoU", "Growth AP")];
    const rows = shown().filter(summaryOf).map((run) => {
      const { at_threshold: { scores, growth: g }, copy_last: copy, growth_average_precision: ap } = summaryOf(run);
      const gain = scores.f1 - copy.f1;
      return { cells: [named(run), number(scores.f1), number(copy.f1), { value: gain, text: (gain >= 0 ? "+" : "−") + Math.abs(gain).toFixed(4) },
        number(g.precision), number(g.recall), number(g.f1), number(g.iou), number(ap)] };
    });
    return [
      p("The burned area only grows, so copying the last frame scores high without predicting anything. What counts is the growth: the pixels that do not burn yet."),
      rows.length > 0 && table("growth-table", "Against copying the last frame, at the configured threshold", heads, rows),
      charts(
        byEpoch("growth-f1", "Growth F1 on validation", null, "val/growth_f1_epoch", { y: "F1" }),
        byEpoch("growth-ap", "Growth average precision on validation", null, "val/growth_ap_epoch", { y: "average precision" }),
      ),
    ].filter(Boolean);
  }

  function reliability() {
    const all = evaluated();
    if (all.length === 0) return [missing("calibration counts")];
    const one = (id, title, key) => chart({
      id, title, about: "dashed: as it should be; below it fire is predicted too often, above it too seldom", x: "predicted probability", y: "fraction that burns",
      diagonal: true, xDomain: [0, 1], yDomain: [0, 1], height: 320,
      series: all.map((run) => line(run, run.evaluation[key].bins.map((bin) => [bin.predicted, bin.observed,
        `predicted ${short(bin.predicted)}, observed ${short(bin.observed)}, ${bin.pixels.toLocaleString("en")} pixels`]), { dots: true })),
      heads: [...words("Run", "Probability"), ...numbers("Pixels", "Predicted", "Observed")],
      rows: () => all.flatMap((run) => run.evaluation[key].bins.map((bin) => ({
        cells: [run.label, `${bin.low.toFixed(1)} to ${bin.high.toFixed(1)}`, count(bin.pixels), number(bin.predicted), number(bin.observed)],
      }))),
    });
    const rows = all.map((run) => ({ cells: [named(run), number(run.evaluation.calibration.error), number(run.evaluation.growth_calibration.error)] }));
    return [
      charts(one("reliability", "All valid pixels", "calibration"), one("reliability-growth", "Growth: pixels that do not burn in the last frame", "growth_calibration")),
      table("calibration-table", "Expected calibration error in ten equal ranges", [...words("Run"), ...numbers("All pixels", "Growth")], rows),
    ];
  }

  function duration(seconds) {
    if (seconds == null) return "–";
    const s = Math.round(seconds);
    if (s < 60) return `${seconds.toFixed(1)} s`;
    return s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  }

  function time() {
    const all = shown().filter((run) => run.times.length > 0);
    if (all.length === 0) return [note("No epoch has been timed (timing.jsonl).")];
    const heads = [...words("Run"), ...numbers("Training", "Validation", "Final evaluation", "Epochs timed", "Mean epoch", "Training samples/s", "Validation samples/s")];
    const seconds = (value) => ({ value, text: duration(value) });
    const rows = all.map((run) => {
      const sum = (key) => d3.sum(run.times, (t) => t[key]);
      const last = d3.sum(run.final_times, ([, s]) => s);
      const train = sum("train_seconds"), validation = sum("validation_seconds");
      const rate = (samples, time) => number(time > 0 ? samples / time : null, 1);
      return { cells: [named(run), seconds(train), seconds(validation), seconds(run.final_times.length ? last : null), count(run.times.length),
        seconds((train + validation) / run.times.length), rate(sum("train_samples"), train), rate(sum("validation_samples"), validation)] };
    });
    const rate = (part) => (t) => [t.epoch + 1, t[`${part}_seconds`] > 0 ? t[`${part}_samples`] / t[`${part}_seconds`] : null];
    const seriesOf = (f) => all.map((run) => line(run, run.times.map(f).filter(([, value]) => value != null), { dots: run.times.length <= 40 }));
    const from0 = (series) => [0, 1.05 * d3.max(series.flatMap((s) => s.points), (q) => q[1]) || 1];
    const rates = seriesOf(rate("train")), epochs = seriesOf((t) => [t.epoch + 1, t.train_seconds + t.validation_seconds]);
    return [
      table("time-table", "Time by the clock", heads, rows),
      charts(
        chart({ id: "throughput", title: "Training throughput", x: "epoch", y: "samples/s", whole: true, series: rates, yDomain: from0(rates) }),
        chart({ id: "epoch-time", title: "Time of an epoch, validation included", x: "epoch", y: "seconds", whole: true, series: epochs, yDomain: from0(epochs) }),
      ),
    ];
  }

  function gallery() {
    const all = shown().filter((run) => run.previews.length > 0);
    const left = data.runs.filter((run) => run.previews_left_out > 0);
    const omitted = left.map((run) => note(`${run.label}: the pictures of ${run.previews_left_out} epochs are left out for their size; they are in its folder previews/.`));
    if (all.length === 0) return [note("The runs hold no pictures (train.log_images_every)."), ...omitted];
    const epochs = [...new Set(all.flatMap((run) => run.previews.map((q) => q.epoch)))].sort((a, b) => a - b);
    const samples = [...new Set(all.flatMap((run) => run.previews.map((q) => q.sample)))];
    let place = chosen.epoch == null ? epochs.length - 1 : Math.max(0, epochs.findLastIndex((epoch) => epoch <= chosen.epoch));
    const input = el("input", { id: "epoch", type: "range", min: 0, max: epochs.length - 1, step: 1, value: place });
    const output = el("output", { for: "epoch", id: "epoch-shown" });
    const pictures = [];
    const body = samples.flatMap((sample) => [h3(sample), ...all.map((run) => {
      const image = el("img", { loading: live ? "lazy" : null }), caption = el("figcaption");
      pictures.push({ run, sample, image, caption });
      return el("figure", {}, caption, el("div", { class: "picture", role: "region", tabindex: 0, "aria-label": `${sample}, ${run.label}` }, image));
    })]);
    const show = () => {
      const epoch = epochs[place];
      input.setAttribute("aria-valuetext", `epoch ${epoch}`);
      output.textContent = `epoch ${epoch}`;
      for (const { run, sample, image, caption } of pictures) {
        const own = run.previews.filter((q) => q.sample === sample);
        const preview = own.findLast((q) => q.epoch <= epoch) ?? own[0];
        caption.parentElement.hidden = !preview;
        if (!preview) continue;
        if (image.getAttribute("src") !== preview.source) image.src = preview.source;
        image.alt = `${sample}, ${run.label} after epoch ${preview.epoch}: prediction, target, last frame and errors side by side`;
        caption.replaceChildren(swatch(run.i), ` ${run.label}, after epoch ${preview.epoch}`);
      }
    };
    input.addEventListener("input", () => {
      place = Number(input.value);
      chosen.epoch = place === epochs.length - 1 ? null : epochs[place]; // at the end it follows the run
      show();
    });
    show();
    return [
      note("Always the same validation samples. Errors: grey burned before, green a hit, orange a miss, blue a false alarm."),
      ...omitted,
      el("div", { class: "slider" }, el("label", { for: "epoch" }, "Epoch"), input, output),
      ...body,
    ];
  }

  const asText = (value) => value == null ? "null" : typeof value === "string" ? value : JSON.stringify(value);

  function configuration() {
    const heads = [...words("Key", "Default"), ...data.runs.map((run) => ({ name: run.label }))];
    const rowOf = (s) => ({ cells: [s.key, asText(s.default), ...s.values.map(asText)] });
    const several = data.runs.length > 1;
    const differ = (s) => s.values.some((v) => asText(v) !== asText(several ? s.values[0] : s.default));
    const different = data.configuration.filter(differ);
    const caption = several ? "Keys in which the runs differ" : "Keys that differ from the default";
    return [
      different.length > 0 ? table("differences", caption, heads, different.map(rowOf)) : note(several ? "The runs' configurations are the same." : "Every key has its default."),
      details("every-key", "Every key", () => table("every-key-table", "Configuration", heads, data.configuration.map(rowOf))),
    ];
  }

  function machine() {
    const heads = [...words("Run", "Started"), ...numbers("From step"), ...words("Version", "Device", "Compute", "Processor"), ...numbers("Cores", "Memory"), ...words("GPUs", "Driver", "System")];
    const rows = shown().flatMap((run) => run.starts.map((s) => ({
      cells: [named(run), date(s.time), count(s.step), s.version, s.device, s.compute, s.machine.processor,
        count(s.machine.cores), { value: s.machine.memory, text: s.machine.memory == null ? "–" : `${(s.machine.memory / 2 ** 30).toFixed(1)} GiB` },
        s.machine.gpus.join(", ") || "none", s.machine.driver, s.machine.system],
    })));
    return rows.length ? [table("machines", "Processes that trained", heads, rows)] : [note("Not recorded (timing.jsonl).")];
  }

  // What each section is drawn from decides whether it is drawn again.
  const of = (...keys) => () => [data.runs.map((run) => keys.map((key) => run[key])), [...chosen.hidden]];
  const SECTIONS = [
    { id: "verdict", title: "Verdict", render: verdict, from: () => [data.winner, data.reason, data.warnings, of("state", "result", "evaluation", "epochs")()] },
    { id: "comparison", title: "Comparison", render: comparison, from: of("result", "evaluation", "epochs", "starts") },
    { id: "curves", title: "Learning curves", render: curves, from: of("steps", "epochs") },
    { id: "precision-recall", title: "Precision and recall", render: curve, from: of("evaluation") },
    { id: "confusion", title: "Confusion counts", render: confusion, from: of("result", "evaluation") },
    { id: "breakdown", title: "By history and by sequence", render: breakdown, from: of("evaluation") },
    { id: "growth", title: "Growth against copy-last", render: growth, from: of("result", "evaluation", "epochs") },
    { id: "calibration", title: "Calibration", render: reliability, from: of("evaluation") },
    { id: "time", title: "Throughput and time", render: time, from: of("times", "final_times") },
    { id: "gallery", title: "Predictions", render: gallery, from: of("previews") },
    { id: "configuration", title: "Configuration", render: configuration, from: () => data.configuration },
    { id: "machine", title: "Machine and versions", render: machine, from: of("starts") },
  ];

  function update() {
    const focused = document.activeElement?.id;
    const scrolled = new Map([...document.querySelectorAll(".scroll")].map((node) => [node.id, node.scrollLeft]));
    for (const section of SECTIONS) {
      const from = JSON.stringify(section.from());
      if (section.drawn === from) continue;
      section.drawn = from;
      section.drawings = drawings = [];
      // Data that one section cannot show must not cost the others.
      try {
        section.body.replaceChildren(...section.render());
        drawings.forEach((draw) => draw());
      } catch (error) {
        console.error(error);
        section.body.replaceChildren(el("p", { class: "warning" }, `This part cannot be shown: ${error.message}`));
      }
    }
    for (const [id, left] of scrolled) document.getElementById(id)?.scrollTo({ left });
    if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
    const title = data.runs.map((run) => run.label).join(", ");
    document.title = `${title} – emberformer`;
    document.getElementById("title").textContent = title;
  }

  function choice() {
    const boxes = runs().map((run) => {
      const box = el("input", { type: "checkbox", id: `run-${run.i}`, checked: true });
      box.addEventListener("change", () => {
        if (box.checked) chosen.hidden.delete(run.label); else chosen.hidden.add(run.label);
        update();
      });
      return el("label", { for: `run-${run.i}` }, box, swatch(run.i), run.label);
    });
    return el("div", { id: "runs-shown", role: "group", "aria-labelledby": "runs-shown-label" },
      el("span", { id: "runs-shown-label" }, "Runs in charts and tables below:"), boxes);
  }

  function begin() {
    const main = document.getElementById("main");
    for (const section of SECTIONS) {
      section.body = el("div");
      main.append(el("section", { id: section.id, "aria-labelledby": `${section.id}-heading` },
        el("h2", { id: `${section.id}-heading` }, section.title), section.body));
      document.getElementById("contents").append(el("li", {}, el("a", { href: `#${section.id}` }, section.title)));
      if (section.id === "comparison" && data.runs.length > 1) main.append(choice());
    }
    document.getElementById("version").textContent = `emberformer ${data.version}`;
    const written = date(data.generated);
    document.getElementById("about").textContent = live ? "emberformer, kept current while it trains" : `emberformer report of ${written}`;
    update();
    let width = main.clientWidth;
    new ResizeObserver(() => {
      if (main.clientWidth === width) return;
      width = main.clientWidth;
      SECTIONS.forEach((section) => section.drawings.forEach((draw) => draw()));
    }).observe(main);
  }

  begin();
  if (!live) return;

  const status = document.getElementById("status");
  status.hidden = false;
  let tag = null;

  function say(text, lost) {
    status.classList.toggle("lost", lost);
    if (status.textContent !== text) status.textContent = text;
  }

  async function look() {
    try {
      const answer = await fetch("data.json", { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
      if (answer.status === 200) {
        tag = answer.headers.get("ETag");
        data = await answer.json();
        update();
      } else if (answer.status !== 304) {
        throw new Error((await answer.text()).trim());
      }
      const training = data.runs.filter((run) => run.state === "running").length;
      say(training ? "Training; the page follows." : "Nothing trains; the page follows where a run goes on.", false);
    } catch (error) {
      say(`Not current: ${error.message}. Trying again.`, true);
    }
    setTimeout(look, POLL);
  }
  look();
})();
