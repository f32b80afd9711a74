//! The network: token embedder, temporal transformer, spatial decoder and refinement decoder, strung together.

mod count;

pub use count::ParameterCounts;

use crate::Result;
use crate::ops::loss::{LossReport, LossSettings, Thresholds};
use crate::patch::Grid;
use serde::{Deserialize, Serialize};

/// What the network looks like (SPEC §2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSettings {
    /// Model width d.
    pub d_model: usize,
    /// Attention heads; divides `d_model`.
    pub heads: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Width of the feed-forward layers.
    pub feedforward: usize,
    /// Dropout of the temporal transformer.
    pub dropout: f64,
    /// Dropout of the decode head (0.1).
    pub head_dropout: f64,
    /// Pixels along a patch's side: 4, 8 or 16.
    pub patch: usize,
    /// Static bands Cs.
    pub static_channels: usize,
    /// Whether the wind is embedded.
    pub use_wind: bool,
    /// Whether the static bands are embedded.
    pub use_static: bool,
    /// What the fire token is.
    pub fire_embedding: FireEmbedding,
    /// Channels c of the decode head's four levels.
    pub hidden_sizes: [usize; 4],
    /// Width D of the decode head.
    pub decoder_width: usize,
    /// Base channels of the refinement stages.
    pub base_channels: usize,
    /// Whether a 1×1 convolution precedes the refinement stages.
    pub input_projection: bool,
    /// Whether the last frame's mask joins the last refinement stage.
    pub last_frame_skip: bool,
}

/// What the fire token is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FireEmbedding {
    /// The burned fraction of the patch.
    Mean,
    /// The patch's own pixels.
    Pixels,
}

/// A batch as the network sees it, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Samples B.
    pub batch: usize,
    /// Steps T of the longest history; shorter ones are padded on the left.
    pub history: usize,
    /// Patch grid.
    pub grid: Grid,
    /// Burning pixels as patch bits, [B, T, N, words].
    pub frames: Vec<u64>,
    /// Wind speed and direction, scaled to [0, 1], [B, T, 2].
    pub wind: Vec<f32>,
    /// Static patch tokens, [B, N, Cs].
    pub statics: Vec<f32>,
    /// Whether a step is real, [B, T].
    pub valid_steps: Vec<bool>,
}

/// What the network should have said, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Burning pixels as patch bits, [B, N, words].
    pub bits: Vec<u64>,
    /// Whether a patch counts, [B, N].
    pub valid_patches: Vec<bool>,
}

/// The part of the network a parameter belongs to, for learning rates and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Token embedder and temporal transformer.
    Temporal,
    /// Spatial decoder.
    Spatial,
    /// Refinement decoder.
    Refinement,
}

/// Identifies the dropout masks of one training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step.
    pub step: u64,
}

/// The network with its parameters, their gradients and the running statistics.
pub struct EmberFormer {
    _settings: ModelSettings,
}

impl EmberFormer {
    /// Forward and backward in training mode: gradients are left in the parameters (overwritten, not accumulated),
    /// running statistics are updated.
    pub fn train_step(
        &mut self,
        _inputs: &Inputs,
        _target: &Target,
        _loss: &LossSettings,
        _thresholds: &Thresholds,
        _dropout: DropoutKey,
    ) -> Result<LossReport> {
        todo!()
    }

    /// Forward in evaluation mode with the loss's report.
    pub fn evaluate(
        &self,
        _inputs: &Inputs,
        _target: &Target,
        _loss: &LossSettings,
        _thresholds: &Thresholds,
    ) -> Result<LossReport> {
        todo!()
    }

    /// Logits in evaluation mode, [B, H, W].
    pub fn logits(&self, _inputs: &Inputs) -> Result<Vec<f32>> {
        todo!()
    }
}
