//! The packed store: the data set as bits, memory-mapped. docs/STORE.md describes the file.

mod build;
mod format;
mod journal;
mod source;

use crate::data::raw::{BandScale, Encoding, PadMode, image};
use crate::patch::Grid;
use crate::{Error, Result};
use format::{Layout, Stored};
use indicatif::ProgressBar;
use memmap2::Mmap;
use rayon::prelude::*;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What decides a store's bytes, beside the source files themselves.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// Root of the data set in the Deep Crown layout.
    pub data_dir: PathBuf,
    /// What burns in the images.
    pub encoding: Encoding,
    /// Side of a patch in pixels: 4, 8 or 16.
    pub patch: usize,
    /// What happens to windows whose sides are not multiples of `patch`.
    pub pad_mode: PadMode,
    /// Only the first so many sequences, by number.
    pub max_sequences: Option<usize>,
}

/// One fire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Name of its folder, as in `sequence_007`.
    pub id: String,
    /// Number of frames, F; there are as many isochrones.
    pub frames: usize,
    /// Pixel window within the landscape: y0, y1, x0, x1.
    pub window: [usize; 4],
}

pub use crate::data::raw::WindRange;
#[cfg(any(test, fuzzing))]
pub use format::seal;

/// What a build did.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildSummary {
    /// Sequences in the store.
    pub sequences: usize,
    /// Images in the store: fire frames and isochrones.
    pub images: usize,
    /// Images that this build decoded; the rest was there from an interrupted build.
    pub decoded: usize,
    /// Whether a store that was up to date was left as it is.
    pub reused: bool,
    /// Seconds that reading and packing took.
    pub seconds: f64,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// A packed data set, memory-mapped.
#[derive(Debug)]
pub struct Store {
    map: Mmap,
    layout: Layout,
    settings: Stored,
    fingerprint: String,
    band_names: Vec<String>,
    grid: Grid,
    window: (usize, usize),
    sequences: Vec<Sequence>,
    /// First frame of each sequence, and the end.
    offsets: Vec<usize>,
    valid: Vec<bool>,
}

impl Store {
    /// Opens a store and checks version, lengths and the checksum of every byte. Errors: a file that cannot be read,
    /// is no store, is of another version, truncated or altered.
    pub fn open(path: &Path) -> Result<Store> {
        let refused = |problem: String| {
            let remedy = "build it again with `emberformer cache`, or remove it";
            Error::failed(path.display(), problem, remedy)
        };
        let file = File::open(path).map_err(|e| Error::io(path, "cannot read", &e))?;
        // SAFETY: a store is never written in place: builds write another file and rename it, so that the mapped one
        // lives on unchanged until it is unmapped. A foreign program that truncates or writes the file meanwhile is
        // outside of what a mapping can be guarded against.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "cannot map", &e))?;
        let (layout, description) = format::parse(&map).map_err(refused)?;
        let altered = |what: &str| refused(format!("altered: {what}"));

        let head = map.get(layout.checksum_head.clone()).and_then(|b| b.first_chunk()).map(|b| u64::from_le_bytes(*b));
        if head != Some(format::checksum_head(&layout.header, &map[layout.tables()])) {
            return Err(altered("its header or tables do not have their checksum"));
        }
        let list = |json: &str| serde_json::from_str::<Vec<String>>(json).map_err(|_| altered("its header"));
        let (ids, band_names) = (list(&description.sequence_ids)?, list(&description.band_names)?);
        let settings: Stored = serde_json::from_str(&description.settings).map_err(|_| altered("its settings"))?;

        let numbers = |range: &Range<usize>| -> Vec<usize> {
            map[range.clone()].as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b) as usize).collect()
        };
        let offsets = numbers(&layout.offsets);
        let frames = layout.sizes.frames;
        // Each sequence has a frame or more, so that the file's length bounds the sizes of a frame.
        let rising =
            offsets.is_sorted_by(|a, b| a < b) && offsets.first() == Some(&0) && offsets.last() == Some(&frames);
        if !rising || ids.is_empty() {
            return Err(altered("its table of frames"));
        }
        let windows: Vec<[usize; 4]> = numbers(&layout.windows).as_chunks::<4>().0.to_vec();
        // Ids become names of files and folders.
        let plain = |id: &String| Path::new(id).file_name().is_some_and(|name| name == id.as_str());
        if !ids.iter().all(plain) || ids.iter().collect::<HashSet<_>>().len() < ids.len() {
            return Err(altered("its sequences' ids"));
        }
        let side = |low: usize, high: usize| high.checked_sub(low).filter(|&side| side > 0);
        let size = |[y0, y1, x0, x1]: [usize; 4]| Some((side(y0, y1)?, side(x0, x1)?));
        let window = windows.first().and_then(|w| size(*w)).ok_or_else(|| altered("its windows"))?;
        let grid =
            image::grid(window.0, window.1, settings.patch, settings.pad_mode).map_err(|e| e.within(path.display()))?;
        let patches = grid.rows.checked_mul(grid.cols);
        if windows.iter().any(|w| size(*w) != Some(window))
            || patches != Some(layout.sizes.patches)
            || grid.words() != layout.sizes.words
        {
            return Err(altered("its windows do not fit its images"));
        }

        let checksums = numbers(&layout.checksum_sequences);
        ids.par_iter().enumerate().try_for_each(|(i, id)| {
            let parts = layout.parts(i, offsets[i]..offsets[i + 1]);
            for ((range, expected), name) in parts.into_iter().zip(&checksums[i * 4..]).zip(PARTS) {
                if format::checksum(&map[range]) as usize != *expected {
                    return Err(altered(&format!("{name} of {id} do not have their checksum")));
                }
            }
            Ok(())
        })?;

        let sequences = ids.into_iter().zip(windows).zip(offsets.windows(2));
        let sequences = sequences.map(|((id, window), at)| Sequence { id, window, frames: at[1] - at[0] }).collect();
        let inside =
            |n: usize| (n / grid.cols + 1) * grid.patch <= window.0 && (n % grid.cols + 1) * grid.patch <= window.1;
        let valid = (0..grid.patches()).map(inside).collect();
        let fingerprint = description.fingerprint;
        Ok(Self { map, layout, settings, fingerprint, band_names, grid, window, sequences, offsets, valid })
    }

    /// Builds the store at `path`, or leaves it where it is up to date. A build that was killed goes on where it
    /// stopped; a second process that builds the same store waits for the first. Errors: those of the data set; a
    /// file at `path` that is no store; a disk that is full. After an error nothing half-written is left.
    pub fn build(settings: &StoreSettings, path: &Path, progress: &ProgressBar) -> Result<BuildSummary> {
        if path.is_dir() {
            return Err(Error::usage(path.display(), "is a folder", "name a file for the store"));
        }
        if path.exists() && !is_ours(path) {
            return Err(Error::usage(
                path.display(),
                "exists and is not a packed store",
                "choose another file, or remove this one",
            ));
        }
        build::build(settings, path, progress).map(|(_, summary)| summary)
    }

    /// Opens the store of these settings in `cache_dir`, building it first where it is absent or out of date.
    pub fn open_or_build(settings: &StoreSettings, cache_dir: &Path, progress: &ProgressBar) -> Result<Store> {
        build::build(settings, &Self::default_path(settings, cache_dir), progress).map(|(store, _)| store)
    }

    /// Where the store of these settings lies in `cache_dir`: named for the data set's folder, with a digest of its
    /// place and the settings.
    pub fn default_path(settings: &StoreSettings, cache_dir: &Path) -> PathBuf {
        let root = settings.data_dir.canonicalize().unwrap_or_else(|_| settings.data_dir.clone());
        let key = format!("{}\0{}", root.display(), format::json(&Stored::of(settings)));
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        cache_dir.join(format!("{name}-{:016x}.safetensors", xxhash_rust::xxh3::xxh3_64(key.as_bytes())))
    }

    /// The patch grid of a window, padding included.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Height and width of a window before padding, in pixels.
    pub fn window(&self) -> (usize, usize) {
        self.window
    }

    /// Number of static bands, Cs.
    pub fn static_channels(&self) -> usize {
        self.band_names.len()
    }

    /// Names of the static bands.
    pub fn band_names(&self) -> &[String] {
        &self.band_names
    }

    /// The sequences, by number.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Burned area at step `t`: [N, words]. Empty where there is no such frame.
    pub fn frame(&self, sequence: usize, t: usize) -> &[u64] {
        self.image(&self.layout.frames, sequence, t)
    }

    /// Ground truth at step `t`: [N, words]. Empty where there is no such isochrone.
    pub fn isochrone(&self, sequence: usize, t: usize) -> &[u64] {
        self.image(&self.layout.isochrones, sequence, t)
    }

    /// Wind speed and direction of each frame, scaled to [0, 1]: `[F]`.
    pub fn wind(&self, sequence: usize) -> &[[f32; 2]] {
        self.part(sequence, 2)
    }

    /// Patch means of the scaled bands: [N, Cs].
    pub fn statics(&self, sequence: usize) -> &[f32] {
        self.part(sequence, 3)
    }

    /// Which patches lie wholly inside the window before padding: `[N]`.
    pub fn valid_patches(&self) -> &[bool] {
        &self.valid
    }

    /// Minimum and maximum that each static band was scaled with, `[Cs]`; `[0, 1]` for a band that was left as it is.
    pub fn band_ranges(&self) -> Vec<[f32; 2]> {
        let range = |s: BandScale| [s.subtract as f32, (s.subtract + s.divide) as f32];
        self.band_scales().into_iter().map(range).collect()
    }

    /// The wind's range, to get back to the files' units.
    pub fn wind_range(&self) -> WindRange {
        match self.section::<[f32; 2]>(self.layout.wind_range.clone()) {
            &[speed, direction] => WindRange { speed, direction },
            _ => WindRange { speed: [0.0; 2], direction: [0.0; 2] },
        }
    }

    /// How each band was scaled: `[Cs]`.
    pub fn band_scales(&self) -> Vec<BandScale> {
        let scales = self.section::<[f64; 2]>(self.layout.band_scale.clone());
        scales.iter().map(|&[subtract, divide]| BandScale { subtract, divide }).collect()
    }

    /// Hexadecimal digest of the source files and the settings; the same wherever the data set lies.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The settings that it was built with, for a data set in `data_dir`.
    pub fn settings_for(&self, data_dir: PathBuf) -> StoreSettings {
        self.settings.clone().with_data_dir(data_dir)
    }

    fn settings(&self) -> &Stored {
        &self.settings
    }

    fn image(&self, section: &Range<usize>, sequence: usize, t: usize) -> &[u64] {
        let bytes = self.layout.sizes.patches * self.layout.sizes.words * 8;
        match (self.offsets.get(sequence), self.sequences.get(sequence)) {
            (Some(first), Some(s)) if t < s.frames => {
                let start = section.start + (first + t) * bytes;
                self.section(start..start + bytes)
            }
            _ => &[],
        }
    }

    fn part<T: bytemuck::AnyBitPattern>(&self, sequence: usize, part: usize) -> &[T] {
        let Some(&[start, end]) = self.offsets.get(sequence..sequence + 2) else { return &[] };
        self.section(self.layout.parts(sequence, start..end)[part].clone())
    }

    /// Sections start at multiples of their type's size: the map begins at a page, the header is a multiple of 8
    /// bytes, and the wider types come first.
    fn section<T: bytemuck::AnyBitPattern>(&self, range: Range<usize>) -> &[T] {
        self.map.get(range).and_then(|bytes| bytemuck::try_cast_slice(bytes).ok()).unwrap_or(&[])
    }
}

/// The parts of a sequence, as errors name them.
const PARTS: [&str; 4] = ["the fire frames", "the isochrones", "the winds", "the static tokens"];

/// Whether a file's beginning says that it is a packed store, of whatever version or damage.
fn is_ours(path: &Path) -> bool {
    let mut start = [0; 256];
    let read = File::open(path).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    String::from_utf8_lossy(&start[..read]).contains(format::FORMAT)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests;
