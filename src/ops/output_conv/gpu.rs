//! Launches `kernels/output_conv.cu`.

use crate::Result;
use crate::device::gpu::{Gpu, Launch, params};
use crate::ops::feature::{Feature, Pending};
use crate::ops::map::{Map, Split, stored_channels, vector};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// Pixels of a thread in the forward, as the kernel has them.
const PIXELS: usize = 8;

/// The raw map with what is done to it.
struct Input {
    x: Tensor,
    pending: Pending,
    weight: Tensor,
    map: Map,
}

/// Gradients of γ, β, the weight and the bias.
struct ParameterGradients {
    gamma: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor,
}

/// See [`super::output_conv`]; logits and their gradient are float whatever the activations are.
///
/// # Panics
/// Where no batch norm is pending: on a GPU every map comes from a convolution, which leaves it to its reader.
pub fn output_conv(tape: &mut Tape, gpu: &Gpu, x: &Feature, weight: &Var, bias: &Var) -> Result<Var> {
    let Some(pending) = x.pending.clone() else { panic!("output_conv on a GPU of a map without pending batch norm") };
    let map = Map::of(x.value.shape(), 1).with_channels(pending.channels);
    assert_eq!(weight.value().len(), map.channels + usize::from(pending.mask.is_some()), "a weight a channel");
    let input = Input { x: x.value.value().clone(), pending, weight: weight.value().clone(), map };
    let y = forward(gpu, &input, bias.value())?;
    let (gpu, x, weight, bias) = (gpu.clone(), x.value.id(), weight.id(), bias.id());
    Ok(tape.record(y, move |dy, gradients| {
        let sums = parameter_gradients(&gpu, &input, &dy)?;
        gradients.add(x, backward(&gpu, &input, &dy, &sums)?)?;
        gradients.add(input.pending.gamma, sums.gamma)?;
        gradients.add(input.pending.beta, sums.beta)?;
        gradients.add(weight, sums.weight)?;
        gradients.add(bias, sums.bias)
    }))
}

impl Input {
    fn params(&self) -> params::OutputConvInput {
        let mask = self.pending.mask.as_ref();
        params::OutputConvInput {
            x: self.x.gpu_address(),
            affine: self.pending.affine.gpu_address().cast(),
            weight: self.weight.gpu_address().cast(),
            mask: mask.map_or(std::ptr::null(), |mask| mask.bits.gpu_address()),
            map: self.map.params(),
            log_patch: mask.map_or(0, |mask| mask.grid.patch.trailing_zeros()),
        }
    }
}

/// Logits `[B, H, W]`.
fn forward(gpu: &Gpu, input: &Input, bias: &Tensor) -> Result<Tensor> {
    let (map, dtype) = (&input.map, input.x.dtype());
    let y = gpu.tensor(DType::F32, &[map.batch, map.height, map.width])?;
    let lanes = (stored_channels(map.channels) / vector(dtype)).min(32);
    let span = PIXELS * (Split::THREADS as usize / lanes);
    let params = params::OutputConvForward {
        input: input.params(),
        y: y.gpu_address().cast(),
        bias: bias.gpu_address().cast(),
        span: span as u32,
    };
    let launch = Launch {
        shared: (span * (lanes | 1) * 4) as u32,
        ..Launch::linear(map.pixels().div_ceil(span), Split::THREADS)
    };
    gpu.launch_for("output_conv_forward", dtype, launch, &params)?;
    Ok(y)
}

fn parameter_gradients(gpu: &Gpu, input: &Input, dy: &Tensor) -> Result<ParameterGradients> {
    let (map, dtype) = (&input.map, input.x.dtype());
    let split = Split::striding(map.pixels(), stored_channels(map.channels), dtype);
    let partials = gpu.tensor(DType::F32, &[2 * map.channels + 2, split.blocks as usize])?;
    let params = params::OutputConvSums {
        input: input.params(),
        dy: dy.gpu_address().cast(),
        partials: partials.gpu_address().cast(),
    };
    gpu.launch_for("output_conv_sums", dtype, split.launch(2 * vector(dtype) + 2), &params)?;
    let gradients = ParameterGradients {
        gamma: gpu.tensor(DType::F32, &[map.channels])?,
        beta: gpu.tensor(DType::F32, &[map.channels])?,
        weight: gpu.tensor(DType::F32, input.weight.shape())?,
        bias: gpu.tensor(DType::F32, &[1])?,
    };
    let params = params::OutputConvParameters {
        input: input.params(),
        partials: partials.gpu_address().cast(),
        dgamma: gradients.gamma.gpu_address().cast(),
        dbeta: gradients.beta.gpu_address().cast(),
        dweight: gradients.weight.gpu_address().cast(),
        dbias: gradients.bias.gpu_address().cast(),
        blocks: split.blocks,
    };
    let launch = Launch { shared: 256 / 32 * 4, ..Launch::linear(map.channels + 1, 256) };
    gpu.launch("output_conv_parameters", launch, &params)?;
    Ok(gradients)
}

/// The gradient of the raw map.
fn backward(gpu: &Gpu, input: &Input, dy: &Tensor, sums: &ParameterGradients) -> Result<Tensor> {
    let (map, dtype) = (&input.map, input.x.dtype());
    let dx = gpu.tensor(dtype, &map.stored_shape())?;
    let split = Split::writing(map.stored_pixels(), stored_channels(map.channels), dtype);
    let params = params::OutputConvBackward {
        input: input.params(),
        dx: dx.gpu_address(),
        dy: dy.gpu_address().cast(),
        dgamma: sums.gamma.gpu_address().cast(),
        dbeta: sums.beta.gpu_address().cast(),
        span: split.span,
        share: if input.pending.of_batch { 1.0 / map.pixels() as f32 } else { 0.0 },
    };
    gpu.launch_for("output_conv_backward", dtype, split.launch(0), &params)?;
    Ok(dx)
}
