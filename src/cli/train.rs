//! `emberformer train`

use crate::cli::print;
use crate::cli::setup::{
    Parts, crop, describe_data, device, grouped, open_store, report_line, sequence_ids, wind, write_picture,
};
use crate::config::{Config, Loaded};
use crate::data::batch::Batch;
use crate::data::resident::Placement;
use crate::data::split::Split;
use crate::data::store::Store;
use crate::device::Device;
use crate::model::{Inputs, ModelSettings};
use crate::ops::loss::LossSettings;
use crate::report::pictures::{Panels, picture};
use crate::tensor::DType;
use crate::track::console::Console;
use crate::track::folder::{Expected, RunFolder, expand_name};
use crate::track::tracker::{About, Tracker};
use crate::train::engine::Engine;
use crate::train::pretrained::load_pretrained;
use crate::train::run::{Ended, Task, run as train};
use crate::train::settings::{Recipe, TrainSettings, fingerprint};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Trains a model, keeps its best and its last checkpoint, and tests the best one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  emberformer train                                       the small default on a simulated data set
  emberformer train --config configs/emberformer.yaml --set data.data_dir=~/deep_crown
  emberformer train --name emberformer --resume           goes on with runs/emberformer")]
pub struct Args {
    /// Configuration file [default: with --resume the run's own, else the built-in small one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Device: auto, cpu, cuda:N, or emulated (the GPU path on the host, for checks)
    #[arg(long, default_value = "auto")]
    device: String,
    /// Short for --device cuda:N
    #[arg(long, value_name = "N", conflicts_with = "device")]
    gpu: Option<u32>,
    /// Overrides a key of the configuration; may be given several times
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Epochs at most; short for --set train.epochs=N
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Goes on with the run from its last checkpoint
    #[arg(long)]
    resume: bool,
    /// Pauses the run after so many steps in all; --resume goes on
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Name of the run [default: wandb.run_name, wandb.run_name_template, or the configuration file's name]
    #[arg(long)]
    name: Option<String>,
    /// Folder of the runs [default: train.checkpoint_dir, which is runs]
    #[arg(long, value_name = "DIR")]
    runs_dir: Option<PathBuf>,
    /// Prints errors and warnings only
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let loaded = load(&args)?;
    let config = &loaded.config;
    let device = device(&args.device, args.gpu)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => run_name(config, args.config.as_deref())?,
    };
    let runs_dir = args.runs_dir.as_ref().unwrap_or(&config.train.checkpoint_dir);
    let folder = RunFolder::new(runs_dir, &name, args.resume)?;
    let wandb = config.wandb_settings(&name, |variable| std::env::var(variable).ok())?;

    let store = open_store(config, args.quiet)?;
    // A resumed run keeps its sequences even where the split would be drawn or read differently by now.
    let split = match args.resume {
        true => Split::read(&folder.path("split.json"), &sequence_ids(&store))?,
        false => config.split(&sequence_ids(&store))?,
    };
    let parts = Parts::new(config, &store, &split)?;
    let settings = config.train_settings(&device, args.max_steps);
    let model = config.model_settings(store.static_channels());
    let Recipe { adam, precision, seed, max_seq_len, .. } = settings.recipe;
    let placement = Placement::new(&device, &store, &settings.recipe.augment, config.residency())?;
    let mut engine = Engine::new(&model, adam, &device, precision, seed)?;
    engine.model.check_history(max_seq_len)?;
    if let (true, Some(path)) = (config.model.spatial.pretrained, &config.model.spatial.pretrained_path) {
        load_pretrained(&mut engine.model, path)?;
    }

    let split_text = serde_json::to_string_pretty(&split)
        .map_err(|e| Error::failed("split", e, "this is a defect; please report it"))?;
    folder.create(&config.resolved_yaml(), &(split_text + "\n"))?;
    let expected = &config.expected;
    let wandb = wandb.map(|mut wandb| {
        if wandb.auto_tags {
            wandb.add_tags(labels(config, &device, precision));
        }
        wandb
    });
    let about = About {
        device: device.describe(),
        compute: precision.name().into(),
        parameters: model.parameter_counts().total(),
        loss: settings.recipe.loss,
        expected: Expected {
            precision: expected.precision,
            recall: expected.recall,
            f1: expected.f1,
            iou: expected.iou,
            average_precision: expected.ap,
        },
        patience: settings.recipe.stopping.enabled.then_some(settings.recipe.stopping.patience),
        config: serde_json::to_value(config).unwrap_or_default(), // plain structs with text keys
        wandb,
    };
    let checkpoint_dir = folder.path("checkpoints");
    let tracker = Tracker::new(folder.clone(), about, device.clone(), Console::new(args.quiet))?;
    let mut tracker = tracker.with_preview(Box::new(|folder, epoch, batch, logits| {
        draw_preview(config, &store, folder, epoch, batch, logits)
    }));
    tracker.line(&format!("run     {}", folder.root().display()))?;
    tracker.line(&format!("device  {}", device.describe()))?;
    tracker.line(&format!("compute {}", precision.name()))?;
    if let Some(residency) = placement.describe() {
        tracker.line(&format!("packed  {residency}"))?;
    }
    for line in banner(&loaded, &store, &split, &parts, &model, &settings, args.resume) {
        tracker.line(&line)?;
    }

    let recipe = fingerprint(&settings, &model, &config.sampler_settings(), &split, store.fingerprint());
    let task = Task {
        source: &store,
        placement: &placement,
        train: &parts.train,
        val: &parts.val,
        test: parts.test.as_ref(),
        data: describe_data(&store),
        model,
        config: config.resolved_yaml(),
        recipe,
        settings: &settings,
        checkpoint_dir,
        stop: stop_on_signals()?,
    };
    let ended = train(&task, &mut engine, &mut tracker, args.resume).inspect_err(|e| tracker.failed(e))?;
    // Its lock would show the run as one that still trains.
    drop(tracker);
    let line = report_line(&[folder.root().to_path_buf()], &folder.path("report.html"));
    if let (Some(line), false) = (line, args.quiet) {
        print(&line)?;
    }
    match ended {
        Ended::Interrupted => Err(Error::interrupted(
            folder.root().display(),
            "saved and stopped by a signal",
            format_args!("go on with --name {name} --resume"),
        )),
        _ => Ok(()),
    }
}

/// What tells a run from others at a glance.
fn labels(config: &Config, device: &Device, precision: DType) -> Vec<String> {
    let word = |value: serde_json::Result<serde_json::Value>| value.ok()?.as_str().map(str::to_string);
    let loss = word(serde_json::to_value(config.model.loss.r#type));
    let embedding = word(serde_json::to_value(config.model.temporal.fire_embedding)).map(|word| format!("fire-{word}"));
    let device = match device {
        Device::Cpu(_) => "cpu",
        Device::Gpu(gpu) if gpu.is_emulated() => "emulated",
        Device::Gpu(_) => "cuda",
    };
    let data = config.data_dir().file_name().map(|name| name.to_string_lossy().into_owned());
    loss.into_iter().chain(embedding).chain([device.into(), precision.name().into()]).chain(data).collect()
}

/// Set by SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.
fn stop_on_signals() -> Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| {
        if STOP.swap(true, Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nsaving and stopping after this step; a second signal ends at once");
    })
    .map_err(|e| Error::failed("signals", e, "this is a defect; please report it"))?;
    Ok(&STOP)
}

/// The configuration, with the flags that are short for keys.
fn load(args: &Args) -> Result<Loaded> {
    let mut sets = args.set.clone();
    sets.extend(args.epochs.map(|n| format!("train.epochs={n}")));
    let own = match (&args.config, &args.name, args.resume) {
        (None, Some(name), true) => {
            let runs_dir = args.runs_dir.clone().unwrap_or_else(|| "runs".into());
            Some(RunFolder::new(&runs_dir, name, true)?.path("config.yaml"))
        }
        _ => None,
    };
    Config::load(own.as_deref().or(args.config.as_deref()), &sets)
}

/// The name that the configuration gives a run, else that of its file.
pub fn run_name(config: &Config, path: Option<&Path>) -> Result<String> {
    let stem = path.and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    let stem = stem.unwrap_or_else(|| "emberformer_quick".into());
    match (&config.wandb.run_name, &config.wandb.run_name_template) {
        (Some(name), _) => expand_name(name, |key| lookup(config, &stem, key)),
        (None, Some(template)) => expand_name(template, |key| lookup(config, &stem, key)),
        (None, None) => Ok(stem),
    }
}

/// A key of a name's template: `config` is the file's name, others are keys of the configuration.
fn lookup(config: &Config, stem: &str, key: &str) -> Option<String> {
    if key == "config" {
        return Some(stem.to_string());
    }
    let root = serde_json::to_value(config).ok()?;
    match key.split('.').try_fold(&root, |at, part| at.get(part))? {
        serde_json::Value::String(text) => Some(text.clone()),
        value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => Some(value.to_string()),
        _ => None,
    }
}

fn banner(
    loaded: &Loaded,
    store: &Store,
    split: &Split,
    parts: &Parts,
    model: &ModelSettings,
    settings: &TrainSettings,
    resumed: bool,
) -> Vec<String> {
    let counts = model.parameter_counts();
    let (height, width) = store.window();
    let samples = |sampler: &crate::data::sampler::Sampler| sampler.samples().len() as u64;
    let stopping = &settings.recipe.stopping;
    let mut lines = vec![
        format!(
            "model   {} parameters: embedder {}, temporal {}, spatial {}, refinement {}",
            grouped(counts.total()),
            grouped(counts.embedder),
            grouped(counts.temporal),
            grouped(counts.spatial),
            grouped(counts.refinement)
        ),
        format!(
            "data    {}: {} sequences of {height}×{width} pixels in patches of {p}×{p}, {} static bands",
            loaded.config.data_dir().display(),
            store.sequences().len(),
            store.static_channels(),
            p = store.grid().patch
        ),
        format!(
            "split   {} samples of {} sequences train, {} of {} validate, {} of {} test",
            grouped(samples(&parts.train)),
            split.train.len(),
            grouped(samples(&parts.val)),
            split.val.len(),
            grouped(parts.test.as_ref().map_or(0, samples)),
            split.test.len()
        ),
        format!("loss    {}", describe_loss(&settings.recipe.loss)),
        match stopping.enabled {
            true => format!(
                "stop    after {} epochs, or {} in a row without a gain of {} in {}",
                settings.epochs,
                stopping.patience,
                stopping.min_delta,
                stopping.monitor.metric()
            ),
            false => format!("stop    after {} epochs", settings.epochs),
        },
    ];
    // A run's own configuration has every key.
    if !loaded.without_effect.is_empty() && !resumed {
        lines.push(format!("note    without effect here: {}", loaded.without_effect.join(", ")));
    }
    lines
}

/// Writes the samples of a batch as pictures of prediction, truth, last frame and errors.
fn draw_preview(
    config: &Config,
    store: &Store,
    folder: &Path,
    epoch: u64,
    batch: &Batch,
    logits: &[f32],
) -> Result<()> {
    let Inputs { grid, history, frames, .. } = &batch.inputs;
    let (height, width) = store.window();
    let words = grid.patches() * grid.words();
    let mask = |bits: &[u64]| crop(*grid, height, width, grid.unpack(bits).into_iter());
    for (b, (sample, z)) in batch.samples.iter().zip(logits.chunks_exact(grid.pixels())).enumerate() {
        let (id, frame) = (&store.sequences()[sample.sequence].id, sample.k + 1);
        let picture = picture(&Panels {
            heading: &format!("{id}, frame {frame}, after epoch {}", epoch + 1),
            prediction: &crop(*grid, height, width, z.iter().map(|z| 1.0 / (1.0 + (-z).exp()))),
            threshold: config.thresholds().prediction,
            target: Some(&mask(&batch.target.bits[b * words..][..words])),
            last_frame: &mask(&frames[((b + 1) * history - 1) * words..][..words]),
            height,
            width,
            wind: wind(store, config.data.wind_direction, *sample),
        });
        write_picture(&folder.join(format!("{id}_frame_{frame:03}.png")), &picture)?;
    }
    Ok(())
}

/// A loss in words.
pub fn describe_loss(loss: &LossSettings) -> String {
    match loss {
        LossSettings::FocalTversky {
            focal_weight,
            tversky_weight,
            focal_alpha,
            focal_gamma,
            tversky_alpha,
            tversky_beta,
        } => format!(
            "{focal_weight} focal (α {focal_alpha}, γ {focal_gamma}) + {tversky_weight} Tversky (α {tversky_alpha}, β {tversky_beta})"
        ),
        LossSettings::BceDice { bce_weight, dice_weight, pos_weight } => {
            let pos_weight = match pos_weight {
                crate::ops::loss::PosWeight::None => String::new(),
                crate::ops::loss::PosWeight::Auto => " (burning pixels weighted by their rarity)".into(),
                crate::ops::loss::PosWeight::Value(weight) => format!(" (burning pixels weighted by {weight})"),
            };
            format!("{bce_weight} BCE{pos_weight} + {dice_weight} √Dice")
        }
    }
}
