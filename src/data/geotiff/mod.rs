//! GeoTIFF: reading float32 bands by window, and writing them.

mod names;
mod read;
mod write;

pub use read::GeoTiff;
pub use write::write_geotiff;

/// Tags that the `tiff` crate has no name for, or that only GDAL knows.
mod tag {
    use tiff::tags::Tag;
    pub const PIXEL_SCALE: Tag = Tag::Unknown(33550);
    pub const TIEPOINTS: Tag = Tag::Unknown(33922);
    pub const TRANSFORMATION: Tag = Tag::Unknown(34264);
    pub const KEYS: Tag = Tag::Unknown(34735);
    pub const DOUBLES: Tag = Tag::Unknown(34736);
    pub const ASCII: Tag = Tag::Unknown(34737);
    pub const GDAL_METADATA: Tag = Tag::Unknown(42112);
    pub const GDAL_NODATA: Tag = Tag::Unknown(42113);
}

/// Where an image lies on the earth: the GeoTIFF tags as they stand in a file. Empty lists stand for absent tags.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Georeference {
    /// ModelPixelScale (33550): size of a pixel in x, y and z.
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
        let (dx, dy) = (x0 as f64, y0 as f64);
        let mut geo = self.clone();
        for point in geo.tiepoints.chunks_exact_mut(6) {
            match self.pixel_scale[..] {
                // x grows with the column, y falls with the row.
                [sx, sy, ..] => {
                    point[3] += dx * sx;
                    point[4] -= dy * sy;
                }
                // Without a scale a tie point is a control point: it keeps its place, its pixel moves.
                _ => {
                    point[0] -= dx;
                    point[1] -= dy;
                }
            }
        }
        if geo.transformation.len() == 16 {
            for row in geo.transformation.chunks_exact_mut(4) {
                row[3] += row[0] * dx + row[1] * dy;
            }
        }
        geo
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_keeps_its_place_on_the_earth() {
        let scale = Georeference {
            pixel_scale: vec![80.0, 80.0, 0.0],
            tiepoints: vec![0.0, 0.0, 0.0, 300_000.0, 4_000_000.0, 0.0],
            ..Default::default()
        };
        assert_eq!(scale.shifted(10, 20).tiepoints, [0.0, 0.0, 0.0, 300_800.0, 3_998_400.0, 0.0]);

        let mut matrix = vec![0.0; 16];
        (matrix[0], matrix[1], matrix[3]) = (2.0, 0.5, 100.0);
        (matrix[4], matrix[5], matrix[7], matrix[15]) = (0.5, -2.0, 200.0, 1.0);
        let rotated = Georeference { transformation: matrix, ..Default::default() }.shifted(3, 4);
        assert_eq!((rotated.transformation[3], rotated.transformation[7]), (108.0, 193.5));

        let control = Georeference { tiepoints: vec![5.0, 6.0, 0.0, 1.0, 2.0, 0.0], ..Default::default() };
        assert_eq!(control.shifted(5, 5).tiepoints, [0.0, 1.0, 0.0, 1.0, 2.0, 0.0]);
    }
}
