//! `emberformer doctor`

use crate::{Error, Result};

/// Shows what this machine has and what a run would use.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("doctor", "not built yet", "build it"))
}
