//! Where memory lives and ops run.

pub mod cpu;

use crate::{Error, Result};
use cpu::Cpu;

/// A device that a model lives on.
#[derive(Clone)]
pub enum Device {
    /// The host: plain Rust in f32 or f64 on all cores.
    Cpu(Cpu),
}

impl Device {
    /// The host.
    pub fn cpu() -> Self {
        Self::Cpu(Cpu::default())
    }

    /// `auto` (the first GPU, else the CPU), `cpu`, or `cuda:N`.
    ///
    /// # Errors
    /// A usage error for any other text, and for `cuda:N` in a build without compiled kernels.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" | "cpu" => Ok(Self::cpu()),
            _ if text.strip_prefix("cuda:").is_some_and(|n| n.parse::<u32>().is_ok()) => Err(Error::usage(
                format_args!("--device {text}"),
                "this build holds no GPU kernels",
                "use --device cpu, or auto to take what there is",
            )),
            _ => Err(Error::usage(format_args!("--device {text}"), "no such device", "use auto, cpu or cuda:N")),
        }
    }

    /// One line for the start of a run.
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu(_) => format!("CPU, {} threads", rayon::current_num_threads()),
        }
    }
}
