//! Launches `kernels/dropout.cu`.

use super::Dropout;
use crate::Result;
use crate::device::gpu::{Gpu, Launch, params};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// See [`super::dropout`]; the number of elements is a multiple of 8.
pub fn dropout(tape: &mut Tape, gpu: &Gpu, x: &Var, layer: &Dropout) -> Result<Var> {
    let y = gpu.tensor(x.value().dtype(), x.shape())?;
    apply(gpu, layer, x.value(), &y)?;
    let (gpu, id, layer) = (gpu.clone(), x.id(), *layer);
    Ok(tape.record(y, move |mut dy, gradients| {
        dy.gpu_mut(&gpu)?;
        apply(&gpu, &layer, &dy, &dy)?;
        gradients.add(id, dy)
    }))
}

fn apply(gpu: &Gpu, layer: &Dropout, from: &Tensor, to: &Tensor) -> Result<()> {
    let params = params::DropoutApply {
        to: to.gpu_address(),
        from: from.gpu_address(),
        len: from.len() as u64,
        dropout: Dropout::params(gpu, Some(layer))?,
    };
    gpu.launch_for(
        "dropout_apply",
        from.dtype(),
        Launch::linear((from.len() / 8).div_ceil(256).min(4096), 256),
        &params,
    )
}
