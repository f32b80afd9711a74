//! The packed store: the data set as bits, memory-mapped.

use crate::data::raw::{Encoding, PadMode};
use crate::patch::Grid;
use crate::{Error, Result};
use indicatif::ProgressBar;
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

/// Minimum and maximum over all weather files, in the files' units.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct WindRange {
    /// Of WS.
    pub speed: [f32; 2],
    /// Of WD, degrees.
    pub direction: [f32; 2],
}

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
pub struct Store {}

impl Store {
    /// Opens a store and checks version, lengths and the checksum of every byte.
    pub fn open(path: &Path) -> Result<Store> {
        Err(Error::failed(path.display(), "not built yet", "build it"))
    }
    /// Builds the store at `path`.
    pub fn build(settings: &StoreSettings, path: &Path, progress: &ProgressBar) -> Result<BuildSummary> {
        let _ = (settings, progress);
        Err(Error::failed(path.display(), "not built yet", "build it"))
    }
    /// Opens the store of these settings in `cache_dir`, building it first where it is absent or out of date.
    pub fn open_or_build(settings: &StoreSettings, cache_dir: &Path, progress: &ProgressBar) -> Result<Store> {
        let _ = (settings, progress);
        Err(Error::failed(cache_dir.display(), "not built yet", "build it"))
    }
    /// The patch grid of a window, padding included.
    pub fn grid(&self) -> Grid {
        Grid { rows: 0, cols: 0, patch: 8 }
    }
    /// Height and width of a window before padding, in pixels.
    pub fn window(&self) -> (usize, usize) {
        (0, 0)
    }
    /// Number of static bands, Cs.
    pub fn static_channels(&self) -> usize {
        0
    }
    /// Names of the static bands.
    pub fn band_names(&self) -> &[String] {
        &[]
    }
    /// The sequences, by number.
    pub fn sequences(&self) -> &[Sequence] {
        &[]
    }
    /// Burned area at step `t`: [N, words]. Empty where there is no such frame.
    pub fn frame(&self, _sequence: usize, _t: usize) -> &[u64] {
        &[]
    }
    /// Ground truth at step `t`: [N, words]. Empty where there is no such isochrone.
    pub fn isochrone(&self, _sequence: usize, _t: usize) -> &[u64] {
        &[]
    }
    /// Wind speed and direction of each frame, scaled to [0, 1]: [F].
    pub fn wind(&self, _sequence: usize) -> &[[f32; 2]] {
        &[]
    }
    /// Patch means of the scaled bands: [N, Cs].
    pub fn statics(&self, _sequence: usize) -> &[f32] {
        &[]
    }
    /// Which patches lie wholly inside the window before padding: [N].
    pub fn valid_patches(&self) -> &[bool] {
        &[]
    }
    /// The wind's range, to get back to the files' units.
    pub fn wind_range(&self) -> WindRange {
        WindRange { speed: [0.0; 2], direction: [0.0; 2] }
    }
    /// Hexadecimal digest of the source files and the settings; the same wherever the data set lies.
    pub fn fingerprint(&self) -> &str {
        ""
    }
}
