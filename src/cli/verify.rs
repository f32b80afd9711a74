//! `emberformer verify`

use crate::{Error, Result};

/// Checks this machine's numerics against the golden cases.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::usage("verify", "not built yet", "build it"))
}
