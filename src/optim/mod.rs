//! Adam, parameter groups and learning-rate schedules.

use serde::{Deserialize, Serialize};

/// Adam as `torch.optim.Adam`: weight decay is added to the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamSettings {
    /// Decay of the first moment (0.9).
    pub beta1: f64,
    /// Decay of the second moment (0.999).
    pub beta2: f64,
    /// Added to the denominator (1e-8).
    pub eps: f64,
    /// L2 penalty added to the gradient (1e-4).
    pub weight_decay: f64,
}

/// A learning rate for each parameter group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LearningRates {
    /// Embedder and transformer (1e-3).
    pub temporal: f64,
    /// Spatial decoder (1e-4).
    pub spatial: f64,
    /// Refinement decoder (1e-3).
    pub refinement: f64,
}

/// How the learning rates change over a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Schedule {
    /// As configured throughout.
    Constant,
    /// Linear warm-up over `warmup_steps`, then a half cosine down to `min_factor` of the configured rate.
    Cosine {
        /// Steps of the warm-up.
        warmup_steps: u64,
        /// Fraction of the rate that is left at the end.
        min_factor: f64,
    },
}
