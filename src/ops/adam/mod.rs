//! One Adam update of all parameters (D. P. Kingma & J. Ba, "Adam", 2015), as `torch.optim.Adam` does it: weight decay is added
//! to the gradient.

pub mod cpu;
mod gpu;

pub use gpu::{Factors, adam_by_group};

use crate::device::Device;
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// The factors of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// L2 penalty added to the gradient.
    pub weight_decay: f64,
    /// Learning rate.
    pub rate: f64,
    /// Number of this update, from 1 on.
    pub step: u64,
}

/// A parameter with what its update takes; all tensors of one shape.
pub struct Step<'a> {
    /// The parameter.
    pub value: &'a mut Tensor,
    /// Its gradient.
    pub gradient: &'a Tensor,
    /// First and second moment.
    pub moments: &'a mut [Tensor; 2],
    /// The factors.
    pub update: Update,
}

/// Value, gradient, first and second moment of a parameter.
pub type Parts<'a> = [&'a Tensor; 4];

impl Step<'_> {
    fn parts(&self) -> Parts<'_> {
        [&*self.value, self.gradient, &self.moments[0], &self.moments[1]]
    }
}

/// Updates values and moments in place.
///
/// # Errors
/// What the device reports.
pub fn adam(device: &Device, steps: &mut [Step<'_>]) -> Result<()> {
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::adam(gpu, steps),
    };
    for Step { value, gradient, moments: [first, second], update } in steps {
        with_real!(value.dtype(), E => {
            cpu::update::<E>(update, value.cpu_mut(cpu), gradient.cpu(), first.cpu_mut(cpu), second.cpu_mut(cpu));
        });
    }
    Ok(())
}
