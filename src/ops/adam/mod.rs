//! One Adam update of a parameter (D. P. Kingma & J. Ba, "Adam", 2015), as `torch.optim.Adam` does it: weight decay is added
//! to the gradient.

pub mod cpu;

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

/// Updates value and moments in place; all of one shape.
///
/// # Errors
/// What the device reports.
pub fn adam(
    device: &Device,
    update: &Update,
    value: &mut Tensor,
    gradient: &Tensor,
    moments: &mut [Tensor; 2],
) -> Result<()> {
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(_) => return Err(crate::ops::unported("adam")),
    };
    let [first, second] = moments;
    with_real!(value.dtype(), E => {
        cpu::update::<E>(update, value.cpu_mut(cpu), gradient.cpu(), first.cpu_mut(cpu), second.cpu_mut(cpu));
    });
    Ok(())
}
