//! Launches `kernels/self_attention.cu`.

use super::{Dropouts, Weights};
use crate::Result;
use crate::device::Array;
use crate::device::gpu::{Gpu, Launch, params};
use crate::ops::dropout::Dropout;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::{DType, Tensor};

const D: usize = 64;
/// Tokens of a tile at most.
const SLOTS: usize = 32;
const FORWARD_THREADS: u32 = 128;
/// Weights in bf16 and six vectors.
const FORWARD_SHARED: u32 = (2 * 4 * D * D + 4 * 6 * D) as u32;
/// Blocks of the forward for each multiprocessor at most; each begins with a copy of the weights.
const FORWARD_BLOCKS: usize = 4;
const BACKWARD_THREADS: u32 = 256;
const BACKWARD_SHARED: u32 = 101_120;

/// Whether the kernels compute attention over x.
pub fn takes(x: &Var, heads: usize) -> bool {
    let (steps, d) = (x.shape()[1], x.shape()[2]);
    x.value().dtype() == DType::BF16 && d == D && steps <= SLOTS && [1, 2, 4, 8].contains(&heads)
}

/// What the backward needs of the forward.
struct Layer {
    x: Var,
    weights: Weights,
    valid: Array<bool>,
    heads: usize,
    dropouts: Dropouts,
}

/// See [`super::self_attention`]; for what [`takes`] says.
#[allow(clippy::too_many_arguments)]
pub fn self_attention(
    tape: &mut Tape,
    gpu: &Gpu,
    x: &Var,
    weights: &Weights,
    valid: &Array<bool>,
    heads: usize,
    last: bool,
    dropouts: Dropouts,
) -> Result<Var> {
    let layer = Layer { x: x.clone(), weights: weights.clone(), valid: valid.clone(), heads, dropouts };
    let (rows, steps) = (x.shape()[0], x.shape()[1]);
    let y = gpu.tensor(DType::BF16, &[rows, if last { 1 } else { steps }, D])?;
    // The only step is the last one, and all of them.
    let variant = format!("{}{}", D / heads, if last && steps > 1 { "_last" } else { "" });
    let blocks = layer.tiles().div_ceil(FORWARD_THREADS as usize / 32).min(FORWARD_BLOCKS * gpu.multiprocessors());
    let launch = Launch { shared: FORWARD_SHARED, ..Launch::linear(blocks, FORWARD_THREADS) };
    let params = params::SelfAttentionForward { y: y.gpu_address(), layer: layer.params(gpu)? };
    gpu.launch_for(&format!("self_attention_forward_{variant}"), DType::BF16, launch, &params)?;
    let gpu = gpu.clone();
    Ok(tape.record(y, move |dy, gradients| layer.backward(&gpu, &variant, &dy, gradients)))
}

impl Layer {
    fn steps(&self) -> usize {
        self.x.shape()[1]
    }

    /// Patches of a tile.
    fn tile_patches(&self) -> usize {
        SLOTS / self.steps()
    }

    fn tiles(&self) -> usize {
        self.x.shape()[0].div_ceil(self.tile_patches())
    }

    fn params(&self, gpu: &Gpu) -> Result<params::SelfAttention> {
        let Self { x, weights, valid, heads, dropouts } = self;
        let float = |var: &Var| var.value().gpu_address().cast_const().cast();
        let rows = x.shape()[0];
        Ok(params::SelfAttention {
            x: x.value().gpu_address(),
            in_weight: float(&weights.in_weight),
            in_bias: float(&weights.in_bias),
            out_weight: float(&weights.out_weight),
            out_bias: float(&weights.out_bias),
            gamma: float(&weights.gamma),
            beta: float(&weights.beta),
            valid: valid.gpu_address().cast(),
            rows: rows as u32,
            patches: (rows / (valid.len() / self.steps())) as u32,
            steps: self.steps() as u32,
            reciprocal: (65536 / self.steps()) as u32 + 1,
            tile_patches: self.tile_patches() as u32,
            heads: *heads as u32,
            scale: (1.0 / ((D / heads) as f64).sqrt()) as f32,
            unused: 0,
            probabilities: Dropout::params(gpu, dropouts.probabilities.as_ref())?,
            residual: Dropout::params(gpu, dropouts.residual.as_ref())?,
        })
    }

    fn backward(&self, gpu: &Gpu, variant: &str, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Weights { in_weight, in_bias, out_weight, out_bias, gamma, beta } = &self.weights;
        let vars = [in_weight, in_bias, out_weight, out_bias, gamma, beta];
        let columns: usize = vars.iter().map(|var| var.value().len()).sum();
        let blocks = self.tiles().div_ceil(2).min(gpu.multiprocessors());
        let partials = gpu.take(blocks * columns * 4)?;
        let dx = gpu.tensor(DType::BF16, self.x.shape())?;
        let params = params::SelfAttentionBackward {
            dx: dx.gpu_address(),
            dy: dy.gpu_address(),
            partials: partials.address().cast(),
            layer: self.params(gpu)?,
        };
        let launch = Launch { shared: BACKWARD_SHARED, ..Launch::linear(blocks, BACKWARD_THREADS) };
        gpu.launch_for(&format!("self_attention_backward_{variant}"), DType::BF16, launch, &params)?;

        let sums = vars.map(|var| gpu.tensor(DType::F32, var.shape()));
        let sums = sums.into_iter().collect::<Result<Vec<Tensor>>>()?;
        let address = |i: usize| sums[i].gpu_address().cast();
        let params = params::SelfAttentionSums {
            in_weight: address(0),
            in_bias: address(1),
            out_weight: address(2),
            out_bias: address(3),
            gamma: address(4),
            beta: address(5),
            partials: partials.address().cast(),
            blocks: blocks as u32,
        };
        let launch = Launch { shared: 4 * 256, ..Launch::linear(columns / 32, 256) };
        gpu.launch("self_attention_sums", launch, &params)?;
        for (var, sum) in vars.into_iter().zip(sums) {
            gradients.add(var.id(), sum)?;
        }
        gradients.add(self.x.id(), dx)
    }
}
