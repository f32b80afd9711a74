"""Checks the report in Chromium, through its debugging pipe; called by check_report.sh with the program, Chromium and a
folder for screenshots. Needs the standard library only."""

import base64
import contextlib
import http.client
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
CONFIG = f"""
data: {{data_dir: {json.dumps(str(REPOSITORY / "tests/data/fires_64_mini"))}, batch_size: 3}}
model:
  temporal: {{d_model: 8, nhead: 2, num_layers: 1, dim_feedforward: 16, fire_embedding: pixels}}
  spatial: {{hidden_sizes: [4, 4, 4, 4], decoder_width: 8, base_channels: 4}}
  refinement: {{last_frame_skip: true}}
  loss: {{type: LOSS}}
train: {{epochs: 3, lr: 1e-2, log_metrics_every: 1, log_images_every: 1, schedule: cosine}}
patchify_on_disk: {{cache_dir: cache}}
split: {{train: 0.5, val: 0.2, test: 0.3}}
expected: {{f1: 0.8123}}
"""
HOSTILE = '<img src=x onerror="window.hacked=1">&lt;b&gt;'
HOSTILE_NOTES = "</script><script>window.hacked=2</script>"

# What the charts of epochs show, by their place in the page.
CHARTS = {
    "val-loss": "val/loss_epoch", "f1": "val/f1_epoch", "precision": "val/prec_epoch", "recall": "val/rec_epoch",
    "iou": "val/iou_epoch", "ap": "val/ap_epoch", "growth-f1": "val/growth_f1_epoch", "growth-ap": "val/growth_ap_epoch",
}


class Browser:
    """Chromium with one page."""

    def __init__(self, chromium, profile):
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()

        def hand_over():
            # Through numbers of their own, in case one of the two is 3 or 4 itself.
            a, b = os.dup(to_browser), os.dup(from_browser)
            os.dup2(a, 3)
            os.dup2(b, 4)

        flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
            --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe""".split()
        self.process = subprocess.Popen([chromium, *flags, f"--user-data-dir={profile}", "about:blank"],
                                        preexec_fn=hand_over, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.numbers, self.rest, self.session = itertools.count(1), b"", None
        self.complaints, self.requests = [], []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self(f"{domain}.enable")

    def __call__(self, method, **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != number:
            pass
        if "error" in answer:
            sys.exit(f"error: {method}: {answer['error']['message']}")
        return answer["result"]

    def receive(self):
        """The next message; events are noted."""
        while b"\0" not in self.rest:
            read = os.read(self.read, 1 << 20)
            if not read:
                sys.exit("error: Chromium has ended")
            self.rest += read
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        event, about = message.get("method"), message.get("params", {})
        if event == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"].get("exception", {}).get("description"))
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(str(about["args"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] in ("warning", "error"):
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        return message

    def run(self, script):
        """The value of an expression, awaited."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            sys.exit(f"error: {script}: {answer['exceptionDetails'].get('exception', {}).get('description')}")
        return answer["result"].get("value")

    def open(self, url):
        self("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && document.querySelectorAll('main section').length > 5")

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not self.run(condition):
            check(time.monotonic() < end, f"{condition} within {seconds} s")
            time.sleep(0.1)

    def size(self, width, height, scheme="light"):
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def key(self, key, code):
        for kind in ["rawKeyDown", "keyUp"]:
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key if key != " " else "Space", windowsVirtualKeyCode=code)
        if key == " ":
            self("Input.dispatchKeyEvent", type="char", text=" ")

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def end(self):
        if self.complaints:
            print("console:", *self.complaints, sep="\n  ", file=sys.stderr)
        self.process.terminate()
        self.process.wait()


def check(holds, what, seen=None):
    if not holds:
        sys.exit(f"error: the report fails: {what}" + ("" if seen is None else f"; seen: {seen}"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def values(browser, selector):
    """The exact numbers of a table's rows, each after the row's header."""
    return browser.run(f"""[...document.querySelectorAll({json.dumps(selector)} + " tbody tr")].map((row) => [row.cells[0].textContent.trim(),
        ...[...row.cells].slice(1).map((cell) => cell.dataset.value == null || cell.dataset.value === "null" ? null : Number(cell.dataset.value))])""")


def contrast(browser, foreground, background):
    """By WCAG 2, of two CSS colours."""
    def luminance(colour):
        rgb = browser.run(f"""(() => {{ const c = document.createElement("canvas").getContext("2d");
            c.fillStyle = getComputedStyle(document.querySelector("#f1 > svg")).getPropertyValue({json.dumps(colour)}).trim();
            c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3); }})()""")
        r, g, b = (v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    light, dark = sorted([luminance(foreground), luminance(background)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def check_numbers(browser, runs):
    """What the page shows is what the files hold."""
    browser.run("for (const d of document.querySelectorAll('details')) d.open = true")
    browser.until("[...document.querySelectorAll('details')].every((d) => d.childElementCount > 1)")
    for chart, metric in CHARTS.items():
        shown = values(browser, f"#{chart}-table")
        heads = browser.run(f"[...document.querySelectorAll('#{chart}-table thead th')].map((h) => h.textContent)")
        for name, run in runs.items():
            expected = [row[metric] for row in lines(run / "metrics.jsonl") if metric in row]
            check(len(expected) == 3, f"{run} has three epochs", expected)
            check([row[heads.index(name)] for row in shown] == expected, f"{chart} of {name} equals {metric}", shown)
    steps = values(browser, "#loss-step-table")
    heads = browser.run("[...document.querySelectorAll('#loss-step-table thead th')].map((h) => h.textContent)")
    for name, run in runs.items():
        rows = [row for row in lines(run / "metrics.jsonl") if "train/loss_step" in row]
        shown = [row[heads.index(f"{name}, step")] for row in steps]
        check(shown == [row["train/loss_step"] for row in rows], f"the training loss of {name}", shown)

    comparison = [row for row in values(browser, "#comparison-table")]
    for name, run in runs.items():
        test = json.loads((run / "result.json").read_text())["result"]["test"]
        at = test["at_threshold"]
        expected = [at["threshold"], *(at["scores"][key] for key in ["precision", "recall", "f1", "iou"]), test["average_precision"],
                    at["growth"]["f1"], test["growth_average_precision"]]
        row = next((row for row in comparison if row[0] == name), None)
        check(row and row[1:9] == expected, f"the comparison of {name} equals result.json", row)
        counts = next(row for row in values(browser, "#confusion-table") if row[0] == name)
        check(counts[3:7] == [at["counts"][key] for key in ["tp", "fp", "fn", "tn"]], f"the counts of {name}", counts)
        # From the histogram alone: counts of the calibration and of the final evaluation.
        final = [row for row in lines(run / "evaluations.jsonl") if row["epoch"] is None and row["part"] == "test"]
        histogram = final[0]["evaluation"]["histogram"]
        pixels = sum(histogram["positive"]) + sum(histogram["negative"])
        bins = browser.run(f"""[...document.querySelectorAll("#reliability-table tbody tr")].filter((row) => row.cells[0].textContent === {json.dumps(name)})
            .map((row) => [...row.cells].slice(2).map((cell) => Number(cell.dataset.value)))""")
        check(sum(row[0] for row in bins) == pixels == sum(at["counts"].values()), f"the pixels of {name}'s calibration", bins)
        burning = sum(row[0] * row[2] for row in bins)
        check(abs(burning - sum(histogram["positive"])) < 1e-6 * pixels, f"the burning pixels of {name}'s calibration", burning)


def check_access(browser):
    """Names, captions and the keyboard."""
    bare = browser.run("""[...document.querySelectorAll("main figure > svg")].filter((svg) => svg.getAttribute("role") !== "img" || !svg.getAttribute("aria-label"))
        .map((svg) => svg.parentElement.id)""")
    check(bare == [], "every chart has a text alternative", bare)
    check(browser.run("document.querySelectorAll('main figure > svg').length") >= 15, "the charts are drawn")
    check(browser.run("[...document.querySelectorAll('table')].every((t) => t.caption?.textContent && t.querySelector('th[scope=row]'))"), "every table has a caption and headers")
    check(browser.run("[...document.querySelectorAll('img')].every((i) => i.alt && i.naturalWidth > 500)"), "every picture is there and has its text")
    check(browser.run("['header', 'nav', 'main', 'footer', 'h1'].every((tag) => document.querySelectorAll(tag).length === 1)"), "the landmarks")
    check(browser.run("new Set([...document.querySelectorAll('[id]')].map((n) => n.id)).size === document.querySelectorAll('[id]').length"), "ids are unique")
    before = browser.run("document.querySelector('#epoch').focus(), [document.querySelector('#epoch-shown').textContent, document.querySelector('#gallery img').src]")
    browser.key("ArrowLeft", 37)
    after = browser.run("[document.querySelector('#epoch-shown').textContent, document.querySelector('#gallery img').src]")
    check(before[0] == "epoch 3" and after[0] == "epoch 2" and before[1] != after[1], "the slider follows the keys", [before[0], after[0]])
    charts = "document.querySelectorAll('#f1 svg g[aria-label=\"line\"]').length"
    lines_before = browser.run(charts)
    browser.run("document.querySelector('#run-0').focus()")
    browser.key(" ", 32)
    check(browser.run("!document.querySelector('#run-0').checked") and browser.run(charts) < lines_before, "a run can be hidden by key", browser.run(charts))
    browser.key(" ", 32)
    check(browser.run(charts) == lines_before, "and shown again")
    browser.run("document.activeElement.blur()")


def check_looks(browser, pictures):
    """Sizes, colours, paper."""
    for scheme in ["light", "dark"]:
        browser.size(1280, 900, scheme)
        browser.screenshot(pictures / f"desktop_{scheme}.png")
        for ground in ["--ground", "--panel", "--plot-background"]:
            for text in ["--ink", "--soft", "--accent"]:
                check(contrast(browser, text, ground) >= 4.5, f"contrast of {text} on {ground} in {scheme}", contrast(browser, text, ground))
        for i in range(6):
            check(contrast(browser, f"--run-{i}", "--ground") >= 3, f"contrast of run {i} in {scheme}", contrast(browser, f"--run-{i}", "--ground"))
    for width in [390, 1280]:
        browser.size(width, 844)
        seen = browser.run("[document.documentElement.scrollWidth, innerWidth]")
        check(seen[0] <= seen[1] == width, f"no horizontal scrolling at {width} pixels", seen)
    browser.size(390, 844)
    wide = browser.run("[...document.querySelectorAll('main figure > svg')].filter((s) => s.getBoundingClientRect().right > innerWidth).length")
    check(wide == 0, "charts fit a phone", wide)
    heads = browser.run("Math.max(0, ...[...document.querySelectorAll('.scroll')].filter((s) => s.scrollWidth > s.clientWidth)"
                        ".map((s) => s.querySelector('tbody th').offsetWidth))")
    check(heads <= 195, "the fixed first column leaves half of a phone to the numbers", heads)
    browser.screenshot(pictures / "phone.png")
    browser.size(1280, 900, "dark")
    pdf = base64.b64decode(browser("Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69)["data"])
    (pictures / "print.pdf").write_bytes(pdf)
    check(pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") >= 3 and len(pdf) > 50_000, "it prints", len(pdf))


def check_watch(browser, program, run, pictures):
    """The page follows a run and leaves the reader where they are."""
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text()
    rows = whole.splitlines(keepends=True)
    metrics.write_text("".join(rows[:-1]))
    shutil.rmtree(run / "previews/epoch_003")
    server = subprocess.Popen([program, "watch", run, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip()
        port = int(address.removesuffix("/").rpartition(":")[2])
        check(address == f"http://127.0.0.1:{port}/", "watch prints its address", address)
        for host, expected in [(f"127.0.0.1:{port}", 200), (f"localhost:{port}", 200), (f"evil.example:{port}", 421), ("127.0.0.1", 421)]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/data.json", headers={"Host": host})
            check(connection.getresponse().status == expected, f"host {host} is answered with {expected}")
        browser.size(1280, 900)
        browser.open(address)
        browser.run("document.querySelector('#f1-numbers').open = true; document.querySelector('#epoch').focus(); document.querySelector('#epoch').value = 0; "
                    "document.querySelector('#epoch').dispatchEvent(new Event('input')); document.querySelector('#growth').scrollIntoView()")
        place = "[Math.round(document.querySelector('#growth').getBoundingClientRect().top), document.activeElement.id, document.querySelector('#epoch-shown').textContent]"
        browser.until("document.querySelectorAll('#f1-table tbody tr').length === 2")
        before = browser.run(place)
        metrics.write_text(whole)
        shutil.copytree(run / "previews/epoch_002", run / "previews/epoch_003")
        browser.until("document.querySelectorAll('#f1-table tbody tr').length === 3 && document.querySelector('#epoch').max === '2'")
        after = browser.run(place)
        check(before == after, "the reader's place is kept", [before, after])
        check(browser.run("[...document.querySelectorAll('#gallery img')].length > 0"), "pictures are served")
        browser.screenshot(pictures / "watch.png")
        check(set(url.rpartition(":")[0] for url in browser.requests if not url.startswith(("data:", "file:"))) == {"http://127.0.0.1"}, "only this machine is asked", browser.requests)
    finally:
        server.terminate()
        server.wait()


def main(program, chromium, pictures):
    began = time.monotonic()
    pictures = pathlib.Path(pictures)
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place, contextlib.ExitStack() as stack:
        place = pathlib.Path(place)

        def emberformer(*arguments):
            done = subprocess.run([program, *map(str, arguments)], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            check(done.returncode == 0, " ".join(map(str, arguments)), done.stdout[-2000:])

        for name, loss in [("focal", "focal_tversky"), ("bce", "bce_dice")]:
            (place / f"{name}.yaml").write_text(CONFIG.replace("LOSS", loss))
            emberformer("train", "--config", f"{name}.yaml", "--device", "cpu", "--quiet")
        (place / "runs/bce").rename(place / "runs" / HOSTILE)
        config = place / "runs" / HOSTILE / "config.yaml"
        config.write_text(config.read_text() + f"\nstrange: {json.dumps(HOSTILE_NOTES)}\n")
        runs = {"focal": place / "runs/focal", HOSTILE: place / "runs" / HOSTILE}
        emberformer("report", *runs.values(), "--out", "report.html")

        browser = Browser(chromium, place / "profile")
        stack.callback(browser.end)
        browser.size(1280, 900)
        browser.open((place / "report.html").as_uri())
        check(browser.run("window.hacked") is None, "a hostile name runs nothing")
        check(HOSTILE in browser.run("document.querySelector('#comparison-table').innerText"), "a hostile name is shown as it is")
        check_looks(browser, pictures)
        browser.size(1280, 900)
        check_access(browser)
        check_numbers(browser, runs)
        check(HOSTILE_NOTES in browser.run("document.querySelector('#every-key-table').innerText"), "a hostile value is shown as it is")
        browser.size(390, 844)
        seen = browser.run("[document.documentElement.scrollWidth, innerWidth, window.hacked]")
        check(seen[0] <= seen[1] and seen[2] is None, "no horizontal scrolling with all numbers open", seen)
        outside = [url for url in browser.requests if not url.startswith(("file:", "data:"))]
        check(outside == [], "the page needs no network", outside)
        check_watch(browser, program, runs["focal"], pictures)
        check(browser.complaints == [], "the console is empty")
    print(f"the report holds in {chromium}, {time.monotonic() - began:.0f} s; screenshots are in {pictures}")


main(*sys.argv[1:])
