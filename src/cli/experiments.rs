//! `emberformer experiments`

use crate::{Error, Result};

/// Trains the two experiments and compares them.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("experiments", "not built yet", "build it"))
}
