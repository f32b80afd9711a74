//! `emberformer synth`

use crate::{Error, Result};

/// Writes a simulated data set in the raw layout.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("synth", "not built yet", "build it"))
}
