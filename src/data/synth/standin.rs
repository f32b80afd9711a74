//! Stand-in until `data::geotiff::write_geotiff` is here.
use crate::{Error, Result};
use std::path::Path;
use tiff::encoder::{TiffEncoder, colortype::ColorType};
use tiff::tags::{PhotometricInterpretation, SampleFormat, Tag};

struct Bands;
impl ColorType for Bands {
    type Inner = f32;
    const TIFF_VALUE: PhotometricInterpretation = PhotometricInterpretation::BlackIsZero;
    const BITS_PER_SAMPLE: &'static [u16] = &[32; 8];
    const SAMPLE_FORMAT: &'static [SampleFormat] = &[SampleFormat::IEEEFP; 8];
    fn horizontal_predict(_: &[f32], _: &mut Vec<f32>) {}
}

pub fn write_geotiff(
    path: &Path,
    width: usize,
    height: usize,
    bands: &[&[f32]],
    names: &[&str],
    no_data: Option<f32>,
    cell: f64,
) -> Result<()> {
    let run = || -> tiff::TiffResult<()> {
        let mut e = TiffEncoder::new(std::io::BufWriter::new(std::fs::File::create(path)?))?
            .with_compression(tiff::encoder::Compression::Deflate(Default::default()));
        let mut image = e.new_image::<Bands>(width as u32, height as u32)?;
        let dir = image.encoder();
        dir.write_tag(Tag::ModelPixelScaleTag, &[cell, cell, 0.0][..])?;
        dir.write_tag(Tag::ModelTiepointTag, &[0.0, 0.0, 0.0, 540_000.0, 4_440_000.0, 0.0][..])?;
        let items: String = names
            .iter()
            .enumerate()
            .map(|(i, n)| format!("<Item name=\"DESCRIPTION\" sample=\"{i}\" role=\"description\">{n}</Item>"))
            .collect();
        dir.write_tag(Tag::Unknown(42112), format!("<GDALMetadata>{items}</GDALMetadata>").as_str())?;
        dir.write_tag(Tag::Unknown(42113), no_data.unwrap_or(-9999.0).to_string().as_str())?;
        let data: Vec<f32> = (0..width * height).flat_map(|i| bands.iter().map(move |b| b[i])).collect();
        image.write_data(&data)
    };
    run().map_err(|e| Error::failed(path.display(), e, "check the disk"))
}
