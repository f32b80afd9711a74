//! Dropout: y = x·m / (1 − p), m drawn by Philox4x32-10 from (seed, step, site, element), so that the backward draws the
//! same mask again and nothing is stored.
//!
//! Source: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The counter is
//! (element / 4, site, step's low and high word), the key is the seed; word element mod 4 decides.

pub mod cpu;

use crate::device::Device;
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

/// Drops elements of x; any shape.
pub fn dropout(tape: &mut Tape, x: &Var, dropout: Option<Dropout>) -> Result<Var> {
    let Some(layer) = dropout else { return Ok(x.clone()) };
    let Device::Cpu(cpu) = tape.device().clone();
    let (id, mut y) = (x.id(), x.value().clone());
    with_real!(y.dtype(), E => cpu::apply(&layer, y.cpu_mut::<E>(&cpu)));
    Ok(tape.record(y, move |mut dy, gradients| {
        with_real!(dy.dtype(), E => cpu::apply(&layer, dy.cpu_mut::<E>(&cpu)));
        gradients.add(id, dy);
        Ok(())
    }))
}
