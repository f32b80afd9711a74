//! Launches `kernels/batch_norm.cu`.

use super::{MaskBits, Statistics};
use crate::Result;
use crate::device::gpu::{Gpu, Launch, params};
use crate::ops::feature::{Feature, Pending};
use crate::ops::map::{Map, Split, stored_channels, vector};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// See [`super::batch_norm_relu`]. The gradient that comes back has x's channels only: what reads an appended mask gives it
/// none.
pub fn batch_norm_relu(
    tape: &mut Tape,
    gpu: &Gpu,
    x: &Var,
    (gamma, beta): (&Var, &Var),
    statistics: Statistics<'_>,
    halo: usize,
    append: Option<&MaskBits>,
) -> Result<Var> {
    let map = Map::of(x.shape(), halo).with_channels(gamma.value().len());
    let of_batch = matches!(statistics, Statistics::Batch(..));
    let affine = affine(gpu, &map, x.value(), (gamma.value(), beta.value()), statistics)?;
    let y = forward(gpu, &map, x.value(), &affine, append)?;
    let (gpu, x, gamma, beta) = (gpu.clone(), x.clone(), gamma.id(), beta.id());
    Ok(tape.record(y, move |mut dy, gradients| {
        let (dgamma, dbeta) = backward(&gpu, &map, &mut dy, x.value(), &affine, of_batch)?;
        gradients.add(gamma, dgamma)?;
        gradients.add(beta, dbeta)?;
        gradients.add(x.id(), dy)
    }))
}

/// See [`super::pending`].
pub fn pending(
    gpu: &Gpu,
    x: &Var,
    (gamma, beta): (&Var, &Var),
    statistics: Statistics<'_>,
    append: Option<&MaskBits>,
) -> Result<Feature> {
    let channels = gamma.value().len();
    let map = Map::of(x.shape(), 1).with_channels(channels);
    let of_batch = matches!(statistics, Statistics::Batch(..));
    let affine = affine(gpu, &map, x.value(), (gamma.value(), beta.value()), statistics)?;
    let (gamma, beta, mask) = (gamma.id(), beta.id(), append.cloned());
    Ok(Feature { value: x.clone(), pending: Some(Pending { affine, gamma, beta, channels, of_batch, mask }) })
}

/// What normalises: `[4, stored(C)]`. Moves the running statistics where the batch's are used.
fn affine(
    gpu: &Gpu,
    map: &Map,
    x: &Tensor,
    (gamma, beta): (&Tensor, &Tensor),
    statistics: Statistics<'_>,
) -> Result<Tensor> {
    let (pixels, stride, dtype) = (map.pixels(), stored_channels(map.channels), x.dtype());
    let split = Split::summing(pixels, stride, dtype);
    let affine = gpu.tensor(DType::F32, &[4, stride])?;
    let partials = match &statistics {
        Statistics::Running(..) => None,
        Statistics::Batch(..) => {
            let partials = gpu.tensor(DType::F32, &[2, stride, split.blocks as usize])?;
            let params = params::BatchNormMoments {
                x: x.gpu_address(),
                partials: partials.gpu_address().cast(),
                map: map.params(),
                span: split.span,
            };
            gpu.launch_for("batch_norm_moments", dtype, split.launch(2 * vector(dtype) + 1), &params)?;
            Some(partials)
        }
    };
    let (running_mean, running_var) = match statistics {
        // In place, whoever shares them: a captured step must write to where the next one reads.
        Statistics::Batch(mean, var) => (mean.gpu_address(), var.gpu_address()),
        Statistics::Running(mean, var) => (mean.gpu_address(), var.gpu_address()),
    };
    let params = params::BatchNormAffine {
        affine: affine.gpu_address().cast(),
        partials: partials.as_ref().map_or(std::ptr::null(), |partials| partials.gpu_address().cast()),
        running_mean: running_mean.cast(),
        running_var: running_var.cast(),
        gamma: gamma.gpu_address().cast(),
        beta: beta.gpu_address().cast(),
        channels: map.channels as u32,
        stride: stride as u32,
        pixels: pixels as u32,
        span: split.span,
        blocks: split.blocks,
    };
    gpu.launch("batch_norm_affine", Launch::linear(stride.div_ceil(8), 256), &params)?;
    Ok(affine)
}

fn forward(gpu: &Gpu, map: &Map, x: &Tensor, affine: &Tensor, append: Option<&MaskBits>) -> Result<Tensor> {
    let out = map.with_channels(map.channels + usize::from(append.is_some()));
    let y = gpu.tensor(x.dtype(), &out.stored_shape())?; // [B, H + 2h, W + 2h, stored(C or C + 1)]
    let stride = stored_channels(out.channels);
    let split = Split::writing(map.stored_pixels(), stride, x.dtype());
    let params = params::BatchNormForward {
        y: y.gpu_address(),
        x: x.gpu_address(),
        affine: affine.gpu_address().cast(),
        mask: append.map_or(std::ptr::null(), |mask| mask.bits.gpu_address()),
        map: map.params(),
        y_stride: stride as u32,
        patch: append.map_or(1, |mask| mask.grid.patch as u32),
        span: split.span,
    };
    gpu.launch_for("batch_norm_forward", x.dtype(), split.launch(0), &params)?;
    Ok(y)
}

/// Turns dy into dx in place; returns the gradients of γ and β.
fn backward(
    gpu: &Gpu,
    map: &Map,
    dy: &mut Tensor,
    x: &Tensor,
    affine: &Tensor,
    of_batch: bool,
) -> Result<(Tensor, Tensor)> {
    let (c, stride, dtype) = (map.channels, stored_channels(map.channels), x.dtype());
    debug_assert_eq!(dy.shape(), x.shape(), "the gradient has x's channels");
    let split = Split::summing(map.pixels(), stride, dtype);
    let partials = gpu.tensor(DType::F32, &[2, c, split.blocks as usize])?;
    let params = params::BatchNormSums {
        dy: dy.gpu_address(),
        x: x.gpu_address(),
        affine: affine.gpu_address().cast(),
        partials: partials.gpu_address().cast(),
        map: map.params(),
        span: split.span,
    };
    gpu.launch_for("batch_norm_sums", dtype, split.launch(vector(dtype)), &params)?;
    let (dgamma, dbeta) = (gpu.tensor(DType::F32, &[c])?, gpu.tensor(DType::F32, &[c])?);
    let params = params::BatchNormParameters {
        partials: partials.gpu_address().cast(),
        dgamma: dgamma.gpu_address().cast(),
        dbeta: dbeta.gpu_address().cast(),
        channels: c as u32,
        blocks: split.blocks,
    };
    gpu.launch("batch_norm_parameters", Launch::linear((2 * c).div_ceil(8), 256), &params)?;
    let split = Split::writing(map.stored_pixels(), stride, dtype);
    let params = params::BatchNormBackward {
        dy: dy.gpu_mut(gpu)?,
        x: x.gpu_address(),
        affine: affine.gpu_address().cast(),
        dgamma: dgamma.gpu_address().cast(),
        dbeta: dbeta.gpu_address().cast(),
        map: map.params(),
        span: split.span,
        share: if of_batch { 1.0 / map.pixels() as f32 } else { 0.0 },
    };
    gpu.launch_for("batch_norm_backward", dtype, split.launch(0), &params)?;
    Ok((dgamma, dbeta))
}
