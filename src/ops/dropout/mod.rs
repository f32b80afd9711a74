//! Dropout: y = x·m / (1 − p), m drawn by Philox4x32-10 from (seed, step, site, element), so that the backward draws the
//! same mask again and nothing is stored.
//!
//! Source: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The counter is
//! (element / 8, site, step's low and high word), the key is the seed. The four words that come out are eight halves of 16
//! bits, the low half of the first word first; half element mod 8 decides, so p is a multiple of 1/65536.

pub mod cpu;
mod gpu;

use crate::device::Device;
use crate::device::gpu::{Gpu, params};
use crate::tape::{Tape, Var};
use crate::{Result, with_real};

/// Identifies the masks of one training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step.
    pub step: u64,
}

/// One dropout layer of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability of dropping an element, in [0, 1).
    pub probability: f64,
    /// Seed and step.
    pub key: DropoutKey,
    /// Which layer: every place that drops has its own number.
    pub site: u32,
}

impl Dropout {
    /// Of 65536 values of an element's 16 bits, the lowest so many drop it.
    pub fn threshold(&self) -> u16 {
        (self.probability * 65536.0).round().min(65535.0) as u16
    }

    /// What kept elements are multiplied with: 1 / (1 − p).
    pub fn scale(&self) -> f64 {
        1.0 / (1.0 - f64::from(self.threshold()) / 65536.0)
    }

    /// The layer as kernels take it; without one nothing is dropped.
    ///
    /// # Errors
    /// What the device reports of writing the step's number to its memory.
    pub fn params(gpu: &Gpu, dropout: Option<&Self>) -> Result<params::Dropout> {
        let Some(layer) = dropout else { return Ok(params::Dropout { scale: 1.0, ..params::Dropout::default() }) };
        Ok(params::Dropout {
            step: gpu.step_words(layer.key.step)?,
            threshold: layer.threshold().into(),
            scale: layer.scale() as f32,
            site: layer.site,
            seed: [layer.key.seed as u32, (layer.key.seed >> 32) as u32],
            unused: 0,
        })
    }
}

/// Drops elements of x; any shape.
pub fn dropout(tape: &mut Tape, x: &Var, dropout: Option<Dropout>) -> Result<Var> {
    let Some(layer) = dropout else { return Ok(x.clone()) };
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::dropout(tape, &gpu, x, &layer),
    };
    let (id, mut y) = (x.id(), x.value().clone());
    with_real!(y.dtype(), E => cpu::apply(&layer, y.cpu_mut::<E>(&cpu)));
    Ok(tape.record(y, move |mut dy, gradients| {
        with_real!(dy.dtype(), E => cpu::apply(&layer, dy.cpu_mut::<E>(&cpu)));
        gradients.add(id, dy)?;
        Ok(())
    }))
}
