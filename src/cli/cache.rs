//! `emberformer cache`

use crate::{Error, Result};

/// Packs a raw data set into the store that training reads.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("cache", "not built yet", "build it"))
}
