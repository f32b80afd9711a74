//! TensorBoard: event files in the run's folder with the metrics of every line of metrics.jsonl under their names, the
//! previews, precision-recall curves of each validation, and settings with final metrics for its table of runs.

mod event;

use crate::ops::loss::Histogram;
use crate::track::sink::{End, Line, Picture, Sink, clock, final_metrics, hyperparameters};
use crate::train::metrics::{Scores, counts_at};
use crate::train::run::EpochEnd;
use crate::{Error, Result};
use event::*;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Thresholds of a precision-recall curve: every eighth of the histogram's.
const THRESHOLDS: usize = 129;

/// What the names of event files begin with.
const PREFIX: &str = "events.out.tfevents.";

/// Writes one event file.
pub(super) struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// A new file. Where the folder holds others, they count up to step `done` only.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn open(folder: &Path, done: u64, config: &serde_json::Value) -> Result<Self> {
        let latest = latest(folder)?;
        // Readers take the files by name, so a later one needs a later time.
        let time = latest.map_or(0, |latest| latest + 1).max(clock() as u64);
        let host = sysinfo::System::host_name().unwrap_or_else(|| "localhost".into()).replace('/', "-");
        let path = folder.join(format!("{PREFIX}{time:010}.{host}.{}.0", std::process::id()));
        let file = OpenOptions::new().create_new(true).append(true).open(&path);
        let file = file.map_err(|e| Error::io(&path, "cannot write", &e))?;
        let mut this = Self { path, file };
        this.write(0, Event { file_version: Some("brain.Event:2".into()), ..Event::default() })?;
        if latest.is_some() {
            this.write(done + 1, Event { session_log: Some(START), ..Event::default() })?;
        }
        this.write_settings(config)?;
        Ok(this)
    }

    fn write(&mut self, step: u64, event: Event) -> Result<()> {
        let event = Event { wall_time: clock(), step: step as i64, ..event };
        self.file.write_all(&frame(&event)).map_err(|e| Error::io(&self.path, "cannot write", &e))
    }

    fn summary(&mut self, step: u64, value: Vec<Value>) -> Result<()> {
        self.write(step, Event { summary: Some(Summary { value }), ..Event::default() })
    }

    fn hparams(&mut self, tag: &str, content: &HParams) -> Result<()> {
        let (tensor, metadata) = (Tensor::floats(&[], vec![0.0]), Metadata::of("hparams", "", content));
        let value = Value { tag: tag.into(), tensor: Some(tensor), metadata: Some(metadata), ..Value::default() };
        self.summary(0, vec![value])
    }

    /// The settings, and that the run has begun.
    fn write_settings(&mut self, config: &serde_json::Value) -> Result<()> {
        let mut infos = Vec::new();
        let mut hparams = BTreeMap::new();
        for (name, value) in hyperparameters(config) {
            let (kind, value) = match value {
                serde_json::Value::Bool(flag) => (2, Plain { flag: Some(flag), ..Plain::default() }),
                serde_json::Value::Number(n) => (3, Plain { number: n.as_f64(), ..Plain::default() }),
                serde_json::Value::String(text) => (1, Plain { text: Some(text), ..Plain::default() }),
                other => (1, Plain { text: Some(other.to_string()), ..Plain::default() }),
            };
            infos.push(HParamInfo { name: name.clone(), kind });
            hparams.insert(name, value);
        }
        let metric = |tag: &str| MetricInfo { name: Some(MetricName { tag: tag.into() }) };
        let metrics =
            ["f1", "prec", "rec", "iou", "ap", "growth_f1", "copy_last_f1"].map(|name| format!("test/{name}"));
        let metric_infos = metrics.iter().map(|name| metric(name)).collect();
        let experiment = Experiment { hparam_infos: infos, metric_infos };
        self.hparams("_hparams_/experiment", &HParams { experiment: Some(experiment), ..HParams::default() })?;
        let session_start = SessionStart { hparams, start_time_secs: clock() };
        let start = HParams { session_start: Some(session_start), ..HParams::default() };
        self.hparams("_hparams_/session_start_info", &start)
    }
}

impl Sink for TensorBoard {
    fn name(&self) -> &'static str {
        "TensorBoard"
    }

    fn step(&mut self, line: &Line) -> Result<()> {
        let metrics = line.row.iter().filter(|(name, _)| *name != "step");
        let values = metrics.filter_map(|(name, value)| Some(scalar(name, value.as_f64()?))).collect();
        self.summary(line.step(), values)
    }

    fn epoch(&mut self, line: &Line, end: &EpochEnd, pictures: &[Picture]) -> Result<()> {
        self.step(line)?;
        let curves = [
            pr_curve("val/pr_curve", &end.validation.histogram),
            pr_curve("val/growth_pr_curve", &end.validation.growth_histogram),
        ];
        self.summary(line.step(), curves.to_vec())?;
        for picture in pictures {
            let image = Image {
                height: picture.height as i32,
                width: picture.width as i32,
                colorspace: picture.channels as i32,
                png: picture.png.clone(),
            };
            let tag = format!("val/preview/{}", picture.name);
            self.summary(line.step(), vec![Value { tag, image: Some(image), ..Value::default() }])?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, "cannot write", &e))
    }

    fn finish(&mut self, end: &End) -> Result<()> {
        if let Some(result) = end.result {
            let values = final_metrics(result).into_iter().map(|(name, value)| scalar(&name, value)).collect();
            self.summary(end.step, values)?;
        }
        if end.failed || end.result.is_some() {
            let session_end = SessionEnd { status: if end.failed { 2 } else { 1 }, end_time_secs: clock() };
            let content = HParams { session_end: Some(session_end), ..HParams::default() };
            self.hparams("_hparams_/session_end_info", &content)?;
        }
        self.sync()
    }
}

fn scalar(tag: &str, value: f64) -> Value {
    Value { tag: tag.into(), simple_value: Some(value as f32), ..Value::default() }
}

/// The counts and scores at evenly spaced thresholds, as the plugin of that name reads them.
fn pr_curve(name: &str, histogram: &Histogram) -> Value {
    let mut rows = vec![Vec::new(); 6];
    for i in 0..THRESHOLDS {
        let counts = counts_at(histogram, i as f64 / (THRESHOLDS - 1) as f64);
        let scores = Scores::of(&counts);
        let values = [
            counts.tp as f32,
            counts.fp as f32,
            counts.tn as f32,
            counts.fn_ as f32,
            scores.precision as f32,
            scores.recall as f32,
        ];
        for (row, value) in rows.iter_mut().zip(values) {
            row.push(value);
        }
    }
    let content = PrCurve { num_thresholds: THRESHOLDS as u32 };
    Value {
        tag: format!("{name}/pr_curves"),
        tensor: Some(Tensor::floats(&[6, THRESHOLDS], rows.concat())),
        metadata: Some(Metadata::of("pr_curves", name, &content)),
        ..Value::default()
    }
}

/// The time in the name of the folder's latest event file.
fn latest(folder: &Path) -> Result<Option<u64>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "cannot read", &e))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()).max())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// The events of a file, whose frames must be whole.
    fn events(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let event = Event::decode(&rest[12..12 + length]).unwrap();
            assert_eq!(frame(&event), rest[..length + 16]);
            events.push(event);
            rest = &rest[length + 16..];
        }
        events
    }

    #[test]
    fn a_frame_has_the_known_bytes() {
        // The first event of every file, as TensorBoard's own writer writes it at time 0.
        let event = Event { file_version: Some("brain.Event:2".into()), ..Event::default() };
        let bytes = frame(&event);
        assert_eq!(bytes[..8], 15u64.to_le_bytes());
        assert_eq!(&bytes[12..27], b"\x1a\x0dbrain.Event:2");
        // CRC-32C of 32 zero bytes is 8A9136AA (RFC 3720).
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_resumed_run_gets_a_later_file_that_withdraws_later_steps() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            serde_json::json!({"train": {"epochs": 3, "schedule": {"type": "cosine"}}, "wandb": {"notes": "x"}});
        for done in [0, 7] {
            let mut board = TensorBoard::open(folder.path(), done, &config).unwrap();
            let row = serde_json::json!({"step": done + 1, "epoch": 0, "train/loss_step": 0.5, "val/x": null});
            board.step(&Line { index: done, row: row.as_object().unwrap() }).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        assert_eq!(names.len(), 2);
        let (first, second) = (events(&names[0]), events(&names[1]));
        assert!(first.iter().all(|event| event.session_log.is_none()));
        assert_eq!((second[1].step, &second[1].session_log), (8, &Some(START)));
        let tags = |event: &Event| {
            event.summary.iter().flat_map(|s| &s.value).map(|value| value.tag.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(tags(second.last().unwrap()), "epoch train/loss_step");
        assert_eq!(tags(&first[1]), "_hparams_/experiment");
        let start = first[2].summary.clone().unwrap().value.remove(0).metadata.unwrap();
        let encoded = start.encode_to_vec();
        let contains = |text: &str| encoded.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(contains("train.schedule.type") && contains("cosine") && !contains("notes"));
    }

    #[test]
    fn a_curve_has_the_counts_of_each_threshold() {
        let mut histogram = Histogram::default();
        histogram.positive[1000] = 3;
        histogram.positive[10] = 1;
        histogram.negative[500] = 2;
        let curve = pr_curve("val/pr_curve", &histogram);
        assert_eq!(curve.tag, "val/pr_curve/pr_curves");
        let values = curve.tensor.unwrap().float_val;
        let at = |i: usize| [0, 1, 2, 3, 4, 5].map(|row: usize| values[row * THRESHOLDS + i]);
        assert_eq!(at(0), [4.0, 2.0, 0.0, 0.0, 4.0 / 6.0, 1.0]);
        assert_eq!(at(64), [3.0, 0.0, 2.0, 1.0, 1.0, 0.75]);
        assert_eq!(at(128), [0.0, 0.0, 2.0, 4.0, 0.0, 0.0]);
    }
}
