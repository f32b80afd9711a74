//! Segmentation losses with their pixel counts: focal + Tversky and BCE + Dice, from logits, over valid pixels.

pub mod cpu;
mod gpu;

use crate::device::{Array, Device};
use crate::ops::batch_norm::MaskBits;
use crate::tape::Var;
use crate::tensor::Tensor;
use crate::{Result, with_real};
pub use gpu::{LossBuffers, LossTotals, segmentation_loss_on};
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

impl LossSettings {
    /// The loss of the published experiment: 0.7 focal (α 0.25, γ 2) + 0.3 Tversky (α 0.7, β 0.3).
    pub const FOCAL_TVERSKY: Self = Self::FocalTversky {
        focal_weight: 0.7,
        tversky_weight: 0.3,
        focal_alpha: 0.25,
        focal_gamma: 2.0,
        tversky_alpha: 0.7,
        tversky_beta: 0.3,
    };
    /// The loss of its counterpart: 0.9 BCE, burning pixels weighted by their rarity, + 0.1 √Dice.
    pub const BCE_DICE: Self = Self::BceDice { bce_weight: 0.9, dice_weight: 0.1, pos_weight: PosWeight::Auto };
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

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.tp += other.tp;
        self.fp += other.fp;
        self.fn_ += other.fn_;
        self.tn += other.tn;
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { positive: vec![0; BINS], negative: vec![0; BINS] }
    }
}

impl std::ops::AddAssign<&Histogram> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        self.positive.iter_mut().zip(&other.positive).for_each(|(sum, n)| *sum += n);
        self.negative.iter_mut().zip(&other.negative).for_each(|(sum, n)| *sum += n);
    }
}

/// What the logits are compared with.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Burning pixels.
    pub target: MaskBits,
    /// Burning pixels of the last frame of the history.
    pub last: MaskBits,
    /// Whether a patch's pixels count, [B, N].
    pub valid_patches: Array<bool>,
    /// Training or evaluation: the cross-entropy's weight of burning pixels holds in training only.
    pub training: bool,
}

/// The loss of logits [B, H, W] with its pixel statistics, and where `backward` the gradient of the logits.
///
/// With p = σ(z), over valid pixels: focal (T.-Y. Lin et al., 2017), Tversky (S. S. M. Salehi et al., 2017) with soft sums
/// per sample and smoothing 1, cross-entropy, and √Dice over the samples that have fire. All computed from the logits,
/// stable for |z| ≤ 1e4; sums in double precision (on a GPU those within a block of pixels in float).
pub fn segmentation_loss(
    device: &Device,
    logits: &Var,
    comparison: &Comparison,
    settings: &LossSettings,
    thresholds: &Thresholds,
    backward: bool,
) -> Result<(LossReport, Option<Tensor>)> {
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => {
            let buffers = LossBuffers::new(gpu, thresholds)?;
            let gradient = segmentation_loss_on(logits.value(), comparison, settings, backward, &buffers)?;
            return Ok((buffers.report()?, gradient));
        }
    };
    with_real!(logits.value().dtype(), E => {
        let z = logits.value().cpu::<E>();
        let (report, sums) = cpu::forward(z, comparison, settings, thresholds);
        let gradient = backward.then(|| {
            Tensor::from_buffer(logits.shape(), cpu::backward(cpu, z, comparison, settings, &sums))
        });
        Ok((report, gradient))
    })
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
