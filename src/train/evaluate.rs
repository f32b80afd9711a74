//! Evaluation over samples: validation after each epoch, the final test, and the `evaluate` command.

use crate::data::augment::Augment;
use crate::data::batch::{Batch, FrameSource, assemble};
use crate::data::sampler::SampleId;
use crate::ops::loss::{Counts, LossReport};
use crate::train::metrics::{Evaluation, Scores, Totals, average_precision, best_threshold, counts_at};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Runs `forward` (which returns a batch's report in evaluation mode) over the batches; `progress` hears
/// after each what came out so far, and of how many samples in all.
///
/// With `breakdown` the result also has its totals by length of history and by sequence. For that every batch must
/// consist of one sample, because a report does not tell its samples apart.
///
/// # Errors
/// Those of `forward`; a loss that is no number, naming the samples.
pub fn evaluate<S: FrameSource>(
    source: &S,
    batches: &[Vec<SampleId>],
    max_seq_len: usize,
    breakdown: bool,
    mut forward: impl FnMut(&Batch) -> Result<LossReport>,
    mut progress: impl FnMut(&Totals, u64),
) -> Result<Evaluation> {
    let mut evaluation = Evaluation::default();
    let all = batches.iter().map(|samples| samples.len() as u64).sum();
    for samples in batches {
        let batch = assemble(source, samples, max_seq_len, &Augment::None, (0, 0))?;
        let report = forward(&batch)?;
        if !report.loss.is_finite() {
            return Err(Error::failed(
                "evaluation",
                format_args!("the loss is {} on {}", report.loss, describe(source, samples)),
                "the weights or these samples hold values that are not finite; see `emberformer inspect`",
            ));
        }
        evaluation.add(&report, samples.len(), batch.inputs.history);
        if let ([sample], true) = (samples.as_slice(), breakdown) {
            let history = evaluation.by_history.entry(batch.inputs.history).or_default();
            history.add(&report, 1, batch.inputs.history);
            let sequence = evaluation.by_sequence.entry(source.id(sample.sequence).to_string()).or_default();
            sequence.add(&report, 1, batch.inputs.history);
        }
        progress(&evaluation.totals, all);
    }
    Ok(evaluation)
}

/// Samples as a person finds them on disk.
pub fn describe(source: &impl FrameSource, samples: &[SampleId]) -> String {
    let one = |s: &SampleId| format!("{} with history 0..={}", source.id(s.sequence), s.k);
    samples.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Scores at a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AtThreshold {
    /// A pixel counts as burning from this probability on.
    pub threshold: f64,
    /// Over all valid pixels.
    pub scores: Scores,
    /// Over the valid pixels that do not burn in the last frame.
    pub growth: Scores,
    /// The counts behind `scores`.
    pub counts: Counts,
}

/// An evaluation in numbers, as the commands print and store it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Samples seen.
    pub samples: u64,
    /// Mean loss.
    pub loss: f64,
    /// Area under the precision-recall curve over all valid pixels.
    pub average_precision: f64,
    /// The same over the pixels of growth.
    pub growth_average_precision: f64,
    /// At the threshold that the evaluation was made with.
    pub at_threshold: AtThreshold,
    /// At the threshold of the best F1 on validation.
    pub at_best: AtThreshold,
    /// Copying the last frame of the history.
    pub copy_last: Scores,
}

impl Summary {
    /// Sums up an evaluation made with `threshold`; `best` is the threshold chosen on validation.
    pub fn new(evaluation: &Evaluation, threshold: f64, best: f64) -> Self {
        let Evaluation { totals, histogram, growth_histogram, .. } = evaluation;
        let at = |threshold, counts: Counts, growth: Counts| AtThreshold {
            threshold,
            scores: Scores::of(&counts),
            growth: Scores::of(&growth),
            counts,
        };
        Self {
            samples: totals.samples,
            loss: totals.mean_loss(),
            average_precision: average_precision(histogram),
            growth_average_precision: average_precision(growth_histogram),
            at_threshold: at(threshold, totals.counts, totals.growth),
            at_best: at(best, counts_at(histogram, best), counts_at(growth_histogram, best)),
            copy_last: Scores::of(&totals.copy_last),
        }
    }
}

/// The scores of some of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Part {
    /// Samples seen.
    pub samples: u64,
    /// Mean loss.
    pub loss: f64,
    /// Over all valid pixels.
    pub scores: Scores,
    /// Over the valid pixels that do not burn in the last frame.
    pub growth: Scores,
    /// Copying the last frame of the history.
    pub copy_last: Scores,
}

impl Part {
    /// The scores of some totals.
    pub fn new(totals: &Totals) -> Self {
        Self {
            samples: totals.samples,
            loss: totals.mean_loss(),
            scores: Scores::of(&totals.counts),
            growth: Scores::of(&totals.growth),
            copy_last: Scores::of(&totals.copy_last),
        }
    }
}

/// What a finished run leaves in result.json, for `compare`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Which part of the split `test` is over: "test", or "val" where the split has no test sequences.
    pub split: String,
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// Epochs of the whole run.
    pub epochs: u64,
    /// Whether it stopped early.
    pub stopped_early: bool,
    /// The epoch whose weights were evaluated, from 0.
    pub best_epoch: Option<u64>,
    /// The metric that chose it.
    pub monitor: String,
    /// Its value.
    pub best_value: Option<f64>,
    /// The best checkpoint on the validation part.
    pub validation: Summary,
    /// The best checkpoint on the test part.
    pub test: Summary,
}

/// The best threshold of an evaluation, for use on other samples.
pub fn chosen_threshold(validation: &Evaluation) -> f64 {
    best_threshold(&validation.histogram).0
}
