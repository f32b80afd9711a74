//! `emberformer bench`

use crate::cli::{print, print_json};
use crate::config::Config;
use crate::device::Device;
use crate::device::gpu::Peaks;
use crate::model::{DropoutKey, EmberFormer, ForwardWork, Inputs, ModelSettings, Target, random_batch};
use crate::optim::Adam;
use crate::patch::Grid;
use crate::train::engine::{Engine, Shape, Work};
use crate::train::settings::Recipe;
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
    /// Prints the memory that a step needs on a GPU and computes nothing
    #[arg(long)]
    memory: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// What was measured of one batch size: on a GPU the mean of replays by its own clock, on the CPU medians.
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
    /// Kernels, products, copies and fills of a step, on a GPU.
    launches: Option<usize>,
    /// Bytes that the kernels of a step move, on the emulated device.
    bytes: Option<u64>,
    /// The least time that the GPU needs for them or for the bytes, whichever is more, as a share of the step's.
    share_of_floor: Option<f64>,
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
    if args.memory {
        return memory(&config, &settings, &device, &args);
    }
    let grid = Grid { rows: args.size / patch, cols: args.size / patch, patch };
    let work = settings.forward_work(args.history, grid);
    let size = config.precision(&device).bytes();
    let bytes = settings.training_bytes(args.history, grid, size);
    let peaks = match &device {
        Device::Gpu(gpu) if !gpu.is_emulated() => Some(gpu.peaks()?),
        _ => None,
    };
    let floor = Floor { work, bytes, peaks };
    let mut rows = Vec::new();
    for batch in &args.batch {
        // A device of its own for each, so that one's memory is not another's peak.
        let device = Device::parse(&args.device)?;
        rows.push(measure(&config, &settings, &device, (*batch, args.history, grid), &floor, &args)?);
    }
    let precision = config.precision(&device).name();
    if args.json {
        return print_json(&serde_json::json!({
            "device": device.describe(), "precision": precision, "history": args.history, "size": args.size,
            "forward_flop": work, "training_bytes": bytes, "peaks": peaks, "batches": rows,
        }));
    }
    print(&format!("{}, {precision}, history {}, {2}×{2} pixels", device.describe(), args.history, args.size))?;
    print(&format!(
        "a sample takes {:.2} GFLOP and at least {:.0} MB, forward and backward",
        work.training() as f64 / 1e9,
        bytes as f64 / 1e6
    ))?;
    if let Some(Peaks { bytes_per_second, flops_per_second }) = peaks {
        print(&format!(
            "this GPU copies {:.0} GB/s and multiplies {:.0} TFLOP/s: {:.0} µs a sample at least",
            bytes_per_second / 1e9,
            flops_per_second / 1e12,
            floor.seconds().unwrap_or_default() * 1e6
        ))?;
    }
    print(
        "batch   step ms   samples/s   forward ms   + backward ms   + update ms   TFLOP/s   floor   peak MiB   epoch",
    )?;
    for row in rows {
        let (mib, epoch) = (row.peak_bytes as f64 / f64::from(1 << 20), row.epoch_seconds);
        print(&format!(
            "{:>5} {:>9.2} {:>11.1} {:>12.2} {:>15.2} {:>13.2} {:>9.3} {:>7} {:>10.0}   {:.0}:{:02.0} min",
            row.batch,
            row.step_ms,
            row.samples_per_second,
            row.forward_ms,
            row.gradients_ms,
            row.update_ms,
            row.tflops,
            row.share_of_floor.map_or_else(|| "-".into(), |share| format!("{:.0} %", 100.0 * share)),
            mib,
            (epoch / 60.0).floor(),
            epoch % 60.0
        ))?;
        if let Some(launches) = row.launches {
            let moved = row.bytes.map_or(String::new(), |bytes| format!(" that move {:.0} MB", bytes as f64 / 1e6));
            print(&format!("      {launches} launches in a step{moved}"))?;
        }
    }
    Ok(())
}

/// `--memory`: weights and moments, and the buffers of a step.
fn memory(config: &Config, settings: &ModelSettings, device: &Device, args: &Args) -> Result<()> {
    let recipe = config.train_settings(device, None).recipe;
    let patch = settings.patch;
    let grid = Grid { rows: args.size / patch, cols: args.size / patch, patch };
    let mut engine = Engine::new(settings, recipe.adam, device, recipe.precision, recipe.seed)?;
    let parameters = device.memory().0;
    let mut rows = Vec::new();
    for batch in &args.batch {
        let shape = Shape { batch: *batch, history: args.history, grid };
        let Some(step) = engine.step_bytes(shape, (&recipe.loss, &recipe.thresholds))? else {
            let remedy = "give a GPU, or --device emulated for what one would need";
            return Err(Error::usage("--memory", "a CPU plans no memory", remedy));
        };
        rows.push((*batch, step));
    }
    if args.json {
        let rows = rows.iter().map(|(batch, step)| serde_json::json!({ "batch": batch, "step_bytes": step }));
        return print_json(&serde_json::json!({ "parameter_bytes": parameters, "batches": rows.collect::<Vec<_>>() }));
    }
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    print(&format!("{}, history {}, {2}×{2} pixels", recipe.precision.name(), args.history, args.size))?;
    print(&format!("weights and moments {:.0} MiB, and for the buffers of a step", mib(parameters)))?;
    rows.iter().try_for_each(|(batch, step)| print(&format!("batch {batch:>4}: {:.0} MiB", mib(*step))))
}

/// What a sample takes at least.
struct Floor {
    work: ForwardWork,
    bytes: u64,
    peaks: Option<Peaks>,
}

impl Floor {
    /// The least time of a training step for a sample.
    fn seconds(&self) -> Option<f64> {
        self.peaks.map(|peaks| {
            let compute = self.work.training() as f64 / peaks.flops_per_second;
            compute.max(self.bytes as f64 / peaks.bytes_per_second)
        })
    }
}

fn measure(
    config: &Config,
    settings: &ModelSettings,
    device: &Device,
    (batch, history, grid): (usize, usize, Grid),
    floor: &Floor,
    args: &Args,
) -> Result<Row> {
    let recipe = config.train_settings(device, None).recipe;
    let (inputs, target) = random_batch(settings, batch, history, grid);
    let (mut launches, mut bytes) = (None, None);
    let [forward, gradients, step] = match device {
        Device::Cpu(_) => time_on_cpu(device, settings, &recipe, (&inputs, &target), args.steps)?,
        Device::Gpu(_) => {
            let mut engine = Engine::new(settings, recipe.adam, device, recipe.precision, recipe.seed)?;
            let mut time = |work| {
                let about = (&recipe.loss, &recipe.thresholds);
                let timing = engine.time(work, (&inputs, &target), about, args.steps as u32)?;
                timing.ok_or_else(|| Error::failed("bench", "a GPU that is none", "this is a bug; please report it"))
            };
            // The step first: it needs the most memory, and what is recorded later fits in it.
            let step = time(Work::Step)?;
            (launches, bytes) = (Some(step.launches), step.bytes);
            [time(Work::Forward)?, time(Work::Gradients)?, step].map(|timing| timing.seconds)
        }
    };
    Ok(Row {
        batch,
        forward_ms: 1e3 * forward,
        gradients_ms: 1e3 * gradients,
        update_ms: 1e3 * (step - gradients),
        step_ms: 1e3 * step,
        samples_per_second: batch as f64 / step,
        tflops: batch as f64 * floor.work.training() as f64 / step / 1e12,
        launches,
        bytes,
        share_of_floor: floor.seconds().map(|least| batch as f64 * least / step),
        peak_bytes: device.memory().1,
        epoch_seconds: args.epoch as f64 * step / batch as f64,
    })
}

/// Medians of forward, gradients and whole step.
fn time_on_cpu(
    device: &Device,
    settings: &ModelSettings,
    recipe: &Recipe,
    (inputs, target): (&Inputs, &Target),
    steps: usize,
) -> Result<[f64; 3]> {
    let mut model = EmberFormer::new(settings, device, recipe.precision, recipe.seed)?;
    let mut adam = Adam::new(recipe.adam, model.parameters())?;
    let [mut forward, mut gradients, mut step] = [const { Vec::new() }; 3];
    for i in 0..steps + 2 {
        let key = DropoutKey { seed: recipe.seed, step: i as u64 };
        let began = Instant::now();
        model.train_step(inputs, target, &recipe.loss, &recipe.thresholds, key)?;
        let after_gradients = Instant::now();
        adam.step(model.parameters_mut(), &recipe.rates, &[])?;
        let after_update = Instant::now();
        model.evaluate(inputs, target, &recipe.loss, &recipe.thresholds)?;
        if i >= 2 {
            gradients.push((after_gradients - began).as_secs_f64());
            step.push((after_update - began).as_secs_f64());
            forward.push(after_update.elapsed().as_secs_f64());
        }
    }
    Ok([forward, gradients, step].map(median))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}
