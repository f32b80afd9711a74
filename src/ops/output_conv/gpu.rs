//! Launches `kernels/output_conv.cu`.

use crate::Result;
use crate::device::gpu::{Gpu, Launch, params};
use crate::ops::map::{Map, Split, stored_channels, vector};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// Pixels of a thread in the forward, as the kernel has them.
const PIXELS: usize = 8;

/// See [`super::output_conv`]; logits and their gradient are float whatever the activations are.
pub fn output_conv(tape: &mut Tape, gpu: &Gpu, x: &Var, weight: &Var, bias: &Var, passive: usize) -> Result<Var> {
    let map = Map::of(x.shape(), 1).with_channels(weight.value().len());
    let y = forward(gpu, &map, x.value(), weight.value(), bias.value())?;
    let (gpu, x, weight, bias) = (gpu.clone(), x.clone(), weight.clone(), bias.id());
    Ok(tape.record(y, move |dy, gradients| {
        let (dweight, dbias) = parameter_gradients(&gpu, &map, x.value(), &dy, weight.shape())?;
        gradients.add(weight.id(), dweight)?;
        gradients.add(bias, dbias)?;
        let dx_map = map.with_channels(map.channels - passive);
        gradients.add(x.id(), input_gradient(&gpu, &dx_map, x.value().dtype(), &dy, weight.value())?)
    }))
}

/// Logits `[B, H, W]`.
fn forward(gpu: &Gpu, map: &Map, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let y = gpu.tensor(DType::F32, &[map.batch, map.height, map.width])?;
    let lanes = (stored_channels(map.channels) / vector(x.dtype())).min(32);
    let span = PIXELS * (Split::THREADS as usize / lanes);
    let params = params::OutputConvForward {
        y: y.gpu_address().cast(),
        x: x.gpu_address(),
        weight: weight.gpu_address().cast(),
        bias: bias.gpu_address().cast(),
        map: map.params(),
        span: span as u32,
    };
    let launch = Launch {
        shared: (span * (lanes | 1) * 4) as u32,
        ..Launch::linear(map.pixels().div_ceil(span), Split::THREADS)
    };
    gpu.launch_for("output_conv_forward", x.dtype(), launch, &params)?;
    Ok(y)
}

/// dx of the map's channels.
fn input_gradient(gpu: &Gpu, map: &Map, dtype: DType, dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let dx = gpu.tensor(dtype, &map.stored_shape())?;
    let split = Split::writing(map.stored_pixels(), stored_channels(map.channels), dtype);
    let params = params::OutputConvInput {
        dx: dx.gpu_address(),
        dy: dy.gpu_address().cast(),
        weight: weight.gpu_address().cast(),
        map: map.params(),
        span: split.span,
    };
    gpu.launch_for("output_conv_input", dtype, split.launch(0), &params)?;
    Ok(dx)
}

/// dw, in the weight's shape, and db.
fn parameter_gradients(gpu: &Gpu, map: &Map, x: &Tensor, dy: &Tensor, shape: &[usize]) -> Result<(Tensor, Tensor)> {
    let split = Split::summing(map.pixels(), stored_channels(map.channels), x.dtype());
    let partials = gpu.tensor(DType::F32, &[map.channels + 1, split.blocks as usize])?;
    let params = params::OutputConvSums {
        x: x.gpu_address(),
        dy: dy.gpu_address().cast(),
        partials: partials.gpu_address().cast(),
        map: map.params(),
        span: split.span,
    };
    gpu.launch_for("output_conv_sums", x.dtype(), split.launch(vector(x.dtype())), &params)?;
    let (dweight, dbias) = (gpu.tensor(DType::F32, shape)?, gpu.tensor(DType::F32, &[1])?);
    let params = params::OutputConvParameters {
        partials: partials.gpu_address().cast(),
        dweight: dweight.gpu_address().cast(),
        dbias: dbias.gpu_address().cast(),
        channels: map.channels as u32,
        blocks: split.blocks,
    };
    gpu.launch("output_conv_parameters", Launch::linear((map.channels + 1).div_ceil(8), 256), &params)?;
    Ok((dweight, dbias))
}
