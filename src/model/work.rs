//! How many operations a step takes, by formula: what measured times are held against.

use super::ModelSettings;
use crate::patch::Grid;
use serde::Serialize;

/// Floating-point operations of one sample's forward pass, a multiplication and its addition counted as two. Matrix products,
/// convolutions and attention; what is done once an element (norms, GELU, losses) is under a hundredth and left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ForwardWork {
    /// Token embedder and temporal transformer; the last layer's queries are of the last step only.
    pub temporal: u64,
    /// Spatial decoder, each pyramid level fused at its own size.
    pub spatial: u64,
    /// Refinement decoder.
    pub refinement: u64,
}

impl ForwardWork {
    /// All parts together.
    pub fn total(&self) -> u64 {
        self.temporal + self.spatial + self.refinement
    }

    /// Forward and backward: the backward makes two products of every one, for inputs and for weights.
    pub fn training(&self) -> u64 {
        3 * self.total()
    }
}

impl ModelSettings {
    /// The operations of one sample with `history` steps on `grid`.
    pub fn forward_work(&self, history: usize, grid: Grid) -> ForwardWork {
        let [d, steps, patches] = [self.d_model, history, grid.patches()].map(|n| n as u64);
        let statics = if self.use_static { self.static_channels as u64 * d } else { 0 };
        let mut temporal = statics;
        for layer in 0..self.layers {
            let queries = if layer + 1 == self.layers { 1 } else { steps };
            let keys_and_values = steps * 2 * d * d;
            let attention = 2 * queries * steps * d;
            temporal += keys_and_values + attention + queries * 2 * d * (d + self.feedforward as u64);
        }
        temporal *= 2 * patches;

        let width = self.decoder_width as u64;
        let level = |(i, channels): (usize, &usize)| {
            let (pixels, channels) = (((grid.rows >> i) * (grid.cols >> i)) as u64, *channels as u64);
            2 * pixels * (d * channels + channels * width + width * width)
        };
        let spatial = self.hidden_sizes.iter().enumerate().map(level).sum::<u64>() + 2 * patches * width;

        let (mut inputs, mut pixels, mut refinement) = (d + 1, patches, 0);
        if self.input_projection {
            let outputs = 4 * self.base_channels as u64;
            refinement += 2 * pixels * inputs * outputs;
            inputs = outputs;
        }
        let (stages, skip) = (self.stages(), u64::from(self.last_frame_skip));
        for (stage, outputs) in stages.iter().map(|n| *n as u64).enumerate() {
            pixels *= 4;
            let extra = if stage + 1 == stages.len() { skip } else { 0 };
            refinement += 2 * pixels * outputs * (4 * inputs + 9 * (outputs + extra)); // an output pixel sees 2×2 of 4×4 taps
            inputs = outputs;
        }
        refinement += 2 * pixels * (inputs + skip);
        ForwardWork { temporal, spatial, refinement }
    }
}

impl ModelSettings {
    /// Bytes that a training step moves for each sample at least, with activations of `size` bytes and every fusion that one
    /// could wish for: each token, feature map and logit written once and read once in either direction, its gradient
    /// likewise; what a layer of the transformer or a level of the pyramid has in between never leaves the chip.
    pub fn training_bytes(&self, history: usize, grid: Grid, size: usize) -> u64 {
        let [d, steps, patches, layers] = [self.d_model, history, grid.patches(), self.layers].map(|n| n as u64);
        // A value: written and read by the forward, read again by the backward; its gradient: written and read.
        const PASSES: u64 = 5;
        let tokens = layers * steps * patches * d + patches * d;
        let head = patches * self.decoder_width as u64;
        let (mut pixels, mut maps) = (patches, patches * (d + 1));
        for outputs in self.stages() {
            pixels *= 4;
            maps += 2 * pixels * outputs as u64; // of the transposed convolution and of the convolution
        }
        let logits = 4 * 4 * pixels; // float: written, read by the loss; the gradient written and read
        PASSES * size as u64 * (tokens + head + maps) + logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_network_takes_56_gflop_a_sample() {
        let grid = Grid { rows: 50, cols: 50, patch: 8 };
        let work = ModelSettings::default().forward_work(6, grid);
        // by hand: three products of 64×64 each, an attention and two of 64×256 a step and layer, and so on
        assert_eq!(work, ForwardWork { temporal: 3_452_160_000, spatial: 531_916_800, refinement: 14_766_080_000 });
        assert_eq!(work.training(), 56_250_470_400);
        // 1.92 MB of tokens a layer, 1.28 of the head, 35.84 of maps, all in bf16
        let bytes = ModelSettings::default().training_bytes(6, grid, 2);
        assert_eq!(bytes, 5 * (3 * 1_920_000 + 320_000 + 1_280_000 + 325_000 + 35_840_000) + 2_560_000);
        let skip = ModelSettings { last_frame_skip: true, ..ModelSettings::default() };
        let more = skip.forward_work(6, grid).refinement - work.refinement;
        assert_eq!(more, 2 * 160_000 * (32 * 9 + 1));
    }
}
