//! Folders, frames and windows, by number.

use super::{WINDOW_PIXELS, read_text};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A sequence's folder and its images.
pub struct Listed {
    pub number: u64,
    pub id: String,
    pub frames: Vec<PathBuf>,
    pub isochrones: Vec<PathBuf>,
}

/// All sequences by number, each with as many isochrones as frames.
pub fn sequences(root: &Path) -> Result<Vec<Listed>> {
    let (frames, isochrones) = (root.join("fire_frames"), root.join("isochrones"));
    let fires = numbered(&frames, |path| path.is_dir().then(|| name(path)))?;
    let mut truths = numbered(&isochrones, |path| path.is_dir().then(|| name(path)))?;
    if fires.is_empty() {
        return Err(Error::failed(
            frames.display(),
            "empty: no folder of a sequence",
            "put the frames of each sequence into a folder such as sequence_001",
        ));
    }
    let mut listed = Vec::with_capacity(fires.len());
    for (number, folder) in fires {
        let id = name(&folder);
        let truth = truths.remove(&number).ok_or_else(|| {
            let remedy = format!("add the isochrones of {id}, or remove its frames");
            Error::failed(isochrones.display(), format_args!("no folder for {id}"), remedy)
        })?;
        let (frames, isochrones) = (images(&folder)?, images(&truth)?);
        if frames.len() != isochrones.len() {
            return Err(Error::failed(
                folder.display(),
                format_args!(
                    "frame counts differ: {} fire frames, {} isochrones in {}",
                    frames.len(),
                    isochrones.len(),
                    truth.display()
                ),
                "each frame needs its isochrone",
            ));
        }
        listed.push(Listed { number, id, frames, isochrones });
    }
    if let Some(folder) = truths.values().next() {
        let id = name(folder);
        let remedy = format!("add the frames of {id}, or remove its isochrones");
        return Err(Error::failed(frames.display(), format_args!("no folder for {id}"), remedy));
    }
    Ok(listed)
}

/// The windows of indices.json by sequence number: y0, y1, x0, x1.
pub fn windows(path: &Path) -> Result<BTreeMap<u64, [usize; 4]>> {
    let refused = |problem: String| {
        Error::failed(path.display(), problem, "give each sequence's window as \"1\": [y0, y1, x0, x1]")
    };
    let entries: BTreeMap<String, [i64; 4]> =
        serde_json::from_slice(&read_text(path)?).map_err(|e| refused(format!("not the expected JSON: {e}")))?;
    let mut windows = BTreeMap::new();
    for (key, corners) in entries {
        let number = number(&key).ok_or_else(|| refused(format!("the key {key:?} is not a sequence's number")))?;
        let window = corners.map(|c| usize::try_from(c).ok());
        let [Some(y0), Some(y1), Some(x0), Some(x1)] = window else {
            return Err(refused(format!("the window {corners:?} of {key:?} has a negative corner")));
        };
        if y0 >= y1 || x0 >= x1 {
            return Err(refused(format!("the window {corners:?} of {key:?} is empty")));
        }
        if (y1 - y0).checked_mul(x1 - x0).is_none_or(|pixels| pixels > WINDOW_PIXELS) {
            return Err(refused(format!("the window {corners:?} of {key:?} has more than {WINDOW_PIXELS} pixels")));
        }
        if windows.insert(number, [y0, y1, x0, x1]).is_some() {
            return Err(refused(format!("two windows for sequence {number}")));
        }
    }
    Ok(windows)
}

/// A sequence's PNGs in order. Their numbers must run in even steps: a gap would shift frames against the weather.
fn images(folder: &Path) -> Result<Vec<PathBuf>> {
    let png = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    let found = numbered(folder, |path| {
        (png(path) && !path.is_dir()).then(|| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
    })?;
    if found.is_empty() {
        return Err(Error::failed(
            folder.display(),
            "empty: no PNG",
            "add the sequence's frames, or remove the folder",
        ));
    }
    let numbers: Vec<u64> = found.keys().copied().collect();
    let step = numbers.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(1);
    if let Some(pair) = numbers.windows(2).find(|pair| pair[1] - pair[0] != step) {
        return Err(Error::failed(
            folder.display(),
            format_args!("frame {} is missing: frame {} follows {}", pair[0] + step, pair[1], pair[0]),
            "restore the frame, or number the frames without a gap",
        ));
    }
    Ok(found.into_values().collect())
}

/// A folder's entries by the number at the end of the label that `label` gives them; entries without label or number
/// are not ours.
fn numbered(folder: &Path, label: impl Fn(&Path) -> Option<String>) -> Result<BTreeMap<u64, PathBuf>> {
    let unreadable = |e| Error::io(folder, "cannot read", &e);
    let mut found: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(number) = label(&path).filter(|l| !l.starts_with('.')).and_then(|l| number(&l)) else { continue };
        if let Some(other) = found.insert(number, path.clone()) {
            let (first, second) = if other < path { (other, path) } else { (path, other) };
            return Err(Error::failed(
                folder.display(),
                format_args!("{} and {} have the same number", name(&first), name(&second)),
                "remove one of them",
            ));
        }
    }
    Ok(found)
}

/// The number that a label ends with.
fn number(label: &str) -> Option<u64> {
    let digits = label.len() - label.bytes().rev().take_while(u8::is_ascii_digit).count();
    label.get(digits..)?.parse().ok()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_a_label_however_padded() {
        assert_eq!(number("sequence_007"), Some(7));
        assert_eq!(number("fire_0010"), Some(10));
        assert_eq!(number("12"), Some(12));
        assert_eq!(number("notes"), None);
        assert_eq!(number("sequence_99999999999999999999"), None);
        assert_eq!(number("séquence_é"), None);
    }
}
