//! `emberformer evaluate`

use crate::cli::setup::{check_data, config_of, device, evaluation_precision, open_store, sequence_ids, split_of};
use crate::cli::{print, print_json};
use crate::data::sampler::Sampler;
use crate::data::store::Store;
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::load_model;
use crate::train::evaluate::{Part, Summary, evaluate};
use crate::train::metrics::{CurvePoint, Evaluation, Scores, Totals, precision_recall_curve};
use crate::{Error, Result};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Evaluates a checkpoint: scores at a threshold, average precision, growth, the copy-last baseline, and the same by length
/// of history and by sequence. The loss is the mean over samples, each seen alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  emberformer evaluate --checkpoint runs/emberformer/checkpoints/best.safetensors --threshold best
  emberformer evaluate --checkpoint best.safetensors --data ~/other_fires --json")]
pub struct Args {
    /// Checkpoint file
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Which sequences: train, val or test of the run's split, or all [default: test, with --data all]
    #[arg(long, value_parser = ["train", "val", "test", "all"])]
    split: Option<String>,
    /// A pixel burns above this probability; best: the threshold of the best F1 on validation [default: the configured one]
    #[arg(long, value_name = "T|best")]
    threshold: Option<String>,
    /// Another data set in the same layout [default: the run's own]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Device: auto, cpu, cuda:N, or emulated (the GPU path on the host, for checks)
    #[arg(long, default_value = "auto")]
    device: String,
    /// Prints JSON, with the precision-recall curve
    #[arg(long)]
    json: bool,
}

/// What the command prints as JSON.
#[derive(Serialize)]
struct Report {
    checkpoint: PathBuf,
    step: u64,
    split: String,
    sequences: usize,
    summary: Summary,
    by_history: BTreeMap<usize, Part>,
    by_sequence: BTreeMap<String, Part>,
    precision_recall_curve: Vec<CurvePoint>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let path = &args.checkpoint;
    let device = device(&args.device, None)?;
    let checkpoint = Checkpoint::read(path)?;
    let config = config_of(&checkpoint, path, args.data.as_deref())?;
    let mut thresholds = config.thresholds();
    let best = best_threshold(&checkpoint, path);
    thresholds.prediction = match args.threshold.as_deref() {
        None => thresholds.prediction,
        Some("best") => best.clone()?,
        Some(text) => text.parse().ok().filter(|t| (0.0..=1.0).contains(t)).ok_or_else(|| {
            Error::usage("--threshold", format_args!("{text} is no probability"), "give a number from 0 to 1, or best")
        })?,
    };
    let model = load_model(&checkpoint, &device, evaluation_precision(&config, &device), path)?;
    let store = open_store(&config, args.json)?;
    check_data(&checkpoint, &store, path)?;
    let split = args.split.clone().unwrap_or_else(|| if args.data.is_some() { "all" } else { "test" }.into());
    let ids = sequences(&checkpoint, &store, &split, path)?;
    let sampler = Sampler::new(&store, &ids, config.sampler_settings())?;

    let singles = sampler.singly();
    let bar = indicatif::ProgressBar::new(singles.len() as u64);
    let loss = config.loss_settings();
    let evaluation = evaluate(
        &store,
        &singles,
        config.sampler_settings().max_seq_len,
        true,
        |batch| model.evaluate(&batch.inputs, &batch.target, &loss, &thresholds),
        |totals, _| bar.set_position(totals.samples),
    )?;
    bar.finish_and_clear();

    let summary = Summary::new(&evaluation, thresholds.prediction, best.unwrap_or(thresholds.prediction));
    let parts = |totals: &Totals| Part::new(totals);
    let report = Report {
        checkpoint: path.clone(),
        step: checkpoint.state.progress.step,
        split,
        sequences: ids.len(),
        summary,
        by_history: evaluation.by_history.iter().map(|(k, t)| (*k, parts(t))).collect(),
        by_sequence: evaluation.by_sequence.iter().map(|(k, t)| (k.clone(), parts(t))).collect(),
        precision_recall_curve: precision_recall_curve(&evaluation.histogram),
    };
    if args.json { print_json(&report) } else { print(&text(&report, &evaluation)) }
}

/// The threshold of the best F1 on validation, after the checkpoint's last finished epoch.
fn best_threshold(checkpoint: &Checkpoint, path: &Path) -> Result<f64> {
    let last = checkpoint.state.history.last().and_then(|row| row.get("val/best_threshold_epoch")?.as_f64());
    last.ok_or_else(|| {
        let problem = "was written before the first validation and has no best threshold";
        Error::failed(path.display(), problem, "give --threshold as a number")
    })
}

/// The sequences of a part of the run's split, which the data set must have.
fn sequences(checkpoint: &Checkpoint, store: &Store, part: &str, path: &Path) -> Result<Vec<String>> {
    let all = sequence_ids(store);
    if part == "all" {
        return Ok(all);
    }
    let split = split_of(checkpoint, path)?;
    let ids =
        split.parts().into_iter().find(|(name, _)| *name == part).map(|(_, ids)| ids.to_vec()).unwrap_or_default();
    if let Some(unknown) = ids.iter().find(|id| !all.contains(id)) {
        let problem = format!("the run's {part} sequences include {unknown}, which the data set does not have");
        return Err(Error::failed(path.display(), problem, "use the run's own data set, or --split all"));
    }
    if ids.is_empty() {
        let problem = format!("the run's split has no {part} sequences");
        return Err(Error::failed(path.display(), problem, "choose another --split"));
    }
    Ok(ids)
}

fn text(report: &Report, evaluation: &Evaluation) -> String {
    let Summary { samples, loss, average_precision, growth_average_precision, at_threshold, at_best, copy_last } =
        &report.summary;
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["", "accuracy", "precision", "recall", "F1", "IoU", "AP"]);
    let mut row = |name: String, s: &Scores, ap: Option<f64>| {
        let ap = ap.map_or(String::new(), |ap| format!("{ap:.4}"));
        let values = [s.accuracy, s.precision, s.recall, s.f1, s.iou].map(|v| format!("{v:.4}"));
        table.add_row([name].into_iter().chain(values).chain([ap]));
    };
    let mut points = vec![at_threshold];
    points.extend((at_best.threshold != at_threshold.threshold).then_some(at_best));
    for at in points {
        row(format!("threshold {:.3}", at.threshold), &at.scores, Some(*average_precision));
        row("  growth".into(), &at.growth, Some(*growth_average_precision));
    }
    row("copying the last frame".into(), copy_last, None);

    let mut by_history = Table::new();
    by_history.load_style(presets::UTF8_BORDERS_ONLY);
    by_history.set_header(["frames of history", "samples", "precision", "recall", "F1", "growth F1", "copy-last F1"]);
    for (history, totals) in &evaluation.by_history {
        let Part { samples, scores, growth, copy_last, .. } = Part::new(totals);
        let values = [scores.precision, scores.recall, scores.f1, growth.f1, copy_last.f1].map(|v| format!("{v:.4}"));
        by_history.add_row([history.to_string(), samples.to_string()].into_iter().chain(values));
    }
    format!(
        "{}, step {}\n{} split: {samples} samples of {} sequences, loss {loss:.4}\n{table}\n{by_history}",
        report.checkpoint.display(),
        report.step,
        report.split,
        report.sequences
    )
}
