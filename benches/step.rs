//! One training step (forward, loss, backward, Adam) at the seed's size, with its peak memory. `common` says on which device.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use emberformer::device::Device;
use emberformer::model::{DropoutKey, EmberFormer, ModelSettings, random_batch};
use emberformer::ops::loss::{LossSettings, Thresholds};
use emberformer::optim::{Adam, AdamSettings, LearningRates};
use emberformer::patch::Grid;

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

fn step(c: &mut Criterion) {
    let (device, dtype) = common::setup();
    let on = if matches!(device, Device::Cpu(_)) { "CPU" } else { "GPU" };
    let mut group = c.benchmark_group(format!("training step, {on}"));
    group.sample_size(10);
    let settings = ModelSettings::default();
    let (inputs, target) = random_batch(&settings, 4, 6, Grid { rows: 50, cols: 50, patch: 8 });
    let mut model = EmberFormer::new(&settings, &device, dtype, 0).expect("a valid model");
    let adam = AdamSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-4 };
    let mut adam = Adam::new(adam, model.parameters()).expect("memory");
    let rates = LearningRates { temporal: 1e-3, spatial: 1e-4, refinement: 1e-3 };
    let loss = LossSettings::FOCAL_TVERSKY;
    let thresholds = Thresholds { prediction: 0.5, target: 0.05 };
    let mut step = 0;
    let mut run = |()| {
        let key = DropoutKey { seed: 0, step };
        model.train_step(&inputs, &target, &loss, &thresholds, key).expect("a step");
        adam.step(model.parameters_mut(), &rates, &[]).expect("an update");
        step += 1;
    };
    group.throughput(Throughput::Elements(4));
    group.bench_function(format!("batch 4, history 6, 400x400, {}", dtype.suffix()), |b| {
        b.iter_custom(|n| common::timed(&device, n, 0, || (), &mut run))
    });
    group.finish();
    if let Device::Gpu(gpu) = &device {
        println!("{}: peak {:.0} MiB", gpu.describe(), gpu.memory().1 as f64 / f64::from(1 << 20));
    }
    println!("peak resident memory: {:.0} MiB after {step} steps", peak_mib());
}

criterion_group!(benches, step);
criterion_main!(benches);
