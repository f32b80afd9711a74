//! The Euclidean norm of gradients, for gradient clipping and to notice a diverging run.

mod gpu;

pub use gpu::{GradientReport, GradientState, gradient_clip};

use crate::device::Device;
use crate::device::cpu::Real;
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// √Σ g² over all elements of `gradients`.
///
/// # Errors
/// What the device reports.
pub fn gradient_norm(device: &Device, gradients: &[&Tensor]) -> Result<f64> {
    let squares = match device {
        Device::Cpu(_) => gradients
            .iter()
            .map(|gradient| {
                with_real!(gradient.dtype(), E => {
                    gradient.cpu::<E>().iter().map(|g| Real::f64(*g) * Real::f64(*g)).sum::<f64>()
                })
            })
            .sum::<f64>(),
        Device::Gpu(gpu) => gpu::squares(gpu, gradients)?,
    };
    Ok(squares.sqrt())
}
