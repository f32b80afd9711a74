//! The decode head's pyramid: average pooling on the way down, bilinear resizing and summing on the way up.
//!
//! Everything between them is linear, so each level is projected and fused at its own small size and resized afterwards.

pub mod cpu;
mod gpu;

use crate::device::Device;
use crate::ops::map::Map;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// Average over windows of `factor`×`factor`, stride `factor`; partial windows are dropped.
/// x [B, H, W, C] → [B, ⌊H / factor⌋, ⌊W / factor⌋, C].
pub fn average_pool(tape: &mut Tape, x: &Var, factor: usize) -> Result<Var> {
    if factor == 1 {
        return Ok(x.clone());
    }
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::average_pool(tape, &gpu, x, factor),
    };
    let from = Map::of(x.shape(), 0);
    let to = Map { height: from.height / factor, width: from.width / factor, ..from };
    let y = with_real!(x.value().dtype(), E => {
        Tensor::from_buffer(&to.shape(), cpu::pool::<E>(&cpu, &from, x.value().cpu(), &to, factor))
    });
    let id = x.id();
    Ok(tape.record(y, move |dy, gradients| {
        with_real!(dy.dtype(), E => {
            let dx = cpu::pool_backward::<E>(&cpu, &from, &to, dy.cpu(), factor);
            gradients.add(id, Tensor::from_buffer(&from.shape(), dx))?;
        });
        Ok(())
    }))
}

/// Σ resize(level): bilinear, half-pixel centres (align_corners false). Levels [B, h, w, C] → [B, H, W, C].
pub fn resize_sum(tape: &mut Tape, levels: &[Var], height: usize, width: usize) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::resize_sum(tape, &gpu, levels, height, width),
    };
    let maps: Vec<Map> = levels.iter().map(|level| Map::of(level.shape(), 0)).collect();
    let to = Map { height, width, ..maps[0] };
    let y = with_real!(levels[0].value().dtype(), E => {
        let values: Vec<&[E]> = levels.iter().map(|level| level.value().cpu::<E>()).collect();
        Tensor::from_buffer(&to.shape(), cpu::resize_sum(&cpu, &maps, &values, &to))
    });
    let ids: Vec<_> = levels.iter().map(Var::id).collect();
    Ok(tape.record(y, move |dy, gradients| {
        for (id, map) in ids.iter().zip(&maps) {
            if (map.height, map.width) == (height, width) {
                gradients.add(*id, dy.clone())?;
            } else {
                with_real!(dy.dtype(), E => {
                    let dx = cpu::resize_backward::<E>(&cpu, map, &to, dy.cpu());
                    gradients.add(*id, Tensor::from_buffer(&map.shape(), dx))?;
                });
            }
        }
        Ok(())
    }))
}
