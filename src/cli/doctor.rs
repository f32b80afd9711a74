//! `emberformer doctor`

use crate::Result;
use crate::cli::{print, print_json};
use crate::device::Device;
use crate::track::machine::{Memory, Nvidia, memory, nvidia, processor, system};
use serde::Serialize;
use std::path::Path;

/// Shows what this machine has and what a run would use.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: emberformer doctor --json")]
pub struct Args {
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    system: String,
    processor: Option<String>,
    cores: usize,
    threads: usize,
    vector_instructions: Vec<&'static str>,
    memory: Option<Memory>,
    nvidia: Nvidia,
    /// What the GPU kernels of this build were compiled for; where there are none, only the CPU can be used.
    compiled_kernels: Vec<String>,
    /// What `--device auto` takes.
    auto: String,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let root = Path::new("/");
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        system: system(root),
        processor: processor(root),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
        threads: rayon::current_num_threads(),
        vector_instructions: vector_instructions(),
        memory: memory(root),
        nvidia: nvidia(root, std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default()),
        compiled_kernels: crate::device::gpu::compiled_kernels(),
        auto: Device::parse("auto")?.describe(),
    };
    if args.json {
        print_json(&report)?;
    } else {
        print(in_words(&report).trim_end())?;
    }
    Ok(())
}

fn in_words(report: &Report) -> String {
    let unknown = || "unknown".to_owned();
    let or_none = |list: String| if list.is_empty() { "none".to_owned() } else { list };
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let Nvidia { driver, library, gpus } = &report.nvidia;
    let kernels = match report.compiled_kernels.as_slice() {
        [] => "none: built without CUDA kernels".to_owned(),
        kernels => kernels.join(", "),
    };
    let mut lines = vec![
        ("emberformer", report.version.to_owned()),
        ("system", report.system.clone()),
        ("processor", report.processor.clone().unwrap_or_else(unknown)),
        ("cores", format!("{}, {} threads in use", report.cores, report.threads)),
        ("vectors", or_none(report.vector_instructions.join(" "))),
        (
            "memory",
            report
                .memory
                .as_ref()
                .map_or_else(unknown, |m| format!("{}, {} available", gib(m.total), gib(m.available))),
        ),
        ("driver", driver.as_ref().map_or("no NVIDIA driver".to_owned(), |version| format!("NVIDIA {version}"))),
        ("libcuda", library.as_ref().map_or("not found".to_owned(), |path| path.display().to_string())),
        ("GPUs", or_none(gpus.join(", "))),
        ("kernels", kernels),
        ("auto", format!("--device auto takes {}", report.auto)),
    ];
    if !gpus.is_empty() && report.compiled_kernels.is_empty() {
        lines.push(("note", "there is a GPU, but this build cannot use it".to_owned()));
    }
    lines.into_iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
}

fn vector_instructions() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [("neon", true)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found: [(&str, bool); 0] = [];
    found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}
