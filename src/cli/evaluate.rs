//! `emberformer evaluate`

use crate::{Error, Result};

/// Evaluates a checkpoint on a split.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("evaluate", "not built yet", "build it"))
}
