//! What several commands need first: the data set of a configuration, packed, and its samples.

use crate::config::Config;
use crate::data::raw::WindDirection;
use crate::data::sampler::{SampleId, Sampler};
use crate::data::split::Split;
use crate::data::store::Store;
use crate::data::synth::{SynthSettings, generate};
use crate::device::Device;
use crate::patch::Grid;
use crate::report::page::write_report;
use crate::storage::write_whole;
use crate::tensor::DType;
use crate::track::folder::RunFolder;
use crate::train::checkpoint::{Checkpoint, DataDescription};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::{Path, PathBuf};

/// The device of `--device` and `--gpu`.
pub fn device(device: &str, gpu: Option<u32>) -> Result<Device> {
    match gpu {
        Some(n) => Device::parse(&format!("cuda:{n}")),
        None => Device::parse(device),
    }
}

/// What a checkpoint's network computes in: as in its training, or float where that was on a GPU and this is the CPU.
pub fn evaluation_precision(config: &Config, device: &Device) -> DType {
    match device {
        Device::Cpu(_) => DType::F32,
        Device::Gpu(_) => config.precision(device),
    }
}

/// A bar on standard error, where that is a terminal.
fn bar(what: &'static str, quiet: bool) -> ProgressBar {
    let bar =
        if quiet { ProgressBar::hidden() } else { ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()) };
    let style = ProgressStyle::with_template("{prefix:>12} {bar:32} {pos}/{len} {msg} ({elapsed} done, {eta} to go)");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_prefix(what)
}

/// Opens the packed store of a configuration. It is packed first where it is absent or out of date, and where the
/// configuration names no data set, the simulated one is made first.
pub fn open_store(config: &Config, quiet: bool) -> Result<Store> {
    let settings = config.store_settings();
    if config.is_simulated() && !settings.data_dir.exists() {
        if !quiet {
            eprintln!("no data set is named: simulating one in {}", settings.data_dir.display());
        }
        let synth = SynthSettings::default();
        let bar = bar("simulating", quiet);
        bar.set_length(synth.sequences as u64);
        generate(&synth, &settings.data_dir, &bar)?;
        bar.finish_and_clear();
    }
    let bar = bar("packing", quiet);
    let store = Store::open_or_build(&settings, &config.patchify_on_disk.cache_dir, &bar)?;
    bar.finish_and_clear();
    Ok(store)
}

/// The ids of a store's sequences, by number.
pub fn sequence_ids(store: &Store) -> Vec<String> {
    store.sequences().iter().map(|sequence| sequence.id.clone()).collect()
}

/// Samples of the three parts of a split; none for an empty test part.
pub struct Parts {
    /// Training samples.
    pub train: Sampler,
    /// Validation samples.
    pub val: Sampler,
    /// Test samples.
    pub test: Option<Sampler>,
}

impl Parts {
    /// The samples of a split.
    pub fn new(config: &Config, store: &Store, split: &Split) -> Result<Self> {
        let sampler = |ids: &[String]| Sampler::new(store, ids, config.sampler_settings());
        let test = if split.test.is_empty() { None } else { Some(sampler(&split.test)?) };
        Ok(Self { train: sampler(&split.train)?, val: sampler(&split.val)?, test })
    }
}

/// The data set in words, for checkpoints.
pub fn describe_data(store: &Store) -> DataDescription {
    let wind = store.wind_range();
    DataDescription {
        band_names: store.band_names().to_vec(),
        band_scales: store.band_scales().iter().map(|scale| [scale.subtract, scale.divide]).collect(),
        wind_range: [wind.speed, wind.direction],
        fingerprint: store.fingerprint().to_string(),
    }
}

/// The configuration within a checkpoint, with the data set replaced where one is given.
pub fn config_of(checkpoint: &Checkpoint, path: &Path, data: Option<&Path>) -> Result<Config> {
    let mut config =
        Config::parse(&format!("{} (its configuration)", path.display()), &checkpoint.state.config, &[])?.config;
    if let Some(data) = data {
        config.data.data_dir = Some(data.to_path_buf());
    }
    Ok(config)
}

/// Refuses data that the checkpoint's network cannot read; says where it was scaled differently.
pub fn check_data(checkpoint: &Checkpoint, store: &Store, path: &Path) -> Result<()> {
    let (trained, now) = (&checkpoint.state.data, describe_data(store));
    if checkpoint.state.model.use_static && trained.band_names != now.band_names {
        return Err(Error::failed(
            path.display(),
            format_args!(
                "was trained on the bands {}, the data set has {}",
                trained.band_names.join(", "),
                now.band_names.join(", ")
            ),
            "use a landscape with the same bands in the same order",
        ));
    }
    if trained.band_scales != now.band_scales || trained.wind_range != now.wind_range {
        eprintln!(
            "warning: this data set's bands or winds have other ranges than the training data's, so they are scaled differently"
        );
    }
    Ok(())
}

/// The split that the checkpoint's run used.
pub fn split_of(checkpoint: &Checkpoint, path: &Path) -> Result<Split> {
    let split = checkpoint.state.recipe.get("split").cloned().unwrap_or_default();
    serde_json::from_value(split).map_err(|e| {
        Error::failed(
            path.display(),
            format_args!("holds no split of its run: {e}"),
            "use a checkpoint of a training run",
        )
    })
}

/// An image over the whole patch grid without the padding at bottom and right: [height·width].
pub fn crop<T>(grid: Grid, height: usize, width: usize, pixels: impl Iterator<Item = T>) -> Vec<T> {
    let inside = |i: usize| i / grid.width() < height && i % grid.width() < width;
    pixels.enumerate().filter(|(i, _)| inside(*i)).map(|(_, pixel)| pixel).collect()
}

/// Wind speed at the end of a sample's history, and the direction to which the wind blows, in the files' units.
pub fn wind(store: &Store, means: WindDirection, sample: SampleId) -> Option<(f32, f32)> {
    let [speed, direction] = *store.wind(sample.sequence).get(sample.k)?;
    let range = store.wind_range();
    let unscaled = |value: f32, [low, high]: [f32; 2]| low + value * (high - low);
    let direction = unscaled(direction, range.direction);
    let toward = match means {
        WindDirection::From => direction + 180.0,
        WindDirection::To => direction,
    };
    Some((unscaled(speed, range.speed), toward.rem_euclid(360.0)))
}

/// Writes a picture as PNG, whole or not at all.
pub fn write_picture(path: &Path, picture: &image::RgbImage) -> Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .map_err(|e| Error::failed(path.display(), format_args!("cannot be encoded: {e}"), "use smaller windows"))?;
    write_whole(path, bytes.get_ref())
}

/// The folders of runs.
pub fn open_runs(paths: &[PathBuf]) -> Result<Vec<RunFolder>> {
    paths.iter().map(|path| RunFolder::open(path)).collect()
}

/// The default configuration, resolved.
pub fn default_yaml() -> Result<String> {
    Ok(Config::parse("the defaults", "", &[])?.config.resolved_yaml())
}

/// Writes the report of these runs to `out` and returns a line that says so. After hours of training a page that cannot
/// be written is a line on standard error, not a failure.
pub fn report_line(runs: &[PathBuf], out: &Path) -> Option<String> {
    let written = open_runs(runs).and_then(|runs| write_report(&runs, &default_yaml()?, out));
    match written {
        Ok(()) => Some(format!("the report is in {}", out.display())),
        Err(error) => {
            eprintln!("error: the report was not written: {error}");
            None
        }
    }
}

/// Digits in groups of three.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = (0..digits.len().div_ceil(3))
        .rev()
        .map(|i| &digits[digits.len().saturating_sub(3 * (i + 1))..digits.len() - 3 * i])
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1072578, "1,072,578")] {
            assert_eq!(super::grouped(n), text);
        }
    }
}
