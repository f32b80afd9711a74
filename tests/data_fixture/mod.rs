//! A small data set of known content, written with the crate's own writers.
#![allow(dead_code)]

use emberformer::data::geotiff::{Georeference, write_geotiff};
use emberformer::data::raw::{Encoding, PadMode};
use emberformer::data::store::{Store, StoreSettings};
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};

pub const ROWS: usize = 70;
pub const COLUMNS: usize = 80;

/// A data set in a folder of its own.
pub struct Fixture {
    folder: tempfile::TempDir,
    pub height: usize,
    pub width: usize,
}

impl Fixture {
    /// Sequences of (number, frames), with windows of `height`×`width` pixels.
    pub fn new(sequences: &[(usize, usize)], height: usize, width: usize) -> Self {
        let fixture = Self { folder: tempfile::tempdir().unwrap(), height, width };
        std::fs::create_dir_all(fixture.path("landscape/Weathers")).unwrap();
        let bands: Vec<Vec<f32>> = (0..3).map(|b| (0..ROWS * COLUMNS).map(|i| band(b, i)).collect()).collect();
        fixture.write_landscape(&bands);
        let windows: Vec<String> = sequences
            .iter()
            .map(|&(n, _)| {
                let [y0, y1, x0, x1] = fixture.window(n);
                format!("\"{n}\": [{y0}, {y1}, {x0}, {x1}]")
            })
            .collect();
        fixture.write("landscape/indices.json", &format!("{{{}}}", windows.join(", ")));
        let last = sequences.iter().map(|s| s.0).max().unwrap_or(0);
        let history: String = (1..=last).map(|n| format!("old/place/Weathers/w{}.csv\n", n % 2)).collect();
        fixture.write("landscape/WeatherHistory.csv", &history);
        for file in 0..2 {
            let rows: String = (0..12).map(|t| format!("x,{},{},9\n", 10 * file + t, 30 * t)).collect();
            fixture.write(&format!("landscape/Weathers/w{file}.csv"), &format!("Instance, WS ,WD,TMP\n{rows}"));
        }
        for &(n, frames) in sequences {
            for (t, kind) in (0..frames).flat_map(|t| [(t, false), (t, true)]) {
                let path = fixture.image(n, t, kind);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                write_png(&path, height, width, png::ColorType::Rgb, &|y, x| burns(n, t, kind, y, x));
            }
        }
        fixture
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The path of an image: a fire frame, or an isochrone.
    pub fn image(&self, sequence: usize, t: usize, isochrone: bool) -> PathBuf {
        match isochrone {
            false => self.path(&format!("fire_frames/sequence_{sequence:03}/fire_{t:03}.png")),
            true => self.path(&format!("isochrones/sequence_{sequence:03}/iso_{t:03}.png")),
        }
    }

    pub fn window(&self, n: usize) -> [usize; 4] {
        [n, n + self.height, 2 * n, 2 * n + self.width]
    }

    pub fn write(&self, relative: &str, text: &str) {
        std::fs::write(self.path(relative), text).unwrap();
    }

    pub fn write_landscape(&self, bands: &[Vec<f32>]) {
        let bands: Vec<&[f32]> = bands.iter().map(Vec::as_slice).collect();
        let path = self.path("landscape/Input_Geotiff.tif");
        let names = ["fuel", "flag", "height"];
        write_geotiff(&path, COLUMNS, ROWS, &bands, &names, Some(-9999.0), &Georeference::default()).unwrap();
    }

    pub fn settings(&self, patch: usize, pad_mode: PadMode) -> StoreSettings {
        settings(self.root(), patch, pad_mode)
    }

    /// Builds with P = 8 in strict mode, to a file in a folder of its own.
    pub fn build(&self) -> emberformer::Result<Store> {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("store");
        Store::build(&self.settings(8, PadMode::Strict), &path, &ProgressBar::hidden())?;
        Store::open(&path)
    }
}

pub fn settings(root: &Path, patch: usize, pad_mode: PadMode) -> StoreSettings {
    StoreSettings { data_dir: root.into(), encoding: Encoding::default(), patch, pad_mode, max_sequences: None }
}

/// Band 0 counts and has no-data; band 1 is {0, 1}; band 2 falls.
pub fn band(band: usize, i: usize) -> f32 {
    match band {
        0 if i == 5 => -9999.0,
        0 => (i % 99) as f32,
        1 => f32::from(u8::from(i.is_multiple_of(7))),
        _ => -(i as f32) / 4.0,
    }
}

/// Whether a pixel burns.
pub fn burns(n: usize, t: usize, isochrone: bool, y: usize, x: usize) -> bool {
    (y * 7 + x * 3 + n * 5 + t + usize::from(isochrone)) % 11 <= t
}

/// Writes a PNG whose burning pixels are viridis's yellow, or grey 231.
pub fn write_png(
    path: &Path,
    height: usize,
    width: usize,
    color: png::ColorType,
    burns: &dyn Fn(usize, usize) -> bool,
) {
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = png::Encoder::new(file, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    if color == png::ColorType::Indexed {
        encoder.set_palette(vec![68, 1, 84, 253, 231, 37]);
    }
    let pixel = |burns: bool| pixel(color, burns);
    let data: Vec<u8> = (0..height * width).flat_map(|i| pixel(burns(i / width, i % width))).collect();
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
}

pub fn pixel(color: png::ColorType, burns: bool) -> Vec<u8> {
    match (color, burns) {
        (png::ColorType::Rgb, true) => vec![253, 231, 37],
        (png::ColorType::Rgb, false) => vec![68, 1, 84],
        (png::ColorType::Rgba, true) => vec![253, 231, 37, 255],
        (png::ColorType::Rgba, false) => vec![231, 0, 231, 231],
        (png::ColorType::Indexed, burns) => vec![u8::from(burns)],
        (png::ColorType::Grayscale, burns) => vec![if burns { 231 } else { 230 }],
        (png::ColorType::GrayscaleAlpha, burns) => vec![if burns { 231 } else { 0 }, 231],
    }
}

pub fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fires_64_mini")
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
