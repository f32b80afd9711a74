//! `emberformer compare`

use crate::{Error, Result};

/// Compares finished runs and names the winner.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("compare", "not built yet", "build it"))
}
