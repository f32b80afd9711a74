//! `emberformer compare`

use crate::Result;
use crate::cli::setup::report_line;
use crate::cli::{print, print_json};
use crate::report::compare::Comparison;
use crate::track::folder::{FinishedRun, RunFolder};
use std::path::{Path, PathBuf};

/// Compares finished runs on their test sequences and names the winner: the higher F1 among those with precision above 0.65.
/// The page of the same comparison is report.html in the folder above the first run.
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
    // Beside the runs.
    let out = args.runs.first().and_then(|run| run.parent()).unwrap_or(Path::new("")).join("report.html");
    let line = report_line(&args.runs, &out);
    if args.json {
        return print_json(&comparison);
    }
    print(&comparison.text())?;
    line.map_or(Ok(()), |line| print(&line))
}
