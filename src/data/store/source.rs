//! Whether a store still stands for its source. The fingerprint inside a store is a digest of every source byte and
//! the settings. Reading every byte again at each start would be slow, so a small file beside the store remembers the
//! sizes and modification times that the fingerprint was taken at; only where those differ are the bytes read again.

use super::Store;
use super::format::{Stored, json};
use crate::data::raw::{DataSet, RawSequence, image};
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The fingerprint: settings, the files that all sequences share, the sequences. 32 hexadecimal digits.
pub fn fingerprint(settings: &Stored, shared: &[(String, u64)], sequences: &[u64]) -> String {
    let mut hash = Xxh3::new();
    hash.update(json(settings).as_bytes());
    for (name, digest) in shared {
        update(&mut hash, name, *digest);
    }
    sequences.iter().for_each(|digest| hash.update(&digest.to_le_bytes()));
    format!("{:032x}", hash.digest128())
}

/// Digest of a sequence from its images' names and digests, frames first.
pub fn sequence_digest<'a>(images: impl Iterator<Item = (String, &'a u64)>) -> u64 {
    let mut hash = Xxh3::new();
    images.for_each(|(name, digest)| update(&mut hash, &name, *digest));
    hash.digest()
}

fn update(hash: &mut Xxh3, name: &str, digest: u64) {
    hash.update(name.as_bytes());
    hash.update(&[0]);
    hash.update(&digest.to_le_bytes());
}

/// Digests of the files that all sequences share, by their relative names.
pub fn shared_digests(data: &DataSet) -> Result<Vec<(String, u64)>> {
    data.shared_files().par_iter().map(|path| Ok((data.relative(path), file_digest(path)?))).collect()
}

fn file_digest(path: &Path) -> Result<u64> {
    use std::io::Read;
    let unreadable = |e| Error::io(path, "cannot read", &e);
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(hash.digest()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The fingerprint from the source's bytes, nothing decoded.
fn read_fingerprint(data: &DataSet, settings: &Stored) -> Result<String> {
    let digest = |sequence: &RawSequence| {
        let paths: Vec<&PathBuf> = sequence.frames.iter().chain(&sequence.isochrones).collect();
        let one = |bytes: &mut Vec<u8>, path: &&PathBuf| image::read_png(path, bytes).map(|()| xxh3_64(bytes));
        let digests: Vec<u64> = paths.par_iter().map_init(Vec::new, one).collect::<Result<_>>()?;
        Ok(sequence_digest(paths.iter().map(|path| data.relative(path)).zip(&digests)))
    };
    let sequences: Vec<u64> = data.sequences().par_iter().map(digest).collect::<Result<_>>()?;
    Ok(fingerprint(settings, &shared_digests(data)?, &sequences))
}

/// Digest of the settings and of every source file's name, size and modification time.
pub fn stamp(data: &DataSet, settings: &Stored) -> Result<String> {
    let shared = data.shared_files();
    let images = data.sequences().iter().flat_map(|s| s.frames.iter().chain(&s.isochrones));
    let paths: Vec<&PathBuf> = shared.iter().chain(images).collect();
    let file = |path: &&PathBuf| {
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, "cannot read", &e))?;
        let modified = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        Ok((data.relative(path), meta.len(), modified.unwrap_or_default().as_nanos()))
    };
    let files: Vec<_> = paths.par_iter().map(file).collect::<Result<_>>()?;
    let mut hash = Xxh3::new();
    hash.update(json(settings).as_bytes());
    for (name, size, modified) in files {
        update(&mut hash, &name, size);
        hash.update(&modified.to_le_bytes());
    }
    Ok(format!("{:032x}", hash.digest128()))
}

/// What the file beside a store remembers.
#[derive(serde::Serialize, serde::Deserialize)]
struct Remembered {
    stamp: String,
    fingerprint: String,
}

fn beside(store: &Path) -> PathBuf {
    super::with_suffix(store, ".source.json")
}

/// Remembers that the store with this fingerprint stands for the source with this stamp. Not being able to costs only
/// time at the next start.
pub fn remember(store: &Path, stamp: &str, fingerprint: &str) {
    // Cut short it does not parse, which is as good as absent.
    let _ = std::fs::write(beside(store), json(&Remembered { stamp: stamp.into(), fingerprint: fingerprint.into() }));
}

/// Whether `store` was built from this source, as it is now, with these settings.
pub fn is_current(store: &Store, path: &Path, data: &DataSet, settings: &Stored, stamp: &str) -> Result<bool> {
    if store.settings() != settings {
        return Ok(false);
    }
    let remembered = std::fs::read(beside(path)).ok().and_then(|b| serde_json::from_slice::<Remembered>(&b).ok());
    if remembered.is_some_and(|r| r.stamp == stamp && r.fingerprint == store.fingerprint()) {
        return Ok(true);
    }
    let current = read_fingerprint(data, settings)? == store.fingerprint();
    if current {
        remember(path, stamp, store.fingerprint());
    }
    Ok(current)
}
