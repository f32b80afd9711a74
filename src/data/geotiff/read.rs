//! Reading: tags at once, pixels chunk by chunk (a chunk is a strip or a tile) through a bounded cache, so that a
//! landscape larger than memory can be read window by window.

use super::names::band_names;
use super::{Georeference, tag};
use crate::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tiff::decoder::{ChunkType, Decoder, DecodingResult};
use tiff::tags::{PlanarConfiguration, Tag};
use tiff::{ColorType, TiffError, TiffResult};

/// Decoded chunks are kept up to this many bytes.
const CACHE_BYTES: usize = 128 << 20;
/// A single chunk may not be larger: it is decoded as a whole.
const CHUNK_BYTES: u64 = 256 << 20;
/// The pixels of one window, over all bands, may not take more.
const WINDOW_BYTES: usize = 4 << 30;

/// A GeoTIFF of float32 bands, read by window.
pub struct GeoTiff {
    path: PathBuf,
    decoder: Decoder<BufReader<File>>,
    width: usize,
    height: usize,
    bands: usize,
    /// Whether each band has chunks of its own; otherwise a chunk interleaves the bands pixel by pixel.
    planar: bool,
    chunk_width: usize,
    chunk_height: usize,
    /// Chunks that the file leaves out; they hold no data.
    absent: HashSet<u32>,
    names: Vec<String>,
    no_data: Option<f32>,
    geo: Georeference,
    cache: Cache,
}

/// The least recently used chunk goes first.
#[derive(Default)]
struct Cache {
    chunks: HashMap<u32, (u64, Arc<[f32]>)>,
    clock: u64,
    bytes: usize,
}

impl Cache {
    fn get(&mut self, index: u32) -> Option<Arc<[f32]>> {
        self.clock += 1;
        let (used, chunk) = self.chunks.get_mut(&index)?;
        *used = self.clock;
        Some(chunk.clone())
    }

    fn insert(&mut self, index: u32, chunk: Arc<[f32]>) {
        self.bytes += size_of_val(&*chunk);
        self.chunks.insert(index, (self.clock, chunk));
        while self.bytes > CACHE_BYTES && self.chunks.len() > 1 {
            let Some((&oldest, _)) = self.chunks.iter().min_by_key(|(_, (used, _))| *used) else { break };
            if let Some((_, chunk)) = self.chunks.remove(&oldest) {
                self.bytes -= size_of_val(&*chunk);
            }
        }
    }
}

impl std::fmt::Debug for GeoTiff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GeoTiff({}, {}×{}×{})", self.path.display(), self.bands, self.height, self.width)
    }
}

/// Runs a call into the `tiff` crate. Its arithmetic on hostile tags is not checked everywhere and may panic; that
/// too is an error of the file.
fn guarded<T>(call: impl FnOnce() -> TiffResult<T>) -> TiffResult<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(TiffError::IoError(std::io::Error::new(std::io::ErrorKind::InvalidData, "impossible values in its tags")))
    })
}

impl GeoTiff {
    /// Opens the file and reads its tags, no pixels. Errors: not a TIFF, truncated, not float32, or a layout that
    /// this reader does not know.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, "cannot read", &e))?;
        let length = file.metadata().map_err(|e| Error::io(path, "cannot read", &e))?.len();
        let broken = |e: TiffError| Error::failed(path.display(), describe(&e), "write the GeoTIFF again");
        let refused = |problem: String, remedy: &str| Error::failed(path.display(), problem, remedy);

        let mut decoder = guarded(|| Decoder::new(BufReader::new(file))).map_err(broken)?;
        let (width, height) = guarded(|| decoder.dimensions()).map_err(broken)?;
        let bands = match guarded(|| decoder.colortype()).map_err(broken)? {
            ColorType::Gray(32) => 1,
            ColorType::Multiband { bit_depth: 32, num_samples } => num_samples as usize,
            other => {
                let remedy = "convert it: gdal_translate -ot Float32 -co PHOTOMETRIC=MINISBLACK";
                return Err(refused(format!("its pixels are {other:?}, not float32 bands"), remedy));
            }
        };
        let format: Vec<u16> =
            guarded(|| decoder.find_tag_unsigned_vec(Tag::SampleFormat)).map_err(broken)?.unwrap_or_default();
        if format.is_empty() || format.iter().any(|&f| f != 3) {
            return Err(refused(
                "its pixels are integers, not float32".into(),
                "convert it: gdal_translate -ot Float32",
            ));
        }
        let photometric: Option<u16> =
            guarded(|| decoder.find_tag_unsigned(Tag::PhotometricInterpretation)).map_err(broken)?;
        if photometric == Some(0) {
            let remedy = "convert it: gdal_translate -co PHOTOMETRIC=MINISBLACK";
            return Err(refused("its photometric interpretation is white-is-zero".into(), remedy));
        }
        let planar: Option<u16> = guarded(|| decoder.find_tag_unsigned(Tag::PlanarConfiguration)).map_err(broken)?;
        let planar = planar == Some(PlanarConfiguration::Planar.to_u16());

        let (chunk_width, chunk_height) = guarded(|| Ok(decoder.chunk_dimensions())).map_err(broken)?;
        // Strips may claim more rows than the image has; tiles are stored whole.
        let chunk_height = match decoder.get_chunk_type() {
            ChunkType::Strip => chunk_height.min(height),
            ChunkType::Tile => chunk_height,
        };
        let bytes = u128::from(chunk_width) * u128::from(chunk_height) * 4 * if planar { 1 } else { bands as u128 };
        if bytes > u128::from(CHUNK_BYTES) {
            return Err(refused(
                format!("its strips or tiles of {chunk_width}×{chunk_height} pixels take {bytes} bytes each"),
                "write it with smaller ones: gdal_translate -co TILED=YES",
            ));
        }

        let (offsets, counts) = match decoder.get_chunk_type() {
            ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
            ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
        };
        let offsets = guarded(|| decoder.get_tag_u64_vec(offsets)).map_err(broken)?;
        let counts = guarded(|| decoder.get_tag_u64_vec(counts)).map_err(broken)?;
        let (across, down) = (width.div_ceil(chunk_width) as usize, height.div_ceil(chunk_height) as usize);
        let expected = across.checked_mul(down).and_then(|n| n.checked_mul(if planar { bands } else { 1 }));
        if expected != Some(offsets.len()) {
            let problem =
                format!("it lists {} strips or tiles, which do not cover {width}×{height} pixels", offsets.len());
            return Err(refused(problem, "write the GeoTIFF again"));
        }
        let mut absent = HashSet::new();
        for (i, (&offset, &count)) in offsets.iter().zip(&counts).enumerate() {
            if count == 0 {
                absent.insert(i as u32);
            } else if offset.checked_add(count).is_none_or(|end| end > length) {
                return Err(refused(
                    format!("truncated: strip or tile {i} ends beyond the file's {length} bytes"),
                    "copy or write the GeoTIFF again",
                ));
            }
        }

        let mut text = |tag| guarded(|| decoder.get_tag_ascii_string(tag)).ok();
        let names = band_names(&text(tag::GDAL_METADATA).unwrap_or_default(), bands);
        let no_data = match text(tag::GDAL_NODATA) {
            Some(value) => Some(value.trim().parse::<f64>().map_err(|_| {
                refused(
                    format!("its no-data value is {value:?}, not a number"),
                    "set one: gdal_translate -a_nodata -9999",
                )
            })? as f32),
            None => None,
        };
        let ascii = text(tag::ASCII).unwrap_or_default();
        let mut doubles = |tag| guarded(|| decoder.get_tag_f64_vec(tag)).unwrap_or_default();
        let geo = Georeference {
            pixel_scale: doubles(tag::PIXEL_SCALE),
            tiepoints: doubles(tag::TIEPOINTS),
            transformation: doubles(tag::TRANSFORMATION),
            doubles: doubles(tag::DOUBLES),
            keys: guarded(|| decoder.get_tag_u16_vec(tag::KEYS)).unwrap_or_default(),
            ascii,
        };
        Ok(Self {
            path: path.to_path_buf(),
            decoder,
            width: width as usize,
            height: height as usize,
            bands,
            planar,
            chunk_width: chunk_width as usize,
            chunk_height: chunk_height as usize,
            absent,
            names,
            no_data,
            geo,
            cache: Cache::default(),
        })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Number of bands.
    pub fn bands(&self) -> usize {
        self.bands
    }

    /// Names of the bands, `band_1` and so on where the file names none.
    pub fn band_names(&self) -> Vec<String> {
        self.names.clone()
    }

    /// The value that stands for "no data", where the file states one.
    pub fn no_data(&self) -> Option<f32> {
        self.no_data
    }

    /// Where the image lies.
    pub fn georeference(&self) -> Georeference {
        self.geo.clone()
    }

    /// Rows and columns of a strip or tile: windows on this raster decode each chunk once.
    pub fn chunk_size(&self) -> (usize, usize) {
        (self.chunk_height, self.chunk_width)
    }

    /// Rows `y0..y1`, columns `x0..x1` of every band: [bands, h, w]. Errors: a window outside the image or too large
    /// for memory, a chunk that cannot be decoded.
    pub fn read_window(&mut self, y0: usize, y1: usize, x0: usize, x1: usize) -> Result<Vec<f32>> {
        let pixels = self.check_window(y0, y1, x0, x1)?;
        let mut out = Vec::with_capacity(pixels * self.bands);
        for band in 0..self.bands {
            out.extend(self.read_band(band, y0, y1, x0, x1)?);
        }
        Ok(out)
    }

    /// As [`read_window`](Self::read_window), of one band: [h, w].
    pub fn read_band(&mut self, band: usize, y0: usize, y1: usize, x0: usize, x1: usize) -> Result<Vec<f32>> {
        let pixels = self.check_window(y0, y1, x0, x1)?;
        if band >= self.bands {
            return Err(Error::failed(
                self.path.display(),
                format_args!("it has {} bands, none of number {}", self.bands, band + 1),
                "check the band's number",
            ));
        }
        let (ch, cw) = self.chunk_size();
        let across = self.width.div_ceil(cw);
        let down = self.height.div_ceil(ch);
        let (plane, stride, sample) = if self.planar { (band * across * down, 1, 0) } else { (0, self.bands, band) };
        let mut out = vec![0.0; pixels];
        for cy in y0 / ch..y1.div_ceil(ch) {
            for cx in x0 / cw..x1.div_ceil(cw) {
                let (left, top) = (cx * cw, cy * ch);
                let chunk_width = cw.min(self.width - left);
                let chunk = self.chunk(plane + cy * across + cx, chunk_width * ch.min(self.height - top) * stride)?;
                let columns = x0.max(left)..x1.min(left + chunk_width);
                for y in y0.max(top)..y1.min(top + ch) {
                    let to = &mut out[(y - y0) * (x1 - x0) + columns.start - x0..][..columns.len()];
                    let from = &chunk[((y - top) * chunk_width + columns.start - left) * stride + sample..];
                    if stride == 1 {
                        to.copy_from_slice(&from[..to.len()]);
                    } else {
                        to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        }
        Ok(out)
    }

    /// Number of pixels of a window, which must lie within the image and fit in memory over all bands.
    fn check_window(&self, y0: usize, y1: usize, x0: usize, x1: usize) -> Result<usize> {
        if y0 >= y1 || x0 >= x1 || y1 > self.height || x1 > self.width {
            return Err(Error::failed(
                self.path.display(),
                format_args!(
                    "the window of rows {y0}..{y1} and columns {x0}..{x1} is not inside its {} rows and {} columns",
                    self.height, self.width
                ),
                "check the window",
            ));
        }
        let pixels = (y1 - y0).checked_mul(x1 - x0);
        match pixels.and_then(|p| p.checked_mul(self.bands * 4)) {
            Some(bytes) if bytes <= WINDOW_BYTES => Ok(bytes / 4 / self.bands),
            _ => Err(Error::failed(
                self.path.display(),
                format_args!("a window of {}×{} pixels and {} bands is too large", y1 - y0, x1 - x0, self.bands),
                "read a smaller window",
            )),
        }
    }

    /// Decodes chunk `index`, which must hold at least `samples` values.
    fn chunk(&mut self, index: usize, samples: usize) -> Result<Arc<[f32]>> {
        let number = index as u32; // The count of chunks is a u32 in the `tiff` crate.
        if let Some(chunk) = self.cache.get(number) {
            return Ok(chunk);
        }
        let chunk: Arc<[f32]> = if self.absent.contains(&number) {
            std::iter::repeat_n(self.no_data.unwrap_or(0.0), samples).collect()
        } else {
            let decoder = &mut self.decoder;
            let broken = |problem: String| {
                Error::failed(
                    self.path.display(),
                    format_args!("strip or tile {index}: {problem}"),
                    "copy or write the GeoTIFF again",
                )
            };
            match guarded(|| decoder.read_chunk(number)).map_err(|e| broken(describe(&e)))? {
                DecodingResult::F32(values) if values.len() >= samples => values.into(),
                _ => return Err(broken("it holds fewer pixels than its place in the image".into())),
            }
        };
        self.cache.insert(number, chunk.clone());
        Ok(chunk)
    }
}

/// The `tiff` crate's error in words that say what is wrong with the file.
fn describe(error: &TiffError) -> String {
    match error {
        TiffError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "truncated: the file ends early".into()
        }
        TiffError::IoError(e) => format!("cannot be decoded: {e}"),
        TiffError::LimitsExceeded | TiffError::IntSizeError => "claims sizes that are impossible".into(),
        e => format!("cannot be decoded: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_stays_within_its_bounds() {
        let mut cache = Cache::default();
        let chunk: Arc<[f32]> = vec![0.0; CACHE_BYTES / 4 / 3].into();
        for i in 0..5 {
            cache.insert(i, chunk.clone());
            cache.get(0);
        }
        assert!(cache.bytes <= CACHE_BYTES && cache.chunks.len() == 3);
        assert!(cache.get(0).is_some(), "the chunk in use stays");
        assert!(cache.get(1).is_none(), "the one unused for longest goes");
    }
}
