//! One training step (forward, loss, backward, Adam) at the seed's size, with its peak memory. `common` says on which device.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use emberformer::device::Device;
use emberformer::model::{DropoutKey, EmberFormer, Inputs, ModelSettings, Target};
use emberformer::ops::loss::{LossSettings, Thresholds};
use emberformer::optim::{Adam, AdamSettings, LearningRates};
use emberformer::patch::Grid;
use rand::{RngExt, SeedableRng};

fn batch(batch: usize, history: usize, side: usize) -> (Inputs, Target) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let grid = Grid { rows: side / 8, cols: side / 8, patch: 8 };
    let n = grid.patches();
    let mut values = |len: usize| (0..len).map(|_| rng.random::<f32>()).collect::<Vec<f32>>();
    let (wind, statics) = (values(batch * history * 2), values(batch * n * 8));
    let mut bits = |len: usize| (0..len).map(|_| if rng.random::<f32>() < 0.05 { rng.random() } else { 0 }).collect();
    let inputs = Inputs {
        batch,
        history,
        grid,
        frames: bits(batch * history * n),
        wind,
        statics,
        valid_steps: vec![true; batch * history],
    };
    let target = Target { bits: bits(batch * n), valid_patches: vec![true; batch * n] };
    (inputs, target)
}

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
    let (inputs, target) = batch(4, 6, 400);
    let mut model = EmberFormer::new(&ModelSettings::default(), &device, dtype, 0).expect("a valid model");
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
