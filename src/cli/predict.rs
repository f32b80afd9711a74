//! `emberformer predict`

use crate::{Error, Result};

/// Writes a checkpoint's predictions as PNG and GeoTIFF.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("predict", "not built yet", "build it"))
}
