//! `emberformer config`

use crate::{Error, Result};

/// Shows the resolved configuration with every default.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("config", "not built yet", "build it"))
}
