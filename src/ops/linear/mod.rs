//! Linear layer with bias, optional GELU and dropout: y = drop(gelu(x·Wᵀ + b)).
//!
//! x [rows, in], W [out, in], b `[out]` → y [rows, out]. GELU is the exact one, z·Φ(z) (D. Hendrycks & K. Gimpel,
//! "Gaussian error linear units", 2016).

pub mod cpu;
mod gpu;

use crate::device::Device;
use crate::ops::dropout::Dropout;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// What follows the affine map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// GELU, then dropout where given.
    Gelu(Option<Dropout>),
}

/// The layer; leading dimensions of x are rows.
pub fn linear(tape: &mut Tape, x: &Var, weight: &Var, bias: Option<&Var>, activation: Activation) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::linear(tape, &gpu, x, weight, bias, activation),
    };
    let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
    assert_eq!(x.shape().last(), Some(&inputs), "linear: {:?} by {:?}", x.shape(), weight.shape());
    let mut shape = x.shape().to_vec();
    shape[x.shape().len() - 1] = outputs;
    let (mut y, pre) = with_real!(x.value().dtype(), E => {
        let pre = cpu::forward::<E>(&cpu, x.value().cpu(), weight.value().cpu(), bias.map(|b| b.value().cpu()), inputs);
        let pre = Tensor::from_buffer(&shape, pre);
        match activation {
            Activation::Identity => (pre, None),
            Activation::Gelu(drop) => {
                let y = cpu::gelu::<E>(&cpu, pre.cpu(), drop.as_ref());
                (Tensor::from_buffer(&shape, y), Some(pre))
            }
        }
    });
    y = y.reshaped(&shape);
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.map(Var::id));
    Ok(tape.record(y, move |mut dy, gradients| {
        with_real!(dy.dtype(), E => {
            if let (Activation::Gelu(drop), Some(pre)) = (activation, pre) {
                cpu::gelu_backward::<E>(dy.cpu_mut(&cpu), pre.cpu(), drop.as_ref());
            }
            let (dw, db) = cpu::weight_gradient::<E>(x.value().cpu(), dy.cpu(), inputs, outputs);
            gradients.add(weight.id(), Tensor::from_buffer(weight.shape(), cpu.copied(&dw)))?;
            if let Some(bias) = bias {
                gradients.add(bias, Tensor::from_buffer(&[outputs], cpu.copied(&db)))?;
            }
            if !x.is_constant() {
                let dx = cpu::input_gradient::<E>(&cpu, dy.cpu(), weight.value().cpu(), inputs);
                gradients.add(x.id(), Tensor::from_buffer(x.shape(), dx))?;
            }
        });
        Ok(())
    }))
}
