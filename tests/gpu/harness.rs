//! Compares an op's kernels with the CPU op, forward and backward.
//!
//! The CPU op in double precision is the truth. In float the kernels' outputs and gradients may be off by 1e-5 of the truth's
//! norm, and a single element by 1e-4 of its largest. In bf16 they may be off by twice what rounding inputs and outputs to
//! bf16 costs the truth itself. On the emulated device everything runs again with the threads of each block in reverse
//! order, which must give the same bytes.

use emberformer::Result;
use emberformer::device::Device;
use emberformer::ops::dropout::{Dropout, DropoutKey};
use emberformer::ops::map::{Map, stored_channels};
use emberformer::tape::{Tape, Var};
use emberformer::tensor::{DType, Tensor};
use half::bf16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A dropout layer for tests.
pub const LAYER: Dropout = Dropout { probability: 0.3, key: DropoutKey { seed: 3, step: 5 }, site: 1 };

/// The device under test.
pub fn device() -> Device {
    match std::env::var("EMBERFORMER_TEST_DEVICE") {
        Ok(name) => Device::parse(&name).expect("the device of EMBERFORMER_TEST_DEVICE"),
        Err(_) => Device::emulated(),
    }
}

/// A leaf of the op.
pub struct Input {
    shape: Vec<usize>,
    values: Vec<f64>,
    kind: Kind,
}

enum Kind {
    /// In the type of the activations.
    Activation,
    /// Float on a GPU.
    Parameter,
    /// An activation whose last dimension a GPU stores padded to a multiple of 8.
    Padded,
}

impl Input {
    /// A value in the type of the activations.
    pub fn activation(shape: &[usize], values: Vec<f64>) -> Self {
        Self { shape: shape.to_vec(), values, kind: Kind::Activation }
    }

    /// A weight, bias or scale: float on a GPU.
    pub fn parameter(shape: &[usize], values: Vec<f64>) -> Self {
        Self { shape: shape.to_vec(), values, kind: Kind::Parameter }
    }

    /// An activation whose last dimension a GPU stores padded to a multiple of 8, as maps are.
    pub fn padded(shape: &[usize], values: Vec<f64>) -> Self {
        Self { shape: shape.to_vec(), values, kind: Kind::Padded }
    }

    /// Its values on a device.
    pub fn tensor(&self, device: &Device, dtype: DType) -> Tensor {
        self.leaf(device, dtype, &self.values)
    }

    fn leaf(&self, device: &Device, dtype: DType, values: &[f64]) -> Tensor {
        let on_gpu = matches!(device, Device::Gpu(_));
        let dtype = if on_gpu && matches!(self.kind, Kind::Parameter) { DType::F32 } else { dtype };
        let mut shape = self.shape.clone();
        let (channels, mut values) = (*shape.last().unwrap(), values.to_vec());
        if on_gpu && matches!(self.kind, Kind::Padded) {
            let stored = stored_channels(channels);
            *shape.last_mut().unwrap() = stored;
            values = values.chunks(channels).flat_map(|c| (0..stored).map(|i| *c.get(i).unwrap_or(&0.0))).collect();
        }
        Tensor::from_host(device, dtype, &shape, values.into_iter()).unwrap()
    }
}

/// A tensor beside the leaves that an op takes as a parameter is: float on a GPU, in the type of the check on the CPU.
pub fn parameter(device: &Device, shape: &[usize], values: &[f64]) -> Tensor {
    let dtype = if matches!(device, Device::Gpu(_)) { DType::F32 } else { DType::F64 };
    Tensor::from_host(device, dtype, shape, values.iter().copied()).unwrap()
}

/// Draws inputs and checks ops.
pub struct Checker {
    rng: ChaCha8Rng,
    gpu: Device,
}

/// Output and gradients of the leaves, without what a GPU pads.
type Results = Vec<Vec<f64>>;

impl Checker {
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), gpu: device() }
    }

    /// Uniform in [-1, 1).
    pub fn random(&mut self, shape: &[usize]) -> Vec<f64> {
        (0..shape.iter().product()).map(|_| self.rng.random_range(-1.0..1.0)).collect()
    }

    /// Random words, a quarter of their bits set.
    pub fn bits(&mut self, len: usize) -> Vec<u64> {
        (0..len).map(|_| self.rng.random::<u64>() & self.rng.random::<u64>()).collect()
    }

    /// A random map, padded on a GPU, with a zero border.
    pub fn map(&mut self, map: Map) -> Input {
        let mut values = vec![0.0; map.len()];
        for (b, y) in (0..map.batch).flat_map(|b| (0..map.height).map(move |y| (b, y))) {
            map.line(b, y).for_each(|i| values[i] = self.rng.random_range(-1.0..1.0));
        }
        Input::padded(&map.shape(), values)
    }

    /// Checks `op` in both types. Where its output is exactly zero (the border of a map) no gradient comes back.
    pub fn check(&mut self, name: &str, inputs: &[Input], op: impl Fn(&mut Tape, &[Var]) -> Result<Var>) {
        self.check_chain(name, inputs, &op, &op);
    }

    /// The same for a chain of ops. What rounding costs in bf16 is that of `peer`, the chain on the CPU with [`rounded`] maps
    /// in between.
    pub fn check_chain(
        &mut self,
        name: &str,
        inputs: &[Input],
        op: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
        peer: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
    ) {
        let cpu = Device::cpu();
        let rounded = |values: &[f64]| values.iter().map(|x| bf16::from_f64(*x).to_f64()).collect::<Vec<_>>();
        let values: Vec<Vec<f64>> = inputs.iter().map(|input| input.values.clone()).collect();
        let shape = {
            let mut tape = Tape::new(&cpu, false);
            let leaves: Vec<Var> = inputs.iter().map(|i| tape.leaf(i.leaf(&cpu, DType::F64, &i.values))).collect();
            let output = op(&mut tape, &leaves).unwrap();
            (output.shape().to_vec(), output.value().to_host().unwrap())
        };
        let seed: Vec<f64> =
            shape.1.iter().map(|y| if *y == 0.0 { 0.0 } else { self.rng.random_range(-1.0..1.0) }).collect();
        let shape = shape.0;
        let truth = run(&cpu, DType::F64, inputs, &values, (&shape, &seed), &op);
        let values_rounded: Vec<Vec<f64>> = values.iter().map(|v| rounded(v)).collect();
        let peer = run(&cpu, DType::F64, inputs, &values_rounded, (&shape, &rounded(&seed)), &peer);
        let peer: Results = peer.iter().map(|v| rounded(v)).collect();
        for dtype in [DType::F32, DType::BF16] {
            let ours = run(&self.gpu, dtype, inputs, &values, (&shape, &seed), &op);
            if let Device::Gpu(gpu) = &self.gpu
                && gpu.is_emulated()
            {
                gpu.reverse_threads(true);
                let reversed = run(&self.gpu, dtype, inputs, &values, (&shape, &seed), &op);
                gpu.reverse_threads(false);
                assert!(same_bytes(&ours, &reversed), "{name} in {dtype:?} depends on the order of its threads");
            }
            for (i, ((ours, truth), peer)) in ours.iter().zip(&truth).zip(&peer).enumerate() {
                let what = if i == 0 { "output".into() } else { format!("gradient of input {}", i - 1) };
                compare(&format!("{name} in {dtype:?}: {what}"), dtype, ours, truth, peer);
            }
        }
    }
}

/// The value rounded to bf16, and its gradient: what handing a map from op to op costs.
pub fn rounded(tape: &mut Tape, x: &Var) -> Result<Var> {
    let round = |x: &Tensor| {
        let values = x.to_host()?.into_iter().map(|x| bf16::from_f64(x).to_f64());
        Tensor::from_host(&Device::cpu(), DType::F64, x.shape(), values.collect::<Vec<_>>().into_iter())
    };
    let (y, id) = (round(x.value())?, x.id());
    Ok(tape.record(y, move |dy, gradients| gradients.add(id, round(&dy)?)))
}

fn same_bytes(a: &Results, b: &Results) -> bool {
    a.iter().flatten().map(|x| x.to_bits()).eq(b.iter().flatten().map(|x| x.to_bits()))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// The module's criterion.
pub fn compare(what: &str, dtype: DType, ours: &[f64], truth: &[f64], peer: &[f64]) {
    assert_eq!(ours.len(), truth.len(), "{what}");
    assert!(ours.iter().all(|x| x.is_finite()), "{what} is not finite");
    let distance = |a: &[f64]| norm(a.iter().zip(truth).map(|(a, b)| a - b));
    let size = norm(truth.iter().copied());
    let error = distance(ours);
    match dtype {
        DType::BF16 => {
            let allowed = 2.0 * distance(peer) + 1e-6 * size;
            assert!(error <= allowed, "{what}: error {error:.2e}, rounding alone costs {:.2e}", distance(peer));
        }
        _ => {
            assert!(error <= 1e-5 * size, "{what}: relative error {:.2e}", error / size);
            let largest = truth.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let worst = ours.iter().zip(truth).map(|(a, b)| (a - b).abs()).enumerate();
            let (at, worst) = worst.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
            assert!(worst <= 1e-4 * largest, "{what}: element {at} off by {worst:.2e}, the largest is {largest:.2e}");
        }
    }
}

/// Forward, and backward from `seed` in the shape that the CPU's output has.
fn run(
    device: &Device,
    dtype: DType,
    inputs: &[Input],
    values: &[Vec<f64>],
    (shape, seed): (&[usize], &[f64]),
    op: &impl Fn(&mut Tape, &[Var]) -> Result<Var>,
) -> Results {
    let mut tape = Tape::new(device, true);
    let leaves: Vec<Var> =
        inputs.iter().zip(values).map(|(input, values)| tape.leaf(input.leaf(device, dtype, values))).collect();
    let output = op(&mut tape, &leaves).unwrap();
    let mut results = vec![stripped("output", &output.value().to_host().unwrap(), output.shape(), shape)];
    let padded = output.shape() != shape;
    let seed = Input {
        shape: shape.to_vec(),
        values: seed.to_vec(),
        kind: if padded { Kind::Padded } else { Kind::Activation },
    };
    let mut gradients = tape.backward(&output, seed.leaf(device, output.value().dtype(), &seed.values)).unwrap();
    for (i, (leaf, input)) in leaves.iter().zip(inputs).enumerate() {
        let Some(gradient) = gradients.take(leaf) else {
            results.push(vec![]);
            continue;
        };
        let what = format!("gradient of input {i}");
        if matches!(input.kind, Kind::Parameter) && matches!(device, Device::Gpu(_)) {
            assert_eq!(gradient.dtype(), DType::F32, "{what}: gradients of parameters are float");
        }
        results.push(stripped(&what, &gradient.to_host().unwrap(), gradient.shape(), &input.shape));
    }
    results
}

/// Without the channels that a GPU stores beyond `expected`, which must be zeros.
fn stripped(what: &str, values: &[f64], shape: &[usize], expected: &[usize]) -> Vec<f64> {
    // A gradient may come back flat, in the shape that a reshape gave its value.
    if shape == expected || values.len() == expected.iter().product::<usize>() {
        return values.to_vec();
    }
    // An op may leave out the gradient of trailing channels (`passive` ones); the CPU does the same.
    let (is, should) = (*shape.last().unwrap(), *expected.last().unwrap());
    assert_eq!(shape[..shape.len() - 1], expected[..expected.len() - 1], "{what}");
    let kept = should.min(is);
    values
        .chunks_exact(is)
        .flat_map(|pixel| {
            assert!(pixel[kept..].iter().all(|x| *x == 0.0), "{what}: channels beyond {kept} are not zeros");
            &pixel[..kept]
        })
        .copied()
        .collect()
}
