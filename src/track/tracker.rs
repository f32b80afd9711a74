//! The training loop's observer: writes metrics.jsonl, the records beside it, train.log and result.json, hands all of it to
//! the programs that show runs, and shows progress.

use crate::data::batch::Batch;
use crate::device::Device;
use crate::ops::loss::LossSettings;
use crate::storage::write_whole;
use crate::track::console::{self, Console};
use crate::track::folder::{Expected, FinishedRun, PREVIEWS, RESULT_VERSION, RunFolder};
use crate::track::machine::Machine;
use crate::track::record::{EVALUATIONS, EpochTime, Evaluated, Started, TIMING, Timing, now};
use crate::track::sink::{End, Line, Picture, Sink};
use crate::track::tensorboard::TensorBoard;
use crate::track::wandb::{self, Wandb};
use crate::train::checkpoint::Progress;
use crate::train::evaluate::RunResult;
use crate::train::metrics::{Evaluation, Metrics, Totals};
use crate::train::run::{Ended, EpochEnd, Observer, Start, Step};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// What the tracker is told about the run, for its log and its result.
#[derive(Debug, Clone)]
pub struct About {
    /// What it runs on.
    pub device: String,
    /// What it computes in.
    pub compute: String,
    /// Trainable parameters.
    pub parameters: u64,
    /// Its loss.
    pub loss: LossSettings,
    /// What its configuration expects.
    pub expected: Expected,
    /// Epochs without a gain after which it stops, where it stops early.
    pub patience: Option<u64>,
    /// The resolved configuration.
    pub config: serde_json::Value,
    /// How the run goes to Weights & Biases, where it does.
    pub wandb: Option<wandb::Settings>,
}

/// Draws a preview: the folder for its pictures, the epoch, a batch and its logits.
pub type Preview<'a> = Box<dyn FnMut(&Path, u64, &Batch, &[f32]) -> Result<()> + 'a>;

/// Writes a run's files and shows its progress.
pub struct Tracker<'a> {
    folder: RunFolder,
    about: About,
    device: Device,
    console: Console,
    metrics: File,
    /// Lines of metrics.jsonl.
    rows: u64,
    evaluations: File,
    timing: File,
    log: File,
    began: Instant,
    /// Samples that this process's steps saw of the epoch that is under way.
    samples: u64,
    epochs: u64,
    steps_per_epoch: u64,
    /// Steps done in all.
    step: u64,
    /// The last step's loss that is known.
    loss: Option<f64>,
    preview: Option<Preview<'a>>,
    /// Where else the run is written.
    sinks: Vec<Box<dyn Sink>>,
    /// Lines of the log, until the run begins.
    early: Option<Vec<String>>,
    /// The previews of the epoch that is about to end.
    pictures: Vec<Picture>,
}

impl<'a> Tracker<'a> {
    /// Opens the run's files. The log is locked, so that two processes cannot write one run.
    ///
    /// # Errors
    /// What the disk says; a run that another process is writing.
    pub fn new(folder: RunFolder, about: About, device: Device, console: Console) -> Result<Self> {
        let open = |name: &str| {
            let path = folder.path(name);
            let file = OpenOptions::new().create(true).append(true).read(true).open(&path);
            file.map_err(|e| Error::io(&path, "cannot write", &e))
        };
        let log = open("train.log")?;
        // A reader that looks whether the run is being written holds the lock for a moment.
        let taken = (0..5).all(|attempt| {
            std::thread::sleep(Duration::from_millis(10 * attempt));
            matches!(log.try_lock(), Err(TryLockError::WouldBlock))
        });
        if taken {
            let remedy = "wait for it to end, or start another run with --name";
            return Err(Error::failed(folder.root().display(), "another process is writing this run", remedy));
        }
        Ok(Self {
            metrics: open("metrics.jsonl")?,
            evaluations: open(EVALUATIONS)?,
            timing: open(TIMING)?,
            log,
            folder,
            about,
            device,
            console,
            rows: 0,
            began: Instant::now(),
            samples: 0,
            epochs: 0,
            steps_per_epoch: 0,
            step: 0,
            loss: None,
            preview: None,
            sinks: Vec::new(),
            early: Some(Vec::new()),
            pictures: Vec::new(),
        })
    }

    /// Sets what draws previews.
    pub fn with_preview(self, preview: Preview<'a>) -> Self {
        Self { preview: Some(preview), ..self }
    }

    /// A line for the console and the log.
    ///
    /// # Errors
    /// What the disk says.
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.console.line(text);
        self.note(text)?;
        match &mut self.early {
            Some(early) => early.push(text.to_string()),
            None => self.each(|sink| sink.log(text)),
        }
        Ok(())
    }

    /// The run ended with an error.
    pub fn failed(&mut self, error: &Error) {
        self.console.clear();
        let text = format!("error: {error}");
        drop(self.note(&text));
        self.each(|sink| sink.log(&text));
        let end = End { step: self.step, failed: true, result: None };
        self.each(|sink| sink.finish(&end));
    }

    /// Hands something to each of the other places. One that fails is told about and given up: training goes on.
    fn each(&mut self, mut act: impl FnMut(&mut dyn Sink) -> Result<()>) {
        let mut warnings = Vec::new();
        self.sinks.retain_mut(|sink| {
            let outcome = act(sink.as_mut());
            warnings.extend(sink.notes().into_iter().map(|note| format!("{}: {note}", sink.name())));
            warnings.extend(outcome.as_ref().err().map(|e| given_up(sink.name(), e)));
            outcome.is_ok()
        });
        for warning in warnings {
            self.warn(&warning);
        }
    }

    /// A line for people who asked for no others, and for the log.
    fn warn(&mut self, text: &str) {
        self.console.warn(text);
        drop(self.note(&format!("warning: {text}")));
    }

    /// Opens the other places where the run is written.
    fn open_sinks(&mut self, step: u64) {
        let board = TensorBoard::open(self.folder.root(), step, &self.about.config);
        self.add("TensorBoard", board);
        if let Some(settings) = self.about.wandb.clone() {
            let open = |kept: Vec<Metrics>| Wandb::open(self.folder.root(), settings, &self.about.config, &kept);
            let wandb = self.kept().and_then(open);
            self.add("Weights & Biases", wandb);
        }
        let early = self.early.take().unwrap_or_default();
        self.each(|sink| early.iter().try_for_each(|text| sink.log(text)));
    }

    fn add(&mut self, name: &str, sink: Result<impl Sink + 'static>) {
        match sink {
            Ok(sink) => self.sinks.push(Box::new(sink)),
            Err(e) => self.warn(&given_up(name, &e)),
        }
    }

    /// The lines of metrics.jsonl.
    fn kept(&self) -> Result<Vec<Metrics>> {
        let path = self.folder.path("metrics.jsonl");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "cannot read", &e))?;
        let parse =
            |line: &str| serde_json::from_str(line).map_err(|e| Error::failed(path.display(), e, "restore the file"));
        text.lines().map(parse).collect()
    }

    /// A line for the log, after the seconds since the start.
    fn note(&mut self, text: &str) -> Result<()> {
        let line = format!("{:9.1} {text}\n", self.began.elapsed().as_secs_f64());
        self.log.write_all(line.as_bytes()).map_err(|e| Error::io(self.folder.path("train.log"), "cannot write", &e))
    }

    /// Writes a line of metrics.jsonl; returns which one it is.
    fn metrics_line(&mut self, row: &Metrics) -> Result<u64> {
        append(&mut self.metrics, &self.folder.path("metrics.jsonl"), row)?;
        self.rows += 1;
        Ok(self.rows - 1)
    }

    /// The most bytes that were ever in use on the GPU.
    fn gpu_memory(&self) -> Option<usize> {
        matches!(self.device, Device::Gpu(_)).then(|| self.device.memory().1)
    }

    fn evaluations_line(&mut self, part: &str, epoch: Option<u64>, evaluation: &Evaluation) -> Result<()> {
        let line = Evaluated { part: part.into(), epoch, evaluation: evaluation.clone() };
        append(&mut self.evaluations, &self.folder.path(EVALUATIONS), &line)
    }

    fn timing_line(&mut self, line: &Timing) -> Result<()> {
        append(&mut self.timing, &self.folder.path(TIMING), line)
    }

    /// Cuts evaluations.jsonl back to the epochs before `epoch`.
    fn truncate_evaluations(&mut self, epoch: u64) -> Result<()> {
        #[derive(Deserialize)]
        struct Line {
            epoch: Option<u64>,
        }
        let path = self.folder.path(EVALUATIONS);
        let io = |e: &std::io::Error| Error::io(&path, "cannot cut back", e);
        let mut reader = BufReader::new(&self.evaluations);
        reader.seek(SeekFrom::Start(0)).map_err(|e| io(&e))?;
        let (mut length, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(|e| io(&e))? as u64;
            let earlier = |line: Line| line.epoch.is_some_and(|e| e < epoch);
            // What cannot be read is the end of a line that was being written.
            if line.last() != Some(&b'\n') || !serde_json::from_slice(&line).is_ok_and(earlier) {
                break;
            }
            length += read;
        }
        self.evaluations.set_len(length).map_err(|e| io(&e))
    }

    /// Cuts metrics.jsonl back to its first `rows` lines.
    fn truncate_metrics(&mut self, rows: u64) -> Result<()> {
        let path = self.folder.path("metrics.jsonl");
        let io = |e: &std::io::Error| Error::io(&path, "cannot cut back", e);
        self.metrics.seek(SeekFrom::Start(0)).map_err(|e| io(&e))?;
        let mut reader = BufReader::new(&self.metrics);
        let (mut length, mut line) = (0, Vec::new());
        for row in 0..rows {
            line.clear();
            length += reader.read_until(b'\n', &mut line).map_err(|e| io(&e))? as u64;
            if line.last() != Some(&b'\n') {
                return Err(Error::failed(
                    path.display(),
                    format_args!("it has {row} lines, the checkpoint was written after {rows}"),
                    "restore the file, or start another run with --name",
                ));
            }
        }
        self.metrics.set_len(length).map_err(|e| io(&e))
    }
}

fn given_up(name: &str, error: &Error) -> String {
    format!("{error}; training goes on without {name}")
}

/// Appends a line of JSON.
fn append(file: &mut File, path: &Path, value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)
        .map_err(|e| Error::failed(path.display(), e, "this is a defect; please report it"))?;
    line.push(b'\n');
    file.write_all(&line).map_err(|e| Error::io(path, "cannot write", &e))
}

fn number(row: &Metrics, name: &str) -> f64 {
    row.get(name).and_then(|v| v.as_f64()).unwrap_or(f64::NAN)
}

impl Observer for Tracker<'_> {
    fn start(&mut self, start: &Start) -> Result<()> {
        self.truncate_metrics(start.rows)?;
        (self.rows, self.step) = (start.rows, start.step);
        self.truncate_evaluations(start.epoch)?;
        let About { device, compute, parameters, .. } = self.about.clone();
        let (time, version, machine) = (now(), env!("CARGO_PKG_VERSION").to_string(), Machine::this());
        let started = Started { time, step: start.step, version, device, compute, parameters, machine };
        self.timing_line(&Timing::Start(Box::new(started)))?;
        (self.epochs, self.steps_per_epoch) = (start.epochs, start.steps_per_epoch);
        self.open_sinks(start.step);
        if start.step > 0 {
            self.line(&format!("resuming at step {} of epoch {}", start.step, start.epoch + 1))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        self.step = step.step;
        if let Some(row) = step.row {
            let index = self.metrics_line(row)?;
            self.each(|sink| sink.step(&Line { index, row }));
        }
        self.each(|sink| sink.tick());
        self.loss = step.loss.or(self.loss);
        self.samples += step.samples as u64;
        self.console.progress(&console::Progress {
            what: &format!("epoch {}/{}", step.epoch + 1, self.epochs),
            done: step.position,
            all: self.steps_per_epoch,
            samples: self.samples,
            loss: self.loss,
            memory: self.gpu_memory(),
        });
        Ok(())
    }

    fn evaluating(&mut self, what: &str, totals: &Totals, all: u64) {
        self.each(|sink| sink.tick());
        self.console.progress(&console::Progress {
            what: &format!("evaluating {what}"),
            done: totals.samples,
            all,
            samples: totals.samples,
            loss: Some(totals.mean_loss()),
            memory: self.gpu_memory(),
        });
    }

    fn epoch_end(&mut self, end: &EpochEnd) -> Result<()> {
        let index = self.metrics_line(end.row)?;
        let pictures = std::mem::take(&mut self.pictures);
        self.each(|sink| sink.epoch(&Line { index, row: end.row }, end, &pictures));
        self.evaluations_line("val", Some(end.epoch), end.validation)?;
        self.timing_line(&Timing::Epoch(EpochTime {
            epoch: end.epoch,
            train_seconds: end.train_time.as_secs_f64(),
            train_samples: self.samples,
            validation_seconds: end.validation_time.as_secs_f64(),
            validation_samples: end.validation.totals.samples,
        }))?;
        self.samples = 0;
        let value = |name: &str| number(end.row, &format!("{name}_epoch"));
        let mut text = format!(
            "epoch {}/{}: loss {:.4}, val loss {:.4}, F1 {:.4} (precision {:.4}, recall {:.4}), IoU {:.4}, AP {:.4}, \
             growth F1 {:.4}, copy-last F1 {:.4}, {:.1} s",
            end.epoch + 1,
            self.epochs,
            value("train/loss"),
            value("val/loss"),
            value("val/f1"),
            value("val/prec"),
            value("val/rec"),
            value("val/iou"),
            value("val/ap"),
            value("val/growth_f1"),
            value("val/copy_last_f1"),
            end.time.as_secs_f64()
        );
        if let Some(bytes) = self.gpu_memory() {
            text += &format!(", GPU {}", indicatif::HumanBytes(bytes as u64));
        }
        if end.best {
            text += ", best so far";
        }
        if let (Some(patience), waited @ 1..) = (self.about.patience, end.stopping.waited) {
            text += &format!(", {waited} of {patience} epochs without a gain");
        }
        self.line(&text)
    }

    fn preview(&mut self, epoch: u64, batch: &Batch, logits: &[f32]) -> Result<()> {
        let folder = self.folder.path(PREVIEWS).join(format!("epoch_{:03}", epoch + 1));
        if let Some(draw) = &mut self.preview {
            draw(&folder, epoch, batch, logits)?;
        }
        match Picture::all(&folder) {
            Ok(pictures) => self.pictures = pictures,
            Err(e) => self.warn(&e.to_string()),
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.each(|sink| sink.sync());
        for (file, name) in [(&self.metrics, "metrics.jsonl"), (&self.evaluations, EVALUATIONS)] {
            file.sync_data().map_err(|e| Error::io(self.folder.path(name), "cannot write", &e))?;
        }
        Ok(())
    }

    fn checkpoint(&mut self, path: &Path, progress: &Progress) -> Result<()> {
        self.note(&format!("wrote {} at step {}", path.display(), progress.step))
    }

    fn evaluated(&mut self, part: &str, evaluation: &Evaluation, time: Duration) -> Result<()> {
        self.evaluations_line(part, None, evaluation)?;
        let (part, seconds) = (part.to_string(), time.as_secs_f64());
        self.timing_line(&Timing::Evaluated { part, seconds, samples: evaluation.totals.samples })
    }

    fn finish(&mut self, ended: Ended, result: Option<&RunResult>) -> Result<()> {
        self.console.clear();
        self.line(match ended {
            Ended::Epochs => "all epochs are done",
            Ended::Early => "stopped early: no gain on validation",
            Ended::Paused => "paused after the steps asked for; --resume goes on",
            Ended::Interrupted => "saved and stopped by a signal; --resume goes on",
        })?;
        let step = self.step;
        let Some(result) = result else {
            self.each(|sink| sink.finish(&End { step, failed: false, result: None }));
            return Ok(());
        };
        let About { device, parameters, loss, expected, .. } = self.about.clone();
        let name = self.folder.name().to_string();
        let result = result.clone();
        let run = FinishedRun { format_version: RESULT_VERSION, name, device, parameters, loss, expected, result };
        let path = self.folder.path("result.json");
        let mut text = serde_json::to_vec_pretty(&run)
            .map_err(|e| Error::failed(path.display(), e, "this is a defect; please report it"))?;
        text.push(b'\n');
        write_whole(&path, &text)?;
        let test = &run.result.test;
        let best = &test.at_best;
        self.line(&format!(
            "{} ({} samples): F1 {:.4}, precision {:.4}, recall {:.4}, IoU {:.4}, AP {:.4}; at threshold {:.3} from \
             validation F1 {:.4}; growth F1 {:.4}; copy-last F1 {:.4}",
            run.result.split,
            test.samples,
            test.at_threshold.scores.f1,
            test.at_threshold.scores.precision,
            test.at_threshold.scores.recall,
            test.at_threshold.scores.iou,
            test.average_precision,
            best.threshold,
            best.scores.f1,
            best.growth.f1,
            test.copy_last.f1
        ))?;
        self.line(&format!("the result is in {}", path.display()))?;
        self.each(|sink| sink.finish(&End { step, failed: false, result: Some(&run.result) }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::record;
    use crate::train::stopping::Stopping;

    fn tracker(runs: &Path, resume: bool) -> Result<Tracker<'static>> {
        tracker_with(runs, resume, None)
    }

    fn tracker_with(runs: &Path, resume: bool, wandb: Option<wandb::Settings>) -> Result<Tracker<'static>> {
        let folder = RunFolder::new(runs, "a", resume)?;
        folder.create("a: 1\n", "{}")?;
        let about = About {
            device: "cpu".into(),
            compute: "float32".into(),
            parameters: 5,
            loss: LossSettings::BceDice {
                bce_weight: 0.9,
                dice_weight: 0.1,
                pos_weight: crate::ops::loss::PosWeight::None,
            },
            expected: Expected::default(),
            patience: Some(3),
            config: serde_json::json!({"train": {"epochs": 2}}),
            wandb,
        };
        Tracker::new(folder, about, Device::cpu(), Console::new(true))
    }

    fn start(rows: u64) -> Start {
        Start { step: rows, epoch: 0, rows, steps_per_epoch: 4, epochs: 2 }
    }

    fn row(step: u64) -> Metrics {
        let mut row = Metrics::new();
        row.insert("step".into(), step.into());
        row
    }

    fn epoch_end<'a>(epoch: u64, row: &'a Metrics, validation: &'a Evaluation, stopping: &'a Stopping) -> EpochEnd<'a> {
        let (train_time, validation_time) = (Duration::from_secs(9), Duration::from_secs(2));
        let time = Duration::from_secs(12);
        EpochEnd { epoch, row, validation, best: true, stopping, train_time, validation_time, time }
    }

    #[test]
    fn a_resumed_run_forgets_the_evaluations_after_its_checkpoint_and_keeps_their_times() {
        let runs = tempfile::tempdir().unwrap();
        let mut first = tracker(runs.path(), false).unwrap();
        let mut evaluation = Evaluation::default();
        first.start(&start(0)).unwrap();
        for epoch in 0..3 {
            let line = row(epoch);
            first.step(&Step { step: epoch, epoch, position: 1, samples: 3, loss: None, row: None }).unwrap();
            evaluation.totals.samples = 10 + epoch;
            first.epoch_end(&epoch_end(epoch, &line, &evaluation, &Stopping::default())).unwrap();
        }
        first.evaluated("test", &evaluation, Duration::from_secs(7)).unwrap();
        let folder = first.folder.clone();
        drop(first);
        let path = folder.path(EVALUATIONS);
        assert_eq!(record::read::<Evaluated>(&folder, EVALUATIONS).unwrap().len(), 4);
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"part").unwrap();

        let mut second = tracker(runs.path(), true).unwrap();
        second.start(&Start { epoch: 2, ..start(0) }).unwrap();
        let kept = record::read::<Evaluated>(&folder, EVALUATIONS).unwrap();
        assert_eq!(kept.iter().map(|line| line.epoch).collect::<Vec<_>>(), [Some(0), Some(1)]);
        assert_eq!(kept[1].evaluation.totals.samples, 11);
        let times = record::read::<Timing>(&folder, TIMING).unwrap();
        assert!(matches!(times[0], Timing::Start(_)) && matches!(times[5], Timing::Start(_)));
        let Timing::Epoch(time) = times[3] else { panic!("{:?}", times[3]) };
        assert_eq!((time.epoch, time.train_samples, time.validation_samples), (2, 3, 12));
        assert_eq!((time.train_seconds, time.validation_seconds), (9.0, 2.0));
        let evaluated = Timing::Evaluated { part: "test".into(), seconds: 7.0, samples: 12 };
        assert_eq!(times[4], evaluated);
    }

    #[test]
    fn a_resumed_run_forgets_the_lines_after_its_checkpoint() {
        let runs = tempfile::tempdir().unwrap();
        let mut first = tracker(runs.path(), false).unwrap();
        first.start(&start(0)).unwrap();
        for step in 1..=3 {
            let row = row(step);
            first.step(&Step { step, epoch: 0, position: step, samples: 3, loss: None, row: Some(&row) }).unwrap();
        }
        assert!(tracker(runs.path(), true).err().unwrap().to_string().contains("another process"));
        drop(first);
        let metrics = runs.path().join("a/metrics.jsonl");
        // A line that was being written when the process died.
        std::fs::write(&metrics, std::fs::read_to_string(&metrics).unwrap() + "{\"st").unwrap();

        let mut second = tracker(runs.path(), true).unwrap();
        second.start(&start(2)).unwrap();
        second.epoch_end(&epoch_end(0, &row(2), &Evaluation::default(), &Stopping::default())).unwrap();
        assert_eq!(std::fs::read_to_string(&metrics).unwrap(), "{\"step\":1}\n{\"step\":2}\n{\"step\":2}\n");
        drop(second);
        let text = tracker(runs.path(), true).unwrap().start(&start(4)).unwrap_err().to_string();
        assert!(text.contains("metrics.jsonl") && text.contains("has 3 lines, the checkpoint was written after 4"));
    }

    #[test]
    fn tracking_that_fails_is_told_once_and_training_goes_on() {
        let runs = tempfile::tempdir().unwrap();
        let settings = wandb::Settings {
            mode: wandb::Mode::Offline,
            project: "fires".into(),
            entity: None,
            name: "a".into(),
            group: None,
            job_type: None,
            notes: None,
            tags: vec![],
            auto_tags: false,
            pictures: 0,
            artifacts: false,
            dir: None,
            run_id: None,
        };
        let mut tracker = tracker_with(runs.path(), false, Some(settings)).unwrap();
        std::fs::write(runs.path().join("a/wandb"), "no folder").unwrap();
        tracker.start(&start(0)).unwrap();
        assert_eq!(tracker.sinks.len(), 1);
        struct Broken;
        impl Sink for Broken {
            fn name(&self) -> &'static str {
                "Broken"
            }
            fn step(&mut self, _line: &Line) -> Result<()> {
                Err(Error::failed("disk", "is full", "free some space"))
            }
            fn epoch(&mut self, _line: &Line, _end: &EpochEnd, _pictures: &[Picture]) -> Result<()> {
                unreachable!("it has failed before")
            }
            fn sync(&mut self) -> Result<()> {
                unreachable!("it has failed before")
            }
            fn finish(&mut self, _end: &End) -> Result<()> {
                unreachable!("it has failed before")
            }
        }
        tracker.sinks.push(Box::new(Broken));
        for step in 1..=2 {
            let row = row(step);
            tracker
                .step(&Step { step, epoch: 0, position: step, samples: 2, loss: Some(0.5), row: Some(&row) })
                .unwrap();
        }
        tracker.sync().unwrap();
        tracker.failed(&Error::failed("step 3", "the loss is NaN", "lower the rates"));
        let log = std::fs::read_to_string(runs.path().join("a/train.log")).unwrap();
        let once = |text: &str| assert_eq!(log.matches(text).count(), 1, "{text}: {log}");
        once("training goes on without Weights & Biases");
        once("disk: is full; free some space; training goes on without Broken");
        once("error: step 3: the loss is NaN");
        assert_eq!(std::fs::read_to_string(runs.path().join("a/metrics.jsonl")).unwrap().lines().count(), 2);
    }
}
