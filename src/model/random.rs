//! A batch to measure speed with.

use super::{Inputs, ModelSettings, Target};
use crate::patch::Grid;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Random wind and terrain, and frames of which one patch in twenty burns in part; always the same.
pub fn random_batch(settings: &ModelSettings, batch: usize, history: usize, grid: Grid) -> (Inputs, Target) {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let patches = batch * grid.patches();
    let mut values = |len: usize| (0..len).map(|_| rng.random::<f32>()).collect::<Vec<f32>>();
    let (wind, statics) = (values(batch * history * 2), values(patches * settings.static_channels));
    let pixels = if settings.patch == 4 { 0xffff } else { u64::MAX };
    let mut bits = |len: usize| -> Vec<u64> {
        (0..len).map(|_| if rng.random_bool(0.05) { rng.random::<u64>() & pixels } else { 0 }).collect()
    };
    let (frames, target) = (bits(patches * history * grid.words()), bits(patches * grid.words()));
    let valid_steps = vec![true; batch * history];
    let inputs = Inputs { batch, history, grid, frames, wind, statics, valid_steps };
    (inputs, Target { bits: target, valid_patches: vec![true; patches] })
}
