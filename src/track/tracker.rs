//! The training loop's observer: writes metrics.jsonl, train.log and result.json, and shows progress.

use crate::data::batch::Batch;
use crate::ops::loss::LossSettings;
use crate::storage::write_whole;
use crate::track::console::Console;
use crate::track::folder::{Expected, FinishedRun, RESULT_VERSION, RunFolder};
use crate::train::checkpoint::Progress;
use crate::train::evaluate::RunResult;
use crate::train::metrics::Metrics;
use crate::train::run::{Ended, EpochEnd, Observer, Start, Step};
use crate::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

/// What the tracker is told about the run, for its log and its result.
#[derive(Debug, Clone)]
pub struct About {
    /// What it runs on.
    pub device: String,
    /// Trainable parameters.
    pub parameters: u64,
    /// Its loss.
    pub loss: LossSettings,
    /// What its configuration expects.
    pub expected: Expected,
    /// Epochs without a gain after which it stops, where it stops early.
    pub patience: Option<u64>,
}

/// Draws a preview: the images folder, the epoch, a batch and its logits.
pub type Preview = Box<dyn FnMut(&Path, u64, &Batch, &[f32]) -> Result<()>>;

/// Writes a run's files and shows its progress.
pub struct Tracker {
    folder: RunFolder,
    about: About,
    console: Console,
    metrics: File,
    log: File,
    began: Instant,
    epochs: u64,
    steps_per_epoch: u64,
    preview: Option<Preview>,
}

impl Tracker {
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
        if let Err(TryLockError::WouldBlock) = log.try_lock() {
            let remedy = "wait for it to end, or start another run with --name";
            return Err(Error::failed(folder.root().display(), "another process is writing this run", remedy));
        }
        let metrics = open("metrics.jsonl")?;
        let began = Instant::now();
        Ok(Self { folder, about, console, metrics, log, began, epochs: 0, steps_per_epoch: 0, preview: None })
    }

    /// Sets what draws previews.
    pub fn with_preview(self, preview: Preview) -> Self {
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
        let path = self.folder.path("metrics.jsonl");
        let mut line = serde_json::to_vec(row)
            .map_err(|e| Error::failed(path.display(), e, "this is a defect; please report it"))?;
        line.push(b'\n');
        self.metrics.write_all(&line).map_err(|e| Error::io(&path, "cannot write", &e))
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

fn number(row: &Metrics, name: &str) -> f64 {
    row.get(name).and_then(|v| v.as_f64()).unwrap_or(f64::NAN)
}

impl Observer for Tracker {
    fn start(&mut self, start: &Start) -> Result<()> {
        self.truncate_metrics(start.rows)?;
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
        let images = self.folder.path("images");
        match &mut self.preview {
            Some(draw) => draw(&images, epoch, batch, logits),
            None => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<()> {
        self.metrics.sync_data().map_err(|e| Error::io(self.folder.path("metrics.jsonl"), "cannot write", &e))
    }

    fn checkpoint(&mut self, path: &Path, progress: &Progress) -> Result<()> {
        self.note(&format!("wrote {} at step {}", path.display(), progress.step))
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
    use crate::train::stopping::Stopping;

    fn tracker(runs: &Path, resume: bool) -> Result<Tracker> {
        let folder = RunFolder::new(runs, "a", resume)?;
        folder.create("a: 1\n", "{}")?;
        let about = About {
            device: "cpu".into(),
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

    #[test]
    fn a_resumed_run_forgets_the_lines_after_its_checkpoint() {
        let runs = tempfile::tempdir().unwrap();
        let mut first = tracker(runs.path(), false).unwrap();
        first.start(&start(0)).unwrap();
        for step in 1..=3 {
            let row = row(step);
            first.step(&Step { step, epoch: 0, position: step, loss: Some(0.5), row: Some(&row) }).unwrap();
        }
        assert!(tracker(runs.path(), true).err().unwrap().to_string().contains("another process"));
        drop(first);
        let metrics = runs.path().join("a/metrics.jsonl");
        // A line that was being written when the process died.
        std::fs::write(&metrics, std::fs::read_to_string(&metrics).unwrap() + "{\"st").unwrap();

        let mut second = tracker(runs.path(), true).unwrap();
        second.start(&start(2)).unwrap();
        let end = row(2);
        let stopping = Stopping::default();
        second
            .epoch_end(&EpochEnd { epoch: 0, row: &end, best: true, stopping: &stopping, time: Default::default() })
            .unwrap();
        assert_eq!(std::fs::read_to_string(&metrics).unwrap(), "{\"step\":1}\n{\"step\":2}\n{\"step\":2}\n");
        drop(second);
        let text = tracker(runs.path(), true).unwrap().start(&start(4)).unwrap_err().to_string();
        assert!(text.contains("metrics.jsonl") && text.contains("has 3 lines, the checkpoint was written after 4"));
    }
}
