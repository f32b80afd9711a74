//! `emberformer inspect`

use crate::{Error, Result};

/// Shows what a checkpoint holds.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("inspect", "not built yet", "build it"))
}
