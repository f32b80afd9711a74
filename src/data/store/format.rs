//! The file: a safetensors container whose header and sections follow from the description alone, so that reading
//! rebuilds the header and compares it byte by byte. docs/STORE.md is this file's page for readers.

use super::StoreSettings;
use crate::data::raw::{Encoding, PadMode};
use std::ops::Range;
use std::path::PathBuf;
use xxhash_rust::xxh3::xxh3_64;

// Sections are mapped as they lie in the file.
const _: () = assert!(cfg!(target_endian = "little"), "the packed store needs a little-endian machine");

/// Marks the file as ours.
pub const FORMAT: &str = "emberformer-store";
/// Version of the layout below.
pub const VERSION: &str = "1";
/// A header may not be longer.
const HEADER_BYTES: u64 = 100 << 20;

/// What the header says beside the sections: strings, as safetensors wants them; lists and objects are JSON.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Description {
    pub format: String,
    pub version: String,
    pub fingerprint: String,
    pub settings: String,
    pub sequence_ids: String,
    pub band_names: String,
}

/// The settings in the header: all of [`StoreSettings`] but the folder, which decides no byte.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    pub encoding: Encoding,
    pub patch: usize,
    pub pad_mode: PadMode,
    pub max_sequences: Option<usize>,
}

impl Stored {
    pub fn of(settings: &StoreSettings) -> Self {
        let StoreSettings { encoding, patch, pad_mode, max_sequences, data_dir: _ } = settings.clone();
        Self { encoding, patch, pad_mode, max_sequences }
    }

    pub fn with_data_dir(self, data_dir: PathBuf) -> StoreSettings {
        let Self { encoding, patch, pad_mode, max_sequences } = self;
        StoreSettings { data_dir, encoding, patch, pad_mode, max_sequences }
    }
}

/// JSON of values that have no way to fail.
pub fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Sizes that decide the sections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    pub sequences: usize,
    /// Fire frames over all sequences; there are as many isochrones.
    pub frames: usize,
    pub patches: usize,
    pub words: usize,
    pub bands: usize,
}

/// Where everything lies in the file, in bytes from its start. The head checksum covers the header and the tables up
/// to `frames`; the sequences' checksums cover the rest.
#[derive(Debug, Clone)]
pub struct Layout {
    pub sizes: Sizes,
    /// Length, JSON and padding: the file up to the first section.
    pub header: Vec<u8>,
    /// U64 `[1]`: xxh3 of the header, followed by the tables after this one.
    pub checksum_head: Range<usize>,
    /// U64 [S, 4]: xxh3 of each sequence's part of frames, isochrones, wind and statics.
    pub checksum_sequences: Range<usize>,
    /// U64 [S + 1]: first frame of each sequence.
    pub offsets: Range<usize>,
    /// U64 [S, 4].
    pub windows: Range<usize>,
    /// F64 [Cs, 2].
    pub band_scale: Range<usize>,
    /// F32 [2, 2]: speed and direction, minimum and maximum.
    pub wind_range: Range<usize>,
    /// U64 [frames, N, words].
    pub frames: Range<usize>,
    /// U64 [frames, N, words].
    pub isochrones: Range<usize>,
    /// F32 [frames, 2].
    pub wind: Range<usize>,
    /// F32 [S, N, Cs].
    pub statics: Range<usize>,
}

impl Layout {
    /// The layout of a store; `None` where its size overflows.
    pub fn new(sizes: Sizes, description: &Description) -> Option<Self> {
        let Sizes { sequences, frames, patches, words, bands } = sizes;
        let tensors: [(&str, &str, Vec<usize>); 10] = [
            ("checksum_head", "U64", vec![1]),
            ("checksum_sequences", "U64", vec![sequences, 4]),
            ("offsets", "U64", vec![sequences.checked_add(1)?]),
            ("windows", "U64", vec![sequences, 4]),
            ("band_scale", "F64", vec![bands, 2]),
            ("wind_range", "F32", vec![2, 2]),
            ("frames", "U64", vec![frames, patches, words]),
            ("isochrones", "U64", vec![frames, patches, words]),
            ("wind", "F32", vec![frames, 2]),
            ("statics", "F32", vec![sequences, patches, bands]),
        ];
        let mut entries = serde_json::Map::new();
        entries.insert("__metadata__".into(), serde_json::to_value(description).ok()?);
        let mut ranges = Vec::with_capacity(tensors.len());
        let mut start = 0usize;
        for (name, dtype, shape) in tensors {
            let size = if dtype == "F32" { 4 } else { 8 };
            let end = shape.iter().try_fold(size, |n: usize, &side| n.checked_mul(side))?.checked_add(start)?;
            let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
            entries.insert(name.into(), entry);
            ranges.push(start..end);
            start = end;
        }
        let mut json = json(&entries).into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend(json);
        // The sections' sum was checked above; the header is in memory already.
        start.checked_add(header.len())?;
        let mut placed = ranges.into_iter().map(|range| range.start + header.len()..range.end + header.len());
        let mut next = || placed.next().unwrap_or_default();
        Some(Self {
            sizes,
            checksum_head: next(),
            checksum_sequences: next(),
            offsets: next(),
            windows: next(),
            band_scale: next(),
            wind_range: next(),
            frames: next(),
            isochrones: next(),
            wind: next(),
            statics: next(),
            header,
        })
    }

    /// Length of the whole file.
    pub fn bytes(&self) -> usize {
        self.statics.end
    }

    /// Bytes from `checksum_sequences` to `wind_range`.
    pub fn tables(&self) -> Range<usize> {
        self.checksum_sequences.start..self.wind_range.end
    }

    /// Where sequence `index`, with `frames` as its range of frames, lies in frames, isochrones, wind and statics.
    pub fn parts(&self, index: usize, frames: Range<usize>) -> [Range<usize>; 4] {
        let Sizes { patches, words, bands, .. } = self.sizes;
        let part = |section: &Range<usize>, item: usize, range: &Range<usize>| {
            section.start + item * range.start..section.start + item * range.end
        };
        let image = patches * words * 8;
        [
            part(&self.frames, image, &frames),
            part(&self.isochrones, image, &frames),
            part(&self.wind, 8, &frames),
            part(&self.statics, patches * bands * 4, &(index..index + 1)),
        ]
    }
}

/// The head checksum over header and tables.
pub fn checksum_head(header: &[u8], tables: &[u8]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(header);
    hash.update(tables);
    hash.digest()
}

/// The checksum of one part of a sequence.
pub fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// What the header of a file claims, and where it ends; a problem in words where it is no store's.
fn claims(bytes: &[u8]) -> Result<(Sizes, Description, usize), String> {
    #[derive(serde::Deserialize)]
    struct Tensor {
        shape: Vec<usize>,
    }
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: serde_json::Map<String, serde_json::Value>,
        frames: Tensor,
    }
    let foreign = || "not a packed store, or its header was altered".to_string();
    let length = bytes.first_chunk::<8>().map(|n| u64::from_le_bytes(*n)).ok_or_else(foreign)?;
    if length > HEADER_BYTES {
        return Err(foreign());
    }
    let end = 8 + length as usize;
    let json = bytes.get(8..end).ok_or("truncated: the file ends within its header")?;
    let header: Header = serde_json::from_slice(json).map_err(|_| foreign())?;
    if header.metadata.get("format").and_then(|f| f.as_str()) != Some(FORMAT) {
        return Err(foreign());
    }
    let version = header.metadata.get("version").and_then(|v| v.as_str()).unwrap_or_default();
    if version != VERSION {
        return Err(format!("a store of version {version:?}; this program reads version {VERSION:?}"));
    }
    let altered = || "its header was altered".to_string();
    let description: Description =
        serde_json::from_value(serde_json::Value::Object(header.metadata)).map_err(|_| altered())?;
    let count = |list: &str| serde_json::from_str::<Vec<String>>(list).map(|l| l.len()).map_err(|_| altered());
    let [frames, patches, words] = header.frames.shape[..] else { return Err(altered()) };
    let (sequences, bands) = (count(&description.sequence_ids)?, count(&description.band_names)?);
    Ok((Sizes { sequences, frames, patches, words, bands }, description, end))
}

/// What a file holds, checked against its length; why it cannot be read otherwise: a problem in words.
pub fn parse(bytes: &[u8]) -> Result<(Layout, Description), String> {
    let (sizes, description, end) = claims(bytes)?;
    let altered = || "its header was altered".to_string();
    let layout = Layout::new(sizes, &description).ok_or_else(altered)?;
    if bytes.get(..end) != Some(&layout.header[..]) {
        return Err(altered());
    }
    if bytes.len() < layout.bytes() {
        return Err(format!("truncated: {} of {} bytes are there", bytes.len(), layout.bytes()));
    }
    if bytes.len() > layout.bytes() {
        return Err(format!("altered: {} bytes follow its end", bytes.len() - layout.bytes()));
    }
    Ok((layout, description))
}

/// The same store with the header that its description and sizes call for, as many bytes as that promises, and
/// checksums that fit. It tests what stands behind the checksums, which keep out accidents but nobody who computes them.
/// `None` where there is no header to start from, or the promised bytes are far more than there are.
#[cfg(any(test, fuzzing))]
pub fn seal(bytes: &[u8]) -> Option<Vec<u8>> {
    let (sizes, description, end) = claims(bytes).ok()?;
    let layout = Layout::new(sizes, &description)?;
    if layout.bytes() > bytes.len() + 4096 {
        return None;
    }
    let mut sealed = layout.header.clone();
    sealed.extend(&bytes[end..]);
    sealed.resize(layout.bytes(), 0);
    let numbers: Vec<u64> =
        sealed[layout.offsets.clone()].as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    for (i, pair) in numbers.windows(2).enumerate() {
        if pair[0] > pair[1] || pair[1] > sizes.frames as u64 || sizes.frames == 0 {
            continue;
        }
        for (part, range) in layout.parts(i, pair[0] as usize..pair[1] as usize).into_iter().enumerate() {
            let sum = checksum(&sealed[range]).to_le_bytes();
            sealed[layout.checksum_sequences.start + (i * 4 + part) * 8..][..8].copy_from_slice(&sum);
        }
    }
    let head = checksum_head(&layout.header, &sealed[layout.tables()]).to_le_bytes();
    sealed[layout.checksum_head.clone()].copy_from_slice(&head);
    Some(sealed)
}
