//! Scores from pixel counts and histograms, sums over an epoch, and the names under which they are logged (SPEC §4).

use crate::ops::loss::{BINS, Counts, Histogram, LossReport, LossSettings};
use crate::optim::LearningRates;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Named values in the order in which they were measured: one line of metrics.jsonl.
pub type Metrics = Map<String, Value>;

/// What a confusion matrix says; every score is 0 where it is undefined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// (tp + tn) / all.
    pub accuracy: f64,
    /// tp / (tp + fp).
    pub precision: f64,
    /// tp / (tp + fn).
    pub recall: f64,
    /// 2 tp / (2 tp + fp + fn).
    pub f1: f64,
    /// tp / (tp + fp + fn).
    pub iou: f64,
}

/// Numerator over denominator, 0 where the latter is 0.
fn ratio(numerator: u64, denominator: u64) -> f64 {
    if denominator == 0 { 0.0 } else { numerator as f64 / denominator as f64 }
}

impl Scores {
    /// The scores of a confusion matrix.
    pub fn of(c: &Counts) -> Self {
        Self {
            accuracy: ratio(c.tp + c.tn, c.tp + c.tn + c.fp + c.fn_),
            precision: ratio(c.tp, c.tp + c.fp),
            recall: ratio(c.tp, c.tp + c.fn_),
            f1: ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn_),
            iou: ratio(c.tp, c.tp + c.fp + c.fn_),
        }
    }
}

/// The confusion matrix at one of the histogram's thresholds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operating {
    /// A pixel counts as burning from this probability on: a multiple of 1 / [`BINS`].
    pub threshold: f64,
    /// What that gives.
    pub counts: Counts,
}

/// The confusion matrices of all thresholds, from the highest to 0.
pub fn operating_points(h: &Histogram) -> Vec<Operating> {
    let (positives, negatives) = (h.positive.iter().sum::<u64>(), h.negative.iter().sum::<u64>());
    let (mut tp, mut fp) = (0, 0);
    let bins = h.positive.iter().zip(&h.negative).enumerate().rev();
    bins.map(|(i, (positive, negative))| {
        tp += positive;
        fp += negative;
        let counts = Counts { tp, fp, fn_: positives - tp, tn: negatives - fp };
        Operating { threshold: i as f64 / BINS as f64, counts }
    })
    .collect()
}

/// The confusion matrix where pixels from `threshold` on count as burning; `threshold` is rounded to the nearest bin.
pub fn counts_at(h: &Histogram, threshold: f64) -> Counts {
    let bin = (threshold * BINS as f64).round().clamp(0.0, BINS as f64) as usize;
    let split = |bins: &[u64]| {
        let above = bins.iter().skip(bin).sum::<u64>();
        (above, bins.iter().sum::<u64>() - above)
    };
    let ((tp, fn_), (fp, tn)) = (split(&h.positive), split(&h.negative));
    Counts { tp, fp, fn_, tn }
}

/// Average precision Σ (R_n − R_{n−1}) P_n over the thresholds from the highest down (as scikit-learn defines it, with
/// equal scores where p falls into the same bin); 0 without positives.
pub fn average_precision(h: &Histogram) -> f64 {
    let mut recall = 0.0;
    let mut area = 0.0;
    for point in operating_points(h) {
        let scores = Scores::of(&point.counts);
        area += (scores.recall - recall) * scores.precision;
        recall = scores.recall;
    }
    area
}

/// A point of the precision-recall curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// A pixel counts as burning from this probability on.
    pub threshold: f64,
    /// Precision there.
    pub precision: f64,
    /// Recall there.
    pub recall: f64,
}

/// The precision-recall curve from the highest threshold down, without the thresholds at which no pixel is added.
pub fn precision_recall_curve(h: &Histogram) -> Vec<CurvePoint> {
    let mut curve = Vec::new();
    let mut last = 0;
    for Operating { threshold, counts } in operating_points(h) {
        if counts.tp + counts.fp > last {
            last = counts.tp + counts.fp;
            let Scores { precision, recall, .. } = Scores::of(&counts);
            curve.push(CurvePoint { threshold, precision, recall });
        }
    }
    curve
}

/// The threshold of the highest F1, and that F1. Of equally good thresholds the one nearest to 0.5.
pub fn best_threshold(h: &Histogram) -> (f64, f64) {
    let mut best = (0.5, Scores::of(&counts_at(h, 0.5)).f1);
    for point in operating_points(h) {
        let f1 = Scores::of(&point.counts).f1;
        let nearer = (point.threshold - 0.5).abs() < (best.0 - 0.5f64).abs();
        if f1 > best.1 || (f1 == best.1 && nearer) {
            best = (point.threshold, f1);
        }
    }
    best
}

/// Equal ranges of probability that [`calibration`] tells apart.
const CALIBRATION_BINS: usize = 10;

/// Whether probabilities mean what they say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Ranges of probability that hold pixels, from low to high.
    pub bins: Vec<CalibrationBin>,
    /// Expected calibration error: the mean over pixels of the distance between a bin's predicted and observed frequency.
    pub error: f64,
}

/// The pixels of a range of probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CalibrationBin {
    /// The range's lower end.
    pub low: f64,
    /// The range's upper end.
    pub high: f64,
    /// How many pixels have such a probability.
    pub pixels: u64,
    /// Their mean probability, to half a bin of the histogram.
    pub predicted: f64,
    /// The fraction of them that burns.
    pub observed: f64,
}

/// The reliability of probabilities (M. P. Naeini et al., 2015), from a histogram of them.
pub fn calibration(h: &Histogram) -> Calibration {
    let mut sums = [(0u64, 0u64, 0.0f64); CALIBRATION_BINS]; // pixels, burning ones, sum of p
    for (i, (positive, negative)) in h.positive.iter().zip(&h.negative).enumerate() {
        let (pixels, burning, p) = &mut sums[(i * CALIBRATION_BINS / BINS).min(CALIBRATION_BINS - 1)];
        *pixels += positive + negative;
        *burning += positive;
        *p += (positive + negative) as f64 * (i as f64 + 0.5) / BINS as f64;
    }
    let edge = |i: usize| i as f64 / CALIBRATION_BINS as f64;
    let held = sums.iter().enumerate().filter(|(_, (pixels, ..))| *pixels > 0);
    let bins: Vec<CalibrationBin> = held
        .map(|(i, &(pixels, burning, p))| CalibrationBin {
            low: edge(i),
            high: edge(i + 1),
            pixels,
            predicted: p / pixels as f64,
            observed: ratio(burning, pixels),
        })
        .collect();
    let all = bins.iter().map(|bin| bin.pixels).sum::<u64>().max(1) as f64;
    let error = bins.iter().map(|bin| bin.pixels as f64 * (bin.predicted - bin.observed).abs()).sum::<f64>() / all;
    Calibration { bins, error }
}

/// Losses and counts summed over batches. Losses weigh by the batch's samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Samples seen.
    pub samples: u64,
    /// Batches seen.
    pub batches: u64,
    /// Σ T, the steps of each batch's longest history.
    pub history: u64,
    /// Σ samples · loss.
    pub loss: f64,
    /// Counts over all valid pixels.
    pub counts: Counts,
    /// Counts over the valid pixels that do not burn in the last frame.
    pub growth: Counts,
    /// Counts of the copy-last baseline.
    pub copy_last: Counts,
}

impl Totals {
    /// Adds a batch of `samples` samples with histories of up to `history` steps.
    pub fn add(&mut self, report: &LossReport, samples: usize, history: usize) {
        self.samples += samples as u64;
        self.batches += 1;
        self.history += history as u64;
        self.loss += report.loss * samples as f64;
        self.counts += report.counts;
        self.growth += report.growth;
        self.copy_last += report.copy_last;
    }

    /// The mean loss of a sample; 0 without samples.
    pub fn mean_loss(&self) -> f64 {
        if self.samples == 0 { 0.0 } else { self.loss / self.samples as f64 }
    }
}

/// What an evaluation over samples gave. Counts are at the threshold it was made with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Loss and counts.
    pub totals: Totals,
    /// Histogram of p over all valid pixels.
    pub histogram: Histogram,
    /// Histogram of p over the pixels of growth.
    pub growth_histogram: Histogram,
    /// The same by length of history in frames; filled where it was asked for.
    pub by_history: BTreeMap<usize, Totals>,
    /// The same by sequence; filled where it was asked for.
    pub by_sequence: BTreeMap<String, Totals>,
}

impl Evaluation {
    /// Adds a batch of `samples` samples with histories of up to `history` steps.
    pub fn add(&mut self, report: &LossReport, samples: usize, history: usize) {
        self.totals.add(report, samples, history);
        self.histogram += &report.histogram;
        self.growth_histogram += &report.growth_histogram;
    }
}

/// Collects named values; a value that is not finite cannot be written as JSON and becomes null.
#[derive(Default)]
struct Row(Metrics);

impl Row {
    fn set(&mut self, name: impl Into<String>, value: f64) {
        self.0.insert(name.into(), Value::from(value));
    }

    fn scores(&mut self, part: &str, when: &str, counts: &Counts, with_accuracy: bool) {
        let s = Scores::of(counts);
        if with_accuracy {
            self.set(format!("{part}acc_{when}"), s.accuracy);
        }
        for (name, value) in [("prec", s.precision), ("rec", s.recall), ("f1", s.f1), ("iou", s.iou)] {
            self.set(format!("{part}{name}_{when}"), value);
        }
    }
}

/// `train/loss_step`, the loss's own terms, `train/{acc,prec,rec,f1,iou}_step` and `train/lr_*`.
pub fn step_metrics(report: &LossReport, loss: &LossSettings, rates: &LearningRates) -> Metrics {
    let mut row = Row::default();
    row.set("train/loss_step", report.loss);
    let terms = match loss {
        LossSettings::FocalTversky { .. } => [("focal", report.focal), ("tversky", report.tversky)],
        LossSettings::BceDice { .. } => [("bce", report.bce), ("dice", report.dice)],
    };
    for (name, value) in terms {
        row.set(format!("train/{name}_step"), value);
    }
    row.scores("train/", "step", &report.counts, true);
    row.set("train/lr_temporal", rates.temporal);
    row.set("train/lr_spatial", rates.spatial);
    row.set("train/lr_refinement", rates.refinement);
    row.0
}

/// `train/loss_epoch`, `train/{acc,prec,rec,f1,iou}_epoch`, and `train/T_avg_epoch`, the mean of T over the batches.
pub fn train_epoch_metrics(totals: &Totals) -> Metrics {
    let mut row = Row::default();
    row.set("train/loss_epoch", totals.mean_loss());
    row.scores("train/", "epoch", &totals.counts, true);
    row.set("train/T_avg_epoch", ratio(totals.history, totals.batches));
    row.0
}

/// `val/{loss,acc,prec,rec,f1,iou,ap}_epoch`, `val/growth_{prec,rec,f1,iou,ap}_epoch`, the copy-last baseline
/// `val/copy_last_{prec,rec,f1,iou}_epoch`, and F1 at its best threshold, `val/best_{threshold,f1}_epoch`.
pub fn validation_metrics(evaluation: &Evaluation) -> Metrics {
    let mut row = Row::default();
    row.set("val/loss_epoch", evaluation.totals.mean_loss());
    row.scores("val/", "epoch", &evaluation.totals.counts, true);
    row.set("val/ap_epoch", average_precision(&evaluation.histogram));
    row.scores("val/growth_", "epoch", &evaluation.totals.growth, false);
    row.set("val/growth_ap_epoch", average_precision(&evaluation.growth_histogram));
    row.scores("val/copy_last_", "epoch", &evaluation.totals.copy_last, false);
    let (threshold, f1) = best_threshold(&evaluation.histogram);
    row.set("val/best_threshold_epoch", threshold);
    row.set("val/best_f1_epoch", f1);
    row.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A histogram with the given (p, is positive) pixels.
    fn histogram(pixels: &[(f64, bool)]) -> Histogram {
        let mut h = Histogram::default();
        for &(p, positive) in pixels {
            let bin = ((p * BINS as f64) as usize).min(BINS - 1);
            if positive { h.positive[bin] += 1 } else { h.negative[bin] += 1 }
        }
        h
    }

    /// A report with these counts and nothing else of note.
    pub(crate) fn report(loss: f64, counts: Counts) -> LossReport {
        LossReport {
            loss,
            focal: 0.25,
            tversky: 0.5,
            bce: 0.0,
            dice: 0.0,
            counts,
            growth: Counts::default(),
            copy_last: Counts::default(),
            histogram: Histogram::default(),
            growth_histogram: Histogram::default(),
        }
    }

    #[test]
    fn scores_by_hand() {
        let s = Scores::of(&Counts { tp: 6, fp: 2, fn_: 4, tn: 88 });
        assert_eq!((s.accuracy, s.precision, s.recall), (0.94, 0.75, 0.6));
        assert!((s.f1 - 2.0 * 0.75 * 0.6 / 1.35).abs() < 1e-15);
        assert_eq!(s.iou, 0.5);
        assert_eq!(Scores::of(&Counts::default()), Scores::default());
        assert_eq!(Scores::of(&Counts { tn: 5, ..Counts::default() }), Scores { accuracy: 1.0, ..Scores::default() });
    }

    #[test]
    fn average_precision_by_hand() {
        // scikit-learn's own example: y = [0, 0, 1, 1], scores [0.1, 0.4, 0.35, 0.8] give 0.8333.
        let h = histogram(&[(0.1, false), (0.4, false), (0.35, true), (0.8, true)]);
        assert!((average_precision(&h) - (0.5 * 1.0 + 0.5 * 2.0 / 3.0)).abs() < 1e-12);
        let curve = precision_recall_curve(&h);
        assert_eq!(curve.len(), 4);
        assert_eq!((curve[0].precision, curve[0].recall), (1.0, 0.5));
        assert_eq!((curve[3].precision, curve[3].recall), (0.5, 1.0));
        // All at one score: the precision of calling everything positive.
        assert_eq!(average_precision(&histogram(&[(0.3, true), (0.3, false), (0.3, false), (0.3, false)])), 0.25);
        assert_eq!(average_precision(&histogram(&[(0.3, false)])), 0.0);
        assert_eq!(average_precision(&Histogram::default()), 0.0);
    }

    #[test]
    fn best_threshold_by_hand() {
        // Cutting between 0.2 and 0.35 finds both positives at the price of one negative: F1 = 4/5.
        let h = histogram(&[(0.1, false), (0.4, false), (0.35, true), (0.8, true)]);
        let (threshold, f1) = best_threshold(&h);
        assert_eq!(f1, 0.8);
        assert!(threshold > 0.34 && threshold <= 0.35, "{threshold}: the nearest to 0.5 of the equally good ones");
        assert_eq!(Scores::of(&counts_at(&h, threshold)).f1, f1);
        assert_eq!(best_threshold(&Histogram::default()), (0.5, 0.0));
    }

    #[test]
    fn calibration_by_hand() {
        // Three pixels at 0.25 of which one burns, one at 0.75 that burns.
        let h = histogram(&[(0.25, true), (0.25, false), (0.25, false), (0.75, true)]);
        let Calibration { bins, error } = calibration(&h);
        assert_eq!(bins.len(), 2);
        assert_eq!((bins[0].low, bins[0].high, bins[0].pixels), (0.2, 0.3, 3));
        assert_eq!((bins[0].observed, bins[1].observed), (1.0 / 3.0, 1.0));
        let half = 0.5 / BINS as f64;
        assert!((bins[0].predicted - 0.25 - half).abs() < 1e-12 && (bins[1].predicted - 0.75 - half).abs() < 1e-12);
        let by_hand = (3.0 * (1.0 / 3.0 - 0.25 - half) + (1.0 - 0.75 - half)) / 4.0;
        assert!((error - by_hand).abs() < 1e-12);
        assert_eq!(calibration(&Histogram::default()), Calibration { bins: vec![], error: 0.0 });
    }

    #[test]
    fn losses_weigh_by_samples() {
        let mut totals = Totals::default();
        totals.add(&report(1.0, Counts { tp: 1, ..Counts::default() }), 3, 5);
        totals.add(&report(2.0, Counts { tp: 2, ..Counts::default() }), 1, 2);
        assert_eq!((totals.mean_loss(), totals.counts.tp, totals.samples), (1.25, 3, 4));
        assert_eq!(train_epoch_metrics(&totals)["train/T_avg_epoch"], 3.5);
        assert_eq!(Totals::default().mean_loss(), 0.0);
    }

    #[test]
    fn names_are_those_of_the_specification() {
        let loss = LossSettings::FOCAL_TVERSKY;
        let rates = LearningRates { temporal: 1e-3, spatial: 1e-4, refinement: 1e-3 };
        let row = step_metrics(&report(0.325, Counts { tp: 1, ..Counts::default() }), &loss, &rates);
        let names: Vec<&str> = row.keys().map(String::as_str).collect();
        assert_eq!(
            names.join(" "),
            "train/loss_step train/focal_step train/tversky_step train/acc_step train/prec_step train/rec_step \
             train/f1_step train/iou_step train/lr_temporal train/lr_spatial train/lr_refinement"
        );
        let loss =
            LossSettings::BceDice { bce_weight: 0.9, dice_weight: 0.1, pos_weight: crate::ops::loss::PosWeight::Auto };
        let row = step_metrics(&report(1.0, Counts::default()), &loss, &rates);
        assert!(row.contains_key("train/bce_step") && row.contains_key("train/dice_step"));
        assert!(!row.contains_key("train/focal_step"));
        let row = validation_metrics(&Evaluation::default());
        for name in "loss acc prec rec f1 iou ap growth_prec growth_rec growth_f1 growth_iou growth_ap".split(' ') {
            assert!(row.contains_key(&format!("val/{name}_epoch")), "{name}");
        }
        let row = train_epoch_metrics(&Totals::default());
        for name in "loss acc prec rec f1 iou".split(' ') {
            assert!(row.contains_key(&format!("train/{name}_epoch")), "{name}");
        }
    }

    proptest! {
        /// Against the definition, one pixel after the other on scores that do not share bins.
        #[test]
        fn average_precision_agrees_with_the_definition(order in proptest::collection::vec(any::<bool>(), 1..60)) {
            let pixels: Vec<(f64, bool)> =
                order.iter().enumerate().map(|(i, &y)| ((i as f64 + 0.5) / 64.0, y)).collect();
            let positives = order.iter().filter(|y| **y).count();
            let mut expected = 0.0;
            let mut found = 0;
            for (rank, &(_, y)) in pixels.iter().rev().enumerate() {
                if y {
                    found += 1;
                    expected += found as f64 / (rank + 1) as f64 / positives as f64;
                }
            }
            let h = histogram(&pixels);
            prop_assert!((average_precision(&h) - expected).abs() < 1e-9);
            let (threshold, f1) = best_threshold(&h);
            for i in 0..=64 {
                prop_assert!(Scores::of(&counts_at(&h, i as f64 / 64.0)).f1 <= f1);
            }
            prop_assert_eq!(Scores::of(&counts_at(&h, threshold)).f1, f1);
        }

        #[test]
        fn every_threshold_counts_every_pixel_once(bins in proptest::collection::vec((0usize..BINS, any::<bool>()), 0..50), t in 0.0..1.0) {
            let mut h = Histogram::default();
            for &(bin, y) in &bins {
                if y { h.positive[bin] += 1 } else { h.negative[bin] += 1 }
            }
            let c = counts_at(&h, t);
            prop_assert_eq!((c.tp + c.fp + c.fn_ + c.tn) as usize, bins.len());
            prop_assert_eq!(c.tp + c.fn_, bins.iter().filter(|b| b.1).count() as u64);
        }
    }
}
