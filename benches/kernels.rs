//! Every op at the seed's sizes (batch 4, history 6, 400×400 pixels, patches of 8×8), forward and forward + backward.
//!
//! Criterion's throughput is the achieved rate: "elem/s" are floating-point operations where the op is a matrix product,
//! "B/s" are bytes moved at least (each input and output once) where it is bound by memory.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use emberformer::Result;
use emberformer::device::Device;
use emberformer::ops::adam::{Step, Update, adam};
use emberformer::ops::attention::attention;
use emberformer::ops::batch_norm::{MaskBits, Statistics, batch_norm_relu};
use emberformer::ops::conv::conv;
use emberformer::ops::dropout::{Dropout, DropoutKey, dropout};
use emberformer::ops::gradient_norm::gradient_norm;
use emberformer::ops::linear::{Activation, linear};
use emberformer::ops::loss::{Comparison, LossSettings, Thresholds, segmentation_loss};
use emberformer::ops::map::Map;
use emberformer::ops::output_conv::output_conv;
use emberformer::ops::pyramid::{average_pool, resize_sum};
use emberformer::ops::refinement_input::{concat, to_map};
use emberformer::ops::residual_norm::residual_norm;
use emberformer::ops::slice::last_step;
use emberformer::ops::token_embedding::{Tokens, token_embedding};
use emberformer::ops::up_conv::up_conv;
use emberformer::patch::Grid;
use emberformer::tape::{Tape, Var};
use emberformer::tensor::{DType, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

const B: usize = 4;
const T: usize = 6;
const SIDE: usize = 50; // patches along a side
const R: usize = B * SIDE * SIDE; // patches of the batch
const D: usize = 64;
const GRID: Grid = Grid { rows: SIDE, cols: SIDE, patch: 8 };
const DROP: Dropout = Dropout { probability: 0.1, key: DropoutKey { seed: 1, step: 1 }, site: 0 };

fn random(device: &Device, shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    Tensor::from_host(device, DType::F32, shape, (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)))
        .expect("memory")
}

fn bits(len: usize) -> Arc<[u64]> {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    (0..len).map(|_| if rng.random_bool(0.05) { rng.random() } else { 0 }).collect()
}

fn flops(n: usize) -> Throughput {
    Throughput::Elements(n as u64)
}

fn floats(n: usize) -> Throughput {
    Throughput::Bytes(4 * n as u64)
}

/// `work` is the forward's; the backward of a matrix product does twice as much, that of the others is counted alike.
fn bench(
    c: &mut Criterion,
    name: &str,
    work: Throughput,
    shapes: &[&[usize]],
    op: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
) {
    let device = Device::cpu();
    let inputs: Vec<Tensor> = shapes.iter().map(|shape| random(&device, shape)).collect();
    let run = |recording: bool| {
        let mut tape = Tape::new(&device, recording);
        let leaves: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
        let output = op(&mut tape, &leaves).expect("the op runs");
        (tape, output)
    };
    let shape = run(false).1.shape().to_vec();
    let seed = random(&device, &shape);
    let mut group = c.benchmark_group(name);
    group.sample_size(10).throughput(work.clone());
    group.bench_function("forward", |b| b.iter(|| run(false)));
    group.throughput(match work {
        Throughput::Elements(n) => Throughput::Elements(3 * n),
        Throughput::Bytes(n) => Throughput::Bytes(3 * n),
        other => other,
    });
    let Device::Cpu(cpu) = &device else { unreachable!("the device of this bench is the CPU") };
    let own = || {
        let mut seed = seed.clone();
        seed.cpu_mut::<f32>(cpu); // a backward may work in its gradient's memory, as in a step, where nobody shares it
        seed
    };
    group.bench_function("forward + backward", |b| {
        let step = |seed| {
            let (tape, output) = run(true);
            tape.backward(&output, seed).expect("the op's backward runs")
        };
        b.iter_batched(own, step, BatchSize::PerIteration);
    });
    group.finish();
}

fn temporal(c: &mut Criterion) {
    let tokens = Tokens {
        batch: B,
        history: T,
        grid: GRID,
        frames: bits(R * T).into(),
        ages: (0..B * T).map(|i| (i % T) as u32).collect::<Vec<_>>().into(),
    };
    for (name, inputs) in [("token_embedding, mean", 1), ("token_embedding, pixels", 64)] {
        let shapes: [&[usize]; 4] = [&[D, inputs], &[D], &[B * T, D], &[R, D]];
        bench(c, name, floats(R * T * D + R * D), &shapes, |t, x| {
            token_embedding(t, &tokens, &x[0], &x[1], Some(&x[2]), Some(&x[3]))
        });
    }
    for (name, inputs, outputs, activation) in [
        ("linear 64 to 128 (keys and values)", 64, 128, Activation::Identity),
        ("linear 64 to 256 with GELU and dropout", 64, 256, Activation::Gelu(Some(DROP))),
        ("linear 256 to 64", 256, 64, Activation::Identity),
    ] {
        let shapes: [&[usize]; 3] = [&[R, T, inputs], &[outputs, inputs], &[outputs]];
        bench(c, name, flops(2 * R * T * inputs * outputs), &shapes, |t, x| {
            linear(t, &x[0], &x[1], Some(&x[2]), activation)
        });
    }
    let valid = vec![true; B * T].into();
    bench(c, "attention", floats(4 * R * T * D), &[&[R, T, D], &[R, T, 2 * D]], |t, x| {
        attention(t, &x[0], &x[1], &valid, 4, Some(DROP))
    });
    bench(c, "residual_norm", floats(3 * R * T * D), &[&[R, T, D], &[R, T, D], &[D], &[D]], |t, x| {
        residual_norm(t, &x[0], &x[1], &x[2], &x[3], Some(DROP))
    });
    bench(c, "slice: last_step", floats(2 * R * D), &[&[R, T, D]], |t, x| last_step(t, &x[0]));
    bench(c, "dropout", floats(2 * R * 256), &[&[R, 256]], |t, x| dropout(t, &x[0], Some(DROP)));
}

fn spatial(c: &mut Criterion) {
    bench(c, "pyramid: average_pool", floats(R * D * 5 / 4), &[&[B, SIDE, SIDE, D]], |t, x| average_pool(t, &x[0], 2));
    let levels: [&[usize]; 4] = [&[B, 50, 50, 256], &[B, 25, 25, 256], &[B, 12, 12, 256], &[B, 6, 6, 256]];
    bench(c, "pyramid: resize_sum", floats(R * 256 * 2), &levels, |t, x| resize_sum(t, x, SIDE, SIDE));
}

fn refinement(c: &mut Criterion) {
    let map = Map { batch: B, height: SIDE, width: SIDE, channels: D + 1, halo: 1 };
    bench(c, "refinement_input", floats(3 * R * (D + 1)), &[&[R, D], &[R, 1]], |t, x| {
        let x = concat(t, &x[0], &x[1])?;
        to_map(t, &x, map)
    });
    for (inputs, outputs, side) in [(65, 128, 50), (128, 64, 100), (64, 32, 200)] {
        let from = Map { batch: B, height: side, width: side, channels: inputs, halo: 1 };
        let to = Map { batch: B, height: 2 * side, width: 2 * side, channels: outputs, halo: 1 };
        let name = format!("up_conv {inputs} to {outputs}, {side} to {}", 2 * side);
        let shapes: [&[usize]; 2] = [&from.shape(), &[inputs, outputs, 4, 4]];
        bench(c, &name, flops(2 * to.pixels() * 4 * inputs * outputs), &shapes, |t, x| up_conv(t, &x[0], &x[1]));
        let name = format!("batch_norm_relu, {outputs} channels at {}", 2 * side);
        bench(c, &name, floats(2 * to.len()), &[&to.shape(), &[outputs], &[outputs]], |t, x| {
            let (mut mean, mut var) = (random(t.device(), &[outputs]), random(t.device(), &[outputs]));
            batch_norm_relu(t, &x[0], &x[1], &x[2], Statistics::Batch(&mut mean, &mut var), 1, None)
        });
        let name = format!("conv {outputs} to {outputs} at {}", 2 * side);
        let shapes: [&[usize]; 2] = [&to.shape(), &[outputs, outputs, 3, 3]];
        bench(c, &name, flops(2 * to.pixels() * 9 * outputs * outputs), &shapes, |t, x| conv(t, &x[0], &x[1], 0));
    }
    let map = Map { batch: B, height: 400, width: 400, channels: 32, halo: 1 };
    bench(c, "output_conv", floats(map.len()), &[&map.shape(), &[1, 32, 1, 1], &[1]], |t, x| {
        output_conv(t, &x[0], &x[1], &x[2], 0)
    });
}

fn losses_and_optimiser(c: &mut Criterion) {
    let device = Device::cpu();
    let comparison = Comparison {
        target: MaskBits { grid: GRID, bits: bits(R).into() },
        last: MaskBits { grid: GRID, bits: bits(R).into() },
        valid_patches: vec![true; R].into(),
        training: true,
    };
    let focal_tversky = LossSettings::FOCAL_TVERSKY;
    let bce_dice = LossSettings::BCE_DICE;
    let logits = Tape::new(&device, false).leaf(random(&device, &[B, 400, 400]));
    for (name, settings) in [("loss focal_tversky", focal_tversky), ("loss bce_dice", bce_dice)] {
        let mut group = c.benchmark_group(name);
        for (what, backward, passes) in [("forward", false, 1), ("forward + backward", true, 3)] {
            group.sample_size(10).throughput(floats(passes * B * 400 * 400));
            let thresholds = Thresholds { prediction: 0.5, target: 0.05 };
            group.bench_function(what, |b| {
                b.iter(|| {
                    segmentation_loss(&device, &logits, &comparison, &settings, &thresholds, backward).expect("a loss")
                });
            });
        }
    }
    let n = 1_072_578;
    let (mut value, gradient) = (random(&device, &[n]), random(&device, &[n]));
    let mut moments = [random(&device, &[n]), Tensor::zeros(&device, DType::F32, &[n]).expect("memory")];
    let update = Update { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-4, rate: 1e-3, step: 1 };
    let mut group = c.benchmark_group("adam");
    group.sample_size(10).throughput(floats(7 * n));
    group.bench_function("1,072,578 parameters", |b| {
        b.iter(|| {
            let step = Step { value: &mut value, gradient: &gradient, moments: &mut moments, update };
            adam(&device, &mut [step]).expect("an update")
        })
    });
    group.finish();
    let mut group = c.benchmark_group("gradient_norm");
    group.sample_size(10).throughput(floats(n));
    group.bench_function("1,072,578 parameters", |b| b.iter(|| gradient_norm(&device, &[&gradient]).expect("a norm")));
}

criterion_group!(benches, temporal, spatial, refinement, losses_and_optimiser);
criterion_main!(benches);
