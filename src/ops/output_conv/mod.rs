//! The last 1×1 convolution: a map [B, H+2, W+2, C] with a border, w [1, C, 1, 1], b `[1]` → logits [B, H, W].
//! Where `passive` > 0 the last channels of x are inputs without gradient (the last frame's mask). On a GPU the batch norm of
//! x must be pending, with the mask; logits and their gradient are float whatever the activations are.

pub mod cpu;
mod gpu;

use crate::device::Device;
use crate::ops::feature::Feature;
use crate::ops::map::Map;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// The convolution.
pub fn output_conv(tape: &mut Tape, x: &Feature, weight: &Var, bias: &Var, passive: usize) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::output_conv(tape, &gpu, x, weight, bias),
    };
    let x = &x.value;
    let map = Map::of(x.shape(), 1);
    let shape = [map.batch, map.height, map.width];
    let y = with_real!(x.value().dtype(), E => {
        let y = cpu::forward::<E>(&cpu, &map, x.value().cpu(), weight.value().cpu(), bias.value().cpu()[0]);
        Tensor::from_buffer(&shape, y)
    });
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.id());
    Ok(tape.record(y, move |dy, gradients| {
        with_real!(dy.dtype(), E => {
            let (dw, db) = cpu::weight_gradient::<E>(&map, x.value().cpu(), dy.cpu());
            gradients.add(weight.id(), Tensor::from_buffer(weight.shape(), cpu.copied(&dw)))?;
            gradients.add(bias, Tensor::from_buffer(&[1], cpu.copied(&[db])))?;
            let dx_map = map.with_channels(map.channels - passive);
            let dx = cpu::input_gradient::<E>(&cpu, &dx_map, dy.cpu(), weight.value().cpu());
            gradients.add(x.id(), Tensor::from_buffer(&dx_map.shape(), dx))?;
        });
        Ok(())
    }))
}
