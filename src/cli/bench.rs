//! `emberformer bench`

use crate::cli::{print, print_json};
use crate::config::Config;
use crate::device::Device;
use crate::model::{DropoutKey, EmberFormer, ForwardWork, ModelSettings, random_batch};
use crate::optim::Adam;
use crate::patch::Grid;
use crate::{Error, Result};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Measures the training step of a configuration on random data: time by phase, samples a second, memory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: emberformer bench --config configs/emberformer.yaml --device cuda:0 --batch 4,16,64")]
pub struct Args {
    /// Configuration file [default: the published network]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides a key of the configuration; may be given several times
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Device: auto, cpu, cuda:N, or emulated (the GPU path on the host, for checks)
    #[arg(long, default_value = "auto")]
    device: String,
    /// Samples in a batch; several are measured one after the other
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_value = "4")]
    batch: Vec<usize>,
    /// Steps of history
    #[arg(long, default_value_t = 6)]
    history: usize,
    /// Side of the windows in pixels, a multiple of the patch size
    #[arg(long, default_value_t = 400)]
    size: usize,
    /// Static bands
    #[arg(long, default_value_t = 8)]
    bands: usize,
    /// Steps measured of each batch, after two that are not
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Samples of an epoch, for the projected time
    #[arg(long, default_value_t = 65_000)]
    epoch: usize,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// What was measured of one batch size; times are medians in milliseconds.
#[derive(Debug, Serialize)]
struct Row {
    batch: usize,
    /// Forward in evaluation mode.
    forward_ms: f64,
    /// Forward, loss and backward of a training step.
    gradients_ms: f64,
    /// Adam.
    update_ms: f64,
    /// The whole training step.
    step_ms: f64,
    samples_per_second: f64,
    /// Of the products and convolutions of forward and backward.
    tflops: f64,
    /// Most bytes in use at a time on the device.
    peak_bytes: usize,
    epoch_seconds: f64,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let config = match &args.config {
        Some(path) => Config::load(Some(path), &args.set)?.config,
        None => {
            Config::parse("configs/emberformer.yaml", include_str!("../../configs/emberformer.yaml"), &args.set)?.config
        }
    };
    let patch = config.patchify_on_disk.patch_size;
    if args.size == 0 || !args.size.is_multiple_of(patch) {
        let problem = format!("{} pixels are no multiple of the patch size {patch}", args.size);
        return Err(Error::usage("--size", problem, "give one, as 400"));
    }
    if args.batch.contains(&0) || args.history == 0 || args.steps == 0 {
        return Err(Error::usage("bench", "a size of 0", "give --batch, --history and --steps of 1 or more"));
    }
    let device = Device::parse(&args.device)?;
    let settings = config.model_settings(args.bands);
    let grid = Grid { rows: args.size / patch, cols: args.size / patch, patch };
    let work = settings.forward_work(args.history, grid);
    let mut rows = Vec::new();
    for batch in &args.batch {
        // A device of its own for each, so that one's memory is not another's peak.
        let device = Device::parse(&args.device)?;
        rows.push(measure(&config, &settings, &device, (*batch, args.history, grid), &work, &args)?);
    }
    let precision = config.precision(&device).name();
    if args.json {
        return print_json(&serde_json::json!({
            "device": device.describe(), "precision": precision, "history": args.history, "size": args.size,
            "forward_flop": work, "batches": rows,
        }));
    }
    print(&format!("{}, {precision}, history {}, {2}×{2} pixels", device.describe(), args.history, args.size))?;
    print(&format!("{:.2} GFLOP a sample, forward and backward", work.training() as f64 / 1e9))?;
    print("batch   step ms   samples/s   gradients ms   update ms   forward ms   TFLOP/s   peak MiB   epoch")?;
    for row in rows {
        let (mib, epoch) = (row.peak_bytes as f64 / f64::from(1 << 20), row.epoch_seconds);
        print(&format!(
            "{:>5} {:>9.2} {:>11.1} {:>14.2} {:>11.2} {:>12.2} {:>9.3} {:>10.0}   {:.0}:{:02.0} min",
            row.batch,
            row.step_ms,
            row.samples_per_second,
            row.gradients_ms,
            row.update_ms,
            row.forward_ms,
            row.tflops,
            mib,
            (epoch / 60.0).floor(),
            epoch % 60.0
        ))?;
    }
    Ok(())
}

fn measure(
    config: &Config,
    settings: &ModelSettings,
    device: &Device,
    (batch, history, grid): (usize, usize, Grid),
    work: &ForwardWork,
    args: &Args,
) -> Result<Row> {
    let recipe = config.train_settings(device, None).recipe;
    let mut model = EmberFormer::new(settings, device, recipe.precision, recipe.seed)?;
    let mut adam = Adam::new(recipe.adam, model.parameters())?;
    let (inputs, target) = random_batch(settings, batch, history, grid);
    let [mut forward, mut gradients, mut update, mut step] = [const { Vec::new() }; 4];
    for i in 0..args.steps + 2 {
        let key = DropoutKey { seed: recipe.seed, step: i as u64 };
        let began = Instant::now();
        model.train_step(&inputs, &target, &recipe.loss, &recipe.thresholds, key)?;
        device.synchronize()?;
        let after_gradients = Instant::now();
        adam.step(model.parameters_mut(), &recipe.rates, &[])?;
        device.synchronize()?;
        let after_update = Instant::now();
        model.evaluate(&inputs, &target, &recipe.loss, &recipe.thresholds)?;
        if i >= 2 {
            gradients.push((after_gradients - began).as_secs_f64());
            update.push((after_update - after_gradients).as_secs_f64());
            step.push((after_update - began).as_secs_f64());
            forward.push(after_update.elapsed().as_secs_f64());
        }
    }
    let [forward, gradients, update, step] = [forward, gradients, update, step].map(median);
    Ok(Row {
        batch,
        forward_ms: 1e3 * forward,
        gradients_ms: 1e3 * gradients,
        update_ms: 1e3 * update,
        step_ms: 1e3 * step,
        samples_per_second: batch as f64 / step,
        tflops: batch as f64 * work.training() as f64 / step / 1e12,
        peak_bytes: device.memory().1,
        epoch_seconds: args.epoch as f64 * step / batch as f64,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}
