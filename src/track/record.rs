//! The records beside metrics.jsonl: `evaluations.jsonl`, whose lines are as reproducible, and `timing.jsonl`, which holds
//! all that depends on the clock and the machine.

use crate::track::folder::RunFolder;
use crate::track::machine::Machine;
use crate::train::metrics::Evaluation;
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// File of the lines of [`Evaluated`].
pub const EVALUATIONS: &str = "evaluations.jsonl";
/// File of the lines of [`Timing`].
pub const TIMING: &str = "timing.jsonl";

/// A line of evaluations.jsonl: counts and histograms, from which every score and curve can be computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The part of the split.
    pub part: String,
    /// The epoch after which it was made, from 0; none for the best weights at the end of the run.
    pub epoch: Option<u64>,
    /// What came out.
    pub evaluation: Evaluation,
}

/// A line of timing.jsonl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// A process began the run or went on with it.
    Start(Box<Started>),
    /// It finished an epoch.
    Epoch(EpochTime),
    /// It evaluated the best weights.
    Evaluated {
        /// The part of the split.
        part: String,
        /// What it took.
        seconds: f64,
        /// Samples evaluated.
        samples: u64,
    },
}

/// Where and with what a process trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Seconds since 1970.
    pub time: u64,
    /// Steps that were done before.
    pub step: u64,
    /// Version of this program.
    pub version: String,
    /// What the network runs on.
    pub device: String,
    /// What it computes in.
    pub compute: String,
    /// Trainable parameters.
    pub parameters: u64,
    /// The machine.
    pub machine: Machine,
}

/// What an epoch took. Of an epoch that was interrupted: since the run went on with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochTime {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Time of the steps.
    pub train_seconds: f64,
    /// Samples that they saw.
    pub train_samples: u64,
    /// Time of the validation.
    pub validation_seconds: f64,
    /// Samples that it saw.
    pub validation_samples: u64,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The lines of a record; none where the run has no such file. A last line that is still being written is left out.
///
/// # Errors
/// A file that cannot be read; a line that is not what it should be, by its number.
pub fn read<T: DeserializeOwned>(folder: &RunFolder, file: &str) -> Result<Vec<T>> {
    let path = folder.path(file);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io(&path, "cannot read", &e)),
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            let remedy = "restore the file, or train the run again";
            Error::failed(path.display(), format_args!("line {} is damaged: {e}", i + 1), remedy)
        })
    };
    whole.lines().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_being_written_is_left_out_and_a_damaged_one_is_named() {
        let runs = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(runs.path(), "a", false).unwrap();
        assert!(read::<Timing>(&folder, TIMING).unwrap().is_empty());
        folder.create("a: 1\n", "{}").unwrap();
        let line = |epoch| {
            let time = Timing::Epoch(EpochTime { epoch, ..EpochTime::default() });
            serde_json::to_string(&time).unwrap()
        };
        std::fs::write(folder.path(TIMING), format!("{}\n{}\n{}", line(0), line(1), &line(2)[..9])).unwrap();
        let lines = read::<Timing>(&folder, TIMING).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], Timing::Epoch(EpochTime { epoch: 1, ..EpochTime::default() }));
        std::fs::write(folder.path(TIMING), format!("{}\n{{}}\n{}\n", line(0), line(1))).unwrap();
        let error = read::<Timing>(&folder, TIMING).unwrap_err().to_string();
        assert!(error.contains("timing.jsonl") && error.contains("line 2 is damaged"), "{error}");
    }

    #[test]
    fn an_evaluation_survives_its_line() {
        let mut evaluation = Evaluation::default();
        evaluation.histogram.positive[1023] = 7;
        evaluation.by_history.entry(3).or_default().counts.tp = 5;
        evaluation.by_sequence.entry("sequence_007".into()).or_default().samples = 2;
        let line = Evaluated { part: "test".into(), epoch: None, evaluation };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Evaluated>(&text).unwrap(), line);
    }
}
