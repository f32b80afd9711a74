//! The file of records, `run-<id>.wandb`: a header, then chunks in blocks of 32 KiB. A record that does not fit into what
//! is left of a block is split. A chunk is `u32 sum | u16 length | u8 kind | payload`.

use super::record::Record;
use crate::{Error, Result};
use prost::Message;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const HEADER: [u8; 7] = *b":W&B\xe1\xbe\0";
const BLOCK: usize = 32 * 1024;
const CHUNK_HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

fn sum(kind: u8, payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&[kind]);
    sum.update(payload);
    sum.finalize()
}

/// The bytes of a record that begins `position` bytes into the file.
fn chunks(position: usize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + CHUNK_HEADER);
    let mut rest = payload;
    let mut begun = false;
    loop {
        let left = BLOCK - (position + bytes.len()) % BLOCK;
        if left < CHUNK_HEADER {
            bytes.resize(bytes.len() + left, 0);
            continue;
        }
        let (part, after) = rest.split_at(rest.len().min(left - CHUNK_HEADER));
        let kind = match (begun, after.is_empty()) {
            (false, true) => FULL,
            (false, false) => FIRST,
            (true, false) => MIDDLE,
            (true, true) => LAST,
        };
        bytes.extend(sum(kind, part).to_le_bytes());
        bytes.extend((part.len() as u16).to_le_bytes());
        bytes.push(kind);
        bytes.extend(part);
        if after.is_empty() {
            return bytes;
        }
        (rest, begun) = (after, true);
    }
}

/// Appends records.
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    length: usize,
    records: i64,
}

impl Writer {
    /// A new file.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create_new(true).append(true).open(path);
        let file = file.and_then(|mut file| file.write_all(&HEADER).map(|()| file));
        let file = file.map_err(|e| Error::io(path, "cannot write", &e))?;
        Ok(Self { path: path.to_path_buf(), file, length: HEADER.len(), records: 0 })
    }

    /// Goes on with a file, after what was `read` of it.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn resume(path: &Path, read: &Contents) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path);
        let file = file.and_then(|file| file.set_len(read.length as u64).map(|()| file));
        let file = file.map_err(|e| Error::io(path, "cannot write", &e))?;
        Ok(Self { path: path.to_path_buf(), file, length: read.length, records: read.records.len() as i64 })
    }

    /// Appends a record, which gets its number.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn write(&mut self, mut record: Record) -> Result<()> {
        self.records += 1;
        record.num = self.records;
        let bytes = chunks(self.length, &record.encode_to_vec());
        self.length += bytes.len();
        self.file.write_all(&bytes).map_err(|e| Error::io(&self.path, "cannot write", &e))
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, "cannot write", &e))
    }
}

/// What a file holds.
pub(super) struct Contents {
    /// Its whole records.
    pub(super) records: Vec<Record>,
    /// Bytes up to the end of the last of them.
    pub(super) length: usize,
}

/// Reads all whole records. What follows the last of them was being written when the process died.
///
/// # Errors
/// What the disk says; a file that is none of these.
pub(super) fn read(path: &Path) -> Result<Contents> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "cannot read", &e))?;
    if !bytes.starts_with(&HEADER) {
        let remedy = "move its folder out of the run's";
        return Err(Error::failed(path.display(), "is no file of Weights & Biases", remedy));
    }
    let mut contents = Contents { records: Vec::new(), length: HEADER.len() };
    let mut at = HEADER.len();
    let mut payload = Vec::new();
    while let Some((kind, part, end)) = chunk(&bytes, at) {
        at = end;
        payload.extend_from_slice(part);
        if matches!(kind, FULL | LAST) {
            let Ok(record) = Record::decode(payload.as_slice()) else { break };
            contents.records.push(record);
            contents.length = at;
            payload.clear();
        }
    }
    Ok(contents)
}

/// The chunk at a position: its kind, its payload and where it ends.
fn chunk(bytes: &[u8], mut at: usize) -> Option<(u8, &[u8], usize)> {
    let left = BLOCK - at % BLOCK;
    if left < CHUNK_HEADER {
        at += left;
    }
    let header = bytes.get(at..at + CHUNK_HEADER)?;
    let (expected, length, kind) =
        (u32::from_le_bytes(header[..4].try_into().ok()?), u16::from_le_bytes([header[4], header[5]]), header[6]);
    let end = at + CHUNK_HEADER + usize::from(length);
    let payload = bytes.get(at + CHUNK_HEADER..end)?;
    (sum(kind, payload) == expected).then_some((kind, payload, end))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Exit, Output};
    use super::*;

    fn line(length: usize) -> Record {
        let output = Output { line: "x".repeat(length), ..Output::default() };
        Record { output_raw: Some(output), ..Record::default() }
    }

    #[test]
    fn records_of_all_lengths_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run-a.wandb");
        let mut writer = Writer::create(&path).unwrap();
        // Lengths that end a block exactly, leave less than a header in it, or go over several.
        let lengths = [0, 1, BLOCK - 60, 3 * BLOCK, 10, 2 * BLOCK - 33];
        let lengths: Vec<usize> = lengths.into_iter().chain((0..200).map(|i| 900 + 37 * i)).collect();
        for &length in &lengths {
            writer.write(line(length)).unwrap();
        }
        writer.sync().unwrap();
        let read = read(&path).unwrap();
        let got: Vec<usize> = read.records.iter().map(|r| r.output_raw.as_ref().unwrap().line.len()).collect();
        assert_eq!(got, lengths);
        assert_eq!(read.records.last().unwrap().num, lengths.len() as i64);
        assert_eq!(read.length as u64, std::fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn every_end_of_a_block_is_written_and_read() {
        for length in BLOCK - 40..BLOCK + 10 {
            let payload = vec![7; length];
            let (mut got, mut at) = (Vec::new(), HEADER.len());
            let bytes = [&HEADER[..], &chunks(HEADER.len(), &payload), &[0; 3]].concat();
            while let Some((kind, part, end)) = chunk(&bytes, at) {
                got.extend_from_slice(part);
                at = end;
                if matches!(kind, FULL | LAST) {
                    break;
                }
            }
            assert!(got == payload, "{length}");
        }
    }

    #[test]
    fn a_cut_file_goes_on_after_its_last_whole_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run-a.wandb");
        let mut writer = Writer::create(&path).unwrap();
        for length in [5, 40_000, 50_000] {
            writer.write(line(length)).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        for cut in [whole.len() - 1, 70_000, 45_000] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let contents = read(&path).unwrap();
            assert_eq!(contents.records.len(), 2);
            let mut writer = Writer::resume(&path, &contents).unwrap();
            writer.write(Record { exit: Some(Exit::default()), ..Record::default() }).unwrap();
            let again = read(&path).unwrap();
            assert_eq!(again.records.len(), 3);
            assert!(again.records[2].exit.is_some() && again.records[2].num == 3);
        }
        std::fs::write(&path, "no such file").unwrap();
        assert!(read(&path).err().unwrap().to_string().contains("is no file of Weights & Biases"));
    }
}
