//! One training step (forward, loss, backward, Adam) at the seed's size, with its peak memory. `common` says on which device.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use emberformer::device::Device;
use emberformer::model::{DropoutKey, EmberFormer, ModelSettings, random_batch};
use emberformer::ops::loss::{LossSettings, Thresholds};
use emberformer::optim::{Adam, AdamSettings, LearningRates};
use emberformer::patch::Grid;
use emberformer::train::engine::{Engine, Work};
use std::time::Duration;

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

const LOSS: LossSettings = LossSettings::FOCAL_TVERSKY;
const THRESHOLDS: Thresholds = Thresholds { prediction: 0.5, target: 0.05 };
const ADAM: AdamSettings = AdamSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-4 };

fn step(c: &mut Criterion) {
    let (device, dtype) = common::setup();
    let on = if matches!(device, Device::Cpu(_)) { "CPU" } else { "GPU" };
    drop(device);
    let settings = ModelSettings::default();
    for batch in common::batches() {
        // A device of its own for each, so that one's memory is not another's peak.
        let (device, _) = common::setup();
        let mut group = c.benchmark_group(format!("training step, {on}"));
        group.sample_size(10).throughput(Throughput::Elements(batch as u64));
        let (inputs, target) = random_batch(&settings, batch, 6, Grid { rows: 50, cols: 50, patch: 8 });
        let name = format!("batch {batch}, history 6, 400x400, {}", dtype.suffix());
        if let Device::Gpu(gpu) = &device {
            let mut engine = Engine::new(&settings, ADAM, &device, dtype, 0).expect("a valid model");
            group.bench_function(name, |b| {
                b.iter_custom(|n| {
                    let data = (&inputs, &target);
                    let seconds = engine.time(Work::Step, data, (&LOSS, &THRESHOLDS), n as u32).expect("steps");
                    Duration::from_secs_f64(seconds.unwrap_or_default() * n as f64)
                })
            });
            println!("{}: peak {:.0} MiB", gpu.describe(), gpu.memory().1 as f64 / f64::from(1 << 20));
        } else {
            let mut model = EmberFormer::new(&settings, &device, dtype, 0).expect("a valid model");
            let mut adam = Adam::new(ADAM, model.parameters()).expect("memory");
            let rates = LearningRates { temporal: 1e-3, spatial: 1e-4, refinement: 1e-3 };
            let mut step = 0;
            let mut run = |()| {
                let key = DropoutKey { seed: 0, step };
                model.train_step(&inputs, &target, &LOSS, &THRESHOLDS, key).expect("a step");
                adam.step(model.parameters_mut(), &rates, &[]).expect("an update");
                step += 1;
            };
            group.bench_function(name, |b| b.iter_custom(|n| common::timed(n, || (), &mut run)));
            println!("peak resident memory: {:.0} MiB after {step} steps", peak_mib());
        }
        group.finish();
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
