//! Every op at the seed's sizes (history 6, 400×400 pixels, patches of 8×8), forward and forward + backward.
//!
//! Criterion's throughput is the achieved rate: "elem/s" are floating-point operations where the op is a matrix product,
//! "B/s" are bytes moved at least (each input and output once) where it is bound by memory. On a GPU the op is recorded and
//! replayed, timed by the GPU's own clock, and a line tells its share of the floor: the time that the operations or the
//! bytes, whichever is more, take at the rates of a large matrix product and a copy. `common` says on which device, and for
//! which batches.

mod common;
#[path = "../tests/common/fires.rs"]
mod fires;

use common::timed;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use emberformer::Result;
use emberformer::data::augment::Augment;
use emberformer::data::batch::FrameSource;
use emberformer::data::feed::{Feed, Order};
use emberformer::data::resident::{Placement, Residency, ResidencySettings};
use emberformer::data::sampler::SampleId;
use emberformer::device::gpu::{Gpu, Peaks};
use emberformer::device::{Array, Device};
use emberformer::model::DeviceBatch;
use emberformer::ops::adam::{Factors, Step, Update, adam, adam_by_group};
use emberformer::ops::attention::attention;
use emberformer::ops::batch_norm::{MaskBits, Statistics, batch_norm_relu, pending};
use emberformer::ops::conv::{conv, conv_norm};
use emberformer::ops::dropout::{Dropout, DropoutKey, dropout};
use emberformer::ops::feature::Norm;
use emberformer::ops::feed_forward::{Layer, feed_forward};
use emberformer::ops::gradient_norm::{GradientState, gradient_clip, gradient_norm};
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
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const T: usize = 6;
const SIDE: usize = 50; // patches along a side
const N: usize = SIDE * SIDE; // patches of a sample
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

/// Where the benches run, what in, and for how many samples.
struct Bench {
    device: Device,
    dtype: DType,
    batch: usize,
}

/// What an op takes at least, forward.
#[derive(Clone, Copy)]
struct Cost {
    flops: usize,
    bytes: usize,
}

impl Cost {
    /// Three times as much with the backward: that of a matrix product does twice the forward's work, that of the others is
    /// counted alike.
    fn with_backward(self) -> Self {
        Self { flops: 3 * self.flops, bytes: 3 * self.bytes }
    }

    /// The rate that criterion shows.
    fn throughput(self) -> Throughput {
        if self.flops > 0 { Throughput::Elements(self.flops as u64) } else { Throughput::Bytes(self.bytes as u64) }
    }
}

impl Bench {
    /// One for each batch size.
    fn all() -> impl Iterator<Item = Self> {
        common::batches().into_iter().map(|batch| {
            let (device, dtype) = common::setup();
            Self { device, dtype, batch }
        })
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
    fn moves(&self, activations: usize) -> Cost {
        self.computes(0, activations)
    }

    /// So many operations in products, and activations moved.
    fn computes(&self, flops: usize, activations: usize) -> Cost {
        Cost { flops, bytes: self.dtype.bytes() * activations }
    }

    fn bench(
        &self,
        c: &mut Criterion,
        name: &str,
        cost: Cost,
        leaves: &[Leaf<'_>],
        op: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
    ) {
        let device = &self.device;
        let inputs: Vec<Tensor> = leaves.iter().map(|leaf| self.leaf(*leaf)).collect();
        let run = |recording: bool| {
            let mut tape = Tape::new(device, recording);
            let leaves: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
            op(&mut tape, &leaves).map(|output| (tape, output))
        };
        let mut group = c.benchmark_group(format!("{name}, batch {}", self.batch));
        group.sample_size(10);
        if let Device::Gpu(gpu) = device {
            // The gradient's values make no difference to the time; that it is nobody else's memory does.
            let both = || {
                let (tape, output) = run(true)?;
                let seed = gpu.tensor(output.value().dtype(), output.shape())?;
                tape.backward(&output, seed).map(drop)
            };
            self.replayed(&mut group, gpu, name, "forward", cost, || run(false).map(drop));
            self.replayed(&mut group, gpu, name, "forward + backward", cost.with_backward(), both);
            return group.finish();
        }
        let output = run(false).expect("the op runs").1;
        let seed = self.random(output.value().dtype(), output.shape());
        drop(output);
        group.throughput(cost.throughput());
        group.bench_function("forward", |b| b.iter_custom(|n| timed(n, || (), |()| run(false))));
        // A backward may work in its gradient's memory, as in a step, where nobody shares it.
        let own = || {
            let mut seed = seed.clone();
            if let Device::Cpu(cpu) = device {
                seed.cpu_mut::<f32>(cpu);
            }
            seed
        };
        group.throughput(cost.with_backward().throughput());
        group.bench_function("forward + backward", |b| {
            b.iter_custom(|n| {
                timed(n, own, |seed| {
                    let (tape, output) = run(true).expect("the op runs");
                    tape.backward(&output, seed).expect("the op's backward runs")
                })
            });
        });
        group.finish();
    }

    /// Times recorded work on a GPU and prints what it reaches.
    fn replayed(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        gpu: &Gpu,
        name: &str,
        what: &str,
        cost: Cost,
        work: impl Fn() -> Result<()>,
    ) {
        let plan = Arc::new(gpu.plan(&work).expect("a plan"));
        let arena = Arc::new(gpu.take(plan.bytes()).expect("memory"));
        let graph = gpu.capture(&plan, &arena, &work).expect("the work is recorded").0;
        let replay = |n: u64| gpu.time(|| (0..n).try_for_each(|_| gpu.replay(&graph))).expect("the work runs");
        group.throughput(cost.throughput());
        group.bench_function(what, |b| b.iter_custom(|n| Duration::from_secs_f64(replay(n))));
        let seconds = replay(20) / 20.0;
        let (rate, flops) = (cost.bytes as f64 / seconds, cost.flops as f64 / seconds);
        let floor = peaks(gpu).map_or(String::new(), |peaks| {
            let least = (cost.bytes as f64 / peaks.bytes_per_second).max(cost.flops as f64 / peaks.flops_per_second);
            format!(", {:.0} % of the floor", 100.0 * least / seconds)
        });
        println!(
            "{name}, batch {}, {what}: {:.4} ms, {:.0} GB/s, {:.1} TFLOP/s{floor}",
            self.batch,
            1e3 * seconds,
            rate / 1e9,
            flops / 1e12
        );
    }
}

/// What a real GPU reaches, measured once.
fn peaks(gpu: &Gpu) -> Option<Peaks> {
    static PEAKS: OnceLock<Option<Peaks>> = OnceLock::new();
    *PEAKS.get_or_init(|| (!gpu.is_emulated()).then(|| gpu.peaks().expect("memory")))
}

fn temporal(c: &mut Criterion) {
    Bench::all().for_each(|on| temporal_of(c, &on));
}

fn temporal_of(c: &mut Criterion, on: &Bench) {
    let (b, r) = (on.batch, on.batch * N);
    let tokens = Tokens {
        batch: b,
        history: T,
        grid: GRID,
        frames: on.bits(r * T),
        ages: on.array((0..b * T).map(|i| (i % T) as u32).collect()),
        activations: on.dtype,
    };
    for (name, inputs) in [("token_embedding, mean", 1), ("token_embedding, pixels", 64)] {
        let shapes = [P(&[D, inputs]), P(&[D]), A(&[b * T, D]), A(&[r, D])];
        on.bench(c, name, on.moves(r * T * D + r * D), &shapes, |t, x| {
            token_embedding(t, &tokens, &x[0], &x[1], Some(&x[2]), Some(&x[3]))
        });
    }
    for (name, inputs, outputs, activation) in [
        ("linear 64 to 128 (keys and values)", 64, 128, Activation::Identity),
        ("linear 64 to 256 with GELU and dropout", 64, 256, Activation::Gelu(Some(DROP))),
        ("linear 256 to 64", 256, 64, Activation::Identity),
    ] {
        let shapes = [A(&[r, T, inputs]), P(&[outputs, inputs]), P(&[outputs])];
        on.bench(c, name, on.computes(2 * r * T * inputs * outputs, r * T * (inputs + outputs)), &shapes, |t, x| {
            linear(t, &x[0], &x[1], Some(&x[2]), activation)
        });
    }
    let valid = on.array(vec![true; b * T]);
    on.bench(c, "attention", on.moves(4 * r * T * D), &[A(&[r, T, D]), A(&[r, T, 2 * D])], |t, x| {
        attention(t, &x[0], &x[1], &valid, 4, Some(DROP))
    });
    on.bench(c, "residual_norm", on.moves(3 * r * T * D), &[A(&[r, T, D]), A(&[r, T, D]), P(&[D]), P(&[D])], |t, x| {
        residual_norm(t, &x[0], &x[1], &x[2], &x[3], Some(DROP))
    });
    let shapes = [A(&[r, T, D]), P(&[256, D]), P(&[256]), P(&[D, 256]), P(&[D]), P(&[D]), P(&[D])];
    on.bench(c, "feed_forward", on.computes(4 * r * T * D * 256, 2 * r * T * D), &shapes, |t, x| {
        let [inner, outer] = [Some(DROP), Some(Dropout { site: 1, ..DROP })];
        let layer = Layer { w1: &x[1], b1: &x[2], w2: &x[3], b2: &x[4], gamma: &x[5], beta: &x[6], inner, outer };
        feed_forward(t, &x[0], &layer)
    });
    let layer = [A(&[r, T, D]), P(&[3 * D, D]), P(&[3 * D]), P(&[D, D]), P(&[D]), P(&[D]), P(&[D])];
    on.bench(c, "self_attention", on.computes(2 * r * T * D * (4 * D + 2 * T), 2 * r * T * D), &layer, |t, x| {
        let [in_weight, in_bias, out_weight, out_bias, gamma, beta] = [1, 2, 3, 4, 5, 6].map(|i| x[i].clone());
        let weights = Weights { in_weight, in_bias, out_weight, out_bias, gamma, beta };
        let dropouts = Dropouts { probabilities: Some(DROP), residual: Some(Dropout { site: 1, ..DROP }) };
        self_attention(t, &x[0], &weights, &valid, 4, false, dropouts)
    });
    on.bench(c, "slice: last_step", on.moves(2 * r * D), &[A(&[r, T, D])], |t, x| last_step(t, &x[0]));
    on.bench(c, "dropout", on.moves(2 * r * 256), &[A(&[r, 256])], |t, x| dropout(t, &x[0], Some(DROP)));
}

fn spatial(c: &mut Criterion) {
    Bench::all().for_each(|on| spatial_of(c, &on));
}

fn spatial_of(c: &mut Criterion, on: &Bench) {
    let (b, r) = (on.batch, on.batch * N);
    on.bench(c, "pyramid: average_pool", on.moves(r * D * 5 / 4), &[A(&[b, SIDE, SIDE, D])], |t, x| {
        average_pool(t, &x[0], 2)
    });
    let (running, channels) = (on.random(DType::F32, &[256]), P(&[256]));
    on.bench(c, "batch_norm_relu", on.moves(2 * r * 256), &[A(&[b, SIDE, SIDE, 256]), channels, channels], |t, x| {
        let (mut mean, mut var) = (running.clone(), running.clone());
        batch_norm_relu(t, &x[0], &x[1], &x[2], Statistics::Batch(&mut mean, &mut var), 0, None)
    });
    let levels = [A(&[b, 50, 50, 256]), A(&[b, 25, 25, 256]), A(&[b, 12, 12, 256]), A(&[b, 6, 6, 256])];
    on.bench(c, "pyramid: resize_sum", on.moves(r * 256 * 2), &levels, |t, x| resize_sum(t, x, SIDE, SIDE));
}

fn refinement(c: &mut Criterion) {
    Bench::all().for_each(|on| refinement_of(c, &on));
}

fn refinement_of(c: &mut Criterion, on: &Bench) {
    let (b, r) = (on.batch, on.batch * N);
    let map = Map { batch: b, height: SIDE, width: SIDE, channels: D + 1, halo: 1 };
    on.bench(c, "refinement_input", on.moves(3 * r * (D + 1)), &[A(&[r, D]), A(&[r, 1])], |t, x| {
        let x = concat(t, &x[0], &x[1])?;
        to_map(t, &x, map)
    });
    for (inputs, outputs, side) in [(65, 128, 50), (128, 64, 100), (64, 32, 200)] {
        let from = Map { batch: b, height: side, width: side, channels: inputs, halo: 1 };
        let to = Map { batch: b, height: 2 * side, width: 2 * side, channels: outputs, halo: 1 };
        let name = format!("up_conv {inputs} to {outputs}, {side} to {}", 2 * side);
        let shapes = [M(from), P(&[inputs, outputs, 4, 4])];
        on.bench(
            c,
            &name,
            on.computes(2 * to.pixels() * 4 * inputs * outputs, from.len() + to.len()),
            &shapes,
            |t, x| up_conv(t, &x[0], &x[1]),
        );
        let name = format!("conv {outputs} to {outputs} at {}", 2 * side);
        let shapes = [M(to), P(&[outputs, outputs, 3, 3])];
        on.bench(c, &name, on.computes(2 * to.pixels() * 9 * outputs * outputs, 2 * to.len()), &shapes, |t, x| {
            conv(t, &x[0], &x[1], 0)
        });
        let running = on.random(DType::F32, &[outputs]);
        let name = format!("stage {inputs} to {outputs}, {side} to {} (up_conv_norm, conv_norm)", 2 * side);
        let (channels, up, weight) = ([outputs], [inputs, outputs, 4, 4], [outputs, outputs, 3, 3]);
        let shapes = [M(from), P(&up), P(&channels), P(&channels), P(&weight), P(&channels), P(&channels)];
        let work = on.computes(2 * to.pixels() * outputs * (4 * inputs + 9 * outputs), from.len() + 3 * to.len());
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
    let map = Map { batch: b, height: 400, width: 400, channels: 32, halo: 1 };
    let (mean, var) = (on.random(DType::F32, &[32]), on.ones(&[32]));
    let shapes = [M(map), P(&[32]), P(&[32]), P(&[1, 32, 1, 1]), P(&[1])];
    on.bench(c, "output_conv with batch norm", on.moves(map.len()), &shapes, |t, x| {
        let x0 = pending(t, &x[0], &x[1], &x[2], Statistics::Running(&mean, &var), None)?;
        output_conv(t, &x0, &x[3], &x[4], 0)
    });
}

fn losses(c: &mut Criterion) {
    Bench::all().for_each(|on| losses_of(c, &on));
}

fn losses_of(c: &mut Criterion, on: &Bench) {
    let (b, r, device) = (on.batch, on.batch * N, &on.device);
    let comparison = Comparison {
        target: MaskBits { grid: GRID, bits: on.bits(r) },
        last: MaskBits { grid: GRID, bits: on.bits(r) },
        valid_patches: on.array(vec![true; r]),
        training: true,
    };
    let focal_tversky = LossSettings::FOCAL_TVERSKY;
    let bce_dice = LossSettings::BCE_DICE;
    let thresholds = Thresholds { prediction: 0.5, target: 0.05 };
    let logits = Tape::new(device, false).leaf(on.random(DType::F32, &[b, 400, 400]));
    for (name, settings) in [("loss focal_tversky", focal_tversky), ("loss bce_dice", bce_dice)] {
        let mut group = c.benchmark_group(format!("{name}, batch {b}"));
        group.sample_size(10);
        // Logits read once forward, and read again and the gradient written backward.
        for (what, backward, passes) in [("forward", false, 1), ("forward + backward", true, 3)] {
            let cost = Cost { flops: 0, bytes: 4 * passes * b * 400 * 400 };
            if let Device::Gpu(gpu) = device {
                let buffers = LossBuffers::new(gpu, &thresholds).expect("memory");
                on.replayed(&mut group, gpu, name, what, cost, || {
                    segmentation_loss_on(logits.value(), &comparison, &settings, backward, &buffers).map(drop)
                });
                continue;
            }
            let run = |()| {
                let result = segmentation_loss(device, &logits, &comparison, &settings, &thresholds, backward);
                result.expect("a loss").1
            };
            group.throughput(cost.throughput());
            group.bench_function(what, |b| b.iter_custom(|n| timed(n, || (), run)));
        }
    }
}

/// Of all parameters, whatever the batch.
fn optimiser(c: &mut Criterion) {
    const PARAMETERS: usize = 1_072_578;
    let Some(on) = Bench::all().next() else { return };
    let device = &on.device;
    let random = || on.random(DType::F32, &[PARAMETERS]);
    let (mut value, gradient) = (random(), random());
    let mut moments = [value.clone(), Tensor::zeros(device, DType::F32, &[PARAMETERS]).expect("memory")];
    let update = Update { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-4, rate: 1e-3, step: 1 };
    let mut group = c.benchmark_group("optimiser");
    group.sample_size(10);
    let [clip, adam_cost] = [1, 7].map(|floats| Cost { flops: 0, bytes: 4 * floats * PARAMETERS });
    if let Device::Gpu(gpu) = device {
        let thresholds = Thresholds { prediction: 0.5, target: 0.05 };
        let losses = LossBuffers::new(gpu, &thresholds).expect("memory");
        let (factors, state) = (Factors::new(gpu, 1).expect("memory"), GradientState::new(gpu, None).expect("memory"));
        factors.set(&[Some(update)]).expect("memory");
        moments[0] = random(); // its own memory, for updates in place
        let parts = [([&value, &gradient, &moments[0], &moments[1]], 0)];
        on.replayed(&mut group, gpu, "optimiser", "gradient_clip", clip, || {
            gradient_clip(gpu, &[(&gradient, 0)], &factors, &losses, &state)
        });
        on.replayed(&mut group, gpu, "optimiser", "adam", adam_cost, || adam_by_group(gpu, &parts, &factors, &state));
        return group.finish();
    }
    group.throughput(adam_cost.throughput());
    group.bench_function("adam", |b| {
        b.iter_custom(|n| {
            let run = |()| {
                let step = Step { value: &mut value, gradient: &gradient, moments: &mut moments, update };
                adam(device, &mut [step]).expect("an update");
            };
            timed(n, || (), run)
        })
    });
    group.throughput(clip.throughput());
    group.bench_function("gradient_norm", |b| {
        b.iter_custom(|n| timed(n, || (), |()| gradient_norm(device, &[&gradient]).expect("a norm")))
    });
    group.finish();
}

/// Batches of turned samples, one after the other, from each place where their data may lie.
fn gather(c: &mut Criterion) {
    Bench::all().for_each(|on| gather_of(c, &on));
}

fn gather_of(c: &mut Criterion, on: &Bench) {
    let (size, r) = (on.batch, on.batch * N);
    let fires = fires::Fires::new(GRID, &[T + 1; 64]);
    let channels = fires.band_names().len();
    let mut group = c.benchmark_group(format!("gather, batch {size}"));
    // Steps and targets read and written, the last steps written, the static tokens read and written.
    let bytes = r * (8 * (2 * T + 3) + channels * (4 + on.dtype.bytes()));
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
                Some(DeviceBatch::uninitialized(gpu, on.dtype, GRID, channels, (size, T)).expect("memory"))
            }
        };
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let batch =
                    |i: u64| (0..size).map(|b| SampleId { sequence: (i as usize * size + b) % 64, k: T - 1 }).collect();
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

criterion_group!(benches, gather, temporal, spatial, refinement, losses, optimiser);
criterion_main!(benches);
