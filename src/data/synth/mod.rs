//! Simulated fires in the Deep Crown layout: what `emberformer synth` writes, and what training uses where no data set
//! is given.
//!
//! A fractal landscape ([`terrain`]) grows fuels after elevation and aspect ([`vegetation`]); wind is a process in time
//! ([`weather`]); each cell burns at the rates of Rothermel's model with an ellipse about the sum of wind and slope
//! ([`behaviour`]); fire takes the paths of minimum travel time ([`spread`]). Each part cites its sources. The
//! simulator makes training data of the right kind; it has not been held against observed fires.
//!
//! Everything follows from [`SynthSettings`]: the same settings give the same bytes, with any number of threads.

pub mod behaviour;
mod noise;
pub mod sequence;
mod sheet;
pub mod spread;
pub mod terrain;
pub mod vegetation;
pub mod weather;
mod write;

use crate::{Error, Result};
use indicatif::ProgressBar;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sequence::{Fire, Plan};
use serde::{Deserialize, Serialize};
use std::path::Path;
use terrain::Terrain;
use vegetation::Landscape;

/// Frames of the shortest and of the longest sequence.
const FRAMES: [usize; 2] = [2, 20];
/// Least and greatest burned share of a window, averaged over a fire's frames. Drawn evenly in the logarithm, the mean is
/// (b − a)/ln(b/a) = 5 %.
const SHARE: [f64; 2] = [0.012, 0.131];
/// Cells of the largest landscape: 8 bands of it take 8 GiB.
const CELLS_MAX: usize = 1 << 28;
/// Fires on the contact sheet.
const SHOWN: usize = 48;

/// What to simulate. The default is the small data set that training uses where none is given: 64×64 pixels keep an epoch
/// short; `size: 400` gives the windows of the original data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SynthSettings {
    /// Fires.
    pub sequences: usize,
    /// Side of a window in pixels.
    pub size: usize,
    /// Height and width of the landscape in pixels; by default large enough for the windows to stay mostly apart, but no
    /// larger than 1173×1406 or 2.5 windows, whichever is more.
    pub landscape: Option<[usize; 2]>,
    /// Side of a pixel in metres; by default such that a window of 64 pixels is 5 km wide and one of 400 pixels is 10 km wide.
    pub cell: Option<f64>,
    /// Seed of everything that is random.
    pub seed: u64,
}

impl Default for SynthSettings {
    fn default() -> Self {
        Self { sequences: 120, size: 64, landscape: None, cell: None, seed: 42 }
    }
}

impl SynthSettings {
    /// Height and width of the landscape in pixels.
    pub fn landscape_size(&self) -> [usize; 2] {
        self.landscape.unwrap_or_else(|| {
            let apart = ((self.sequences as f64 * 1.6).sqrt() * self.size as f64).ceil() as usize;
            let fit = |most: usize| apart.min(most.max(self.size * 5 / 2)).max(self.size * 2);
            [fit(1173), fit(1406)]
        })
    }

    /// Side of a pixel in metres.
    pub fn cell_size(&self) -> f64 {
        // 80 m at 64 pixels, 25 m at 400: a power law between.
        self.cell.unwrap_or_else(|| (80.0 * (64.0 / self.size as f64).powf(0.635)).clamp(5.0, 100.0).round())
    }

    fn check(&self) -> Result<()> {
        if !(1..=100_000).contains(&self.sequences) {
            return Err(Error::usage("--sequences", format_args!("{} fires", self.sequences), "give 1 to 100000"));
        }
        if !(16..=4096).contains(&self.size) {
            let problem = format_args!("a window of {0}×{0} pixels", self.size);
            return Err(Error::usage("--size", problem, "give 16 to 4096"));
        }
        let [height, width] = self.landscape_size(); // of sizes that were checked
        // A survey ends a few pixels from the border of the map, so a window needs some room.
        let least = self.size + self.size / 4;
        if height < least || width < least || height.saturating_mul(width) > CELLS_MAX {
            return Err(Error::usage(
                "--landscape",
                format_args!("{height}×{width} pixels with windows of {0}×{0}", self.size),
                format_args!("give at least {least}×{least} and at most {CELLS_MAX} pixels in all"),
            ));
        }
        let cell = self.cell_size();
        if !(1.0..=1000.0).contains(&cell) {
            return Err(Error::usage("--cell", format_args!("a pixel of {cell} m"), "give 1 to 1000 metres"));
        }
        Ok(())
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SynthSummary {
    /// Fires.
    pub sequences: usize,
    /// Frames of all fires together.
    pub frames: usize,
    /// Share of burned pixels over all frames.
    pub burned_share: f64,
    /// Share of the sequences that have at most six frames.
    pub short_share: f64,
    /// Height and width of the landscape in pixels.
    pub landscape: [usize; 2],
    /// Side of a pixel in metres.
    pub cell: f64,
}

/// One fire as `synth.json` lists it.
#[derive(Serialize)]
struct Listed<'a> {
    sequence: usize,
    frames: usize,
    step_seconds: u64,
    weather: String,
    ignitions: &'a [[usize; 2]],
    burned_pixels: &'a [usize],
}

/// Simulates a data set and writes it to the folder `out`, which must not exist or be empty. The work is done in a folder
/// beside it that is renamed at the end, so that a run which is killed leaves nothing at `out`. Runs in rayon's current pool;
/// the number of threads does not change the bytes.
///
/// # Errors
/// Settings out of range, an `out` that is not empty, a landscape with no room for a fire, and whatever the disk refuses.
pub fn generate(settings: &SynthSettings, out: &Path, progress: &ProgressBar) -> Result<SynthSummary> {
    settings.check()?;
    refuse_occupied(out)?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    write::create_folder(parent)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(out.file_name().unwrap_or_default());
    name.push(".partial-");
    let partial = tempfile::Builder::new()
        .prefix(&name)
        .tempdir_in(parent)
        .map_err(|e| Error::io(parent, "cannot create a folder in", &e))?;
    let root = partial.path().join("data"); // a folder of its own, as the temporary one is private to its owner
    let summary = write_all(settings, &root, progress)?;
    refuse_occupied(out)?;
    if out.exists() {
        std::fs::remove_dir(out).map_err(|e| Error::io(out, "cannot replace the empty folder", &e))?;
    }
    std::fs::rename(&root, out).map_err(|e| Error::io(out, "cannot move the finished data set to", &e))?;
    Ok(summary)
}

fn refuse_occupied(out: &Path) -> Result<()> {
    let remedy = "choose another folder, or remove this one yourself: synth never overwrites";
    match std::fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(Error::failed(out.display(), "the folder is not empty", remedy)),
            None => Ok(()),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            Err(Error::failed(out.display(), "is a file, not a folder", remedy))
        }
        Err(e) => Err(Error::io(out, "cannot read", &e)),
    }
}

fn write_all(settings: &SynthSettings, root: &Path, progress: &ProgressBar) -> Result<SynthSummary> {
    let [height, width] = settings.landscape_size();
    let cell = settings.cell_size();
    progress.set_length(settings.sequences as u64);
    progress.set_message("landscape");
    let map = Landscape::new(Terrain::new(height, width, cell, settings.seed), settings.seed);
    let weathers = root.join("landscape").join("Weathers");
    write::create_folder(&weathers)?;
    write::landscape(&root.join("landscape").join("Input_Geotiff.tif"), &map)?;

    progress.set_message("fires");
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let room = Room::new(&map, settings.size);
    let plans = draw_plans(settings, &room, &mut rng)?;
    // Weather files are numbered in another order than the sequences: the history says which is whose.
    let mut files: Vec<usize> = (1..=plans.len()).collect();
    files.shuffle(&mut rng);
    let fires: Vec<Fire> = plans
        .par_iter()
        .zip(&files)
        .map(|(plan, file)| {
            let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
            rng.set_stream(plan.number as u64);
            let mut fire = None;
            let mut plan = *plan;
            for _ in 0..20 {
                fire = Fire::simulate(&map, settings.size, plan, &mut rng);
                if fire.is_some() {
                    break;
                }
                plan.corner = room.draw(&mut rng).unwrap_or(plan.corner);
            }
            let fire = fire.ok_or_else(|| no_room(settings))?;
            write::frames(root, &fire, settings.size)?;
            write::weather(&weathers.join(format!("weather{file}.csv")), &fire.weather)?;
            progress.inc(1);
            Ok(fire)
        })
        .collect::<Result<_>>()?;

    progress.set_message("contact sheet");
    let mut indices = serde_json::Map::new();
    let mut history = String::new();
    for (fire, file) in fires.iter().zip(&files) {
        let ([y, x], size) = (fire.plan.corner, settings.size);
        indices.insert(fire.plan.number.to_string(), serde_json::json!([y, y + size, x, x + size]));
        history += &format!("landscape/Weathers/weather{file}.csv\n");
    }
    write::save(&root.join("landscape").join("indices.json"), serde_json::Value::from(indices).to_string().as_bytes())?;
    write::save(&root.join("landscape").join("WeatherHistory.csv"), history.as_bytes())?;

    let frames: usize = fires.iter().map(|f| f.plan.frames).sum();
    let burned: usize = fires.iter().flat_map(|f| &f.burned).sum();
    let summary = SynthSummary {
        sequences: fires.len(),
        frames,
        burned_share: burned as f64 / (frames * settings.size * settings.size) as f64,
        short_share: fires.iter().filter(|f| f.plan.frames <= 6).count() as f64 / fires.len() as f64,
        landscape: [height, width],
        cell,
    };
    let listed: Vec<Listed> = fires
        .iter()
        .zip(&files)
        .map(|(fire, file)| Listed {
            sequence: fire.plan.number,
            frames: fire.plan.frames,
            step_seconds: fire.step,
            weather: format!("weather{file}.csv"),
            ignitions: &fire.ignitions,
            burned_pixels: &fire.burned,
        })
        .collect();
    let text = serde_json::to_string_pretty(&serde_json::json!({
        "program": concat!("emberformer ", env!("CARGO_PKG_VERSION")),
        "settings": settings,
        "summary": &summary,
        "fires": listed,
    }))
    .map_err(|e| Error::failed("synth.json", e, "report this"))?;
    write::save(&root.join("synth.json"), text.as_bytes())?;
    let sheet = root.join("contact_sheet.png");
    sheet::draw(&map, settings.size, &fires, SHOWN).save(&sheet).map_err(|e| {
        Error::failed(sheet.display(), format_args!("cannot write: {e}"), "check the disk and run it again")
    })?;
    Ok(summary)
}

fn no_room(settings: &SynthSettings) -> Error {
    let [height, width] = settings.landscape_size();
    Error::failed(
        format_args!("landscape of {height}×{width} pixels with seed {}", settings.seed),
        "no window in it has room for a fire",
        "choose another --seed or a larger --landscape",
    )
}

/// Lengths, sizes and places of the fires. Lengths and sizes are stratified: each fire has its own share of the
/// distribution, so that even a small data set has its mean.
fn draw_plans(settings: &SynthSettings, room: &Room, rng: &mut ChaCha8Rng) -> Result<Vec<Plan>> {
    let count = settings.sequences;
    let mut strata = || {
        let mut drawn: Vec<f64> = (0..count).map(|i| (i as f64 + rng.random::<f64>()) / count as f64).collect();
        drawn.shuffle(rng);
        drawn
    };
    let (lengths, sizes) = (strata(), strata());
    let mut plans: Vec<Plan> = Vec::with_capacity(count);
    for (i, (length, size)) in lengths.iter().zip(&sizes).enumerate() {
        // Exponential with mean 4 above the shortest, cut at the longest: 71 % have at most 6 frames.
        let frames = FRAMES[0] + (-4.0 * (1.0 - 0.99 * length).ln()) as usize;
        let share = SHARE[0] * (SHARE[1] / SHARE[0]).powf(*size);
        // Of a few places the one farthest from all windows so far (Mitchell 1991, "best candidate").
        let mut best: Option<(usize, [usize; 2])> = None;
        for _ in 0..12 {
            let corner = room.draw(rng).ok_or_else(|| no_room(settings))?;
            let apart = |p: &Plan| p.corner[0].abs_diff(corner[0]).max(p.corner[1].abs_diff(corner[1]));
            let nearest = plans.iter().map(apart).min().unwrap_or(usize::MAX);
            if best.is_none_or(|(most, _)| nearest > most) {
                best = Some((nearest, corner));
            }
        }
        let corner = best.map_or([0, 0], |(_, corner)| corner);
        plans.push(Plan { number: i + 1, frames: frames.min(FRAMES[1]), share, corner });
    }
    Ok(plans)
}

/// Where windows fit: sums over the landscape that tell how much of any rectangle burns and is mapped.
struct Room {
    size: usize,
    height: usize,
    width: usize,
    /// Cells that burn and cells without data, above and left of each corner. [(H+1)·(W+1)]
    sums: Vec<[u32; 2]>,
}

impl Room {
    fn new(map: &Landscape, size: usize) -> Self {
        let (height, width) = (map.terrain.height, map.terrain.width);
        let stride = width + 1;
        let mut sums = vec![[0u32; 2]; (height + 1) * stride];
        for y in 0..height {
            let mut row = [0u32; 2];
            for x in 0..width {
                let site = &map.sites[y * width + x];
                row[0] += u32::from(site.burns());
                row[1] += u32::from(site.unmapped);
                let above = sums[y * stride + x + 1];
                sums[(y + 1) * stride + x + 1] = [above[0] + row[0], above[1] + row[1]];
            }
        }
        Self { size, height, width, sums }
    }

    /// Shares of a window that burn and that are unmapped.
    fn shares(&self, [y, x]: [usize; 2]) -> [f64; 2] {
        let stride = self.width + 1;
        let at = |y: usize, x: usize| self.sums[y * stride + x];
        let (a, b) = (at(y, x), at(y, x + self.size));
        let (c, d) = (at(y + self.size, x), at(y + self.size, x + self.size));
        [0, 1].map(|i| f64::from(d[i] + a[i] - b[i] - c[i]) / (self.size * self.size) as f64)
    }

    /// A random window that mostly burns and is mapped but for a few percent; of many the least bad where none is
    /// good, and nothing where not even that holds a burnable cell.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Option<[usize; 2]> {
        let mut best: Option<(f64, [usize; 2])> = None;
        for _ in 0..200 {
            let corner = [rng.random_range(0..=self.height - self.size), rng.random_range(0..=self.width - self.size)];
            let [burns, unmapped] = self.shares(corner);
            if burns > 0.72 && unmapped < 0.03 {
                return Some(corner);
            }
            let worth = burns - 2.0 * unmapped;
            if burns > 0.05 && best.is_none_or(|(most, _)| worth > most) {
                best = Some((worth, corner));
            }
        }
        best.map(|(_, corner)| corner)
    }
}

#[cfg(test)]
mod tests;
