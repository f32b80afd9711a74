//! The command line: one file a subcommand, thin.

mod bench;
mod cache;
mod compare;
mod config;
mod doctor;
mod evaluate;
mod experiments;
mod inspect;
mod predict;
mod report;
mod setup;
mod synth;
mod train;
mod verify;
mod watch;

use crate::{Error, Result};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Trains EmberFormer, which predicts the next burned area of a wildfire, and shows what came out.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Args),
    Cache(cache::Args),
    Compare(compare::Args),
    Config(config::Args),
    Doctor(doctor::Args),
    Evaluate(evaluate::Args),
    Experiments(experiments::Args),
    Inspect(inspect::Args),
    Predict(predict::Args),
    Report(report::Args),
    Synth(synth::Args),
    Train(train::Args),
    Verify(verify::Args),
    Watch(watch::Args),
}

/// Runs the command line and returns the exit code: 0 done, 2 bad usage or configuration, 1 failed.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(args),
        Command::Cache(args) => cache::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Config(args) => config::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Experiments(args) => experiments::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Report(args) => report::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Train(args) => train::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Watch(args) => watch::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Prints a text to standard output. A reader that went away, as in `... | head`, is no error.
fn print(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write};
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("standard output", "cannot write", &e)),
        _ => Ok(()),
    }
}

/// Prints a value as JSON to standard output.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value);
    print(&text.map_err(|e| Error::failed("JSON output", e, "this is a defect; please report it"))?)
}
