//! A run's folder: `config.yaml`, `split.json`, `metrics.jsonl` (one JSON object a line, the source of truth),
//! `evaluations.jsonl` (counts and histograms of each evaluation), `timing.jsonl` (times and machines), `train.log`,
//! `result.json`, `report.html`, `previews/epoch_NNN/` and `checkpoints/`.

use crate::ops::loss::LossSettings;
use crate::storage::write_whole;
use crate::train::evaluate::RunResult;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Folder of the pictures of predictions, one folder an epoch (from 1) with one PNG a sample.
pub const PREVIEWS: &str = "previews";

/// The folder of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
    name: String,
}

impl RunFolder {
    /// The folder of the run `name` in `runs_dir`; nothing is written yet.
    ///
    /// # Errors
    /// A name that cannot be a folder's; a run that is there already where it is not to be resumed; one that is not
    /// there where it is.
    pub fn new(runs_dir: &Path, name: &str, resume: bool) -> Result<Self> {
        let clean = !name.is_empty()
            && !name.starts_with('.')
            && !name.contains(|c: char| c.is_control() || "/\\:*?\"<>|".contains(c));
        if !clean {
            let remedy = "give a name of letters, digits, - and _ with --name";
            return Err(Error::usage("run name", format_args!("{name:?} cannot be a folder's name"), remedy));
        }
        let folder = Self { path: runs_dir.join(name), name: name.to_string() };
        match (folder.path.join("config.yaml").exists(), resume) {
            (true, false) => Err(Error::usage(
                folder.path.display(),
                "a run of this name is there already",
                "add --resume to go on with it, or choose another name with --name",
            )),
            (false, true) => Err(Error::usage(
                folder.path.display(),
                "there is no run of this name to resume",
                "check --name and --runs-dir, or leave out --resume",
            )),
            _ => Ok(folder),
        }
    }

    /// The folder of a run that is there.
    ///
    /// # Errors
    /// No such folder.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = path.canonicalize().map_err(|e| Error::io(path, "cannot open the run", &e))?;
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { path: path.to_path_buf(), name })
    }

    /// Creates the folder with its configuration and split. Those of a resumed run stay as they are.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(&self, config: &str, split: &str) -> Result<()> {
        if !self.path("config.yaml").exists() {
            write_whole(&self.path("split.json"), split.as_bytes())?;
            // Last, because it marks the run as begun.
            write_whole(&self.path("config.yaml"), config.as_bytes())?;
        }
        Ok(())
    }

    /// The run's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// A file of the folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }
}

/// The name from a template such as `{config}-{model.loss.type}-{global.seed}`: each `{key}` is replaced by what `lookup`
/// knows of it, one that it does not know by its own name (templates of other programs have keys of their own), and what
/// cannot be in a folder's name becomes `-`.
///
/// # Errors
/// A brace without its partner.
pub fn expand_name(template: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String> {
    let wrong = |problem: String| {
        let remedy = "write keys of the configuration in braces, as in {config}-{model.loss.type}-{global.seed}";
        Error::usage("wandb.run_name_template", problem, remedy)
    };
    let mut name = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (key, after) = after.split_once('}').ok_or_else(|| wrong(format!("{template:?} lacks a }}")))?;
        name += before;
        name += &lookup(key).unwrap_or_else(|| key.to_string());
        rest = after;
    }
    name += rest;
    Ok(name.replace(|c: char| c.is_control() || c.is_whitespace() || "/\\:*?\"<>|{}".contains(c), "-"))
}

/// What the configuration expects of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Precision.
    pub precision: Option<f64>,
    /// Recall.
    pub recall: Option<f64>,
    /// F1.
    pub f1: Option<f64>,
    /// Intersection over union.
    pub iou: Option<f64>,
    /// Average precision.
    pub average_precision: Option<f64>,
}

/// result.json: a finished run in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedRun {
    /// Version of this file's format.
    pub format_version: u64,
    /// The run's name.
    pub name: String,
    /// What it ran on.
    pub device: String,
    /// Trainable parameters.
    pub parameters: u64,
    /// Its loss.
    pub loss: LossSettings,
    /// What its configuration expects.
    pub expected: Expected,
    /// What came out.
    pub result: RunResult,
}

/// The version of result.json that this program writes and reads.
pub const RESULT_VERSION: u64 = 1;

impl FinishedRun {
    /// Reads result.json from a run's folder.
    ///
    /// # Errors
    /// No such folder, a run that has not finished, a file that is damaged or of another version.
    pub fn read(folder: &RunFolder) -> Result<Self> {
        let path = folder.path("result.json");
        if !path.exists() {
            let begun = folder.path("config.yaml").exists();
            return Err(if begun {
                Error::failed(
                    folder.root().display(),
                    "the run has not finished: there is no result.json",
                    "finish it with `emberformer train ... --resume`",
                )
            } else {
                Error::failed(folder.root().display(), "is not a run: it has no config.yaml", "name a folder in runs/")
            });
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "cannot read", &e))?;
        let broken = |e: serde_json::Error| {
            let remedy = "run `emberformer train ... --resume` to write it again";
            Error::failed(path.display(), format_args!("is damaged: {e}"), remedy)
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(broken)?;
        match value.get("format_version").and_then(|v| v.as_u64()) {
            Some(RESULT_VERSION) | None => serde_json::from_value(value).map_err(broken),
            Some(other) => Err(Error::failed(
                path.display(),
                format_args!("has format {other}, this program reads {RESULT_VERSION}"),
                "use the release of emberformer that wrote it",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_not_overwritten() {
        let runs = tempfile::tempdir().unwrap();
        let run = RunFolder::new(runs.path(), "a", false).unwrap();
        assert!(!run.root().exists(), "nothing is written before the run begins");
        assert!(RunFolder::new(runs.path(), "a", true).unwrap_err().to_string().contains("no run of this name"));
        run.create("a: 1\n", "{}").unwrap();
        let error = RunFolder::new(runs.path(), "a", false).unwrap_err();
        assert!(error.to_string().contains("--resume") && error.to_string().contains("--name"), "{error}");
        assert_eq!(error.exit_code(), 2);
        let again = RunFolder::new(runs.path(), "a", true).unwrap();
        again.create("a: 2\n", "{}").unwrap();
        assert_eq!(std::fs::read_to_string(again.path("config.yaml")).unwrap(), "a: 1\n");
        for name in ["", ".", "..", "a/b", "a\nb", ".hidden"] {
            assert!(RunFolder::new(runs.path(), name, false).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_come_from_templates() {
        let lookup = |key: &str| match key {
            "config" => Some("quick".to_string()),
            "global.seed" => Some("42".to_string()),
            _ => None,
        };
        assert_eq!(expand_name("{config}-s{global.seed}", lookup).unwrap(), "quick-s42");
        assert_eq!(expand_name("a b/{config}", lookup).unwrap(), "a-b-quick");
        assert_eq!(expand_name("{config}_{date}", lookup).unwrap(), "quick_date");
        assert!(expand_name("{config", lookup).unwrap_err().to_string().contains("lacks a }"));
    }

    #[test]
    fn a_run_without_result_says_what_to_do() {
        let runs = tempfile::tempdir().unwrap();
        let run = RunFolder::new(runs.path(), "a", false).unwrap();
        assert!(RunFolder::open(run.root()).unwrap_err().to_string().contains("cannot open the run"));
        std::fs::create_dir(run.root()).unwrap();
        let read = || FinishedRun::read(&RunFolder::open(run.root()).unwrap()).unwrap_err().to_string();
        assert!(read().contains("is not a run"));
        run.create("a: 1\n", "{}").unwrap();
        assert!(read().contains("has not finished"));
        std::fs::write(run.path("result.json"), "{\"format_version\": 9}").unwrap();
        assert!(read().contains("has format 9, this program reads 1"));
        std::fs::write(run.path("result.json"), "{").unwrap();
        assert!(read().contains("is damaged"));
    }
}
