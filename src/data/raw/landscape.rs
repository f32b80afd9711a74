//! The landscape's bands as static patch tokens.

use super::PadMode;
use crate::data::geotiff::GeoTiff;
use crate::patch::Grid;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// What stands for "no data" where the file does not say.
const NO_DATA: f32 = -9999.0;

/// How a band is scaled: (value − `subtract`) / `divide`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BandScale {
    /// The band's minimum over the landscape, or 0.
    pub subtract: f64,
    /// Its range, or 1.
    pub divide: f64,
}

/// The landscape, read by window.
#[derive(Debug)]
pub struct Landscape {
    tiff: GeoTiff,
    path: PathBuf,
}

impl Landscape {
    /// Opens the landscape, whose pixels are not read yet.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { tiff: GeoTiff::open(path)?, path: path.to_path_buf() })
    }

    /// Names of the bands.
    pub fn band_names(&self) -> Vec<String> {
        self.tiff.band_names()
    }

    /// Reads all of the landscape once, chunk by chunk, for the scales of its bands: minimum and maximum after no-data
    /// has become −1, except for a band whose values are exactly {0, 1}, exactly {−1, 1} or constant, which stays as
    /// it is. Errors: a file that cannot be decoded, values that are not finite.
    pub fn scales(&mut self) -> Result<Vec<BandScale>> {
        let (height, width) = (self.tiff.height(), self.tiff.width());
        let (rows, columns) = self.tiff.chunk_size();
        let mut ranges = vec![Range::default(); self.tiff.bands()];
        for y0 in (0..height).step_by(rows) {
            for x0 in (0..width).step_by(columns) {
                let window = [y0, (y0 + rows).min(height), x0, (x0 + columns).min(width)];
                for (band, range) in ranges.iter_mut().enumerate() {
                    let values = self.band(band, window)?;
                    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                        let (y, x) = (y0 + i / (window[3] - x0), x0 + i % (window[3] - x0));
                        let name = &self.band_names()[band];
                        return Err(Error::failed(
                            self.path.display(),
                            format_args!("band {} ({name}) is {} at row {y}, column {x}", band + 1, values[i]),
                            "replace such values by the no-data value",
                        ));
                    }
                    range.add(&values);
                }
            }
        }
        Ok(ranges.iter().map(Range::scale).collect())
    }

    /// Refuses a window (y0, y1, x0, x1) that is not inside the landscape; `id` is the sequence that has it.
    pub fn check_window(&self, id: &str, window: [usize; 4]) -> Result<()> {
        let (height, width) = (self.tiff.height(), self.tiff.width());
        if window[1] <= height && window[3] <= width {
            return Ok(());
        }
        Err(Error::failed(
            self.path.display(),
            format_args!("the window {window:?} of {id} is outside the landscape of {height} rows and {width} columns"),
            "correct indices.json, or give the landscape that belongs to it",
        ))
    }

    /// Means over each patch's pixels of the scaled bands in `window` (y0, y1, x0, x1): [N, Cs]. Padding repeats the
    /// last row and column (edge) or counts as 0.
    pub fn tokens(&mut self, scales: &[BandScale], window: [usize; 4], grid: Grid, pad: PadMode) -> Result<Vec<f32>> {
        let (height, width) = (window[1] - window[0], window[3] - window[2]);
        let (bands, side) = (scales.len(), grid.patch);
        let mut tokens = vec![0.0; grid.patches() * bands];
        // Of each patch: the sum of its pixels, and how many there are; pixels of zero padding add nothing to either.
        let mut sums = vec![(0.0f64, 0usize); grid.patches()];
        for (band, scale) in scales.iter().enumerate() {
            let values = self.band(band, window)?;
            sums.fill((0.0, 0));
            for y in 0..if pad == PadMode::Edge { grid.height() } else { height } {
                let row = &values[y.min(height - 1) * width..][..width];
                let line = &mut sums[y / side * grid.cols..][..grid.cols];
                for ((sum, count), pixels) in line.iter_mut().zip(row.chunks(side)) {
                    *sum += pixels.iter().map(|&v| f64::from(v)).sum::<f64>();
                    *count += pixels.len();
                    if pad == PadMode::Edge && pixels.len() < side {
                        let repeated = side - pixels.len();
                        *sum += f64::from(row[width - 1]) * repeated as f64;
                        *count += repeated;
                    }
                }
            }
            for (token, (sum, count)) in tokens.chunks_exact_mut(bands).zip(&sums) {
                let scaled = (sum - *count as f64 * scale.subtract) / scale.divide;
                token[band] = (scaled / (side * side) as f64) as f32;
            }
        }
        Ok(tokens)
    }

    /// A window of one band, no-data replaced by −1.
    fn band(&mut self, band: usize, [y0, y1, x0, x1]: [usize; 4]) -> Result<Vec<f32>> {
        let mut values = self.tiff.read_band(band, y0, y1, x0, x1)?;
        clean(&mut values, self.tiff.no_data());
        Ok(values)
    }
}

/// Replaces no-data by −1.
fn clean(values: &mut [f32], no_data: Option<f32>) {
    let no_data = no_data.unwrap_or(NO_DATA);
    for value in values {
        if *value == no_data || no_data.is_nan() && value.is_nan() {
            *value = -1.0;
        }
    }
}

/// What a band's scale depends on.
#[derive(Debug, Clone)]
struct Range {
    low: f32,
    high: f32,
    /// Whether all values so far are 0 or 1, and whether all are −1 or 1.
    zero_one: bool,
    minus_one_one: bool,
}

impl Default for Range {
    fn default() -> Self {
        Self { low: f32::INFINITY, high: f32::NEG_INFINITY, zero_one: true, minus_one_one: true }
    }
}

impl Range {
    fn add(&mut self, values: &[f32]) {
        for &v in values {
            self.low = self.low.min(v);
            self.high = self.high.max(v);
            self.zero_one &= v == 0.0 || v == 1.0;
            self.minus_one_one &= v == -1.0 || v == 1.0;
        }
    }

    fn scale(&self) -> BandScale {
        if self.low >= self.high || self.zero_one || self.minus_one_one {
            return BandScale { subtract: 0.0, divide: 1.0 };
        }
        BandScale { subtract: self.low.into(), divide: f64::from(self.high) - f64::from(self.low) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_that_are_codes_stay_as_they_are() {
        let scale = |values: &[f32]| {
            let mut range = Range::default();
            values.iter().for_each(|v| range.add(&[*v]));
            let scale = range.scale();
            (scale.subtract, scale.divide)
        };
        assert_eq!(scale(&[0.0, 1.0, 1.0]), (0.0, 1.0));
        assert_eq!(scale(&[-1.0, 1.0]), (0.0, 1.0));
        assert_eq!(scale(&[7.0, 7.0]), (0.0, 1.0));
        assert_eq!(scale(&[-1.0, 0.0, 1.0]), (-1.0, 2.0));
        assert_eq!(scale(&[2.0, 6.0]), (2.0, 4.0));
    }

    #[test]
    fn no_data_becomes_minus_one() {
        let cleaned = |no_data| {
            let mut values = vec![-9999.0, 5.0, f32::NAN];
            clean(&mut values, no_data);
            values
        };
        assert_eq!(cleaned(Some(5.0))[..2], [-9999.0, -1.0]);
        assert_eq!(cleaned(None)[..2], [-1.0, 5.0]);
        assert_eq!(cleaned(Some(f32::NAN))[1..], [5.0, -1.0]);
    }
}
