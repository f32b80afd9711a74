//! Programs that show a run are handed what metrics.jsonl gets, line by line.

use crate::train::evaluate::RunResult;
use crate::train::metrics::Metrics;
use crate::train::run::EpochEnd;
use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// A line of metrics.jsonl.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// Which line it is, from 0.
    pub(super) index: u64,
    /// What it holds.
    pub(super) row: &'a Metrics,
}

impl Line<'_> {
    /// Optimiser steps done when it was written.
    pub(super) fn step(&self) -> u64 {
        self.row.get("step").and_then(Value::as_u64).unwrap_or_default()
    }
}

/// A preview as it lies in the run's folder.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    /// The file's name without its ending.
    pub(super) name: String,
    /// The PNG.
    pub(super) png: Vec<u8>,
    /// Pixels across.
    pub(super) width: u32,
    /// Pixels down.
    pub(super) height: u32,
    /// 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
    pub(super) channels: u32,
}

impl Picture {
    /// The PNG files of a folder by name; none where there is no such folder.
    pub(super) fn all(folder: &Path) -> Result<Vec<Self>> {
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let io = |e: std::io::Error| Error::io(folder, "cannot read", &e);
        let entries = std::fs::read_dir(folder).map_err(io)?;
        let mut paths = entries.map(|entry| Ok(entry.map_err(io)?.path())).collect::<Result<Vec<_>>>()?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "png"));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Result<Self> {
        let png = std::fs::read(path).map_err(|e| Error::io(path, "cannot read", &e))?;
        let reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info();
        let reader = reader.map_err(|e| Error::failed(path.display(), e, "remove it; it is drawn again"))?;
        let info = reader.info();
        let (width, height, channels) = (info.width, info.height, info.color_type.samples() as u32);
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { name, width, height, channels, png })
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    /// Optimiser steps done.
    pub(super) step: u64,
    /// Whether it ended with an error.
    pub(super) failed: bool,
    /// The final evaluation, where there was one.
    pub(super) result: Option<&'a RunResult>,
}

/// Where else a run is written.
pub(super) trait Sink {
    /// The program that reads it.
    fn name(&self) -> &'static str;
    /// A line about a step.
    fn step(&mut self, line: &Line) -> Result<()>;
    /// A line about an epoch, with the epoch's previews.
    fn epoch(&mut self, line: &Line, end: &EpochEnd, pictures: &[Picture]) -> Result<()>;
    /// A line of the log.
    fn log(&mut self, _text: &str) -> Result<()> {
        Ok(())
    }
    /// Some time has passed.
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }
    /// What was handed over must be on the disk now.
    fn sync(&mut self) -> Result<()>;
    /// The run has ended.
    fn finish(&mut self, end: &End) -> Result<()>;
    /// What a person should know; each note is given once.
    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Seconds since 1970.
pub(super) fn clock() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

/// The numbers of a finished run, named like the metrics of an epoch: `best/epoch`, `best/` and the monitored metric, and
/// the scores of the best checkpoint on the final part of the split, as in `test/f1`.
pub(super) fn final_metrics(result: &RunResult) -> Vec<(String, f64)> {
    let mut metrics = Vec::new();
    let best =
        [("epoch".to_string(), result.best_epoch.map(|n| n as f64)), (result.monitor.clone(), result.best_value)];
    metrics.extend(best.into_iter().filter_map(|(name, value)| Some((format!("best/{name}"), value?))));
    let (part, test) = (&result.split, &result.test);
    let (scores, best) = (&test.at_threshold.scores, &test.at_best);
    let values = [
        ("loss", test.loss),
        ("acc", scores.accuracy),
        ("prec", scores.precision),
        ("rec", scores.recall),
        ("f1", scores.f1),
        ("iou", scores.iou),
        ("ap", test.average_precision),
        ("growth_prec", test.at_threshold.growth.precision),
        ("growth_rec", test.at_threshold.growth.recall),
        ("growth_f1", test.at_threshold.growth.f1),
        ("growth_iou", test.at_threshold.growth.iou),
        ("growth_ap", test.growth_average_precision),
        ("copy_last_f1", test.copy_last.f1),
        ("best_threshold", best.threshold),
        ("best_threshold_f1", best.scores.f1),
    ];
    metrics.extend(values.map(|(name, value)| (format!("{part}/{name}"), value)));
    metrics
}

/// The settings of a run by their paths, without those that change nothing about its result.
pub(super) fn hyperparameters(config: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for section in ["global", "data", "model", "train", "split"] {
        if let Some(value) = config.get(section) {
            leaves(section, value, &mut found);
        }
    }
    found
}

fn leaves(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(section) => {
            for (key, value) in section {
                leaves(&format!("{path}.{key}"), value, found);
            }
        }
        Value::Null => {}
        value => found.push((path.to_string(), value.clone())),
    }
}
