//! Train, validation and test sequences.

use super::shuffle::{generator, shuffle};
use crate::storage::write_whole;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Which sequences train, validate and test: folder names such as `sequence_007`, each in one part at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The seed that it was drawn with (0 where a given file names none).
    #[serde(default)]
    pub seed: u64,
    /// Sequences that the network learns from.
    pub train: Vec<String>,
    /// Sequences that choose the best checkpoint.
    pub val: Vec<String>,
    /// Sequences that are seen only by the final evaluation.
    pub test: Vec<String>,
}

impl Split {
    /// Shuffles `ids` (sorted by number, as the store gives them) with the seed; the first ⌊train·n⌋ train, the next
    /// ⌊val·n⌋ validate, the rest test. Each part keeps the order of `ids`.
    ///
    /// # Errors
    /// Fractions outside [0, 1] or above 1 in sum; a part that should have sequences and gets none.
    pub fn draw(ids: &[String], train: f64, val: f64, seed: u64) -> Result<Split> {
        if !((0.0..=1.0).contains(&train) && (0.0..=1.0).contains(&val) && train + val <= 1.0 + ROUNDING) {
            return Err(Error::usage(
                "split",
                format_args!("train {train} and val {val} are no fractions of one whole"),
                "give fractions from 0 to 1 whose sum is 1 at most, as 0.8 and 0.1",
            ));
        }
        let [n_train, n_val, n_test] = sizes(ids.len(), train, val);
        let wanted = [train > 0.0, val > 0.0, train + val < 1.0 - ROUNDING];
        let enough = |parts: [usize; 3]| parts.iter().zip(wanted).all(|(&n, wanted)| n > 0 || !wanted);
        if !enough([n_train, n_val, n_test]) {
            let remedy = match (1..10_000).find(|&n| enough(sizes(n, train, val))) {
                Some(n) => format!("give {n} sequences or more, or other fractions in split.train and split.val"),
                None => "give larger fractions in split.train and split.val".to_owned(),
            };
            let n = ids.len();
            let problem =
                format!("{n} sequences give {n_train} for training, {n_val} for validation, {n_test} for test");
            return Err(Error::failed("split", problem, remedy));
        }
        let mut order: Vec<usize> = (0..ids.len()).collect();
        shuffle(&mut order, &mut generator([seed, 0, 0, u64::from_le_bytes(*b"split   ")]));
        let part = |from: usize, count: usize| {
            let mut part = order[from..from + count].to_vec();
            part.sort_unstable();
            part.into_iter().map(|i| ids[i].clone()).collect()
        };
        Ok(Split { seed, train: part(0, n_train), val: part(n_train, n_val), test: part(n_train + n_val, n_test) })
    }

    /// Reads a split file, JSON `{"seed": 42, "train": ["sequence_007", ...], "val": [...], "test": [...]}`; other keys
    /// are ignored, and sequences that it does not name are left out of the run.
    ///
    /// # Errors
    /// A file that cannot be read or is no such JSON, names a sequence that is not in `ids`, names one twice, or has
    /// none for training or validation.
    pub fn read(path: &Path, ids: &[String]) -> Result<Split> {
        let subject = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read", &e))?;
        let split: Split = serde_json::from_str(&text).map_err(|e| {
            let remedy = r#"write {"seed": 42, "train": ["sequence_001", ...], "val": [...], "test": [...]}"#;
            Error::failed(&subject, format_args!("is no split file: {e}"), remedy)
        })?;
        let known: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let mut part_of = HashMap::new();
        for (part, names) in split.parts() {
            for name in names {
                if !known.contains(name.as_str()) {
                    return Err(Error::failed(
                        &subject,
                        format_args!(
                            "{part} names {name}, which is not among the {} sequences of the data set",
                            ids.len()
                        ),
                        "correct the name, or use the data set (and data.max_sequences) that the split was made for",
                    ));
                }
                if let Some(other) = part_of.insert(name, part) {
                    let problem = match other == part {
                        true => format!("{part} names {name} twice"),
                        false => format!("{name} is in {other} and in {part}"),
                    };
                    return Err(Error::failed(&subject, problem, "leave it in one part, once"));
                }
            }
            if names.is_empty() && part != "test" {
                return Err(Error::failed(&subject, format_args!("{part} is empty"), "name at least one sequence"));
            }
        }
        Ok(split)
    }

    /// Writes the split as [`Split::read`] reads it; the file appears whole or not at all.
    ///
    /// # Errors
    /// A folder that cannot be written, a full disk.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::failed(path.display(), e, "this is a defect; please report it"))?;
        write_whole(path, (text + "\n").as_bytes())
    }

    /// The three parts with their names.
    pub fn parts(&self) -> [(&'static str, &[String]); 3] {
        [("train", &self.train), ("val", &self.val), ("test", &self.test)]
    }
}

/// Forgiven when fractions are compared with a whole, and added before rounding down: 0.29·100 is 28.999999999999996.
const ROUNDING: f64 = 1e-9;

/// How many of `n` sequences train, validate and test.
fn sizes(n: usize, train: f64, val: f64) -> [usize; 3] {
    let part = |fraction: f64| (fraction * n as f64 + ROUNDING).floor() as usize;
    let n_train = part(train).min(n);
    let n_val = part(val).min(n - n_train);
    [n_train, n_val, n - n_train - n_val]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(n: usize) -> Vec<String> {
        (1..=n).map(|i| format!("sequence_{i:03}")).collect()
    }

    fn read(text: &str, n: usize) -> Result<Split> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("split.json");
        std::fs::write(&path, text).unwrap();
        Split::read(&path, &ids(n))
    }

    #[test]
    fn the_draw_of_a_seed_is_pinned() {
        let split = Split::draw(&ids(20), 0.8, 0.1, 42).unwrap();
        assert_eq!((split.seed, split.train.len()), (42, 16));
        assert_eq!(split.val, ["sequence_001", "sequence_017"]);
        assert_eq!(split.test, ["sequence_003", "sequence_013"]);
        assert_ne!(Split::draw(&ids(20), 0.8, 0.1, 43).unwrap().test, split.test);
    }

    #[test]
    fn sizes_round_down_and_the_rest_tests() {
        assert_eq!(sizes(120, 0.8, 0.1), [96, 12, 12]);
        assert_eq!(sizes(19, 0.8, 0.1), [15, 1, 3]);
        assert_eq!(sizes(100, 0.29, 0.57), [29, 57, 14]);
    }

    #[test]
    fn too_few_sequences_are_an_error_that_says_how_many_are_needed() {
        let error = Split::draw(&ids(9), 0.8, 0.1, 42).unwrap_err();
        assert_eq!(
            error.to_string(),
            "split: 9 sequences give 7 for training, 0 for validation, 2 for test; give 10 sequences or more, or other \
             fractions in split.train and split.val"
        );
        assert_eq!(error.exit_code(), 1);
        assert!(Split::draw(&ids(10), 0.8, 0.1, 42).is_ok());
        assert!(Split::draw(&[], 0.8, 0.1, 42).is_err());
        assert!(Split::draw(&ids(2), 0.5, 0.5, 42).unwrap().test.is_empty(), "no test set was asked for");
        assert_eq!(Split::draw(&ids(9), 0.8, 0.3, 42).unwrap_err().exit_code(), 2);
        assert_eq!(Split::draw(&ids(9), f64::NAN, 0.3, 42).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_split_file_may_hold_more_and_name_less() {
        let split = read(r#"{"train": ["sequence_002"], "note": 1, "val": ["sequence_001"], "test": []}"#, 3).unwrap();
        assert_eq!(
            split,
            Split { seed: 0, train: vec!["sequence_002".into()], val: vec!["sequence_001".into()], test: vec![] }
        );
    }

    #[test]
    fn wrong_split_files_name_file_and_sequence() {
        let cases = [
            (
                r#"{"train": ["sequence_009"], "val": [], "test": []}"#,
                "train names sequence_009, which is not among the 3",
            ),
            (
                r#"{"train": ["sequence_001"], "val": ["sequence_001"], "test": []}"#,
                "sequence_001 is in train and in val",
            ),
            (r#"{"train": ["sequence_001", "sequence_001"], "val": [], "test": []}"#, "train names sequence_001 twice"),
            (r#"{"train": ["sequence_001"], "val": [], "test": []}"#, "val is empty"),
            (r#"{"train": ["sequence_001"], "val": []}"#, "missing field `test`"),
            (r#"{"train": ["sequence_001""#, "is no split file: EOF"),
            ("", "is no split file"),
        ];
        for (text, expected) in cases {
            let message = read(text, 3).unwrap_err().to_string();
            assert!(message.contains("split.json: ") && message.contains(expected), "{text} gave: {message}");
        }
        assert!(
            Split::read(Path::new("nowhere/split.json"), &[]).unwrap_err().to_string().contains("nowhere/split.json")
        );
    }

    proptest! {
        #[test]
        fn a_draw_is_a_partition_that_survives_its_file(n in 10usize..200, seed: u64) {
            let ids = ids(n);
            let split = Split::draw(&ids, 0.8, 0.1, seed).unwrap();
            let mut all: Vec<_> = split.parts().iter().flat_map(|(_, names)| names.iter().cloned()).collect();
            all.sort();
            prop_assert_eq!(&all, &ids);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("split.json");
            split.write(&path).unwrap();
            prop_assert_eq!(Split::read(&path, &ids).unwrap(), split);
        }
    }
}
