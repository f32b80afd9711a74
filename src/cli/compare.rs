//! `emberformer compare`

use crate::report::compare::Comparison;
use crate::track::folder::{FinishedRun, RunFolder};
use crate::{Result, cli};
use std::path::PathBuf;

/// Compares finished runs on their test sequences and names the winner: the higher F1 among those with precision above 0.65.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  emberformer compare runs/emberformer runs/emberformer_bce_dice")]
pub struct Args {
    /// Folders of finished runs.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let runs = args.runs.iter().map(|path| FinishedRun::read(&RunFolder::open(path)?)).collect::<Result<Vec<_>>>()?;
    let comparison = Comparison::new(&runs);
    if args.json { cli::print_json(&comparison) } else { cli::print(&comparison.text()) }
}
