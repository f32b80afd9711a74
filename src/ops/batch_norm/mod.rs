//! Batch norm + ReLU: y = max(0, γ·(x − mean) / √(var + ε) + β), statistics over batch and space (S. Ioffe &
//! C. Szegedy, "Batch normalization", 2015; ε = 1e-5, momentum 0.1; biased variance normalises, the unbiased one runs).
//!
//! x [B, H + 2h, W + 2h, C] with h pixels of border (0 or 1) → y of the same extent with a zero border; with `append`, y has
//! one more channel, the last frame's mask.

pub mod cpu;
pub(in crate::ops) mod gpu;

use crate::device::{Array, Device};
use crate::ops::feature::Feature;
use crate::ops::map::Map;
use crate::patch::Grid;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// Which statistics normalise.
pub enum Statistics<'a> {
    /// The batch's; the running ones (mean `[C]`, variance `[C]`) are moved towards them.
    Batch(&'a mut Tensor, &'a mut Tensor),
    /// The running ones: mean `[C]`, variance `[C]`.
    Running(&'a Tensor, &'a Tensor),
}

/// A mask of pixels as patch bits, one window a sample.
#[derive(Debug, Clone)]
pub struct MaskBits {
    /// Patch grid of the window.
    pub grid: Grid,
    /// [B, N, words]
    pub bits: Array<u64>,
}

impl MaskBits {
    /// The bits of sample `b`, for the ops of the CPU.
    pub fn window(&self, b: usize) -> &[u64] {
        let len = self.grid.patches() * self.grid.words();
        &self.bits.host()[b * len..][..len]
    }
}

/// Batch norm + ReLU of a map with a border for a reader that applies them itself: on a GPU only the statistics are made, on
/// the CPU the map is normalised.
pub fn pending(
    tape: &mut Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    statistics: Statistics<'_>,
    append: Option<&MaskBits>,
) -> Result<Feature> {
    match tape.device().clone() {
        Device::Cpu(_) => Ok(batch_norm_relu(tape, x, gamma, beta, statistics, 1, append)?.into()),
        Device::Gpu(gpu) => gpu::pending(&gpu, x, (gamma, beta), statistics, 1, append),
    }
}

/// Batch norm + ReLU.
pub fn batch_norm_relu(
    tape: &mut Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    statistics: Statistics<'_>,
    halo: usize,
    append: Option<&MaskBits>,
) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::batch_norm_relu(tape, &gpu, x, (gamma, beta), statistics, halo, append),
    };
    let map = Map::of(x.shape(), halo);
    let out = map.with_channels(map.channels + usize::from(append.is_some()));
    let of_batch = matches!(statistics, Statistics::Batch(..));
    let (y, affine) = with_real!(x.value().dtype(), E => {
        let values = x.value().cpu::<E>();
        let (mean, var) = match statistics {
            Statistics::Batch(running_mean, running_var) => {
                let (mean, var) = cpu::moments(&map, values);
                cpu::update_running(running_mean.cpu_mut::<E>(&cpu), running_var.cpu_mut(&cpu), &mean, &var, map.pixels());
                (mean, var)
            }
            Statistics::Running(mean, var) => (
                mean.cpu::<E>().iter().map(|x| crate::device::cpu::Real::f64(*x)).collect(),
                var.cpu::<E>().iter().map(|x| crate::device::cpu::Real::f64(*x)).collect(),
            ),
        };
        let affine = cpu::Affine::new(&mean, &var, gamma.value().cpu::<E>(), beta.value().cpu::<E>());
        let y = Tensor::from_buffer(&out.shape(), cpu::forward(&cpu, &map, values, &affine, &out, append));
        (y, Tensor::from_buffer(&[4, map.channels], affine.pack(&cpu)))
    });
    let (x, gamma, beta) = (x.clone(), gamma.id(), beta.id());
    Ok(tape.record(y, move |mut dy, gradients| {
        with_real!(dy.dtype(), E => {
            let affine = cpu::Affine::<E>::unpack(affine.cpu());
            let (dgamma, dbeta) = cpu::backward(&map, dy.cpu_mut(&cpu), x.value().cpu(), &affine, of_batch);
            let c = [map.channels];
            gradients.add(gamma, Tensor::from_buffer(&c, cpu.copied(&dgamma)))?;
            gradients.add(beta, Tensor::from_buffer(&c, cpu.copied(&dbeta)))?;
            gradients.add(x.id(), dy)?;
        });
        Ok(())
    }))
}
