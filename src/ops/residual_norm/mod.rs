//! Residual connection, dropout and layer norm: y = γ·(s − mean(s)) / √(var(s) + ε) + β with s = x + drop(r)
//! (J. L. Ba et al., "Layer normalization", 2016; biased variance, ε = 1e-5).
//!
//! x, r [rows, d] → y [rows, d]; statistics over d.

pub mod cpu;
mod gpu;

use crate::device::Device;
use crate::ops::dropout::Dropout;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// layer_norm(x + drop(r)); the shape is x's.
pub fn residual_norm(
    tape: &mut Tape,
    x: &Var,
    residual: &Var,
    gamma: &Var,
    beta: &Var,
    dropout: Option<Dropout>,
) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::residual_norm(tape, &gpu, x, residual, gamma, beta, dropout),
    };
    let shape = x.shape().to_vec();
    let (y, sum, stats) = with_real!(x.value().dtype(), E => {
        let g = gamma.value().cpu::<E>();
        let (y, sum, stats) =
            cpu::forward(&cpu, x.value().cpu(), residual.value().cpu(), g, beta.value().cpu(), dropout.as_ref());
        let rows = sum.len() / g.len();
        (Tensor::from_buffer(&shape, y), Tensor::from_buffer(&shape, sum), Tensor::from_buffer(&[rows, 2], stats))
    });
    let (x, residual, beta, gamma) = (x.id(), residual.id(), beta.id(), gamma.clone());
    Ok(tape.record(y, move |mut dy, gradients| {
        with_real!(dy.dtype(), E => {
            let d = gamma.value().len();
            let (dgamma, dbeta) =
                cpu::backward::<E>(dy.cpu_mut(&cpu), sum.cpu(), stats.cpu(), gamma.value().cpu());
            gradients.add(gamma.id(), Tensor::from_buffer(&[d], cpu.copied(&dgamma)))?;
            gradients.add(beta, Tensor::from_buffer(&[d], cpu.copied(&dbeta)))?;
            let mut dr = dy.clone();
            if let Some(dropout) = &dropout {
                crate::ops::dropout::cpu::apply(dropout, dr.cpu_mut::<E>(&cpu));
            }
            gradients.add(residual, dr)?;
            gradients.add(x, dy)?;
        });
        Ok(())
    }))
}
