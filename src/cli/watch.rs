//! `emberformer watch`

use crate::Result;
use crate::cli::print;
use crate::cli::setup::{default_yaml, open_runs};
use crate::report::watch::watch;
use std::path::PathBuf;

/// Serves the report of a run on this machine and keeps it current while the run trains. Ctrl-C ends it.
///
/// Only programs on this machine reach it. From elsewhere, forward the same port: ssh -L 8642:127.0.0.1:8642 MACHINE.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  emberformer watch runs/emberformer")]
pub struct Args {
    /// Folders of runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 8642)]
    port: u16,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let mut printed = Ok(());
    watch(open_runs(&args.runs)?, default_yaml()?, args.port, |address| printed = print(address))?;
    printed
}
