//! `emberformer synth`

use crate::cli::print;
use crate::data::synth::{SynthSettings, generate};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Writes a simulated data set in the raw layout, with a contact sheet to look at.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: emberformer synth --out data/fires --sequences 300 --size 400 --seed 7")]
pub struct Args {
    /// Folder to write; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of fires
    #[arg(long, value_name = "N", default_value_t = SynthSettings::default().sequences)]
    sequences: usize,
    /// Side of a window in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 400)]
    size: usize,
    /// Height and width of the landscape in pixels [default: room for the windows, at most 1173x1406 or 2.5 windows]
    #[arg(long, value_name = "HxW", value_parser = parse_pair)]
    landscape: Option<[usize; 2]>,
    /// Side of a pixel in metres [default: by --size, 80 at 64 pixels, 25 at 400]
    #[arg(long, value_name = "METRES")]
    cell: Option<f64>,
    /// Seed: the same seed and options give the same bytes
    #[arg(long, value_name = "S", default_value_t = SynthSettings::default().seed)]
    seed: u64,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
}

fn parse_pair(text: &str) -> std::result::Result<[usize; 2], String> {
    let pair =
        text.split_once(['x', 'X', '×']).and_then(|(h, w)| Some([h.trim().parse().ok()?, w.trim().parse().ok()?]));
    pair.ok_or_else(|| format!("`{text}` is not height x width, as in 1173x1406"))
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let Args { out, sequences, size, landscape, cell, seed, jobs } = args;
    let settings = SynthSettings { sequences, size, landscape, cell, seed };
    let style = ProgressStyle::with_template("{msg:14} {bar:40} {pos}/{len} fires, {elapsed}, {eta} left");
    let progress =
        ProgressBar::new(sequences as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let threads = jobs.map_or(0, usize::from); // 0: one a core
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::usage("--jobs", format_args!("cannot start {threads} threads: {e}"), "give fewer"))?;
    let summary = pool.install(|| generate(&settings, &out, &progress))?;
    progress.finish_and_clear();
    let [height, width] = summary.landscape;
    print(&format!(
        "{}: {} fires, {} frames of {size}×{size} pixels",
        out.display(),
        summary.sequences,
        summary.frames
    ))?;
    print(&format!(
        "landscape {height}×{width} pixels of {} m; {:.1} % of pixels burn; {:.0} % of the fires have at most 6 frames",
        summary.cell,
        100.0 * summary.burned_share,
        100.0 * summary.short_share
    ))?;
    print(&format!("look at {}", out.join("contact_sheet.png").display()))?;
    Ok(())
}
