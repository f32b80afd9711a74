//! The raw layout on disk: GeoTIFF, JSON, CSV and PNG.

use super::sequence::Fire;
use super::vegetation::{BAND_NAMES, Landscape, NO_DATA};
use super::weather::Row;
use crate::data::geotiff::{Georeference, write_geotiff};
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Viridis' two ends: burned and not. The green of a burned pixel, 231, is what a reader looks for.
pub const BURNED: [u8; 3] = [253, 231, 37];
/// Viridis' dark end.
pub const UNBURNED: [u8; 3] = [68, 1, 84];

/// Writes the landscape's GeoTIFF: WGS 84 / UTM zone 29N, the north-west corner somewhere in the hills of Portugal.
pub fn landscape(path: &Path, landscape: &Landscape) -> Result<()> {
    let terrain = &landscape.terrain;
    let bands = landscape.bands();
    let bands: Vec<&[f32]> = bands.iter().map(Vec::as_slice).collect();
    let name = "WGS 84 / UTM zone 29N|";
    #[rustfmt::skip]
    let keys = vec![
        1, 1, 0, 5, // version, and the number of keys
        1024, 0, 1, 1, // projected coordinates
        1025, 0, 1, 1, // a pixel is an area
        1026, 34737, name.len() as u16, 0,
        3072, 0, 1, 32629, // EPSG:32629
        3076, 0, 1, 9001, // metres
    ];
    let geo = Georeference {
        pixel_scale: vec![terrain.cell, terrain.cell, 0.0],
        tiepoints: vec![0.0, 0.0, 0.0, 540_000.0, 4_440_000.0, 0.0],
        keys,
        ascii: name.into(),
        ..Georeference::default()
    };
    write_geotiff(path, terrain.width, terrain.height, &bands, &BAND_NAMES, Some(NO_DATA), &geo)
}

/// Writes the frames and the isochrones of one fire. Frame t is the burned area at step t, and so is isochrone t.
pub fn frames(root: &Path, fire: &Fire, size: usize) -> Result<()> {
    let name = format!("sequence_{:03}", fire.plan.number);
    let folders = ["fire_frames", "isochrones"].map(|kind| root.join(kind).join(&name));
    for folder in &folders {
        create_folder(folder)?;
    }
    for t in 0..fire.plan.frames {
        let burned = fire.first_frame.iter().map(|&first| usize::from(first) <= t);
        let bytes = encode(burned, size).map_err(|e| {
            Error::failed(folders[0].display(), format_args!("cannot encode frame {t}: {e}"), "choose another --size")
        })?;
        for (folder, kind) in folders.iter().zip(["fire", "iso"]) {
            save(&folder.join(format!("{kind}_{t:03}.png")), &bytes)?;
        }
    }
    Ok(())
}

fn encode(burned: impl Iterator<Item = bool>, size: usize) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let pixels: Vec<u8> = burned.flat_map(|b| if b { BURNED } else { UNBURNED }).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size as u32, size as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(bytes)
}

/// Writes a weather file.
pub fn weather(path: &Path, rows: &[Row]) -> Result<()> {
    let mut text = String::from("Instance,datetime,WS,WD,TMP,RH,M1,M10,M100,MLH,MLW,FMC\n");
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    for row in rows {
        let (day, second) = (1 + row.second / 86_400, row.second % 86_400);
        let clock = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
        let (dead, live) = (row.dead, row.live);
        text += &format!(
            "{name},2026-08-{day:02} {clock},{},{},{},{},{},{},{},{},{},{}\n",
            row.speed, row.from, row.temperature, row.humidity, dead[0], dead[1], dead[2], live[0], live[1], live[2]
        );
    }
    save(path, text.as_bytes())
}

/// Writes a whole file.
pub fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(bytes)?;
        file.flush()
    };
    write().map_err(|e| Error::io(path, "cannot write", &e))
}

/// Creates a folder and those above it.
pub fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::io(path, "cannot create the folder", &e))
}
