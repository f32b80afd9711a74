//! `emberformer train`

use crate::{Error, Result};

/// Trains a model.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("train", "not built yet", "build it"))
}
