//! GeoTIFF reading by window and writing.

use crate::{Error, Result};
use std::path::Path;

/// Where an image lies on the earth: the GeoTIFF tags as they stand in a file. Empty lists stand for absent tags.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Georeference {
    /// ModelPixelScale (33550): x, y, z size of a pixel.
    pub pixel_scale: Vec<f64>,
    /// ModelTiepoint (33922): i, j, k, x, y, z of each.
    pub tiepoints: Vec<f64>,
    /// ModelTransformation (34264): 4×4 matrix, row-major.
    pub transformation: Vec<f64>,
    /// GeoKeyDirectory (34735).
    pub keys: Vec<u16>,
    /// GeoDoubleParams (34736).
    pub doubles: Vec<f64>,
    /// GeoAsciiParams (34737).
    pub ascii: String,
}

impl Georeference {
    /// The georeference of the window whose upper left pixel is column `x0` and row `y0` of this image.
    pub fn shifted(&self, x0: usize, y0: usize) -> Self {
        let _ = (x0, y0);
        self.clone()
    }
}

/// A GeoTIFF of float32 bands, read by window.
#[derive(Debug)]
pub struct GeoTiff {}

impl GeoTiff {
    /// Opens the file and reads its tags, no pixels.
    pub fn open(path: &Path) -> Result<Self> {
        Err(Error::failed(path.display(), "not built yet", "build it"))
    }
    /// Columns.
    pub fn width(&self) -> usize {
        0
    }
    /// Rows.
    pub fn height(&self) -> usize {
        0
    }
    /// Number of bands.
    pub fn bands(&self) -> usize {
        0
    }
    /// Names of the bands, `band_1` and so on where the file names none.
    pub fn band_names(&self) -> Vec<String> {
        Vec::new()
    }
    /// The value that stands for "no data", where the file states one.
    pub fn no_data(&self) -> Option<f32> {
        None
    }
    /// Where the image lies.
    pub fn georeference(&self) -> Georeference {
        Georeference::default()
    }
    /// Rows `y0..y1`, columns `x0..x1` of every band: [bands, h, w].
    pub fn read_window(&mut self, y0: usize, y1: usize, x0: usize, x1: usize) -> Result<Vec<f32>> {
        Err(Error::failed("GeoTIFF", format_args!("not built yet: {y0} {y1} {x0} {x1}"), "build it"))
    }
}

/// Writes float32 bands of `height`×`width` pixels, deflate-compressed, with their names, no-data value and georeference.
pub fn write_geotiff(
    path: &Path,
    width: usize,
    height: usize,
    bands: &[&[f32]],
    names: &[&str],
    no_data: Option<f32>,
    geo: &Georeference,
) -> Result<()> {
    let _ = (width, height, bands, names, no_data, geo);
    Err(Error::failed(path.display(), "not built yet", "build it"))
}
