//! Where memory lives and ops run.

mod array;
pub mod cpu;
pub mod gpu;

use crate::{Error, Result};
pub use array::Array;
use cpu::Cpu;
use gpu::Gpu;

/// A device that a model lives on.
#[derive(Clone)]
pub enum Device {
    /// The host: plain Rust in f32 or f64 on all cores.
    Cpu(Cpu),
    /// A GPU, or the emulated one: the kernels, in f32 or bf16.
    Gpu(Gpu),
}

impl Device {
    /// The host.
    pub fn cpu() -> Self {
        Self::Cpu(Cpu::default())
    }

    /// The host running the GPU's kernels, for tests.
    pub fn emulated() -> Self {
        Self::Gpu(Gpu::emulated())
    }

    /// `auto` (the first GPU, else the CPU), `cpu`, `cuda:N` or `emulated`.
    ///
    /// # Errors
    /// A usage error for any other text; for `cuda:N`, what this build or machine lacks.
    pub fn parse(text: &str) -> Result<Self> {
        let ordinal = text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        match (text, ordinal) {
            ("auto", _) => match Gpu::cuda(0) {
                Ok(gpu) => Ok(Self::Gpu(gpu)),
                Err(e) => Ok(Self::Cpu(Cpu::instead_of_gpu(e.problem()))),
            },
            ("cpu", _) => Ok(Self::cpu()),
            ("emulated", _) => Ok(Self::emulated()),
            (_, Some(ordinal)) => Ok(Self::Gpu(Gpu::cuda(ordinal)?)),
            _ => Err(Error::usage(
                format_args!("--device {text}"),
                "no such device",
                "use auto, cpu, cuda:N or emulated",
            )),
        }
    }

    /// One line for the start of a run.
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu(cpu) => {
                let reason = cpu.reason().map_or(String::new(), |reason| format!(" (no GPU: {reason})"));
                format!("CPU, {} threads{reason}", rayon::current_num_threads())
            }
            Self::Gpu(gpu) => gpu.describe(),
        }
    }

    /// Waits until everything that was launched has run.
    ///
    /// # Errors
    /// What the device reports of it.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.synchronize(),
        }
    }

    /// Bytes of all buffers now in use, and the most that ever were.
    pub fn memory(&self) -> (usize, usize) {
        match self {
            Self::Cpu(cpu) => cpu.memory(),
            Self::Gpu(gpu) => gpu.memory(),
        }
    }
}
