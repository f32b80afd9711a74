//! `emberformer cache`

use crate::data::raw::{Encoding, PadMode};
use crate::data::store::{Store, StoreSettings};
use crate::patch::Grid;
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Packs a raw data set into the store that training reads, or checks a store.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  emberformer cache --data data/fires --out fires.safetensors\n  \
                        emberformer cache --check --out fires.safetensors")]
pub struct Args {
    /// Folder of the data set: fire_frames/, isochrones/ and landscape/
    #[arg(long, required_unless_present = "check")]
    data: Option<PathBuf>,
    /// The store's file [default: in .cache/, named for the data set]
    #[arg(long, required_unless_present = "data")]
    out: Option<PathBuf>,
    /// Side of a patch in pixels: 4, 8 or 16
    #[arg(long, default_value_t = 8)]
    patch: usize,
    /// Windows whose sides are not multiples of the patch: strict refuses, edge repeats the last row and column,
    /// constant and pad_to_multiple add zeros
    #[arg(long, default_value = "strict", value_parser = pad_mode)]
    pad_mode: PadMode,
    /// Only the first N sequences, by number
    #[arg(long, value_name = "N")]
    max_sequences: Option<usize>,
    /// Channel of the fire frames that says what burns: 0 red, 1 green, 2 blue, 3 alpha
    #[arg(long, default_value_t = 1)]
    fire_channel: usize,
    /// Value of that channel where it burns
    #[arg(long, default_value_t = 231)]
    fire_value: u8,
    /// Channel of the isochrones
    #[arg(long, default_value_t = 1)]
    isochrone_channel: usize,
    /// Value of that channel where it burns
    #[arg(long, default_value_t = 231)]
    isochrone_value: u8,
    /// Build nothing: check every byte of an existing store
    #[arg(long)]
    check: bool,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
}

fn pad_mode(text: &str) -> std::result::Result<PadMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "choose strict, edge, constant or pad_to_multiple".to_string())
}

/// Builds or checks a store.
pub fn run(args: Args) -> Result<()> {
    let settings = StoreSettings {
        data_dir: args.data.clone().unwrap_or_default(),
        encoding: Encoding {
            fire_channel: args.fire_channel,
            fire_value: args.fire_value,
            isochrone_channel: args.isochrone_channel,
            isochrone_value: args.isochrone_value,
        },
        patch: args.patch,
        pad_mode: args.pad_mode,
        max_sequences: args.max_sequences,
    };
    let out = args.out.unwrap_or_else(|| Store::default_path(&settings, Path::new(".cache")));
    let threads = args.jobs.map_or(0, usize::from); // 0: one a core
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Error::failed("--jobs", e, "ask for fewer threads"))?;
    pool.install(|| if args.check { check(&out) } else { build(&settings, &out) })
}

fn build(settings: &StoreSettings, out: &Path) -> Result<()> {
    let progress = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} images, {per_sec}, {eta} left") {
        progress.set_style(style);
    }
    let summary = Store::build(settings, out, &progress);
    progress.finish_and_clear();
    let summary = summary?;
    let did = if summary.reused {
        "up to date".to_string()
    } else {
        let rate = summary.decoded as f64 / summary.seconds.max(1e-9);
        format!(
            "packed {} of {} images in {:.2} s, {rate:.0} images/s",
            summary.decoded, summary.images, summary.seconds
        )
    };
    report(out, &did, &Store::open(out)?);
    Ok(())
}

fn check(path: &Path) -> Result<()> {
    report(path, "intact", &Store::open(path)?);
    Ok(())
}

/// Says what was done and what the store holds. A reader that has closed the pipe has seen enough.
fn report(path: &Path, did: &str, store: &Store) {
    let frames: usize = store.sequences().iter().map(|s| s.frames).sum();
    let (height, width) = store.window();
    let Grid { rows, cols, patch } = store.grid();
    let _ = writeln!(
        std::io::stdout(),
        "{}: {did}\n  sequences    {}, {frames} frames and as many isochrones\n  window       {height}×{width} pixels, \
         {rows}×{cols} patches of {patch}×{patch}\n  bands        {}\n  size         {:.1} MB\n  fingerprint  {}",
        path.display(),
        store.sequences().len(),
        store.band_names().join(", "),
        store.bytes() as f64 / 1e6,
        store.fingerprint()
    );
}
