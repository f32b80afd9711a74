//! Segmentation losses with their pixel counts: focal + Tversky and BCE + Dice, from logits, over valid pixels.

use serde::{Deserialize, Serialize};

/// Which loss, with its weights and parameters (SPEC §3).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LossSettings {
    /// `focal_weight`·focal + `tversky_weight`·Tversky.
    FocalTversky {
        /// Weight of the focal term.
        focal_weight: f64,
        /// Weight of the Tversky term.
        tversky_weight: f64,
        /// Weight α of burning pixels in the focal term; 1 − α for the others.
        focal_alpha: f64,
        /// Focusing exponent γ.
        focal_gamma: f64,
        /// Weight of false positives in the Tversky index.
        tversky_alpha: f64,
        /// Weight of false negatives in the Tversky index.
        tversky_beta: f64,
    },
    /// `bce_weight`·BCE + `dice_weight`·√Dice.
    BceDice {
        /// Weight of the cross-entropy term.
        bce_weight: f64,
        /// Weight of the Dice term.
        dice_weight: f64,
        /// How burning pixels are weighted in the cross-entropy while training.
        pos_weight: PosWeight,
    },
}

/// Weight of burning pixels in the cross-entropy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PosWeight {
    /// 1.
    None,
    /// max(neg, 1) / max(pos, 1) of the batch, in training only.
    Auto,
    /// As given, in training only.
    Value(f64),
}

/// Above which value a pixel counts as burning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Predicted probability: burning if p > this (0.5).
    pub prediction: f64,
    /// Target: burning if y > this (0.05).
    pub target: f64,
}

/// A confusion matrix of pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Predicted burning, burning.
    pub tp: u64,
    /// Predicted burning, not burning.
    pub fp: u64,
    /// Predicted not burning, burning.
    #[serde(rename = "fn")]
    pub fn_: u64,
    /// Predicted not burning, not burning.
    pub tn: u64,
}

/// Bins of a [`Histogram`]; bin i holds p in [i, i + 1) / BINS, the last one p = 1 too.
pub const BINS: usize = 1024;

/// Valid pixels by predicted probability and class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Pixels that burn in the target, by bin of p ([`BINS`] entries).
    pub positive: Vec<u64>,
    /// Pixels that do not.
    pub negative: Vec<u64>,
}

/// What a batch gave: the loss, its terms (unweighted; 0 where the loss has no such term) and the pixel statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct LossReport {
    /// The total.
    pub loss: f64,
    /// Focal term.
    pub focal: f64,
    /// Tversky term.
    pub tversky: f64,
    /// Cross-entropy term.
    pub bce: f64,
    /// Dice term (after the square root).
    pub dice: f64,
    /// Counts over all valid pixels.
    pub counts: Counts,
    /// Counts over the valid pixels that do not burn in the last frame of the history.
    pub growth: Counts,
    /// Counts of the copy-last baseline over all valid pixels.
    pub copy_last: Counts,
    /// Histogram of p over all valid pixels.
    pub histogram: Histogram,
    /// Histogram of p over the pixels of `growth`.
    pub growth_histogram: Histogram,
}
