//! 3×3 convolution, stride 1, padding 1, no bias, on maps with a border.
//!
//! x [B, H+2, W+2, Cin] with a zero border, W [Cout, Cin, 3, 3] → y [B, H+2, W+2, Cout] with a zero border. Where
//! `passive` > 0 the last channels of x are inputs without gradient (the last frame's mask).

pub mod cpu;
pub(in crate::ops) mod gpu;

use crate::device::Device;
use crate::ops::feature::{Feature, Norm};
use crate::ops::map::Map;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// The convolution with the batch norm + ReLU that follow it. On a GPU the product sums what the batch norm needs, and what
/// reads the map normalises it.
pub fn conv_norm(tape: &mut Tape, input: &Feature, weight: &Var, norm: Norm<'_>, passive: usize) -> Result<Feature> {
    if let Device::Gpu(gpu) = tape.device().clone() {
        return gpu::conv(tape, &gpu, input, weight, Some(norm), passive);
    }
    let y = conv(tape, &input.value, weight, passive)?;
    norm.apply(tape, &y)
}

/// The convolution.
pub fn conv(tape: &mut Tape, x: &Var, weight: &Var, passive: usize) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return Ok(gpu::conv(tape, &gpu, &x.clone().into(), weight, None, passive)?.value),
    };
    let input = Map::of(x.shape(), 1);
    let output = input.with_channels(weight.shape()[0]);
    assert_eq!(weight.shape()[1], input.channels, "conv: {:?} by {:?}", x.shape(), weight.shape());
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
            let dx_map = input.with_channels(input.channels - passive);
            let dx = cpu::input_gradient::<E>(&cpu, &output, dy.cpu(), weight.value().cpu(), &input, &dx_map);
            gradients.add(id, Tensor::from_buffer(&dx_map.shape(), dx))?;
        });
        Ok(())
    }))
}
