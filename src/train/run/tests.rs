//! The loop with a learner of four weights whose every number depends on the step, the samples and the dropout key, so
//! that a step done twice, left out or done on other samples shows.

use super::*;
use crate::data::augment::Augment;
use crate::data::sampler::SamplerSettings;
use crate::model::FireEmbedding;
use crate::ops::loss::{Counts, Histogram};
use crate::optim::{AdamSettings, Schedule};
use crate::patch::Grid;
use crate::train::settings::Recipe;
use crate::train::stopping::{Mode, Monitor, StoppingSettings};
use std::cell::Cell;
use std::sync::Arc;

const GRID: Grid = Grid { rows: 1, cols: 1, patch: 8 };

/// Sequences of four frames, three samples each.
struct Fires {
    ids: Vec<String>,
    frames: Vec<Vec<u64>>,
}

impl Fires {
    fn new(sequences: usize) -> Self {
        Self {
            ids: (1..=sequences).map(|i| format!("sequence_{i:03}")).collect(),
            frames: (0..4).map(|t| vec![(1u64 << (8 * t)) - 1]).collect(),
        }
    }
}

impl FrameSource for Fires {
    fn grid(&self) -> Grid {
        GRID
    }
    fn sequences(&self) -> usize {
        self.ids.len()
    }
    fn id(&self, sequence: usize) -> &str {
        &self.ids[sequence]
    }
    fn frames(&self, _sequence: usize) -> usize {
        self.frames.len()
    }
    fn frame(&self, _sequence: usize, t: usize) -> &[u64] {
        &self.frames[t]
    }
    fn isochrone(&self, _sequence: usize, t: usize) -> &[u64] {
        &self.frames[t]
    }
    fn wind(&self, _sequence: usize) -> &[[f32; 2]] {
        &[[0.5, 0.5]; 4]
    }
    fn statics(&self, _sequence: usize) -> &[f32] {
        &[]
    }
    fn valid_patches(&self) -> &[bool] {
        &[true]
    }
    fn band_names(&self) -> &[String] {
        &[]
    }
    fn band_range(&self, _band: usize) -> [f32; 2] {
        [0.0, 1.0]
    }
    fn direction_range(&self) -> [f32; 2] {
        [0.0, 360.0]
    }
}

/// Its validation F1 follows `f1`, by the number of validations.
struct Toy {
    weights: Vec<f32>,
    moments: Vec<f32>,
    gradient: Vec<f32>,
    steps: u64,
    bad_loss_at: Option<u64>,
    bad_gradient_at: Option<u64>,
    bad_weights_at: Option<u64>,
    f1: Vec<u64>,
    validated: Cell<u64>,
    frozen_steps: u64,
    largest_gradient: f32,
    totals: Totals,
    before: u64,
    last: Option<LossReport>,
    failure: Option<Failure>,
}

impl Toy {
    fn new() -> Self {
        Self {
            weights: vec![0.1, 0.2, 0.3, 0.4],
            moments: vec![0.0; 4],
            gradient: vec![0.0; 4],
            steps: 0,
            bad_loss_at: None,
            bad_gradient_at: None,
            bad_weights_at: None,
            f1: vec![],
            validated: Cell::new(0),
            frozen_steps: 0,
            largest_gradient: 0.0,
            totals: Totals::default(),
            before: 0,
            last: None,
            failure: None,
        }
    }

    fn loss_report(&self, loss: f64, tp: u64) -> LossReport {
        LossReport {
            loss,
            focal: 0.0,
            tversky: 0.0,
            bce: loss,
            dice: 0.0,
            counts: Counts { tp, fp: 10, fn_: 10, tn: 10 },
            growth: Counts::default(),
            copy_last: Counts::default(),
            histogram: Histogram::default(),
            growth_histogram: Histogram::default(),
        }
    }
}

impl Learner for Toy {
    fn step(&mut self, input: Input<'_>, settings: &StepSettings<'_>) -> Result<()> {
        let StepSettings { key, rates, frozen, grad_clip, .. } = *settings;
        let Input::Host(batch) = input else { panic!("the toy computes on the host") };
        assert_eq!(key.step, self.steps);
        let seen: usize = batch.samples.iter().map(|s| 7 * s.sequence + s.k).sum();
        let pull = seen as f32 / 100.0 + (key.step as f32).sin();
        self.gradient = self.weights.iter().map(|w| w - pull).collect();
        let loss = f64::from(self.gradient[0].powi(2));
        let report = self.loss_report(loss, seen as u64);
        let number = self.totals.batches - self.before;
        let fails = |what| Some(Failure { number, what, value: f64::NAN });
        if self.bad_loss_at == Some(key.step) {
            self.failure = fails("the loss");
        } else if self.bad_gradient_at == Some(key.step) {
            self.failure = fails("the gradient's norm");
        }
        self.totals.add(&report, batch.samples.len(), batch.inputs.history);
        self.last = Some(report);
        if self.failure.is_some() {
            return Ok(());
        }
        let norm = self.gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        if let Some(limit) = grad_clip.filter(|limit| norm > *limit) {
            self.gradient.iter_mut().for_each(|g| *g *= (limit / norm) as f32);
        }
        self.steps += 1;
        self.frozen_steps += frozen.contains(&Group::Spatial) as u64;
        for i in 0..4 {
            self.largest_gradient = self.largest_gradient.max(self.gradient[i].abs());
            self.moments[i] = 0.9 * self.moments[i] + self.gradient[i];
            self.weights[i] -= rates.temporal as f32 * self.moments[i];
        }
        if self.bad_weights_at == Some(self.steps) {
            self.weights[3] = f32::INFINITY;
        }
        Ok(())
    }
    fn report(&mut self) -> Result<LossReport> {
        Ok(self.last.clone().expect("a step"))
    }
    fn set_totals(&mut self, totals: &Totals) -> Result<()> {
        (self.totals, self.before) = (*totals, totals.batches);
        Ok(())
    }
    fn add_up(&mut self, totals: &mut Totals) -> Result<()> {
        *totals = self.totals;
        Ok(())
    }
    fn failure(&self) -> Option<Failure> {
        self.failure
    }
    fn evaluate(&mut self, batch: &Batch, _loss: &LossSettings, _thresholds: &Thresholds) -> Result<LossReport> {
        let epoch = self.validated.get() as usize;
        self.validated.set(epoch as u64 + 1);
        Ok(self.loss_report(
            f64::from(self.weights[1].abs()),
            self.f1.get(epoch).copied().unwrap_or(batch.samples.len() as u64),
        ))
    }
    fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        Ok(vec![self.weights[0]; batch.samples.len() * GRID.pixels()])
    }
    fn save(&self) -> Result<Saved> {
        let tensor = |values: &[f32]| HostTensor { shape: vec![4], values: values.to_vec() };
        Ok(Saved {
            weights: BTreeMap::from([("w".into(), tensor(&self.weights))]),
            moments: BTreeMap::from([("w".into(), (tensor(&self.moments), tensor(&[0.0; 4])))]),
            optimizer_updates: [self.steps; 3],
        })
    }
    fn restore(&mut self, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
        self.weights = checkpoint.weight("w", &[4], path)?.values.clone();
        self.moments = checkpoint.moments("w", &[4], path)?.expect("moments").0.values.clone();
        self.steps = checkpoint.state.progress.optimizer_updates[0];
        Ok(())
    }
}

/// Keeps the lines as metrics.jsonl does.
#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    previews: u64,
    evaluated: Vec<String>,
    result: Option<RunResult>,
    /// Fails at this step, as a killed process would.
    die_at: Option<u64>,
    /// A signal comes after this step, or after this epoch.
    stop_after: [Option<u64>; 2],
    stop: Arc<AtomicBool>,
}

impl Observer for Lines {
    fn start(&mut self, start: &Start) -> Result<()> {
        self.lines.truncate(start.rows as usize);
        Ok(())
    }
    fn step(&mut self, step: &Step) -> Result<()> {
        self.lines.extend(step.row.map(|row| serde_json::to_string(row).unwrap()));
        self.stop.fetch_or(self.stop_after[0] == Some(step.step), Relaxed);
        match self.die_at {
            Some(at) if at == step.step => Err(Error::failed("test", "killed", "none")),
            _ => Ok(()),
        }
    }
    fn evaluating(&mut self, _what: &str, _totals: &Totals, _all: u64) {}
    fn epoch_end(&mut self, end: &EpochEnd) -> Result<()> {
        self.lines.push(serde_json::to_string(end.row).unwrap());
        self.stop.fetch_or(self.stop_after[1] == Some(end.epoch), Relaxed);
        Ok(())
    }
    fn preview(&mut self, _epoch: u64, batch: &Batch, logits: &[f32]) -> Result<()> {
        assert_eq!(logits.len(), batch.inputs.batch * GRID.pixels());
        self.previews += 1;
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
    fn checkpoint(&mut self, path: &Path, _progress: &Progress) -> Result<()> {
        assert!(path.exists());
        Ok(())
    }
    fn evaluated(&mut self, part: &str, evaluation: &Evaluation, _time: Duration) -> Result<()> {
        let told_apart: u64 = evaluation.by_sequence.values().map(|totals| totals.samples).sum();
        assert_eq!(told_apart, evaluation.totals.samples);
        self.evaluated.push(part.to_string());
        Ok(())
    }
    fn finish(&mut self, _ended: Ended, result: Option<&RunResult>) -> Result<()> {
        self.result = result.cloned();
        Ok(())
    }
}

fn settings() -> TrainSettings {
    TrainSettings {
        recipe: Recipe {
            precision: crate::tensor::DType::F32,
            seed: 42,
            loss: LossSettings::BceDice {
                bce_weight: 0.9,
                dice_weight: 0.1,
                pos_weight: crate::ops::loss::PosWeight::None,
            },
            thresholds: Thresholds { prediction: 0.5, target: 0.05 },
            adam: AdamSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 },
            rates: LearningRates { temporal: 0.05, spatial: 0.0, refinement: 0.0 },
            schedule: Schedule::Constant,
            grad_clip: None,
            frozen_epochs: 1,
            augment: Augment::None,
            max_seq_len: 8,
            stopping: StoppingSettings {
                enabled: true,
                monitor: Monitor::F1,
                mode: Mode::Max,
                patience: 3,
                min_delta: 0.002,
            },
        },
        epochs: 3,
        max_steps: None,
        checkpoint_every: 2,
        log_metrics_every: 1,
        log_images_every: 2,
        save_checkpoints: true,
    }
}

/// Trains over eight fires: six for training (18 samples, 5 steps an epoch), one each for validation and test.
fn train(folder: &Path, settings: &TrainSettings, toy: &mut Toy, lines: &mut Lines, resume: bool) -> Result<Ended> {
    let fires = Fires::new(8);
    let sampler = |ids: &[String], batch_size| {
        let settings = SamplerSettings {
            batch_size,
            seed: 42,
            shuffle: true,
            drop_last: false,
            bucket_by_length: false,
            max_seq_len: 8,
        };
        Sampler::new(&fires, ids, settings).unwrap()
    };
    let (learn, val, test) = (sampler(&fires.ids[..6], 4), sampler(&fires.ids[6..7], 8), sampler(&fires.ids[7..], 8));
    let model = ModelSettings {
        d_model: 4,
        heads: 1,
        layers: 1,
        feedforward: 4,
        dropout: 0.0,
        head_dropout: 0.0,
        patch: 8,
        static_channels: 0,
        use_wind: true,
        use_static: false,
        fire_embedding: FireEmbedding::Mean,
        hidden_sizes: [1; 4],
        decoder_width: 1,
        base_channels: 1,
        input_projection: false,
        last_frame_skip: false,
    };
    let task = Task {
        source: &fires,
        placement: &Placement::Host,
        train: &learn,
        val: &val,
        test: Some(&test),
        data: DataDescription::default(),
        model,
        config: "a: 1\n".into(),
        recipe: serde_json::to_value(&settings.recipe).unwrap(),
        settings,
        checkpoint_dir: folder.to_path_buf(),
        stop: &lines.stop.clone(),
    };
    run(&task, toy, lines, resume)
}

fn bytes(folder: &Path) -> [Vec<u8>; 2] {
    [LAST, BEST].map(|name| std::fs::read(folder.join(name)).unwrap())
}

#[test]
fn a_run_is_its_lines_its_checkpoints_and_its_result() {
    let folder = tempfile::tempdir().unwrap();
    let (mut toy, mut lines) = (Toy::new(), Lines::default());
    assert_eq!(train(folder.path(), &settings(), &mut toy, &mut lines, false).unwrap(), Ended::Epochs);
    assert_eq!(lines.lines.len(), 3 * (5 + 1));
    assert!(lines.lines[0].starts_with(r#"{"step":1,"epoch":0,"train/loss_step":"#), "{}", lines.lines[0]);
    assert!(lines.lines[5].starts_with(r#"{"step":5,"epoch":0,"train/loss_epoch":"#), "{}", lines.lines[5]);
    assert!(lines.lines[5].contains(r#""val/f1_epoch":"#));
    assert_eq!((lines.previews, toy.frozen_steps), (2, 5));
    assert_eq!(lines.evaluated, ["val", "test"]);
    let result = lines.result.unwrap();
    assert_eq!((result.steps, result.epochs, result.best_epoch, result.stopped_early), (15, 3, Some(0), false));
    assert_eq!((result.split.as_str(), result.test.samples), ("test", 3));
    // The best epoch was the first: those weights were evaluated.
    let best = Checkpoint::read(&folder.path().join(BEST)).unwrap();
    assert_eq!((best.state.progress.step, &toy.weights), (5, &best.weights["w"].values));
    assert_eq!(best.state.progress.optimizer_updates, [5; 3]);
}

#[test]
fn a_run_killed_anywhere_resumes_to_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    let mut expected = Lines::default();
    train(whole.path(), &settings(), &mut Toy::new(), &mut expected, false).unwrap();
    for die_at in [1, 2, 3, 5, 6, 9, 10, 14, 15] {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Lines { die_at: Some(die_at), ..Lines::default() };
        train(folder.path(), &settings(), &mut Toy::new(), &mut lines, false).unwrap_err();
        lines.die_at = None;
        train(folder.path(), &settings(), &mut Toy::new(), &mut lines, true).unwrap();
        assert_eq!(lines.lines, expected.lines, "killed at step {die_at}");
        assert_eq!(bytes(folder.path()), bytes(whole.path()), "killed at step {die_at}");
        assert_eq!(lines.result, expected.result, "killed at step {die_at}");
    }
}

#[test]
fn a_signal_saves_and_stops_wherever_it_comes() {
    let whole = tempfile::tempdir().unwrap();
    let mut expected = Lines::default();
    train(whole.path(), &settings(), &mut Toy::new(), &mut expected, false).unwrap();
    // After steps, also the last of an epoch, so that validation is cut; then in the final evaluation.
    let moments =
        [1, 4, 5, 7, 10, 15].map(|step| [Some(step), None]).into_iter().chain([[None, Some(1)], [None, Some(2)]]);
    for stop_after in moments {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Lines { stop_after, ..Lines::default() };
        let seldom = TrainSettings { checkpoint_every: 0, ..settings() };
        let ended = train(folder.path(), &seldom, &mut Toy::new(), &mut lines, false).unwrap();
        assert_eq!((ended, lines.result.is_none()), (Ended::Interrupted, true), "{stop_after:?}");
        let done = stop_after[0].unwrap_or(stop_after[1].map_or(0, |epoch| 5 * (epoch + 1)));
        assert_eq!(Checkpoint::read(&folder.path().join(LAST)).unwrap().state.progress.step, done);
        lines = Lines { lines: lines.lines, ..Lines::default() };
        train(folder.path(), &settings(), &mut Toy::new(), &mut lines, true).unwrap();
        assert_eq!(lines.lines, expected.lines, "{stop_after:?}");
        assert_eq!(bytes(folder.path()), bytes(whole.path()), "{stop_after:?}");
        assert_eq!(lines.result, expected.result, "{stop_after:?}");
    }
}

#[test]
fn a_pause_does_not_change_the_result() {
    let whole = tempfile::tempdir().unwrap();
    train(whole.path(), &settings(), &mut Toy::new(), &mut Lines::default(), false).unwrap();
    for pause in [0, 3, 5, 8, 15] {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Lines::default();
        let paused = TrainSettings { max_steps: Some(pause), checkpoint_every: 0, ..settings() };
        let ended = train(folder.path(), &paused, &mut Toy::new(), &mut lines, false).unwrap();
        assert_eq!(ended, if pause == 15 { Ended::Epochs } else { Ended::Paused });
        let state = Checkpoint::read(&folder.path().join(LAST)).unwrap().state;
        assert_eq!(state.progress.step, pause);
        train(folder.path(), &settings(), &mut Toy::new(), &mut lines, true).unwrap();
        assert_eq!(bytes(folder.path()), bytes(whole.path()), "paused at step {pause}");
    }
}

#[test]
fn a_loss_that_is_no_number_names_step_and_samples_and_keeps_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut toy = Toy { bad_loss_at: Some(7), ..Toy::new() };
    let error = train(folder.path(), &settings(), &mut toy, &mut Lines::default(), false).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("step 8: the loss is NaN; its samples: sequence_00"), "{text}");
    assert!(text.contains("the last good checkpoint is"), "{text}");
    assert_eq!(error.exit_code(), 1);
    assert_eq!(Checkpoint::read(&folder.path().join(LAST)).unwrap().state.progress.step, 6);

    // A gradient that is no number would spoil the weights before the loss shows it.
    let folder = tempfile::tempdir().unwrap();
    let mut toy = Toy { bad_gradient_at: Some(1), ..Toy::new() };
    let text = train(folder.path(), &settings(), &mut toy, &mut Lines::default(), false).unwrap_err().to_string();
    assert!(text.contains("step 2: the gradient's norm is NaN") && !text.contains("last good"), "{text}");
    assert!(toy.weights.iter().all(|w| w.is_finite()));

    // Weights that overflow do not replace the last checkpoint.
    let folder = tempfile::tempdir().unwrap();
    let mut toy = Toy { bad_weights_at: Some(4), ..Toy::new() };
    let text = train(folder.path(), &settings(), &mut toy, &mut Lines::default(), false).unwrap_err().to_string();
    assert!(text.contains("step 4: it left w with values that are not finite; its samples: sequence_00"), "{text}");
    assert_eq!(Checkpoint::read(&folder.path().join(LAST)).unwrap().state.progress.step, 2);
}

#[test]
fn early_stopping_ends_the_run_and_its_best_epoch_is_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let mut toy = Toy { f1: vec![5, 50, 5, 5, 5], ..Toy::new() };
    let mut lines = Lines::default();
    let long = TrainSettings { epochs: 20, ..settings() };
    assert_eq!(train(folder.path(), &long, &mut toy, &mut lines, false).unwrap(), Ended::Early);
    let result = lines.result.unwrap();
    assert_eq!((result.epochs, result.best_epoch, result.stopped_early), (5, Some(1), true));
    assert_eq!(result.best_value, Some(100.0 / 120.0));
    // A stopped run stays stopped.
    let mut again = Lines::default();
    assert_eq!(train(folder.path(), &long, &mut Toy::new(), &mut again, true).unwrap(), Ended::Early);
    assert_eq!(again.result.map(|r| r.steps), Some(25));
}

#[test]
fn without_checkpoints_nothing_is_written_and_the_best_is_still_evaluated() {
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut expected, mut lines) = (Lines::default(), Lines::default());
    train(with.path(), &settings(), &mut Toy::new(), &mut expected, false).unwrap();
    let none = TrainSettings { save_checkpoints: false, ..settings() };
    train(without.path(), &none, &mut Toy::new(), &mut lines, false).unwrap();
    assert_eq!(lines.result, expected.result);
    assert_eq!(std::fs::read_dir(without.path()).unwrap().count(), 0);
}

#[test]
fn gradients_are_clipped_to_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let mut clipped = settings();
    clipped.recipe.grad_clip = Some(0.01);
    let mut toy = Toy::new();
    train(folder.path(), &clipped, &mut toy, &mut Lines::default(), false).unwrap();
    assert!(toy.largest_gradient <= 0.01, "{}", toy.largest_gradient);
}

#[test]
fn other_settings_cannot_resume_a_run_but_more_epochs_can() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &settings(), &mut Toy::new(), &mut Lines::default(), false).unwrap();
    let mut other = settings();
    other.recipe.rates.temporal = 0.1;
    let error = train(folder.path(), &other, &mut Toy::new(), &mut Lines::default(), true).unwrap_err();
    assert!(error.to_string().contains("rates.temporal was 0.05 when the run began and is 0.1 now"), "{error}");
    assert_eq!(error.exit_code(), 2);
    let mut lines = Lines::default();
    train(folder.path(), &TrainSettings { epochs: 4, ..settings() }, &mut Toy::new(), &mut lines, true).unwrap();
    assert_eq!(lines.result.map(|r| r.epochs), Some(4));
}
