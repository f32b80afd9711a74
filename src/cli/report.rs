//! `emberformer report`

use crate::Result;
use crate::cli::print;
use crate::cli::setup::{default_yaml, open_runs};
use crate::report::page::write_report;
use std::path::PathBuf;

/// Writes a page about one or several runs that opens from disk without a network: verdict, comparison, curves,
/// calibration, growth, times, pictures and configurations.
///
/// A run that still trains or was interrupted is shown as far as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  emberformer report runs/emberformer runs/emberformer_bce_dice --out report.html")]
pub struct Args {
    /// Folders of runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// File of the page
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    write_report(&open_runs(&args.runs)?, &default_yaml()?, &args.out)?;
    print(&format!("the report is in {}", args.out.display()))
}
