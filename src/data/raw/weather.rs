//! Wind by step, from the CSV files.

use super::read_text;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Minimum and maximum over all weather files, in the files' units.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct WindRange {
    /// Of WS.
    pub speed: [f32; 2],
    /// Of WD, degrees.
    pub direction: [f32; 2],
}

impl WindRange {
    /// Wind scaled to [0, 1]; 0 where all files have one value.
    pub fn scale(&self, [speed, direction]: [f32; 2]) -> [f32; 2] {
        let scaled = |value: f32, [low, high]: [f32; 2]| if high > low { (value - low) / (high - low) } else { 0.0 };
        [scaled(speed, self.speed), scaled(direction, self.direction)]
    }
}

/// The weather files and which sequence has which.
#[derive(Debug, Clone)]
pub struct Weather {
    folder: PathBuf,
    history_path: PathBuf,
    /// Row i belongs to sequence i + 1.
    history: Vec<String>,
    /// WS and WD by step.
    files: BTreeMap<String, Vec<[f32; 2]>>,
    range: WindRange,
}

impl Weather {
    /// Reads every file of `landscape/Weathers/`, and `landscape/WeatherHistory.csv`.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let folder = root.join("landscape/Weathers");
        let history_path = root.join("landscape/WeatherHistory.csv");
        let unreadable = |e| Error::io(&folder, "cannot read", &e);
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv")) && path.is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                files.insert(name, wind(&path)?);
            }
        }
        let all = || files.values().flatten();
        if all().next().is_none() {
            return Err(Error::failed(
                folder.display(),
                "empty: no weather",
                "add the CSV files that WeatherHistory.csv names",
            ));
        }
        let range = |column: usize| {
            all().fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], row| {
                [low.min(row[column]), high.max(row[column])]
            })
        };
        let range = WindRange { speed: range(0), direction: range(1) };
        let history = history(&history_path)?;
        Ok(Self { folder, history_path, history, files, range })
    }

    /// Minimum and maximum over all files.
    pub fn range(&self) -> WindRange {
        self.range
    }

    /// WS and WD by step of the file `name`, in the file's units.
    pub fn wind(&self, name: &str) -> &[[f32; 2]] {
        self.files.get(name).map_or(&[], Vec::as_slice)
    }

    /// Names of the files in order.
    pub(super) fn file_names(&self) -> impl Iterator<Item = &String> {
        self.files.keys()
    }

    /// The weather file of sequence `number`, which must cover `frames` steps.
    pub(super) fn of_sequence(&self, number: u64, id: &str, frames: usize) -> Result<String> {
        let row = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
        let name = row.and_then(|row| self.history.get(row)).ok_or_else(|| {
            Error::failed(
                self.history_path.display(),
                format_args!("{} rows, none for {id}", self.history.len()),
                format_args!("row {number} must name the weather file of {id}"),
            )
        })?;
        let named = format_args!("line {number} names {name:?} for {id}").to_string();
        let path = Path::new(name);
        if path.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(Error::failed(
                self.history_path.display(),
                format_args!("{named}, which leaves the folder Weathers"),
                "name a file inside landscape/Weathers",
            ));
        }
        let rows = self.files.get(name).ok_or_else(|| {
            let remedy = format!("add it to {}, or name another", self.folder.display());
            Error::failed(self.history_path.display(), format_args!("{named}, which does not exist"), remedy)
        })?;
        if rows.len() < frames {
            return Err(Error::failed(
                self.folder.join(name).display(),
                format_args!("{} rows of weather, but {id} has {frames} frames", rows.len()),
                "give a row a frame",
            ));
        }
        Ok(name.clone())
    }
}

/// The file names of WeatherHistory.csv: what follows "Weathers/".
fn history(path: &Path) -> Result<Vec<String>> {
    let bytes = read_text(path)?;
    let mut names = Vec::new();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&bytes[..]);
    for record in reader.records() {
        let record =
            record.map_err(|e| Error::failed(path.display(), format_args!("not CSV: {e}"), "check the file"))?;
        let fields: Vec<String> = record.iter().map(|field| field.trim().replace('\\', "/")).collect();
        let named = fields.iter().find_map(|field| field.split_once("Weathers/").map(|(_, name)| name.to_string()));
        names.push(named.or_else(|| fields.into_iter().next()).unwrap_or_default());
    }
    Ok(names)
}

/// No wind has a larger speed or direction, in whatever unit.
const LARGEST: f32 = 1e9;

/// WS and WD of every row of a weather file.
fn wind(path: &Path) -> Result<Vec<[f32; 2]>> {
    let bytes = read_text(path)?;
    let broken = |e: csv::Error| Error::failed(path.display(), format_args!("not CSV: {e}"), "check the file");
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(&bytes[..]);
    let header = reader.headers().map_err(broken)?.clone();
    let column = |name: &str| {
        header.iter().position(|h| h == name).ok_or_else(|| {
            let columns = header.iter().collect::<Vec<_>>().join(", ");
            Error::failed(
                path.display(),
                format_args!("no column {name}; it has {columns}"),
                "the first row must name the columns WS (wind speed) and WD (wind direction)",
            )
        })
    };
    let columns = [column("WS")?, column("WD")?];
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let line = record.position().map_or(0, |p| p.line());
        let mut row = [0.0; 2];
        for (value, (column, name)) in row.iter_mut().zip(columns.iter().zip(["WS", "WD"])) {
            let text = record.get(*column).unwrap_or_default();
            // The range of larger numbers would not be finite.
            *value = text.parse::<f32>().ok().filter(|v| v.abs() <= LARGEST).ok_or_else(|| {
                let problem = if text.parse::<f32>().is_ok_and(f32::is_finite) {
                    "impossibly large"
                } else {
                    "not a finite number"
                };
                Error::failed(
                    path.display(),
                    format_args!("line {line}: {name} is {text:?}, {problem}"),
                    "give a number",
                )
            })?;
        }
        rows.push(row);
    }
    Ok(rows)
}
