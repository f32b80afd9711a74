//! `emberformer inspect`

use crate::Result;
use crate::cli::setup::grouped;
use crate::cli::{print, print_json};
use crate::model::{Group, ModelSettings, ParameterCounts};
use crate::train::checkpoint::{Checkpoint, DataDescription, HostTensor, Progress};
use crate::train::metrics::Metrics;
use crate::train::stopping::Stopping;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::path::PathBuf;

/// Shows what a checkpoint holds: metrics, architecture, parameters by part, tensors, optimiser state.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  emberformer inspect runs/emberformer/checkpoints/best.safetensors")]
pub struct Args {
    /// Checkpoint file
    #[arg(value_name = "FILE")]
    checkpoint: PathBuf,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// What the command prints as JSON.
#[derive(Serialize)]
struct Report {
    checkpoint: PathBuf,
    progress: Progress,
    stopping: Stopping,
    metrics: Option<Metrics>,
    model: ModelSettings,
    data: DataDescription,
    parameters: ParameterCounts,
    total_parameters: u64,
    tensors: Vec<TensorReport>,
    optimizer: Vec<OptimizerReport>,
}

/// A tensor in numbers; values that are not finite are counted and left out of the rest.
#[derive(Serialize)]
struct TensorReport {
    name: String,
    shape: Vec<usize>,
    norm: f64,
    min: f64,
    max: f64,
    not_finite: usize,
}

/// Adam's moments of a parameter group.
#[derive(Serialize)]
struct OptimizerReport {
    group: Group,
    updates: u64,
    tensors: usize,
    first_moment_norm: f64,
    second_moment_norm: f64,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let checkpoint = Checkpoint::read(&args.checkpoint)?;
    let parameters = checkpoint.state.model.parameter_counts();
    let report = Report {
        checkpoint: args.checkpoint,
        progress: checkpoint.state.progress,
        stopping: checkpoint.state.stopping,
        metrics: checkpoint.state.history.last().cloned(),
        model: checkpoint.state.model.clone(),
        data: checkpoint.state.data.clone(),
        total_parameters: parameters.total(),
        parameters,
        tensors: checkpoint.weights.iter().map(|(name, tensor)| describe(name, tensor)).collect(),
        optimizer: optimizer(&checkpoint),
    };
    if args.json { print_json(&report) } else { print(&text(&report)) }
}

fn describe(name: &str, tensor: &HostTensor) -> TensorReport {
    let finite = || tensor.values.iter().filter(|v| v.is_finite()).map(|v| f64::from(*v));
    let not_finite = tensor.values.len() - finite().count();
    TensorReport {
        name: name.to_string(),
        shape: tensor.shape.clone(),
        norm: finite().map(|v| v * v).sum::<f64>().sqrt(),
        min: finite().reduce(f64::min).unwrap_or(0.0),
        max: finite().reduce(f64::max).unwrap_or(0.0),
        not_finite,
    }
}

/// The group of a weight, by the first part of its name.
fn group_of(name: &str) -> Group {
    match name.split('.').next() {
        Some("spatial_decoder") => Group::Spatial,
        Some("refinement_decoder") => Group::Refinement,
        _ => Group::Temporal,
    }
}

fn optimizer(checkpoint: &Checkpoint) -> Vec<OptimizerReport> {
    let groups = Group::ALL.into_iter().zip(checkpoint.state.progress.optimizer_updates);
    groups
        .map(|(group, updates)| {
            let of_group: Vec<_> = checkpoint.moments.iter().filter(|(name, _)| group_of(name) == group).collect();
            let norm = |tensors: &mut dyn Iterator<Item = &HostTensor>| {
                tensors.map(|t| describe("", t).norm.powi(2)).sum::<f64>().sqrt()
            };
            OptimizerReport {
                group,
                updates,
                tensors: of_group.len(),
                first_moment_norm: norm(&mut of_group.iter().map(|(_, (first, _))| first)),
                second_moment_norm: norm(&mut of_group.iter().map(|(_, (_, second))| second)),
            }
        })
        .collect()
}

fn text(report: &Report) -> String {
    let Progress { step, epoch, position, seed, .. } = report.progress;
    let mut text = format!("{}\n\nprogress\n", report.checkpoint.display());
    text += &format!("  step {step}, {epoch} epochs done, {position} steps into the next, seed {seed}\n");
    if let (Some(best), Some(epoch)) = (report.stopping.best, report.stopping.best_epoch) {
        text += &format!("  best monitored value {best:.4} after epoch {}\n", epoch + 1);
    }
    text += "\nmetrics of the last finished epoch\n";
    match &report.metrics {
        None => text += "  none yet\n",
        Some(row) => {
            for (name, value) in row {
                text += &format!("  {name:32} {value}\n");
            }
        }
    }
    let m = &report.model;
    let ParameterCounts { embedder, temporal, spatial, refinement } = report.parameters;
    text += &format!(
        "\narchitecture\n  width {}, {} heads, {} layers, feed-forward {}, dropout {}, patches of {p}×{p}\n  inputs: fire ({}){}{}\n  \
         decode head {:?} → {}, refinement base {}{}{}\n",
        m.d_model,
        m.heads,
        m.layers,
        m.feedforward,
        m.dropout,
        match m.fire_embedding {
            crate::model::FireEmbedding::Mean => "burned fraction",
            crate::model::FireEmbedding::Pixels => "pixels",
        },
        if m.use_wind { ", wind" } else { "" },
        if m.use_static {
            format!(", {} static bands: {}", m.static_channels, report.data.band_names.join(", "))
        } else {
            String::new()
        },
        m.hidden_sizes,
        m.decoder_width,
        m.base_channels,
        if m.input_projection { ", input projection" } else { "" },
        if m.last_frame_skip { ", last frame joins the last stage" } else { "" },
        p = m.patch,
    );
    let counts = [("embedder", embedder), ("temporal", temporal), ("spatial", spatial), ("refinement", refinement)];
    text += "\nparameters\n";
    for (name, count) in counts.into_iter().chain([("in all", report.total_parameters)]) {
        text += &format!("  {name:12} {:>12}\n", grouped(count));
    }
    let mut tensors = Table::new();
    tensors.load_style(presets::UTF8_BORDERS_ONLY);
    tensors.set_header(["tensor", "shape", "norm", "min", "max"]);
    for t in &report.tensors {
        let note = if t.not_finite > 0 { format!(" ({} values not finite)", t.not_finite) } else { String::new() };
        let [norm, min, max] = [t.norm, t.min, t.max].map(|v| format!("{v:.4}"));
        tensors.add_row([t.name.clone() + &note, format!("{:?}", t.shape), norm, min, max]);
    }
    let mut optimizer = Table::new();
    optimizer.load_style(presets::UTF8_BORDERS_ONLY);
    optimizer.set_header(["Adam", "updates", "tensors", "norm of first moments", "norm of second moments"]);
    for o in &report.optimizer {
        let norms = [o.first_moment_norm, o.second_moment_norm].map(|v| format!("{v:.3e}"));
        let row = [format!("{:?}", o.group).to_lowercase(), o.updates.to_string(), o.tensors.to_string()];
        optimizer.add_row(row.into_iter().chain(norms));
    }
    text + &format!("\n{tensors}\n\n{optimizer}")
}
