//! How many parameters a network has, by formula: known before anything is allocated.

use super::{FireEmbedding, ModelSettings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Trainable parameters by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterCounts {
    /// Token embedder.
    pub embedder: u64,
    /// Temporal transformer.
    pub temporal: u64,
    /// Spatial decoder.
    pub spatial: u64,
    /// Refinement decoder.
    pub refinement: u64,
}

impl ParameterCounts {
    /// All parts together.
    pub fn total(&self) -> u64 {
        self.embedder + self.temporal + self.spatial + self.refinement
    }
}

impl ModelSettings {
    /// Whether a file with `values` numbers can hold this network's weights. A file's settings are asked this before
    /// anything of their size is allocated.
    ///
    /// # Errors
    /// Settings that make no network, or a larger one; `file` names it.
    pub fn check_fits(&self, values: u64, file: impl std::fmt::Display) -> Result<()> {
        self.check().map_err(|e| e.within(&file))?;
        let needed = self.parameter_counts().total();
        if needed > values {
            let problem = format!("holds {values} values, its own model settings call for {needed} parameters or more");
            return Err(Error::failed(file, problem, "restore it from a copy, or make it again"));
        }
        Ok(())
    }

    /// Trainable parameters by part (SPEC §2) of settings that pass [`ModelSettings::check`]; running statistics do
    /// not count.
    pub fn parameter_counts(&self) -> ParameterCounts {
        let [d, feedforward, statics, patch] =
            [self.d_model, self.feedforward, self.static_channels, self.patch].map(|n| n as u64);
        let fire_inputs = match self.fire_embedding {
            FireEmbedding::Mean => 1,
            FireEmbedding::Pixels => patch * patch,
        };
        let mut embedder = linear(fire_inputs, d);
        if self.use_wind {
            embedder += linear(2, d / 2) + linear(d / 2, d);
        }
        if self.use_static {
            embedder += linear(statics, d);
        }

        let attention = linear(d, 3 * d) + linear(d, d);
        let temporal = self.layers as u64 * (attention + linear(d, feedforward) + linear(feedforward, d) + 2 * norm(d));

        let width = self.decoder_width as u64;
        let level = |&channels: &usize| linear(d, channels as u64) + linear(channels as u64, width);
        let spatial =
            self.hidden_sizes.iter().map(level).sum::<u64>() + 4 * width * width + norm(width) + linear(width, 1);

        ParameterCounts { embedder, temporal, spatial, refinement: self.refinement_parameters() }
    }

    fn refinement_parameters(&self) -> u64 {
        let (base, skip) = (self.base_channels as u64, u64::from(self.last_frame_skip));
        let mut inputs = self.d_model as u64 + 1;
        let mut count = 0;
        if self.input_projection {
            count += linear(inputs, 4 * base);
            inputs = 4 * base;
        }
        let stages = self.patch.max(1).ilog2();
        for stage in 0..stages {
            let outputs = if stage == 0 { 4 * base } else { base.max(inputs / 2) };
            let extra = if stage + 1 == stages { skip } else { 0 };
            count += inputs * outputs * 16 + norm(outputs) + (outputs + extra) * outputs * 9 + norm(outputs);
            inputs = outputs;
        }
        count + linear(inputs + skip, 1)
    }
}

/// Weights and biases of a linear layer or a 1×1 convolution.
fn linear(inputs: u64, outputs: u64) -> u64 {
    inputs * outputs + outputs
}

/// Scale and shift of a normalisation.
fn norm(channels: u64) -> u64 {
    2 * channels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> ModelSettings {
        ModelSettings::default()
    }

    #[test]
    fn the_published_sizes_come_out() {
        let counts = seed().parameter_counts();
        let parts = [counts.embedder, counts.temporal, counts.spatial, counts.refinement];
        assert_eq!(parts, [2_912, 149_952, 428_289, 491_425]);
        assert_eq!(counts.total(), 1_072_578);
        let projected = ModelSettings { input_projection: true, ..seed() };
        assert_eq!(projected.parameter_counts().total(), 1_210_050);
        let pixels = ModelSettings { fire_embedding: FireEmbedding::Pixels, last_frame_skip: true, ..seed() };
        assert_eq!(pixels.parameter_counts().total(), 1_076_899);
    }

    #[test]
    fn the_largest_sizes_do_not_overflow_and_larger_ones_are_refused() {
        let most = 1 << 16;
        let largest = ModelSettings {
            d_model: most,
            layers: most,
            feedforward: most,
            patch: 16,
            static_channels: most,
            hidden_sizes: [most; 4],
            decoder_width: most,
            base_channels: most,
            input_projection: true,
            ..seed()
        };
        largest.check().unwrap();
        assert!(largest.parameter_counts().total() > 1 << 50);
        for size in [most + 1, usize::MAX] {
            let text = ModelSettings { layers: size, ..seed() }.check_fits(9, "a file").unwrap_err().to_string();
            assert!(text.starts_with("a file: ") && text.contains(&size.to_string()), "{text}");
        }
        let text = seed().check_fits(1_072_577, "a file").unwrap_err().to_string();
        assert!(text.contains("call for 1072578 parameters"), "{text}");
        seed().check_fits(1_072_578, "a file").unwrap();
    }

    #[test]
    fn inputs_left_out_have_no_parameters() {
        let bare = ModelSettings { use_wind: false, use_static: false, ..seed() };
        assert_eq!(bare.parameter_counts().embedder, 128);
    }
}
