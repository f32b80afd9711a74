//! The training loop's observer: writes metrics.jsonl, the records beside it, train.log and result.json, and shows progress.

use crate::data::batch::Batch;
use crate::ops::loss::LossSettings;
use crate::storage::write_whole;
use crate::track::console::Console;
use crate::track::folder::{Expected, FinishedRun, PREVIEWS, RESULT_VERSION, RunFolder};
use crate::track::machine::Machine;
use crate::track::record::{EVALUATIONS, EpochTime, Evaluated, Started, TIMING, Timing, now};
use crate::train::checkpoint::Progress;
use crate::train::evaluate::RunResult;
use crate::train::metrics::{Evaluation, Metrics};
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
}

/// Draws a preview: the folder for its pictures, the epoch, a batch and its logits.
pub type Preview<'a> = Box<dyn FnMut(&Path, u64, &Batch, &[f32]) -> Result<()> + 'a>;

/// Writes a run's files and shows its progress.
pub struct Tracker<'a> {
    folder: RunFolder,
    about: About,
    console: Console,
    metrics: File,
    evaluations: File,
    timing: File,
    log: File,
    began: Instant,
    /// Samples that this process's steps saw of the epoch that is under way.
    samples: u64,
    epochs: u64,
    steps_per_epoch: u64,
    preview: Option<Preview<'a>>,
}

impl<'a> Tracker<'a> {
    /// Opens the run's files. The log is locked, so that two processes cannot write one run.
    ///
    /// # Errors
    /// What the disk says; a run that another process is writing.
    pub fn new(folder: RunFolder, about: About, console: Console) -> Result<Self> {
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
            console,
            began: Instant::now(),
            samples: 0,
            epochs: 0,
            steps_per_epoch: 0,
            preview: None,
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
        self.note(text)
    }

    /// A line for the log, after the seconds since the start.
    fn note(&mut self, text: &str) -> Result<()> {
        let line = format!("{:9.1} {text}\n", self.began.elapsed().as_secs_f64());
        self.log.write_all(line.as_bytes()).map_err(|e| Error::io(self.folder.path("train.log"), "cannot write", &e))
    }

    fn metrics_line(&mut self, row: &Metrics) -> Result<()> {
        append(&mut self.metrics, &self.folder.path("metrics.jsonl"), row)
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
        self.truncate_evaluations(start.epoch)?;
        let About { device, compute, parameters, .. } = self.about.clone();
        let (time, version, machine) = (now(), env!("CARGO_PKG_VERSION").to_string(), Machine::this());
        let started = Started { time, step: start.step, version, device, compute, parameters, machine };
        self.timing_line(&Timing::Start(Box::new(started)))?;
        (self.epochs, self.steps_per_epoch) = (start.epochs, start.steps_per_epoch);
        if start.step > 0 {
            self.line(&format!("resuming at step {} of epoch {}", start.step, start.epoch + 1))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        if let Some(row) = step.row {
            self.metrics_line(row)?;
        }
        self.samples += step.samples as u64;
        let what = format!("epoch {}/{}", step.epoch + 1, self.epochs);
        let loss = step.loss.map_or_else(String::new, |loss| format!("loss {loss:.4}"));
        self.console.progress(&what, step.position, self.steps_per_epoch, &loss);
        Ok(())
    }

    fn evaluating(&mut self, what: &str, done: usize, all: usize) {
        self.console.progress(&format!("evaluating {what}"), done as u64, all as u64, "");
    }

    fn epoch_end(&mut self, end: &EpochEnd) -> Result<()> {
        self.metrics_line(end.row)?;
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
        match &mut self.preview {
            Some(draw) => draw(&folder, epoch, batch, logits),
            None => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<()> {
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
        })?;
        let Some(result) = result else { return Ok(()) };
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
        self.line(&format!("the result is in {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::record;
    use crate::train::stopping::Stopping;

    fn tracker(runs: &Path, resume: bool) -> Result<Tracker<'static>> {
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
        };
        Tracker::new(folder, about, Console::new(true))
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
}
