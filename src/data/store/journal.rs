//! The partial file of a build and the journal of what is finished in it: one line a sequence, each with its own check.

use crate::{Error, Result};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// A finished sequence, as the journal notes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Done {
    pub frames: u64,
    pub isochrones: u64,
    /// Digest of the source files.
    pub source: u64,
}

/// The partial file and its journal.
pub struct Output {
    pub path: PathBuf,
    pub file: Mutex<File>,
    pub journal: Mutex<File>,
}

impl Output {
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        let written = file.seek(SeekFrom::Start(offset as u64)).and_then(|_| file.write_all(bytes));
        written.map_err(|e| Error::io(&self.path, "cannot write", &e))
    }

    pub fn note(&self, index: usize, done: Done) -> Result<()> {
        let Done { frames, isochrones, source } = done;
        let line = format!("{index} {frames:016x} {isochrones:016x} {source:016x}");
        let line = format!("{line} {:016x}\n", xxh3_64(line.as_bytes()));
        let mut journal = self.journal.lock().unwrap_or_else(|e| e.into_inner());
        journal.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, "cannot note progress of", &e))
    }
}

/// The finished sequences of a journal; a line that was cut or altered ends it.
pub fn parse_journal(lines: &str, sequences: usize) -> Vec<Option<Done>> {
    let mut done = vec![None; sequences];
    let parse = |line: &str| {
        let (note, check) = line.rsplit_once(' ')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        if hex(check)? != xxh3_64(note.as_bytes()) {
            return None;
        }
        let fields: Vec<&str> = note.split(' ').collect();
        let [index, frames, isochrones, source] = fields[..] else { return None };
        let done = Done { frames: hex(frames)?, isochrones: hex(isochrones)?, source: hex(source)? };
        Some((index.parse::<usize>().ok()?, done))
    };
    for line in lines.lines().skip(1) {
        let Some((index, note)) = parse(line) else { break };
        if let Some(slot) = done.get_mut(index) {
            *slot = Some(note);
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_journal_counts_up_to_the_cut() {
        let line = |index: usize| {
            let line = format!("{index} {:016x} {:016x} {:016x}", 1, 2, 3);
            format!("{line} {:016x}\n", xxh3_64(line.as_bytes()))
        };
        let text = format!("\n{}{}{}", line(2), line(0), line(1));
        let done = Some(Done { frames: 1, isochrones: 2, source: 3 });
        assert_eq!(parse_journal(&text, 3), [done, done, done]);
        assert_eq!(parse_journal(&text[..text.len() - 2], 3), [done, None, done]);
        assert_eq!(parse_journal(&text.replace("\n0 ", "\n1 "), 3), [None, None, done]);
        assert_eq!(parse_journal(&text, 2), [done, done], "a sequence that is not there");
    }
}
