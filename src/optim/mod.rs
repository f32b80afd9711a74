//! Adam, parameter groups and learning-rate schedules.

mod adam;

pub use adam::Adam;

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

impl Schedule {
    /// What the configured rates are multiplied with at optimiser step `step` (from 0) of `total_steps`.
    pub fn factor(&self, step: u64, total_steps: u64) -> f64 {
        match *self {
            Self::Constant => 1.0,
            Self::Cosine { warmup_steps, .. } if step < warmup_steps => {
                (step as f64 + 1.0) / (warmup_steps as f64 + 1.0)
            }
            Self::Cosine { warmup_steps, min_factor } => {
                let length = total_steps.saturating_sub(warmup_steps).max(1) as f64;
                let progress = ((step - warmup_steps) as f64 / length).min(1.0);
                min_factor + (1.0 - min_factor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_warms_up_and_comes_down() {
        let schedule = Schedule::Cosine { warmup_steps: 4, min_factor: 0.1 };
        let factors: Vec<f64> = (0..=24).map(|step| schedule.factor(step, 24)).collect();
        assert!((factors[0] - 0.2).abs() < 1e-12 && (factors[4] - 1.0).abs() < 1e-12, "{factors:?}");
        assert!((factors[14] - 0.55).abs() < 1e-12 && (factors[24] - 0.1).abs() < 1e-12, "{factors:?}");
        assert!(factors[4..].is_sorted_by(|a, b| a > b) && factors[..5].is_sorted());
        assert_eq!(schedule.factor(1000, 24), factors[24]);
        let endless = Schedule::Cosine { warmup_steps: u64::MAX, min_factor: 0.1 };
        assert!(endless.factor(0, 24) < 1e-18);
    }
}
