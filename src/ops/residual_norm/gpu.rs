//! Launches `kernels/residual_norm.cu`.

use crate::device::gpu::{Gpu, Launch, params};
use crate::ops::columns::{MOST_BLOCKS, MOST_PARTIALS, sums};
use crate::ops::dropout::Dropout;
use crate::tape::{Tape, Var};
use crate::tensor::DType;
use crate::{Error, Result};

const THREADS: usize = 256;

/// See [`super::residual_norm`]; rows of a multiple of 8 elements, 1024 at most.
pub fn residual_norm(
    tape: &mut Tape,
    gpu: &Gpu,
    x: &Var,
    residual: &Var,
    gamma: &Var,
    beta: &Var,
    dropout: Option<Dropout>,
) -> Result<Var> {
    let width = gamma.value().len();
    let variant = [256, 512, 1024].into_iter().find(|most| width <= *most && width.is_multiple_of(8));
    let Some(variant) = variant else {
        return Err(Error::failed(
            "residual_norm",
            format_args!("rows of {width} elements"),
            "use a d_model that is a multiple of 8 and at most 1024, or --device cpu",
        ));
    };
    let (dtype, rows) = (x.value().dtype(), x.value().len() / width);
    let lanes = (width / 8).next_power_of_two().min(32);
    let slots = THREADS / lanes; // rows of a block at a time
    let launch = |most_blocks: usize| Launch::linear(rows.div_ceil(slots).min(most_blocks), THREADS as u32);
    let y = gpu.tensor(dtype, x.shape())?;
    let forward = params::ResidualNormForward {
        y: y.gpu_address(),
        x: x.value().gpu_address(),
        residual: residual.value().gpu_address(),
        gamma: gamma.value().gpu_address().cast(),
        beta: beta.value().gpu_address().cast(),
        rows: rows as u64,
        width: width as u32,
        lanes: lanes as u32,
        dropout: Dropout::params(gpu, dropout.as_ref())?,
    };
    gpu.launch_for(&format!("residual_norm_forward_{variant}"), dtype, launch(MOST_BLOCKS), &forward)?;
    let backward = Launch { shared: (slots * 2 * width * 4) as u32, ..launch(MOST_PARTIALS) };
    let (gpu, x, residual, gamma, beta) = (gpu.clone(), x.clone(), residual.clone(), gamma.clone(), beta.id());
    Ok(tape.record(y, move |mut dy, gradients| {
        let blocks = backward.grid[0];
        let partials = gpu.take(blocks as usize * 2 * width * 4)?;
        let dresidual = match dropout {
            Some(_) => Some(gpu.tensor(dtype, residual.shape())?),
            None => None,
        };
        let params = params::ResidualNormBackward {
            dx: dy.gpu_mut(&gpu)?,
            dresidual: dresidual.as_ref().map_or(std::ptr::null_mut(), |dr| dr.gpu_address()),
            x: x.value().gpu_address(),
            residual: residual.value().gpu_address(),
            gamma: gamma.value().gpu_address().cast(),
            partials: partials.address().cast(),
            rows: rows as u64,
            width: width as u32,
            lanes: lanes as u32,
            dropout: Dropout::params(&gpu, dropout.as_ref())?,
        };
        gpu.launch_for(&format!("residual_norm_backward_{variant}"), dtype, backward, &params)?;
        let (dgamma, dbeta) = (gpu.tensor(DType::F32, &[width])?, gpu.tensor(DType::F32, &[width])?);
        sums(&gpu, &partials, blocks, &dgamma, Some(&dbeta))?;
        gradients.add(gamma.id(), dgamma)?;
        gradients.add(beta, dbeta)?;
        gradients.add(residual.id(), dresidual.unwrap_or_else(|| dy.clone()))?;
        gradients.add(x.id(), dy)
    }))
}
