//! Writing: chunky strips, deflate, to a temporary file that takes the place of `path` once it is complete.

use super::{Georeference, tag};
use crate::{Error, Result, storage};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use tiff::TiffResult;
use tiff::encoder::colortype::Gray32Float;
use tiff::encoder::{Compression, DeflateLevel, TiffEncoder, TiffKind};
use tiff::tags::ExtraSamples;

/// Bytes of a strip before compression: small enough that a window decodes little beside itself.
const STRIP_BYTES: usize = 256 << 10;
/// Beyond this size of the pixels the file is a BigTIFF, whose offsets have 64 bits.
const BIG: usize = 3 << 30;

/// Writes float32 `bands`, each `height`×`width` row-major, with their names, no-data value and georeference.
/// Errors: bands of another size, as many names as bands not given, a disk that is full or cannot be written.
pub fn write_geotiff(
    path: &Path,
    width: usize,
    height: usize,
    bands: &[&[f32]],
    names: &[&str],
    no_data: Option<f32>,
    geo: &Georeference,
) -> Result<()> {
    let refused =
        |problem: String| Error::failed(path.display(), problem, "give each band the image's size, and a name");
    if bands.is_empty() || bands.len() != names.len() {
        return Err(refused(format!("{} bands with {} names", bands.len(), names.len())));
    }
    let pixels = width.checked_mul(height).filter(|&p| p > 0 && width <= 1 << 24 && height <= 1 << 24);
    if let Some(band) = bands.iter().position(|band| Some(band.len()) != pixels) {
        return Err(refused(format!("band {} has {} pixels, not {height}×{width}", band + 1, bands[band].len())));
    }

    let temporary = storage::begin(path)?;
    let image = Image { width, height, bands, names, no_data, geo };
    let mut file = BufWriter::new(temporary.as_file());
    let written = if bands.len() * width * height * 4 > BIG {
        TiffEncoder::new_big(&mut file).and_then(|encoder| image.encode(encoder))
    } else {
        TiffEncoder::new(&mut file).and_then(|encoder| image.encode(encoder))
    };
    written.and_then(|()| Ok(file.flush()?)).map_err(|e| match e {
        tiff::TiffError::IoError(e) => Error::io(path, "cannot write", &e),
        e => Error::failed(path.display(), format_args!("cannot be written as TIFF: {e}"), "check the bands"),
    })?;
    drop(file);
    storage::keep(temporary, path)
}

struct Image<'a> {
    width: usize,
    height: usize,
    bands: &'a [&'a [f32]],
    names: &'a [&'a str],
    no_data: Option<f32>,
    geo: &'a Georeference,
}

impl Image<'_> {
    fn encode<K: TiffKind>(&self, encoder: TiffEncoder<&mut BufWriter<&File>, K>) -> TiffResult<()> {
        let mut encoder = encoder.with_compression(Compression::Deflate(DeflateLevel::Balanced));
        let mut image = encoder.new_image::<Gray32Float>(self.width as u32, self.height as u32)?;
        if self.bands.len() > 1 {
            image.extra_samples(&vec![ExtraSamples::Unspecified; self.bands.len() - 1])?;
        }
        let row = self.width * self.bands.len();
        let rows = (STRIP_BYTES / 4 / row).clamp(1, self.height);
        image.rows_per_strip(rows as u32)?;

        let geo = self.geo;
        let tags = image.encoder();
        let doubles = [
            (tag::PIXEL_SCALE, &geo.pixel_scale),
            (tag::TIEPOINTS, &geo.tiepoints),
            (tag::TRANSFORMATION, &geo.transformation),
            (tag::DOUBLES, &geo.doubles),
        ];
        for (tag, values) in doubles {
            if !values.is_empty() {
                tags.write_tag(tag, &values[..])?;
            }
        }
        if !geo.keys.is_empty() {
            tags.write_tag(tag::KEYS, &geo.keys[..])?;
        }
        // ASCII tags take nothing else; elsewhere in the tags a lost letter is no reason to write nothing.
        if !geo.ascii.is_empty() && geo.ascii.is_ascii() && !geo.ascii.contains('\0') {
            tags.write_tag(tag::ASCII, &*geo.ascii)?;
        }
        tags.write_tag(tag::GDAL_METADATA, &*self.metadata())?;
        if let Some(value) = self.no_data {
            tags.write_tag(tag::GDAL_NODATA, &*value.to_string())?;
        }

        // The encoder compresses an image that it is given whole, and no strips that it is given one by one.
        let pixels: Vec<f32> =
            (0..self.width * self.height).flat_map(|i| self.bands.iter().map(move |band| band[i])).collect();
        image.write_data(&pixels)
    }

    /// The band names in GDAL's XML, in ASCII.
    fn metadata(&self) -> String {
        let mut xml = String::from("<GDALMetadata>\n");
        for (i, name) in self.names.iter().enumerate() {
            let plain = |c: char| c.is_ascii() && !c.is_ascii_control() && !matches!(c, '&' | '<' | '>');
            let name: String =
                name.chars().map(|c| if plain(c) { c.to_string() } else { format!("&#{};", u32::from(c)) }).collect();
            xml += &format!("  <Item name=\"DESCRIPTION\" sample=\"{i}\" role=\"description\">{name}</Item>\n");
        }
        xml + "</GDALMetadata>\n"
    }
}
