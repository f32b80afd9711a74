//! Every op at the seed's sizes (batch 4, history 6, 400×400 pixels, patches of 8×8), forward and forward + backward.
//!
//! Criterion's throughput is the achieved rate: "elem/s" are floating-point operations where the op is a matrix product,
//! "B/s" are bytes moved at least (each input and output once) where it is bound by memory. `common` says on which device.

mod common;
#[path = "../tests/common/fires.rs"]
mod fires;

use common::timed;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use emberformer::Result;
use emberformer::data::augment::Augment;
use emberformer::data::batch::FrameSource;
use emberformer::data::feed::{Feed, Order};
use emberformer::data::resident::{Placement, Residency, ResidencySettings};
use emberformer::data::sampler::SampleId;
use emberformer::device::{Array, Device};
use emberformer::model::DeviceBatch;
use emberformer::ops::adam::{Step, Update, adam};
use emberformer::ops::attention::attention;
use emberformer::ops::batch_norm::{MaskBits, Statistics, batch_norm_relu, pending};
use emberformer::ops::conv::{conv, conv_norm};
use emberformer::ops::dropout::{Dropout, DropoutKey, dropout};
use emberformer::ops::feature::Norm;
use emberformer::ops::feed_forward::{Layer, feed_forward};
use emberformer::ops::gradient_norm::gradient_norm;
use emberformer::ops::linear::{Activation, linear};
use emberformer::ops::loss::{
    Comparison, LossBuffers, LossSettings, Thresholds, segmentation_loss, segmentation_loss_on,
};
use emberformer::ops::map::{Map, stored_channels};
use emberformer::ops::output_conv::output_conv;
use emberformer::ops::pyramid::{average_pool, resize_sum};
use emberformer::ops::refinement_input::{concat, to_map};
use emberformer::ops::residual_norm::residual_norm;
use emberformer::ops::self_attention::{Dropouts, Weights, self_attention};
use emberformer::ops::slice::last_step;
use emberformer::ops::token_embedding::{Tokens, token_embedding};
use emberformer::ops::up_conv::{up_conv, up_conv_norm};
use emberformer::patch::Grid;
use emberformer::tape::{Tape, Var};
use emberformer::tensor::{DType, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

const B: usize = 4;
const T: usize = 6;
const SIDE: usize = 50; // patches along a side
const R: usize = B * SIDE * SIDE; // patches of the batch
const D: usize = 64;
const GRID: Grid = Grid { rows: SIDE, cols: SIDE, patch: 8 };
const DROP: Dropout = Dropout { probability: 0.1, key: DropoutKey { seed: 1, step: 1 }, site: 0 };

/// An input of an op: what a GPU keeps of it depends on its kind.
#[derive(Clone, Copy)]
enum Leaf<'a> {
    Activation(&'a [usize]),
    /// Float on a GPU.
    Parameter(&'a [usize]),
    /// Channels padded to a multiple of 8 on a GPU.
    Map(Map),
}
use Leaf::{Activation as A, Map as M, Parameter as P};

/// Where the benches run, and what in.
struct Bench {
    device: Device,
    dtype: DType,
}

impl Bench {
    fn new() -> Self {
        let (device, dtype) = common::setup();
        Self { device, dtype }
    }

    fn random(&self, dtype: DType, shape: &[usize]) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let values = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0));
        Tensor::from_host(&self.device, dtype, shape, values).expect("memory")
    }

    fn ones(&self, shape: &[usize]) -> Tensor {
        Tensor::from_host(&self.device, DType::F32, shape, vec![1.0; shape.iter().product()].into_iter())
            .expect("memory")
    }

    fn leaf(&self, leaf: Leaf<'_>) -> Tensor {
        let map = match leaf {
            A(shape) => return self.random(self.dtype, shape),
            P(shape) => return self.random(DType::F32, shape),
            M(map) => map,
        };
        let stored = match self.device {
            Device::Cpu(_) => map,
            Device::Gpu(_) => map.with_channels(stored_channels(map.channels)),
        };
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut values = vec![0.0; stored.len()];
        for (b, y) in (0..map.batch).flat_map(|b| (0..map.height).map(move |y| (b, y))) {
            for pixel in values[stored.line(b, y)].chunks_exact_mut(stored.channels) {
                pixel[..map.channels].fill_with(|| rng.random_range(-1.0..1.0));
            }
        }
        Tensor::from_host(&self.device, self.dtype, &stored.shape(), values.into_iter()).expect("memory")
    }

    fn bits(&self, len: usize) -> Array<u64> {
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        self.array((0..len).map(|_| if rng.random_bool(0.05) { rng.random() } else { 0 }).collect())
    }

    fn array<T: bytemuck::NoUninit>(&self, values: Vec<T>) -> Array<T> {
        Array::new(&self.device, values).expect("memory")
    }

    /// So many activations moved.
    fn activations(&self, n: usize) -> Throughput {
        Throughput::Bytes((self.dtype.bytes() * n) as u64)
    }

    /// `work` is the forward's; the backward of a matrix product does twice as much, that of the others is counted alike.
    fn bench(
        &self,
        c: &mut Criterion,
        name: &str,
        work: Throughput,
        leaves: &[Leaf<'_>],
        op: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
    ) {
        let device = &self.device;
        let inputs: Vec<Tensor> = leaves.iter().map(|leaf| self.leaf(*leaf)).collect();
        let run = |recording: bool| {
            let mut tape = Tape::new(device, recording);
            let leaves: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
            let output = op(&mut tape, &leaves).expect("the op runs");
            (tape, output)
        };
        let output = run(false).1;
        let seed = self.random(output.value().dtype(), output.shape());
        drop(output);
        let mut group = c.benchmark_group(name);
        group.sample_size(10).throughput(work.clone());
        group.bench_function("forward", |b| b.iter_custom(|n| timed(device, n, 0, || (), |()| run(false))));
        group.throughput(match work {
            Throughput::Elements(n) => Throughput::Elements(3 * n),
            Throughput::Bytes(n) => Throughput::Bytes(3 * n),
            other => other,
        });
        // A backward may work in its gradient's memory, as in a step, where nobody shares it.
        let own = || {
            let mut seed = seed.clone();
            match device {
                Device::Cpu(cpu) => {
                    seed.cpu_mut::<f32>(cpu);
                }
                Device::Gpu(gpu) => {
                    seed.gpu_mut(gpu).expect("memory");
                }
            }
            seed
        };
        let bytes = seed.len() * seed.dtype().bytes();
        group.bench_function("forward + backward", |b| {
            b.iter_custom(|n| {
                timed(device, n, bytes, own, |seed| {
                    let (tape, output) = run(true);
                    tape.backward(&output, seed).expect("the op's backward runs")
                })
            });
        });
        group.finish();
    }
}

fn flops(n: usize) -> Throughput {
    Throughput::Elements(n as u64)
}

fn floats(n: usize) -> Throughput {
    Throughput::Bytes(4 * n as u64)
}

fn temporal(c: &mut Criterion) {
    let on = Bench::new();
    let tokens = Tokens {
        batch: B,
        history: T,
        grid: GRID,
        frames: on.bits(R * T),
        ages: on.array((0..B * T).map(|i| (i % T) as u32).collect()),
        activations: on.dtype,
    };
    for (name, inputs) in [("token_embedding, mean", 1), ("token_embedding, pixels", 64)] {
        let shapes = [P(&[D, inputs]), P(&[D]), A(&[B * T, D]), A(&[R, D])];
        on.bench(c, name, on.activations(R * T * D + R * D), &shapes, |t, x| {
            token_embedding(t, &tokens, &x[0], &x[1], Some(&x[2]), Some(&x[3]))
        });
    }
    for (name, inputs, outputs, activation) in [
        ("linear 64 to 128 (keys and values)", 64, 128, Activation::Identity),
        ("linear 64 to 256 with GELU and dropout", 64, 256, Activation::Gelu(Some(DROP))),
        ("linear 256 to 64", 256, 64, Activation::Identity),
    ] {
        let shapes = [A(&[R, T, inputs]), P(&[outputs, inputs]), P(&[outputs])];
        on.bench(c, name, flops(2 * R * T * inputs * outputs), &shapes, |t, x| {
            linear(t, &x[0], &x[1], Some(&x[2]), activation)
        });
    }
    let valid = on.array(vec![true; B * T]);
    on.bench(c, "attention", on.activations(4 * R * T * D), &[A(&[R, T, D]), A(&[R, T, 2 * D])], |t, x| {
        attention(t, &x[0], &x[1], &valid, 4, Some(DROP))
    });
    on.bench(
        c,
        "residual_norm",
        on.activations(3 * R * T * D),
        &[A(&[R, T, D]), A(&[R, T, D]), P(&[D]), P(&[D])],
        |t, x| residual_norm(t, &x[0], &x[1], &x[2], &x[3], Some(DROP)),
    );
    let shapes = [A(&[R, T, D]), P(&[256, D]), P(&[256]), P(&[D, 256]), P(&[D]), P(&[D]), P(&[D])];
    on.bench(c, "feed_forward", flops(4 * R * T * D * 256), &shapes, |t, x| {
        let [inner, outer] = [Some(DROP), Some(Dropout { site: 1, ..DROP })];
        let layer = Layer { w1: &x[1], b1: &x[2], w2: &x[3], b2: &x[4], gamma: &x[5], beta: &x[6], inner, outer };
        feed_forward(t, &x[0], &layer)
    });
    let layer = [A(&[R, T, D]), P(&[3 * D, D]), P(&[3 * D]), P(&[D, D]), P(&[D]), P(&[D]), P(&[D])];
    on.bench(c, "self_attention", on.activations(2 * R * T * D), &layer, |t, x| {
        let [in_weight, in_bias, out_weight, out_bias, gamma, beta] = [1, 2, 3, 4, 5, 6].map(|i| x[i].clone());
        let weights = Weights { in_weight, in_bias, out_weight, out_bias, gamma, beta };
        let dropouts = Dropouts { probabilities: Some(DROP), residual: Some(Dropout { site: 1, ..DROP }) };
        self_attention(t, &x[0], &weights, &valid, 4, false, dropouts)
    });
    on.bench(c, "slice: last_step", on.activations(2 * R * D), &[A(&[R, T, D])], |t, x| last_step(t, &x[0]));
    on.bench(c, "dropout", on.activations(2 * R * 256), &[A(&[R, 256])], |t, x| dropout(t, &x[0], Some(DROP)));
}

fn spatial(c: &mut Criterion) {
    let on = Bench::new();
    on.bench(c, "pyramid: average_pool", on.activations(R * D * 5 / 4), &[A(&[B, SIDE, SIDE, D])], |t, x| {
        average_pool(t, &x[0], 2)
    });
    let (running, channels) = (on.random(DType::F32, &[256]), P(&[256]));
    on.bench(
        c,
        "batch_norm_relu",
        on.activations(2 * R * 256),
        &[A(&[B, SIDE, SIDE, 256]), channels, channels],
        |t, x| {
            let (mut mean, mut var) = (running.clone(), running.clone());
            batch_norm_relu(t, &x[0], &x[1], &x[2], Statistics::Batch(&mut mean, &mut var), 0, None)
        },
    );
    let levels = [A(&[B, 50, 50, 256]), A(&[B, 25, 25, 256]), A(&[B, 12, 12, 256]), A(&[B, 6, 6, 256])];
    on.bench(c, "pyramid: resize_sum", on.activations(R * 256 * 2), &levels, |t, x| resize_sum(t, x, SIDE, SIDE));
}

fn refinement(c: &mut Criterion) {
    let on = Bench::new();
    let map = Map { batch: B, height: SIDE, width: SIDE, channels: D + 1, halo: 1 };
    on.bench(c, "refinement_input", on.activations(3 * R * (D + 1)), &[A(&[R, D]), A(&[R, 1])], |t, x| {
        let x = concat(t, &x[0], &x[1])?;
        to_map(t, &x, map)
    });
    for (inputs, outputs, side) in [(65, 128, 50), (128, 64, 100), (64, 32, 200)] {
        let from = Map { batch: B, height: side, width: side, channels: inputs, halo: 1 };
        let to = Map { batch: B, height: 2 * side, width: 2 * side, channels: outputs, halo: 1 };
        let name = format!("up_conv {inputs} to {outputs}, {side} to {}", 2 * side);
        let shapes = [M(from), P(&[inputs, outputs, 4, 4])];
        on.bench(c, &name, flops(2 * to.pixels() * 4 * inputs * outputs), &shapes, |t, x| up_conv(t, &x[0], &x[1]));
        let name = format!("conv {outputs} to {outputs} at {}", 2 * side);
        let shapes = [M(to), P(&[outputs, outputs, 3, 3])];
        on.bench(c, &name, flops(2 * to.pixels() * 9 * outputs * outputs), &shapes, |t, x| conv(t, &x[0], &x[1], 0));
        let running = on.random(DType::F32, &[outputs]);
        let name = format!("stage {inputs} to {outputs}, {side} to {} (up_conv_norm, conv_norm)", 2 * side);
        let (channels, up, weight) = ([outputs], [inputs, outputs, 4, 4], [outputs, outputs, 3, 3]);
        let shapes = [M(from), P(&up), P(&channels), P(&channels), P(&weight), P(&channels), P(&channels)];
        let work = flops(2 * to.pixels() * outputs * (4 * inputs + 9 * outputs));
        on.bench(c, &name, work, &shapes, |t, x| {
            let [(mut mean, mut var), (mut mean2, mut var2)] = [(); 2].map(|()| (running.clone(), running.clone()));
            let statistics = Statistics::Batch(&mut mean, &mut var);
            let norm = Norm { gamma: &x[2], beta: &x[3], statistics, append: None };
            let between = up_conv_norm(t, &x[0].clone().into(), &x[1], norm)?;
            let statistics = Statistics::Batch(&mut mean2, &mut var2);
            let norm = Norm { gamma: &x[5], beta: &x[6], statistics, append: None };
            Ok(conv_norm(t, &between, &x[4], norm, 0)?.value)
        });
    }
    // With the batch norm before it, of running statistics: on a GPU one op that moves the map once, and three times backward.
    let map = Map { batch: B, height: 400, width: 400, channels: 32, halo: 1 };
    let (mean, var) = (on.random(DType::F32, &[32]), on.ones(&[32]));
    let shapes = [M(map), P(&[32]), P(&[32]), P(&[1, 32, 1, 1]), P(&[1])];
    on.bench(c, "output_conv with batch norm", on.activations(map.len()), &shapes, |t, x| {
        let x0 = pending(t, &x[0], &x[1], &x[2], Statistics::Running(&mean, &var), None)?;
        output_conv(t, &x0, &x[3], &x[4], 0)
    });
}

fn losses_and_optimiser(c: &mut Criterion) {
    let on = Bench::new();
    let device = &on.device;
    let comparison = Comparison {
        target: MaskBits { grid: GRID, bits: on.bits(R) },
        last: MaskBits { grid: GRID, bits: on.bits(R) },
        valid_patches: on.array(vec![true; R]),
        training: true,
    };
    let focal_tversky = LossSettings::FOCAL_TVERSKY;
    let bce_dice = LossSettings::BCE_DICE;
    let thresholds = Thresholds { prediction: 0.5, target: 0.05 };
    let logits = Tape::new(device, false).leaf(on.random(DType::F32, &[B, 400, 400]));
    for (name, settings) in [("loss focal_tversky", focal_tversky), ("loss bce_dice", bce_dice)] {
        let mut group = c.benchmark_group(name);
        for (what, backward, passes) in [("forward", false, 1), ("forward + backward", true, 3)] {
            group.sample_size(10).throughput(floats(passes * B * 400 * 400));
            // As in a step: on a GPU nobody waits for the report.
            let buffers = match device {
                Device::Gpu(gpu) => Some(LossBuffers::new(gpu, &thresholds).expect("memory")),
                Device::Cpu(_) => None,
            };
            let run = || match &buffers {
                Some(buffers) => {
                    segmentation_loss_on(logits.value(), &comparison, &settings, backward, buffers).expect("a loss")
                }
                None => {
                    let result = segmentation_loss(device, &logits, &comparison, &settings, &thresholds, backward);
                    result.expect("a loss").1
                }
            };
            group.bench_function(what, |b| b.iter_custom(|n| timed(device, n, 0, || (), |()| run())));
        }
    }
    let n = 1_072_578;
    let (mut value, gradient) = (on.random(DType::F32, &[n]), on.random(DType::F32, &[n]));
    let mut moments = [value.clone(), Tensor::zeros(device, DType::F32, &[n]).expect("memory")];
    let update = Update { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-4, rate: 1e-3, step: 1 };
    let mut group = c.benchmark_group("adam");
    group.sample_size(10).throughput(floats(7 * n));
    group.bench_function("1,072,578 parameters", |b| {
        b.iter_custom(|n| {
            let run = |()| {
                let step = Step { value: &mut value, gradient: &gradient, moments: &mut moments, update };
                adam(device, &mut [step]).expect("an update");
            };
            timed(device, n, 0, || (), run)
        })
    });
    group.finish();
    let mut group = c.benchmark_group("gradient_norm");
    group.sample_size(10).throughput(floats(n));
    group.bench_function("1,072,578 parameters", |b| {
        b.iter_custom(|n| timed(device, n, 0, || (), |()| gradient_norm(device, &[&gradient]).expect("a norm")))
    });
}

/// Batches of turned samples, one after the other, from each place where their data may lie.
fn gather(c: &mut Criterion) {
    let on = Bench::new();
    let fires = fires::Fires::new(GRID, &[T + 1; 64]);
    let channels = fires.band_names().len();
    let mut group = c.benchmark_group("gather");
    // Steps and targets read and written, the last steps written, the static tokens read and written.
    let bytes = R * (8 * (2 * T + 3) + channels * (4 + on.dtype.bytes()));
    group.sample_size(10).throughput(Throughput::Bytes(bytes as u64));
    let places = match on.device {
        Device::Cpu(_) => vec![("assembled ahead", Residency::Auto)],
        Device::Gpu(_) => vec![("resident", Residency::Device), ("streamed", Residency::Stream)],
    };
    for (name, residency) in places {
        let augment = Augment::D4 { aspect_bands: vec![] };
        let settings = ResidencySettings { residency, budget: None };
        let placement = Placement::new(&on.device, &fires, &augment, settings).expect("memory");
        let mut to = match &on.device {
            Device::Cpu(_) => None,
            Device::Gpu(gpu) => {
                Some(DeviceBatch::uninitialized(gpu, on.dtype, GRID, channels, (B, T)).expect("memory"))
            }
        };
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let batch =
                    |i: u64| (0..B).map(|b| SampleId { sequence: (i as usize * B + b) % 64, k: T - 1 }).collect();
                let batches = (0..n).map(batch).collect();
                let order = Order { batches, max_seq_len: T, augment: augment.clone(), key: (0, 0) };
                std::thread::scope(|scope| {
                    let mut feed = Feed::new(scope, &fires, &placement, order).expect("memory");
                    on.device.synchronize().expect("what the device was given runs");
                    let start = Instant::now();
                    while feed.next().expect("a batch").is_some() {
                        if let Some(to) = &mut to {
                            feed.fill(to).expect("a batch");
                        }
                    }
                    on.device.synchronize().expect("what the device was given runs");
                    start.elapsed()
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, gather, temporal, spatial, refinement, losses_and_optimiser);
criterion_main!(benches);
