//! The training loop: epochs of steps, validation, checkpoints, early stopping, and the final evaluation.
//!
//! All randomness is a pure function of (seed, epoch, step), and the position within the epoch is part of a checkpoint:
//! a run that is killed at any moment and resumed ends with the same bytes as one that was not.

use crate::data::batch::{Batch, FrameSource, assemble};
use crate::data::feed::{Feed, Order, Upcoming};
use crate::data::resident::Placement;
use crate::data::sampler::{SampleId, Sampler};
use crate::error::Kind;
use crate::model::{DeviceBatch, DropoutKey, Group, ModelSettings};
use crate::ops::loss::{LossReport, LossSettings, Thresholds};
use crate::optim::LearningRates;
use crate::patch::Grid;
use crate::train::checkpoint::{Checkpoint, DataDescription, HostTensor, Progress, State};
use crate::train::evaluate::{RunResult, Summary, chosen_threshold, describe, evaluate};
use crate::train::metrics::{Evaluation, Metrics, Totals, step_metrics, train_epoch_metrics, validation_metrics};
use crate::train::settings::{TrainSettings, check_unchanged};
use crate::train::stopping::Stopping;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Weights, running statistics and moments by name, on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saved {
    /// Weights and running statistics.
    pub weights: BTreeMap<String, HostTensor>,
    /// Adam's moments.
    pub moments: BTreeMap<String, (HostTensor, HostTensor)>,
    /// Updates that Adam has made to each parameter group.
    pub optimizer_updates: [u64; 3],
}

/// A batch of a training step.
pub enum Input<'a> {
    /// In host memory.
    Host(&'a Batch),
    /// On its way to a GPU: `fill` puts it where the learner wants it.
    Device {
        /// Samples.
        samples: usize,
        /// Steps of the longest history.
        history: usize,
        /// Patch grid.
        grid: Grid,
        /// Writes the batch.
        fill: &'a mut dyn FnMut(&mut DeviceBatch) -> Result<()>,
    },
}

impl Input<'_> {
    /// Samples, and steps of the longest history.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Self::Host(batch) => (batch.inputs.batch, batch.inputs.history),
            Self::Device { samples, history, .. } => (*samples, *history),
        }
    }
}

/// What a training step needs beside its batch.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings<'a> {
    /// The loss.
    pub loss: &'a LossSettings,
    /// When a pixel counts as burning.
    pub thresholds: &'a Thresholds,
    /// Gradients are scaled down to this norm at most.
    pub grad_clip: Option<f64>,
    /// The dropout masks.
    pub key: DropoutKey,
    /// Learning rates.
    pub rates: &'a LearningRates,
    /// Groups that stay as they are.
    pub frozen: &'a [Group],
}

/// A step after which training makes no sense; it and later ones have changed nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Failure {
    /// Steps since the totals were set, before it.
    pub number: u64,
    /// What is not finite.
    pub what: &'static str,
    /// Its value.
    pub value: f64,
}

/// A network with its optimiser, as the loop drives it.
pub trait Learner {
    /// Forward, backward and update. Nothing waits for a GPU.
    fn step(&mut self, input: Input<'_>, settings: &StepSettings<'_>) -> Result<()>;
    /// What the last step gave.
    fn report(&mut self) -> Result<LossReport>;
    /// Losses and counts are summed from these on.
    fn set_totals(&mut self, totals: &Totals) -> Result<()>;
    /// Losses and counts of all steps so far, from the totals that were set on.
    fn add_up(&mut self, totals: &mut Totals) -> Result<()>;
    /// The first step that failed, as far as is known: on a GPU after [`Learner::add_up`].
    fn failure(&self) -> Option<Failure>;
    /// Forward in evaluation mode.
    fn evaluate(&mut self, batch: &Batch, loss: &LossSettings, thresholds: &Thresholds) -> Result<LossReport>;
    /// Probabilities' logits in evaluation mode, [B, H, W].
    fn logits(&self, batch: &Batch) -> Result<Vec<f32>>;
    /// Copies everything that a checkpoint needs.
    fn save(&self) -> Result<Saved>;
    /// Takes a checkpoint's weights, statistics and moments; `path` is for the errors.
    fn restore(&mut self, checkpoint: &Checkpoint, path: &Path) -> Result<()>;
}

/// What is to be learnt from what.
pub struct Task<'a, S> {
    /// The data set.
    pub source: &'a S,
    /// Where training reads it.
    pub placement: &'a Placement,
    /// Training samples.
    pub train: &'a Sampler,
    /// Validation samples.
    pub val: &'a Sampler,
    /// Test samples, where the split has any.
    pub test: Option<&'a Sampler>,
    /// The data set in words, for checkpoints.
    pub data: DataDescription,
    /// The network's settings, for checkpoints.
    pub model: ModelSettings,
    /// The resolved configuration's YAML, for checkpoints.
    pub config: String,
    /// All that decides the weights ([`crate::train::settings::fingerprint`]).
    pub recipe: serde_json::Value,
    /// The loop's settings.
    pub settings: &'a TrainSettings,
    /// Where `last.safetensors` and `best.safetensors` go.
    pub checkpoint_dir: PathBuf,
    /// Set where the run is to save and end after the step under way.
    pub stop: &'a AtomicBool,
}

/// A run at its start.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Steps already done, in a resumed run.
    pub step: u64,
    /// The epoch to begin with or to go on with.
    pub epoch: u64,
    /// Lines of metrics.jsonl that count; later ones are from steps that will be done again.
    pub rows: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Epochs at most.
    pub epochs: u64,
}

/// A step that was done.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Steps done in all.
    pub step: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// Steps done within the epoch.
    pub position: u64,
    /// Samples of its batch.
    pub samples: usize,
    /// Its loss, where it was asked for: on a GPU that is where it is logged.
    pub loss: Option<f64>,
    /// Its line of metrics.jsonl, where it is to be logged.
    pub row: Option<&'a Metrics>,
}

/// An epoch that was done.
#[derive(Debug, Clone, Copy)]
pub struct EpochEnd<'a> {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Its line of metrics.jsonl.
    pub row: &'a Metrics,
    /// Its validation.
    pub validation: &'a Evaluation,
    /// Whether it is the best so far.
    pub best: bool,
    /// Early stopping after it.
    pub stopping: &'a Stopping,
    /// What its steps took (of a resumed epoch: since the start).
    pub train_time: Duration,
    /// What its validation took.
    pub validation_time: Duration,
    /// What it took in all.
    pub time: Duration,
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All epochs are done.
    Epochs,
    /// Early stopping.
    Early,
    /// `max_steps`; the run can be resumed.
    Paused,
    /// [`Task::stop`]; the run can be resumed.
    Interrupted,
}

/// Hears what the loop does.
pub trait Observer {
    /// The run begins, or goes on from a checkpoint.
    fn start(&mut self, start: &Start) -> Result<()>;
    /// A step was done.
    fn step(&mut self, step: &Step) -> Result<()>;
    /// The evaluation `what` of `all` samples has come to `totals`.
    fn evaluating(&mut self, what: &str, totals: &Totals, all: u64);
    /// An epoch was done; its preview comes before.
    fn epoch_end(&mut self, end: &EpochEnd) -> Result<()>;
    /// A few validation samples, always the same, with their logits [B, H, W], every `log_images_every` epochs.
    fn preview(&mut self, epoch: u64, batch: &Batch, logits: &[f32]) -> Result<()>;
    /// A checkpoint will be written: every line handed over must be on the disk now.
    fn sync(&mut self) -> Result<()>;
    /// A checkpoint was written.
    fn checkpoint(&mut self, path: &Path, progress: &Progress) -> Result<()>;
    /// The best weights were evaluated on `part` of the split, with breakdown; it took `time`.
    fn evaluated(&mut self, part: &str, evaluation: &Evaluation, time: Duration) -> Result<()>;
    /// The loop ended; where it is not paused, the result of the final evaluation follows.
    fn finish(&mut self, ended: Ended, result: Option<&RunResult>) -> Result<()>;
}

/// Samples in a preview, where the validation part has as many.
const PREVIEWS: usize = 4;

/// The last checkpoint's file name.
pub const LAST: &str = "last.safetensors";
/// The best checkpoint's file name.
pub const BEST: &str = "best.safetensors";

/// Trains from the learner's present weights, or goes on from the last checkpoint where `resume` is set and there is one.
///
/// # Errors
/// Those of data, device and disk; a loss or gradient that is not finite, which names step and samples and leaves the
/// last good checkpoint; with `resume`, settings other than the run's.
pub fn run<S: FrameSource + Sync>(
    task: &Task<S>,
    learner: &mut impl Learner,
    observer: &mut dyn Observer,
    resume: bool,
) -> Result<Ended> {
    let mut training = Training::begin(task, learner, observer, resume)?;
    let ended = training.epochs()?;
    let result = match ended {
        Ended::Paused | Ended::Interrupted => None,
        // The last checkpoint is that of the last epoch's end: a resumed run comes straight here.
        Ended::Epochs | Ended::Early => match training.final_evaluation(ended) {
            Err(e) if e.kind() == Kind::Interrupted => {
                training.observer.finish(Ended::Interrupted, None)?;
                return Ok(Ended::Interrupted);
            }
            result => Some(result?),
        },
    };
    training.observer.finish(ended, result.as_ref())?;
    Ok(ended)
}

/// A run under way.
struct Training<'a, S, L> {
    task: &'a Task<'a, S>,
    learner: &'a mut L,
    observer: &'a mut dyn Observer,
    progress: Progress,
    stopping: Stopping,
    history: Vec<Metrics>,
    /// The best weights, where they are not written to the disk.
    best: Option<Saved>,
    /// Step and position in the epoch at which the learner's totals began.
    first: (u64, u64),
}

impl<'a, S: FrameSource + Sync, L: Learner> Training<'a, S, L> {
    fn begin(task: &'a Task<'a, S>, learner: &'a mut L, observer: &'a mut dyn Observer, resume: bool) -> Result<Self> {
        let progress = Progress { seed: task.settings.recipe.seed, ..Progress::default() };
        let mut run = Self {
            task,
            learner,
            observer,
            progress,
            stopping: Stopping::default(),
            history: vec![],
            best: None,
            first: (0, 0),
        };
        let last = task.checkpoint_dir.join(LAST);
        if resume && last.exists() {
            let checkpoint = Checkpoint::read(&last)?;
            check_unchanged(&checkpoint.state.recipe, &task.recipe)?;
            run.learner.restore(&checkpoint, &last)?;
            run.progress = checkpoint.state.progress;
            run.stopping = checkpoint.state.stopping;
            run.history = checkpoint.state.history;
        }
        run.begin_totals()?;
        let Progress { step, epoch, rows, .. } = run.progress;
        let steps_per_epoch = task.train.epoch(epoch).len() as u64;
        run.observer.start(&Start { step, epoch, rows, steps_per_epoch, epochs: task.settings.epochs })?;
        Ok(run)
    }

    fn epochs(&mut self) -> Result<Ended> {
        while !self.stopping.stopped && self.progress.epoch < self.task.settings.epochs {
            let began = Instant::now();
            let batches = self.task.train.epoch(self.progress.epoch);
            if let Some(ended) = self.steps(&batches)? {
                self.save(LAST)?;
                return Ok(ended);
            }
            match self.end_epoch(began) {
                // Nothing of the epoch's end has been noted yet: it is done again after the steps.
                Err(e) if e.kind() == Kind::Interrupted => {
                    self.save(LAST)?;
                    return Ok(Ended::Interrupted);
                }
                result => result?,
            }
        }
        Ok(if self.stopping.stopped { Ended::Early } else { Ended::Epochs })
    }

    /// The steps of an epoch that are left; why they were not all done.
    fn steps(&mut self, batches: &[Vec<SampleId>]) -> Result<Option<Ended>> {
        let Task { source, placement, settings, .. } = *self.task;
        let remaining = batches.get(self.progress.position as usize..).unwrap_or_default();
        let order = Order {
            batches: remaining.to_vec(),
            max_seq_len: settings.recipe.max_seq_len,
            augment: settings.recipe.augment.clone(),
            key: (self.progress.seed, self.progress.epoch),
        };
        std::thread::scope(|scope| {
            let mut feed = Feed::new(scope, source, placement, order)?;
            while let Some(upcoming) = feed.next()? {
                if settings.max_steps.is_some_and(|max| self.progress.step >= max) {
                    return Ok(Some(Ended::Paused));
                }
                if self.task.stop.load(Relaxed) {
                    return Ok(Some(Ended::Interrupted));
                }
                self.step(upcoming, &mut feed, batches.len() as u64)?;
                let within = self.progress.position < batches.len() as u64;
                let every = settings.checkpoint_every;
                if within && every > 0 && self.progress.step.is_multiple_of(every) {
                    self.save(LAST)?;
                }
            }
            Ok(None)
        })
    }

    /// One optimiser step on the batch that `feed` has announced.
    fn step(&mut self, upcoming: Upcoming, feed: &mut Feed<'_>, steps_per_epoch: u64) -> Result<()> {
        let TrainSettings { recipe, epochs, log_metrics_every, .. } = self.task.settings;
        let Progress { seed, step, epoch, .. } = self.progress;
        let factor = recipe.schedule.factor(step, epochs * steps_per_epoch);
        let LearningRates { temporal, spatial, refinement } = recipe.rates;
        let rates =
            LearningRates { temporal: temporal * factor, spatial: spatial * factor, refinement: refinement * factor };
        let settings = StepSettings {
            loss: &recipe.loss,
            thresholds: &recipe.thresholds,
            grad_clip: recipe.grad_clip,
            key: DropoutKey { seed, step },
            rates: &rates,
            frozen: if epoch < recipe.frozen_epochs { &[Group::Spatial] } else { &[] },
        };
        let input = match &upcoming.batch {
            Some(batch) => Input::Host(batch),
            None => Input::Device {
                samples: upcoming.samples.len(),
                history: upcoming.history,
                grid: self.task.source.grid(),
                fill: &mut |to| feed.fill(to),
            },
        };
        self.learner.step(input, &settings)?;
        self.check_failure()?;

        self.progress.step += 1;
        self.progress.position += 1;
        let logged = *log_metrics_every > 0 && self.progress.step.is_multiple_of(*log_metrics_every);
        let (mut loss, mut row) = (None, None);
        if logged {
            self.add_up()?; // tells whether all steps so far went well
        }
        // On a GPU the report has to be waited for, so it is asked for where it is needed; on the CPU it is there.
        if logged || upcoming.batch.is_some() {
            let report = self.learner.report()?;
            loss = Some(report.loss);
            row = logged.then(|| self.row(step_metrics(&report, &recipe.loss, &rates)));
        }
        let Progress { step, position, .. } = self.progress;
        let samples = upcoming.samples.len();
        self.observer.step(&Step { step, epoch, position, samples, loss, row: row.as_ref() })
    }

    /// Brings the sums of the steps so far from the learner.
    fn add_up(&mut self) -> Result<()> {
        self.learner.add_up(&mut self.progress.totals)?;
        self.check_failure()
    }

    fn check_failure(&self) -> Result<()> {
        match self.learner.failure() {
            None => Ok(()),
            Some(Failure { number, what, value }) => Err(self.diverged(number, format!("{what} is {value}"))),
        }
    }

    /// Begins the sums of an epoch, or goes on with them.
    fn begin_totals(&mut self) -> Result<()> {
        let Progress { step, position, .. } = self.progress;
        self.first = (step, position);
        self.learner.set_totals(&self.progress.totals)
    }

    /// Validates, decides about stopping, and saves.
    fn end_epoch(&mut self, began: Instant) -> Result<()> {
        let epoch = self.progress.epoch;
        self.add_up()?; // waits for the steps
        let train_time = began.elapsed();
        let validation = self.evaluate("val", &self.task.val.in_order(), false)?;
        let validation_time = began.elapsed() - train_time;
        let mut metrics = train_epoch_metrics(&self.progress.totals);
        metrics.extend(validation_metrics(&validation));

        let settings = &self.task.settings.recipe.stopping;
        let value = metrics.get(settings.monitor.metric()).and_then(|v| v.as_f64()).unwrap_or(f64::NAN);
        let best = self.stopping.update(settings, epoch, value);
        let row = self.row(metrics);
        self.history.push(row.clone());
        self.preview()?;
        self.observer.epoch_end(&EpochEnd {
            epoch,
            row: &row,
            validation: &validation,
            best,
            stopping: &self.stopping,
            train_time,
            validation_time,
            time: began.elapsed(),
        })?;

        self.progress.epoch += 1;
        self.progress.position = 0;
        self.progress.totals = Totals::default();
        self.begin_totals()?;
        // The best one first: if the run dies between the two, the epoch is done again and it is written again.
        if best {
            if self.task.settings.save_checkpoints {
                self.save(BEST)?;
            } else {
                self.best = Some(self.learner.save()?);
            }
        }
        self.save(LAST)
    }

    /// A line of metrics.jsonl: step and epoch, then the metrics. Counts it.
    fn row(&mut self, metrics: Metrics) -> Metrics {
        let mut row = Metrics::new();
        row.insert("step".into(), self.progress.step.into());
        row.insert("epoch".into(), self.progress.epoch.into());
        row.extend(metrics);
        self.progress.rows += 1;
        row
    }

    fn preview(&mut self) -> Result<()> {
        let TrainSettings { recipe, log_images_every: every, .. } = self.task.settings;
        let epoch = self.progress.epoch;
        if *every == 0 || !epoch.is_multiple_of(*every) {
            return Ok(());
        }
        let all = self.task.val.samples();
        let shown = PREVIEWS.min(all.len());
        // From the middle of as many parts of the same size, which spreads them over sequences and lengths of history.
        let samples: Vec<SampleId> = (0..shown).map(|i| all[(2 * i + 1) * all.len() / (2 * shown)]).collect();
        let batch = assemble(self.task.source, &samples, recipe.max_seq_len, &Default::default(), (0, 0))?;
        let logits = self.learner.logits(&batch)?;
        self.observer.preview(epoch, &batch, &logits)
    }

    fn evaluate(&mut self, what: &str, batches: &[Vec<SampleId>], breakdown: bool) -> Result<Evaluation> {
        let Task { source, settings, stop, .. } = *self.task;
        let recipe = &settings.recipe;
        let (learner, observer) = (&mut *self.learner, &mut *self.observer);
        evaluate(
            source,
            batches,
            recipe.max_seq_len,
            breakdown,
            |batch| match stop.load(Relaxed) {
                true => Err(Error::interrupted("evaluation", "stopped by a signal", "go on with --resume")),
                false => learner.evaluate(batch, &recipe.loss, &recipe.thresholds),
            },
            |totals, all| observer.evaluating(what, totals, all),
        )
    }

    /// One sample at a time: only so can histories and sequences be told apart.
    fn evaluate_finally(&mut self, part: &str, sampler: &Sampler) -> Result<Evaluation> {
        let began = Instant::now();
        let evaluation = self.evaluate(part, &sampler.singly(), true)?;
        self.observer.evaluated(part, &evaluation, began.elapsed())?;
        Ok(evaluation)
    }

    /// The best weights on validation and test.
    fn final_evaluation(&mut self, ended: Ended) -> Result<RunResult> {
        let best = self.task.checkpoint_dir.join(BEST);
        if let Some(saved) = self.best.take() {
            let checkpoint = self.checkpoint(saved);
            self.learner.restore(&checkpoint, &best)?;
        } else if self.task.settings.save_checkpoints && self.stopping.best_epoch.is_some() {
            let checkpoint = Checkpoint::read(&best)?;
            self.learner.restore(&checkpoint, &best)?;
        }
        let validation = self.evaluate_finally("val", self.task.val)?;
        let (split, test) = match self.task.test {
            Some(sampler) => ("test", self.evaluate_finally("test", sampler)?),
            None => ("val", validation.clone()),
        };
        let recipe = &self.task.settings.recipe;
        let threshold = chosen_threshold(&validation);
        let summary = |evaluation: &Evaluation| Summary::new(evaluation, recipe.thresholds.prediction, threshold);
        Ok(RunResult {
            split: split.into(),
            steps: self.progress.step,
            epochs: self.progress.epoch,
            stopped_early: ended == Ended::Early,
            best_epoch: self.stopping.best_epoch,
            monitor: recipe.stopping.monitor.metric().into(),
            best_value: self.stopping.best,
            validation: summary(&validation),
            test: summary(&test),
        })
    }

    fn checkpoint(&self, saved: Saved) -> Checkpoint {
        let Saved { weights, moments, optimizer_updates } = saved;
        let state = State {
            model: self.task.model.clone(),
            data: self.task.data.clone(),
            progress: Progress { optimizer_updates, ..self.progress },
            stopping: self.stopping,
            history: self.history.clone(),
            recipe: self.task.recipe.clone(),
            config: self.task.config.clone(),
        };
        Checkpoint { state, weights, moments }
    }

    fn save(&mut self, name: &str) -> Result<()> {
        if !self.task.settings.save_checkpoints {
            return Ok(());
        }
        self.add_up()?;
        let saved = self.learner.save()?;
        // A step can leave weights that are not finite before any loss shows it: they must not replace good ones.
        if let Some((tensor, _)) = saved.weights.iter().find(|(_, t)| t.values.iter().any(|v| !v.is_finite())) {
            let problem = format!("it left {tensor} with values that are not finite");
            return Err(self.diverged((self.progress.step - self.first.0).saturating_sub(1), problem));
        }
        self.observer.sync()?;
        let path = self.task.checkpoint_dir.join(name);
        self.checkpoint(saved).write(&path)?;
        self.observer.checkpoint(&path, &self.progress)
    }

    /// The error of step `number` since the totals began, after which training makes no sense.
    fn diverged(&self, number: u64, problem: String) -> Error {
        let last = self.task.checkpoint_dir.join(LAST);
        let mut remedy = "lower the learning rates or set train.grad_clip, and look at these samples".to_string();
        if last.exists() {
            remedy += &format!("; the last good checkpoint is {}", last.display());
        }
        let (step, position) = (self.first.0 + number + 1, (self.first.1 + number) as usize);
        let batches = self.task.train.epoch(self.progress.epoch);
        let samples = batches.get(position).map_or_else(String::new, |samples| describe(self.task.source, samples));
        Error::failed(format_args!("step {step}"), format_args!("{problem}; its samples: {samples}"), remedy)
    }
}

#[cfg(test)]
mod tests;
