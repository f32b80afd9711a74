//! What the report shows, gathered from run folders: nothing but what they hold, and all of it optional. A run that still
//! trains, or that an older release trained, shows less.

use crate::report::compare::{Comparison, MIN_PRECISION};
use crate::storage;
use crate::track::folder::{FinishedRun, PREVIEWS, RunFolder};
use crate::track::record::{self, EVALUATIONS, EpochTime, Evaluated, Started, TIMING, Timing, now};
use crate::train::evaluate::{Part, Summary, chosen_threshold};
use crate::train::metrics::{Calibration, Metrics, calibration, precision_recall_curve};
use crate::{Error, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Rows of one kind of metrics.jsonl that are shown at most; of more, every n-th.
const MAX_ROWS: usize = 1000;
/// How far apart neighbours of a drawn precision-recall curve are at least, in recall and precision together.
const CURVE_STEP: f64 = 0.004;
/// Bytes of embedded pictures at most, of all runs together.
const PREVIEW_BYTES: u64 = 6 << 20;

/// Everything that the page shows.
#[derive(Debug, Serialize)]
pub struct Page {
    /// Version of this program.
    pub version: &'static str,
    /// Seconds since 1970.
    pub generated: u64,
    /// What a run's precision must be above to win.
    pub min_precision: f64,
    /// Which run won, by its place; none of a single run.
    pub winner: Option<usize>,
    /// Why it won, or why none did; none of a single run.
    pub reason: Option<String>,
    /// What makes the runs hard to compare.
    pub warnings: Vec<String>,
    /// The runs in the order given.
    pub runs: Vec<Run>,
    /// Every key of the configurations.
    pub configuration: Vec<Setting>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A process writes it.
    Running,
    /// It has a result.
    Finished,
    /// Neither: it was paused or it died.
    Unfinished,
}

/// One of the runs.
#[derive(Debug, Serialize)]
pub struct Run {
    /// Its name, with its folder where another run has the same name.
    pub label: String,
    /// How far it is.
    pub state: State,
    /// result.json, where it has finished.
    pub result: Option<FinishedRun>,
    /// Logged steps of metrics.jsonl, as columns.
    pub steps: Map<String, Value>,
    /// How many there are; more than shown where this exceeds the columns.
    pub steps_logged: usize,
    /// Epochs of metrics.jsonl, as columns.
    pub epochs: Map<String, Value>,
    /// The final evaluation, or where the run has not finished its last validation.
    pub evaluation: Option<Shown>,
    /// What each epoch took.
    pub times: Vec<EpochTime>,
    /// What the evaluations at the end took: part of the split, seconds, samples.
    pub final_times: Vec<(String, f64, u64)>,
    /// The processes that trained it.
    pub starts: Vec<Started>,
    /// Pictures of predictions.
    pub previews: Vec<Preview>,
    /// Epochs whose pictures were left out for their size.
    pub previews_left_out: usize,
}

/// An evaluation, ready to be drawn.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The part of the split.
    pub part: String,
    /// The epoch after which it was made, from 0; none for the best weights at the end.
    pub epoch: Option<u64>,
    /// Its scores at the configured threshold and at validation's best one.
    pub summary: Summary,
    /// Threshold, precision and recall, from the highest threshold down.
    pub curve: Vec<[f64; 3]>,
    /// The same over the pixels of growth.
    pub growth_curve: Vec<[f64; 3]>,
    /// Predicted against observed frequency.
    pub calibration: Calibration,
    /// The same over the pixels of growth.
    pub growth_calibration: Calibration,
    /// Scores by frames of history.
    pub by_history: Vec<(usize, Part)>,
    /// Scores by sequence.
    pub by_sequence: Vec<(String, Part)>,
}

/// A picture of a prediction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preview {
    /// The epoch after which it was made, from 1, as in the folder's name.
    pub epoch: u64,
    /// Sequence and frame, as in the file's name.
    pub sample: String,
    /// Where the page finds it.
    pub source: String,
}

/// A key of the configuration.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// Its path, as in `train.epochs`.
    pub key: String,
    /// Its default.
    pub default: Value,
    /// Its value in each run; null where a run does not have it.
    pub values: Vec<Value>,
}

/// How pictures reach the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pictures {
    /// Within it, so that it stands alone; limited in size.
    Embedded,
    /// From `preview/RUN/EPOCH/PLACE`, which [`preview_file`] finds.
    Served,
}

impl Page {
    /// Reads the runs. `defaults` is the default configuration's YAML.
    ///
    /// # Errors
    /// A folder that is no run; a file that is damaged.
    pub fn gather(folders: &[RunFolder], defaults: &str, pictures: Pictures) -> Result<Self> {
        let budget = PREVIEW_BYTES / folders.len().max(1) as u64;
        let mut configurations = vec![flattened(defaults, "the defaults")?];
        let mut runs = Vec::new();
        for (place, folder) in folders.iter().enumerate() {
            let configuration = configuration(folder)?;
            let mut run = Run::read(folder, &label(folder, folders), &configuration)?;
            (run.previews, run.previews_left_out) = match pictures {
                Pictures::Embedded => embedded(folder, budget)?,
                Pictures::Served => (served(folder, place)?, 0),
            };
            configurations.push(configuration);
            runs.push(run);
        }
        let mut page = Self {
            version: env!("CARGO_PKG_VERSION"),
            generated: now(),
            min_precision: MIN_PRECISION,
            winner: None,
            reason: None,
            warnings: vec![],
            runs,
            configuration: settings(&configurations),
        };
        page.decide();
        Ok(page)
    }

    /// The verdict over the finished runs, where there are several runs.
    fn decide(&mut self) {
        if self.runs.len() < 2 {
            return;
        }
        let finished: Vec<FinishedRun> = self.runs.iter().filter_map(|run| run.result.clone()).collect();
        if finished.len() < 2 {
            self.reason = Some("Fewer than two runs have finished".into());
            return;
        }
        let comparison = Comparison::new(&finished);
        self.winner = comparison.winner.and_then(|name| self.runs.iter().position(|run| run.label == name));
        self.reason = Some(comparison.reason);
        self.warnings = comparison.warnings;
    }
}

impl Run {
    fn read(folder: &RunFolder, label: &str, configuration: &Map<String, Value>) -> Result<Self> {
        let running = is_running(folder);
        let finished = !running && folder.path("result.json").exists();
        let mut result = if finished { Some(FinishedRun::read(folder)?) } else { None };
        if let Some(result) = &mut result {
            result.name = label.to_string();
        }
        let rows: Vec<Metrics> = record::read(folder, "metrics.jsonl")?;
        let (epochs, steps): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.keys().any(|key| key.ends_with("_epoch")));
        let mut run = Self {
            label: label.to_string(),
            state: match (running, finished) {
                (true, _) => State::Running,
                (false, true) => State::Finished,
                (false, false) => State::Unfinished,
            },
            steps_logged: steps.len(),
            steps: columns(&steps),
            epochs: columns(&epochs),
            evaluation: shown(folder, result.as_ref(), configuration)?,
            result,
            times: vec![],
            final_times: vec![],
            starts: vec![],
            previews: vec![],
            previews_left_out: 0,
        };
        let mut times = BTreeMap::new();
        for line in record::read(folder, TIMING)? {
            match line {
                Timing::Start(start) => run.starts.push(*start),
                // Of an epoch that was done again, the last time counts.
                Timing::Epoch(time) => drop(times.insert(time.epoch, time)),
                Timing::Evaluated { part, seconds, samples } => {
                    run.final_times.retain(|(other, ..)| *other != part);
                    run.final_times.push((part, seconds, samples));
                }
            }
        }
        run.times = times.into_values().collect();
        Ok(run)
    }
}

/// A run's name, with its folder where another run of the same name is shown.
fn label(folder: &RunFolder, all: &[RunFolder]) -> String {
    let same = all.iter().filter(|other| other.name() == folder.name()).count();
    if same > 1 { format!("{} ({})", folder.name(), folder.root().display()) } else { folder.name().to_string() }
}

/// Whether a process holds the lock of the run's log.
fn is_running(folder: &RunFolder) -> bool {
    let Ok(log) = File::open(folder.path("train.log")) else { return false };
    matches!(log.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Rows as columns by name, null where a row lacks a value: every n-th row from the last one backwards, so that there are
/// [`MAX_ROWS`] at most.
fn columns(rows: &[Metrics]) -> Map<String, Value> {
    let stride = rows.len().div_ceil(MAX_ROWS).max(1);
    let mut kept: Vec<&Metrics> = rows.iter().rev().step_by(stride).collect();
    kept.reverse();
    let mut columns = Map::new();
    for name in kept.iter().flat_map(|row| row.keys()) {
        if !columns.contains_key(name) {
            let column = kept.iter().map(|row| row.get(name).cloned().unwrap_or(Value::Null)).collect();
            columns.insert(name.clone(), Value::Array(column));
        }
    }
    columns
}

/// The evaluation to show: that of the result, else the last validation.
fn shown(
    folder: &RunFolder,
    result: Option<&FinishedRun>,
    configuration: &Map<String, Value>,
) -> Result<Option<Shown>> {
    let lines: Vec<Evaluated> = record::read(folder, EVALUATIONS)?;
    let wanted = |line: &&Evaluated| match result {
        Some(run) => line.epoch.is_none() && line.part == run.result.split,
        None => line.epoch.is_some(),
    };
    let Some(Evaluated { part, epoch, evaluation }) = lines.iter().rfind(wanted) else { return Ok(None) };
    let configured = configuration.get("model.metrics.pred_thresh").and_then(Value::as_f64).unwrap_or(0.5);
    let (threshold, best) = match result.map(|run| &run.result.test) {
        Some(test) => (test.at_threshold.threshold, test.at_best.threshold),
        None => (configured, chosen_threshold(evaluation)),
    };
    let curve = |histogram| {
        let mut kept: Vec<[f64; 3]> = Vec::new();
        let points = precision_recall_curve(histogram);
        for (i, p) in points.iter().enumerate() {
            let far = kept.last().is_none_or(|k| (p.precision - k[1]).abs() + (p.recall - k[2]).abs() > CURVE_STEP);
            if far || i + 1 == points.len() {
                kept.push([p.threshold, p.precision, p.recall]);
            }
        }
        kept
    };
    Ok(Some(Shown {
        part: part.clone(),
        epoch: *epoch,
        summary: Summary::new(evaluation, threshold, best),
        curve: curve(&evaluation.histogram),
        growth_curve: curve(&evaluation.growth_histogram),
        calibration: calibration(&evaluation.histogram),
        growth_calibration: calibration(&evaluation.growth_histogram),
        by_history: evaluation.by_history.iter().map(|(n, totals)| (*n, Part::new(totals))).collect(),
        by_sequence: evaluation.by_sequence.iter().map(|(id, totals)| (id.clone(), Part::new(totals))).collect(),
    }))
}

/// The pictures of a run by epoch, from 1, each epoch's in the order of their names.
fn pictures(folder: &RunFolder) -> Result<BTreeMap<u64, Vec<PathBuf>>> {
    let mut epochs = BTreeMap::new();
    for path in entries(&folder.path(PREVIEWS))? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(epoch) = name.strip_prefix("epoch_").and_then(|number| number.parse().ok()) else { continue };
        let mut files = entries(&path)?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "png"));
        files.sort();
        epochs.insert(epoch, files);
    }
    Ok(epochs)
}

/// What is in a folder; nothing where there is no folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match std::fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => Ok(vec![]),
        Err(e) => Err(Error::io(folder, "cannot read", &e)),
    }
}

fn preview(epoch: u64, file: &Path, source: String) -> Preview {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let sample = match name.rsplit_once("_frame_") {
        Some((sequence, frame)) => format!("{sequence}, frame {}", frame.trim_start_matches('0')),
        None => name,
    };
    Preview { epoch, sample, source }
}

/// The pictures of as many epochs as fit into `budget` bytes, the last one among them, evenly spread; and how many epochs
/// were left out.
fn embedded(folder: &RunFolder, budget: u64) -> Result<(Vec<Preview>, usize)> {
    let all: Vec<(u64, Vec<PathBuf>)> = pictures(folder)?.into_iter().collect();
    let bytes = |files: &[PathBuf]| -> u64 { files.iter().filter_map(|f| Some(f.metadata().ok()?.len())).sum() };
    let sizes: Vec<u64> = all.iter().map(|(_, files)| bytes(files)).collect();
    let fits = |stride: &usize| sizes.iter().rev().step_by(*stride).sum::<u64>() <= budget;
    let Some(stride) = (1..=all.len()).find(fits) else { return Ok((vec![], all.len())) };
    let mut previews = Vec::new();
    let kept = all.iter().rev().step_by(stride);
    let left_out = all.len() - kept.len();
    for (epoch, files) in kept.rev() {
        for file in files {
            let bytes = std::fs::read(file).map_err(|e| Error::io(file, "cannot read", &e))?;
            previews.push(preview(*epoch, file, format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))));
        }
    }
    Ok((previews, left_out))
}

/// The pictures of the run in place `place`, by their addresses.
fn served(folder: &RunFolder, place: usize) -> Result<Vec<Preview>> {
    let epochs = pictures(folder)?;
    let all = epochs.iter().flat_map(|(epoch, files)| files.iter().enumerate().map(move |(i, file)| (*epoch, i, file)));
    Ok(all.map(|(epoch, i, file)| preview(epoch, file, format!("preview/{place}/{epoch}/{i}"))).collect())
}

/// The file of a served picture.
///
/// # Errors
/// As reading the folder gives them.
pub fn preview_file(folder: &RunFolder, epoch: u64, place: usize) -> Result<Option<PathBuf>> {
    Ok(pictures(folder)?.remove(&epoch).and_then(|files| files.into_iter().nth(place)))
}

/// config.yaml by the paths of its keys.
fn configuration(folder: &RunFolder) -> Result<Map<String, Value>> {
    let path = folder.path("config.yaml");
    if !path.exists() {
        let remedy = "name a folder in runs/";
        return Err(Error::failed(folder.root().display(), "is not a run: it has no config.yaml", remedy));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "cannot read", &e))?;
    flattened(&text, &path.display().to_string())
}

/// A YAML text by the paths of its keys.
fn flattened(yaml: &str, what: &str) -> Result<Map<String, Value>> {
    fn walk(path: &str, value: Value, into: &mut Map<String, Value>) {
        match value {
            Value::Object(map) if !map.is_empty() || path.is_empty() => {
                for (key, value) in map {
                    walk(&if path.is_empty() { key } else { format!("{path}.{key}") }, value, into);
                }
            }
            Value::Null if path.is_empty() => {}
            value => drop(into.insert(path.to_string(), value)),
        }
    }
    let value = serde_yaml::from_str(yaml).map_err(|e| {
        Error::failed(what, format_args!("is damaged: {e}"), "restore the file, or train the run again")
    })?;
    let mut keys = Map::new();
    walk("", value, &mut keys);
    Ok(keys)
}

/// Every key with its value in each of the configurations, of which the first holds the defaults.
fn settings(configurations: &[Map<String, Value>]) -> Vec<Setting> {
    let mut keys: Vec<&String> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for key in configurations.iter().flat_map(|configuration| configuration.keys()) {
        if seen.insert(key) {
            keys.push(key);
        }
    }
    let value = |configuration: &Map<String, Value>, key: &str| configuration.get(key).cloned().unwrap_or_default();
    let Some((defaults, runs)) = configurations.split_first() else { return vec![] };
    let setting = |key: &String| Setting {
        key: key.clone(),
        default: value(defaults, key),
        values: runs.iter().map(|run| value(run, key)).collect(),
    };
    keys.into_iter().map(setting).collect()
}

/// Writes the page of these runs to `out`, whole or not at all.
///
/// # Errors
/// Those of [`Page::gather`]; a disk that does not take the file.
pub fn write_report(folders: &[RunFolder], defaults: &str, out: &Path) -> Result<()> {
    let page = Page::gather(folders, defaults, Pictures::Embedded)?;
    storage::write_whole(out, super::html::render(&page, false)?.as_bytes())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ops::loss::{Counts, LossSettings};
    use crate::track::folder::{Expected, RESULT_VERSION};
    use crate::train::evaluate::RunResult;
    use crate::train::metrics::Evaluation;
    use serde_json::json;

    /// An evaluation of so many hits, with a history of three frames and one sequence.
    fn evaluation(tp: u64) -> Evaluation {
        let mut evaluation = Evaluation::default();
        evaluation.totals.counts = Counts { tp, fp: 1, fn_: 2, tn: 10 };
        evaluation.totals.samples = 4;
        evaluation.histogram.positive[1000] = tp;
        evaluation.histogram.positive[10] = 2;
        evaluation.histogram.negative[900] = 1;
        evaluation.histogram.negative[5] = 10;
        evaluation.by_history.insert(3, evaluation.totals);
        evaluation.by_sequence.insert("sequence_007".into(), evaluation.totals);
        evaluation
    }

    fn lines<T: Serialize>(folder: &RunFolder, file: &str, values: &[T]) {
        let text: String = values.iter().map(|value| serde_json::to_string(value).unwrap() + "\n").collect();
        std::fs::write(folder.path(file), text).unwrap();
    }

    /// A run of three steps and two epochs, which has not finished.
    pub fn run(runs: &Path, name: &str) -> RunFolder {
        let root = runs.join(name);
        std::fs::create_dir_all(&root).unwrap();
        let folder = RunFolder::open(&root).unwrap();
        std::fs::write(folder.path("config.yaml"), "train: {epochs: 2, lr: 0.1}\nmodel: {a: [1, 2]}\n").unwrap();
        lines(
            &folder,
            "metrics.jsonl",
            &[
                json!({"step": 1, "epoch": 0, "train/loss_step": 0.1234567890123456}),
                json!({"step": 2, "epoch": 0, "train/loss_epoch": 0.3, "val/f1_epoch": 0.7234567890123}),
                json!({"step": 3, "epoch": 1, "train/loss_step": null}),
                json!({"step": 4, "epoch": 1, "train/loss_epoch": 0.2, "val/f1_epoch": 0.75, "val/new_epoch": 1.0}),
            ],
        );
        let line = |epoch, tp| Evaluated { part: "val".into(), epoch, evaluation: evaluation(tp) };
        lines(&folder, EVALUATIONS, &[line(Some(0), 5), line(Some(1), 6)]);
        let time = |epoch, train_seconds| Timing::Epoch(EpochTime { epoch, train_seconds, ..EpochTime::default() });
        lines(&folder, TIMING, &[time(0, 1.0), time(1, 2.0), time(1, 3.0)]);
        for epoch in [1, 2, 12] {
            let previews = folder.path(PREVIEWS).join(format!("epoch_{epoch:03}"));
            std::fs::create_dir_all(&previews).unwrap();
            std::fs::write(previews.join("sequence_007_frame_002.png"), vec![epoch; 100]).unwrap();
        }
        folder
    }

    /// The same, finished with so many hits on its test sequences.
    pub fn finished_run(runs: &Path, name: &str, tp: u64) -> RunFolder {
        let folder = run(runs, name);
        let test = Evaluated { part: "test".into(), epoch: None, evaluation: evaluation(tp) };
        let text = std::fs::read_to_string(folder.path(EVALUATIONS)).unwrap();
        std::fs::write(folder.path(EVALUATIONS), text + &serde_json::to_string(&test).unwrap() + "\n").unwrap();
        let summary = Summary::new(&test.evaluation, 0.5, 0.25);
        let result = FinishedRun {
            format_version: RESULT_VERSION,
            name: name.into(),
            device: "cpu".into(),
            parameters: 7,
            loss: LossSettings::FOCAL_TVERSKY,
            expected: Expected::default(),
            result: RunResult {
                split: "test".into(),
                steps: 4,
                epochs: 2,
                stopped_early: false,
                best_epoch: Some(1),
                monitor: "val/f1_epoch".into(),
                best_value: Some(0.75),
                validation: summary,
                test: summary,
            },
        };
        std::fs::write(folder.path("result.json"), serde_json::to_string(&result).unwrap()).unwrap();
        folder
    }

    fn gather(folders: &[RunFolder]) -> Page {
        Page::gather(folders, "train: {epochs: 20, lr: 0.1}\n", Pictures::Embedded).unwrap()
    }

    #[test]
    fn numbers_are_those_of_the_files() {
        let runs = tempfile::tempdir().unwrap();
        let page = gather(&[run(runs.path(), "a")]);
        let run = &page.runs[0];
        assert_eq!((run.state, page.winner, page.reason.as_deref()), (State::Unfinished, None, None));
        assert_eq!(
            Value::Object(run.steps.clone()),
            json!({
                "step": [1, 3], "epoch": [0, 1], "train/loss_step": [0.1234567890123456, null]
            })
        );
        assert_eq!(run.epochs["val/f1_epoch"], json!([0.7234567890123, 0.75]));
        assert_eq!(run.epochs["val/new_epoch"], json!([null, 1.0]));
        // The last validation, with its own best threshold.
        let shown = run.evaluation.as_ref().unwrap();
        assert_eq!((shown.part.as_str(), shown.epoch, shown.summary.at_threshold.counts.tp), ("val", Some(1), 6));
        assert_eq!(shown.summary.at_best.scores.f1, 16.0 / 17.0);
        assert_eq!(shown.curve.first().unwrap()[1..], [1.0, 0.75]);
        assert_eq!((shown.curve.last().unwrap()[2], shown.by_history[0].0), (1.0, 3));
        assert_eq!(shown.by_sequence[0].1.scores.f1, 12.0 / 15.0);
        // Of an epoch that was done twice, the time that counts.
        assert_eq!(run.times.iter().map(|time| time.train_seconds).collect::<Vec<_>>(), [1.0, 3.0]);
        let epochs = page.configuration.iter().find(|setting| setting.key == "train.epochs").unwrap();
        assert_eq!((&epochs.default, &epochs.values), (&json!(20), &vec![json!(2)]));
        assert_eq!(
            page.configuration.iter().find(|setting| setting.key == "model.a").unwrap().values[0],
            json!([1, 2])
        );
    }

    #[test]
    fn finished_runs_are_compared_and_others_are_named() {
        let runs = tempfile::tempdir().unwrap();
        let (worse, better) = (finished_run(runs.path(), "a", 5), finished_run(runs.path(), "b", 9));
        let page = gather(&[worse.clone(), better.clone(), run(runs.path(), "c")]);
        assert_eq!(page.winner, Some(1));
        assert!(page.reason.as_ref().unwrap().starts_with("F1 0.8571 against 0.7692"), "{:?}", page.reason);
        assert!(page.warnings.is_empty() && page.runs[2].result.is_none());
        assert_eq!(page.runs[1].evaluation.as_ref().unwrap().part, "test");
        assert_eq!(
            page.runs[1].evaluation.as_ref().unwrap().summary,
            page.runs[1].result.as_ref().unwrap().result.test
        );
        assert_eq!(
            gather(&[worse.clone(), run(runs.path(), "c")]).reason.unwrap(),
            "Fewer than two runs have finished"
        );
        // Runs of one name are told apart by their folders.
        let same = finished_run(&runs.path().join("more"), "a", 9);
        let page = gather(&[worse, same]);
        assert_eq!(page.winner, Some(1));
        assert!(page.runs[1].label.starts_with("a (") && page.runs[1].label.contains("more"));
    }

    #[test]
    fn a_run_that_is_being_written_is_running_and_its_old_result_does_not_count() {
        let runs = tempfile::tempdir().unwrap();
        let folder = finished_run(runs.path(), "a", 5);
        let log = File::create(folder.path("train.log")).unwrap();
        log.lock().unwrap();
        let page = gather(std::slice::from_ref(&folder));
        assert_eq!((page.runs[0].state, page.runs[0].result.is_none()), (State::Running, true));
        assert_eq!(page.runs[0].evaluation.as_ref().unwrap().epoch, Some(1));
        drop(log);
        assert_eq!(gather(&[folder]).runs[0].state, State::Finished);
    }

    #[test]
    fn pictures_are_in_order_and_their_size_is_bounded() {
        let runs = tempfile::tempdir().unwrap();
        let folder = run(runs.path(), "a");
        let epochs = |budget| {
            let (previews, left_out) = embedded(&folder, budget).unwrap();
            (previews.iter().map(|preview| preview.epoch).collect::<Vec<_>>(), left_out)
        };
        assert_eq!(epochs(300), (vec![1, 2, 12], 0));
        assert_eq!(epochs(299), (vec![1, 12], 1));
        assert_eq!(epochs(199), (vec![12], 2));
        assert_eq!(epochs(99), (vec![], 3));
        let (previews, _) = embedded(&folder, 300).unwrap();
        assert_eq!(previews[0].sample, "sequence_007, frame 2");
        assert_eq!(previews[0].source, format!("data:image/png;base64,{}", BASE64_STANDARD.encode([1; 100])));
        assert_eq!(served(&folder, 3).unwrap()[2].source, "preview/3/12/0");
        let file = |epoch, place| preview_file(&folder, epoch, place).unwrap();
        assert_eq!(std::fs::read(file(12, 0).unwrap()).unwrap(), [12; 100]);
        assert_eq!((file(12, 1), file(3, 0)), (None, None));
    }

    #[test]
    fn many_steps_are_thinned_and_the_last_one_stays() {
        let rows: Vec<Metrics> = (1..=2500).map(|step| Metrics::from_iter([("step".into(), step.into())])).collect();
        let columns = columns(&rows);
        let steps = columns["step"].as_array().unwrap();
        assert_eq!((steps.len(), &steps[0], steps.last().unwrap()), (834, &json!(1), &json!(2500)));
    }

    #[test]
    fn a_damaged_run_is_named() {
        let runs = tempfile::tempdir().unwrap();
        let folder = run(runs.path(), "a");
        let error = || Page::gather(std::slice::from_ref(&folder), "", Pictures::Embedded).unwrap_err().to_string();
        std::fs::write(folder.path("metrics.jsonl"), "{\"step\": 1}\n[]\n").unwrap();
        assert!(error().contains("metrics.jsonl: line 2 is damaged"), "{}", error());
        std::fs::write(folder.path("config.yaml"), "a: [").unwrap();
        assert!(error().contains("config.yaml: is damaged"), "{}", error());
        std::fs::remove_file(folder.path("config.yaml")).unwrap();
        assert!(error().contains("is not a run"), "{}", error());
    }
}
