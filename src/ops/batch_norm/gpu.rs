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
    let Feature { value, pending } = pending(gpu, x, (gamma, beta), statistics, halo, append)?;
    match pending {
        Some(pending) => normalize(tape, gpu, &value, halo, pending),
        None => Ok(value),
    }
}

/// See [`super::pending`].
pub fn pending(
    gpu: &Gpu,
    x: &Var,
    (gamma, beta): (&Var, &Var),
    statistics: Statistics<'_>,
    halo: usize,
    append: Option<&MaskBits>,
) -> Result<Feature> {
    let channels = gamma.value().len();
    let of_batch = matches!(statistics, Statistics::Batch(..));
    let moments = match of_batch {
        true => Some(batch_moments(gpu, &Map::of(x.shape(), halo).with_channels(channels), x.value())?),
        false => None,
    };
    let affine = affine(gpu, channels, moments.as_ref(), (gamma.value(), beta.value()), statistics)?;
    let (gamma, beta, mask) = (gamma.id(), beta.id(), append.cloned());
    Ok(Feature { value: x.clone(), pending: Some(Pending { affine, gamma, beta, channels, of_batch, mask }) })
}

/// What is pending of a map, as an op of its own.
pub fn normalize(tape: &mut Tape, gpu: &Gpu, x: &Var, halo: usize, pending: Pending) -> Result<Var> {
    let map = Map::of(x.shape(), halo).with_channels(pending.channels);
    let y = forward(gpu, &map, x.value(), &pending.affine, pending.mask.as_ref())?;
    let (gpu, x) = (gpu.clone(), x.clone());
    Ok(tape.record(y, move |mut dy, gradients| {
        let partials = sums(&gpu, &map, &dy, x.value(), &pending.affine)?;
        let (dgamma, dbeta) = parameter_gradients(&gpu, &partials)?;
        input_gradient(&gpu, &map, &mut dy, x.value(), &pending, (&dgamma, &dbeta))?;
        gradients.add(pending.gamma, dgamma)?;
        gradients.add(pending.beta, dbeta)?;
        gradients.add(x.id(), dy)
    }))
}

/// Room for the moments of so many blocks: means, sums of squared deviations, and numbers of pixels,
/// `[2·stored(C) + 1, blocks]`.
pub fn moments(gpu: &Gpu, channels: usize, blocks: usize) -> Result<Tensor> {
    gpu.tensor(DType::F32, &[2 * stored_channels(channels) + 1, blocks])
}

fn batch_moments(gpu: &Gpu, map: &Map, x: &Tensor) -> Result<Tensor> {
    let split = Split::summing(map.pixels(), stored_channels(map.channels), x.dtype());
    let partials = moments(gpu, map.channels, split.blocks as usize)?;
    let params = params::BatchNormMoments {
        x: x.gpu_address(),
        partials: partials.gpu_address().cast(),
        map: map.params(),
        span: split.span,
    };
    gpu.launch_for("batch_norm_moments", x.dtype(), split.launch(2 * vector(x.dtype()) + 1), &params)?;
    Ok(partials)
}

/// What normalises: `[4, stored(C)]`. The batch's statistics come from its [`moments`], and the running ones move.
pub fn affine(
    gpu: &Gpu,
    channels: usize,
    moments: Option<&Tensor>,
    (gamma, beta): (&Tensor, &Tensor),
    statistics: Statistics<'_>,
) -> Result<Tensor> {
    let stride = stored_channels(channels);
    let affine = gpu.tensor(DType::F32, &[4, stride])?;
    let (running_mean, running_var) = match statistics {
        // In place, whoever shares them: a captured step must write to where the next one reads.
        Statistics::Batch(mean, var) => (mean.gpu_address(), var.gpu_address()),
        Statistics::Running(mean, var) => (mean.gpu_address(), var.gpu_address()),
    };
    let params = params::BatchNormAffine {
        affine: affine.gpu_address().cast(),
        partials: moments.map_or(std::ptr::null(), |moments| moments.gpu_address().cast()),
        running_mean: running_mean.cast(),
        running_var: running_var.cast(),
        gamma: gamma.gpu_address().cast(),
        beta: beta.gpu_address().cast(),
        channels: channels as u32,
        stride: stride as u32,
        blocks: moments.map_or(0, |moments| moments.shape()[1] as u32),
    };
    let launch = Launch { shared: 3 * 8 * 4, ..Launch::linear(stride, 256) };
    gpu.launch("batch_norm_affine", launch, &params)?;
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

/// What blocks of pixels add to the gradients of γ and β: `[2, C, blocks]`.
fn sums(gpu: &Gpu, map: &Map, dy: &Tensor, x: &Tensor, affine: &Tensor) -> Result<Tensor> {
    debug_assert_eq!(dy.shape(), x.shape(), "the gradient has x's channels");
    let split = Split::summing(map.pixels(), stored_channels(map.channels), x.dtype());
    let partials = gpu.tensor(DType::F32, &[2, map.channels, split.blocks as usize])?;
    let params = params::BatchNormSums {
        dy: dy.gpu_address(),
        x: x.gpu_address(),
        affine: affine.gpu_address().cast(),
        partials: partials.gpu_address().cast(),
        map: map.params(),
        span: split.span,
    };
    gpu.launch_for("batch_norm_sums", x.dtype(), split.launch(vector(x.dtype())), &params)?;
    Ok(partials)
}

/// The gradients of γ and β from what blocks add to them, `[2, C, blocks]`.
pub fn parameter_gradients(gpu: &Gpu, partials: &Tensor) -> Result<(Tensor, Tensor)> {
    let [c, blocks] = [partials.shape()[1], partials.shape()[2]];
    let (dgamma, dbeta) = (gpu.tensor(DType::F32, &[c])?, gpu.tensor(DType::F32, &[c])?);
    let params = params::BatchNormParameters {
        partials: partials.gpu_address().cast(),
        dgamma: dgamma.gpu_address().cast(),
        dbeta: dbeta.gpu_address().cast(),
        channels: c as u32,
        blocks: blocks as u32,
    };
    gpu.launch("batch_norm_parameters", Launch { shared: 8 * 4, ..Launch::linear(2 * c, 256) }, &params)?;
    Ok((dgamma, dbeta))
}

/// Turns dy, or what of it passes the ReLU, into dx in place.
pub fn input_gradient(
    gpu: &Gpu,
    map: &Map,
    dy: &mut Tensor,
    x: &Tensor,
    pending: &Pending,
    (dgamma, dbeta): (&Tensor, &Tensor),
) -> Result<()> {
    let split = Split::writing(map.stored_pixels(), stored_channels(map.channels), x.dtype());
    let params = params::BatchNormBackward {
        dy: dy.gpu_mut(gpu)?,
        x: x.gpu_address(),
        affine: pending.affine.gpu_address().cast(),
        dgamma: dgamma.gpu_address().cast(),
        dbeta: dbeta.gpu_address().cast(),
        map: map.params(),
        span: split.span,
        share: if pending.of_batch { 1.0 / map.pixels() as f32 } else { 0.0 },
    };
    gpu.launch_for("batch_norm_backward", x.dtype(), split.launch(0), &params)
}
