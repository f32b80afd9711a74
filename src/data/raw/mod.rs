//! The Deep Crown layout on disk: what is there ([`DataSet`]), its images as bits ([`image`]), its weather
//! ([`Weather`]) and its landscape ([`Landscape`]).

pub mod image;
mod landscape;
mod listing;
mod weather;

pub use landscape::{BandScale, Landscape};
pub use weather::{Weather, WindRange};

use crate::{Error, Result};
use listing::Listed;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Which value of which channel says "burns", in the fire frames and in the isochrones. Channels: 0 red, 1 green,
/// 2 blue, 3 alpha; a grey image has the same value in the first three.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoding {
    /// Channel of the fire frames.
    pub fire_channel: usize,
    /// Value that burns in the fire frames.
    pub fire_value: u8,
    /// Channel of the isochrones.
    pub isochrone_channel: usize,
    /// Value that burns in the isochrones.
    pub isochrone_value: u8,
}

impl Default for Encoding {
    /// Green 231, the green of viridis's yellow, in both.
    fn default() -> Self {
        Self { fire_channel: 1, fire_value: 231, isochrone_channel: 1, isochrone_value: 231 }
    }
}

/// What happens where a window's sides are not multiples of the patch side. Padding goes to the bottom and the right,
/// and patches that are not wholly inside the original window are invalid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadMode {
    /// Refuse such windows.
    #[default]
    Strict,
    /// Repeat the last row and column.
    Edge,
    /// Pad with zeros: not burning, and 0 in every scaled band.
    Constant,
    /// The same as `constant`, under the name that published configurations use.
    PadToMultiple,
}

/// What the weather files' WD means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindDirection {
    /// Where the wind comes from.
    #[default]
    From,
    /// Where the wind goes to.
    To,
}

/// JSON and CSV files of a data set may not be larger.
const TEXT_BYTES: u64 = 256 << 20;
/// A window may not have more pixels: beyond this the file that claims it is wrong.
const WINDOW_PIXELS: usize = 1 << 26;

/// What a data set in the Deep Crown layout holds, by name: nothing but the small files has been read.
#[derive(Debug, Clone)]
pub struct DataSet {
    root: PathBuf,
    sequences: Vec<RawSequence>,
    weather: Weather,
}

/// One fire: its window, its images in order and its weather file.
#[derive(Debug, Clone)]
pub struct RawSequence {
    /// Name of its folder.
    pub id: String,
    /// Pixel window within the landscape: y0, y1, x0, x1.
    pub window: [usize; 4],
    /// Fire frames, in order.
    pub frames: Vec<PathBuf>,
    /// Isochrones, in order; as many.
    pub isochrones: Vec<PathBuf>,
    /// Name of its file in `landscape/Weathers/`.
    pub weather: String,
}

impl DataSet {
    /// Lists the data set and reads its small files. `max_sequences` takes the first so many by number. Errors: a
    /// missing or empty data set, a sequence without images, window or weather, frame counts or window sizes that
    /// differ, a weather file that is too short, lacks WS or WD, or holds numbers that are not finite.
    pub fn scan(root: &Path, max_sequences: Option<usize>) -> Result<Self> {
        let remedy = "give the folder that holds fire_frames/, isochrones/ and landscape/";
        if !root.is_dir() {
            return Err(Error::failed(root.display(), "no data set: the folder does not exist", remedy));
        }
        for part in ["fire_frames", "isochrones", "landscape"] {
            if !root.join(part).is_dir() {
                return Err(Error::failed(root.display(), format_args!("no data set: {part}/ is missing"), remedy));
            }
        }
        let mut listed = listing::sequences(root)?;
        listed.truncate(max_sequences.unwrap_or(usize::MAX));
        if listed.is_empty() {
            let problem = "max_sequences 0 leaves no sequence";
            return Err(Error::usage("max_sequences", problem, "take at least one sequence"));
        }

        let indices = root.join("landscape/indices.json");
        let windows = listing::windows(&indices)?;
        let weather = Weather::read(root)?;
        let mut sequences: Vec<RawSequence> = Vec::with_capacity(listed.len());
        for Listed { number, id, frames, isochrones } in listed {
            let window = *windows.get(&number).ok_or_else(|| {
                let remedy = format!("add \"{number}\": [y0, y1, x0, x1]");
                Error::failed(indices.display(), format_args!("no entry {number} for {id}"), remedy)
            })?;
            if let Some(first) = sequences.first() {
                let size = |[y0, y1, x0, x1]: [usize; 4]| (y1 - y0, x1 - x0);
                let ((h0, w0), (h, w)) = (size(first.window), size(window));
                if (h0, w0) != (h, w) {
                    return Err(Error::failed(
                        indices.display(),
                        format_args!(
                            "sizes differ: {} has a window of {h0}×{w0} pixels, {id} one of {h}×{w}",
                            first.id
                        ),
                        "all windows of a data set must have one size; split it",
                    ));
                }
            }
            let weather = weather.of_sequence(number, &id, frames.len())?;
            sequences.push(RawSequence { id, window, frames, isochrones, weather });
        }
        Ok(Self { root: root.to_path_buf(), sequences, weather })
    }

    /// The sequences, by number.
    pub fn sequences(&self) -> &[RawSequence] {
        &self.sequences
    }

    /// The weather files.
    pub fn weather(&self) -> &Weather {
        &self.weather
    }

    /// The landscape's path.
    pub fn landscape(&self) -> PathBuf {
        self.root.join(LANDSCAPE)
    }

    /// Height and width of the windows in pixels.
    pub fn window_size(&self) -> (usize, usize) {
        self.sequences.first().map_or((0, 0), |s| (s.window[1] - s.window[0], s.window[3] - s.window[2]))
    }

    /// Fire frames and isochrones together.
    pub fn images(&self) -> usize {
        self.sequences.iter().map(|s| s.frames.len() + s.isochrones.len()).sum()
    }

    /// The source files that are no images of a sequence: landscape, windows and weather.
    pub fn shared_files(&self) -> Vec<PathBuf> {
        let names = [LANDSCAPE, "landscape/indices.json", "landscape/WeatherHistory.csv"];
        let weather = self.weather.file_names().map(|name| self.root.join("landscape/Weathers").join(name));
        names.iter().map(|name| self.root.join(name)).chain(weather).collect()
    }

    /// A source file's path relative to the root, with forward slashes: the same wherever the data set lies.
    pub fn relative(&self, path: &Path) -> String {
        let parts = path.strip_prefix(&self.root).unwrap_or(path).components();
        parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    }
}

const LANDSCAPE: &str = "landscape/Input_Geotiff.tif";

/// Reads a file that should be small.
fn read_text(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |e| Error::io(path, "cannot read", &e);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > TEXT_BYTES {
        return Err(Error::failed(path.display(), format_args!("larger than {TEXT_BYTES} bytes"), "check the file"));
    }
    Ok(bytes)
}
