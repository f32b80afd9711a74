//! Transposed convolution 4×4, stride 2, padding 1, no bias, on maps with a border: twice the height and width.
//!
//! x [B, H+2, W+2, Cin], W [Cin, Cout, 4, 4] → y [B, 2H+2, 2W+2, Cout], zero borders. Output pixel (2y + py, 2x + px)
//! sees 2×2 input pixels, so the op is four convolutions, one for each phase (py, px).

pub mod cpu;
mod gpu;

use crate::device::Device;
use crate::ops::feature::{Feature, Norm};
use crate::ops::map::Map;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// The transposed convolution with the batch norm + ReLU that follow it: see [`conv_norm`](super::conv::conv_norm).
pub fn up_conv_norm(tape: &mut Tape, input: &Feature, weight: &Var, norm: Norm<'_>) -> Result<Feature> {
    if let Device::Gpu(gpu) = tape.device().clone() {
        return gpu::up_conv(tape, &gpu, input, weight, Some(norm));
    }
    let y = up_conv(tape, &input.value, weight)?;
    norm.apply(tape, &y)
}

/// The transposed convolution.
pub fn up_conv(tape: &mut Tape, x: &Var, weight: &Var) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return Ok(gpu::up_conv(tape, &gpu, &x.clone().into(), weight, None)?.value),
    };
    let input = Map::of(x.shape(), 1);
    assert_eq!(weight.shape()[0], input.channels, "up_conv: {:?} by {:?}", x.shape(), weight.shape());
    let output = Map { height: 2 * input.height, width: 2 * input.width, channels: weight.shape()[1], ..input };
    let y = with_real!(x.value().dtype(), E => {
        let y = cpu::forward::<E>(&cpu, &input, x.value().cpu(), weight.value().cpu(), &output);
        Tensor::from_buffer(&output.shape(), y)
    });
    let (x, weight) = (x.clone(), weight.clone());
    Ok(tape.record(y, move |dy, gradients| {
        with_real!(dy.dtype(), E => {
            let dw = cpu::weight_gradient::<E>(&input, x.value().cpu(), &output, dy.cpu());
            gradients.add(weight.id(), Tensor::from_buffer(weight.shape(), cpu.copied(&dw)))?;
            let id = x.id();
            drop(x);
            let dx = cpu::input_gradient::<E>(&cpu, &output, dy.cpu(), weight.value().cpu(), &input);
            gradients.add(id, Tensor::from_buffer(&input.shape(), dx))?;
        });
        Ok(())
    }))
}
