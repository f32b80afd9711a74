//! `emberformer doctor`

use crate::Result;
use crate::cli::{print, print_json};
use crate::device::Device;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Memory {
    total: u64,
    available: u64,
}

/// What of NVIDIA's software and hardware is there.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Nvidia {
    /// Version of the kernel driver.
    driver: Option<String>,
    /// The driver's library, which programs need.
    library: Option<PathBuf>,
    gpus: Vec<String>,
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

/// Reads a small text file below `root`; none where there is no such file.
fn text(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

/// What follows `name` and the separator on its line.
fn field(text: &str, name: &str, separator: char) -> Option<String> {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(separator)?;
        (key.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
    });
    value.filter(|value| !value.is_empty())
}

fn system(root: &Path) -> String {
    let distribution = text(root, "etc/os-release").and_then(|text| field(&text, "PRETTY_NAME", '='));
    let kernel = text(root, "proc/sys/kernel/osrelease").map(|text| format!("kernel {}", text.trim()));
    let known = [distribution, kernel, Some(std::env::consts::ARCH.to_owned())];
    format!("{} ({})", std::env::consts::OS, known.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn processor(root: &Path) -> Option<String> {
    field(&text(root, "proc/cpuinfo")?, "model name", ':')
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

/// The machine's memory, or the container's where that is less.
fn memory(root: &Path) -> Option<Memory> {
    let info = text(root, "proc/meminfo")?;
    let bytes = |name| field(&info, name, ':')?.trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024);
    let number = |path| text(root, path)?.trim().parse::<u64>().ok();
    let (mut total, mut available) = (bytes("MemTotal")?, bytes("MemAvailable")?);
    if let Some(limit) = number("sys/fs/cgroup/memory.max").filter(|&limit| limit < total) {
        let used = number("sys/fs/cgroup/memory.current").unwrap_or(0);
        (total, available) = (limit, available.min(limit.saturating_sub(used)));
    }
    Some(Memory { total, available })
}

/// Looks for the driver without touching it.
fn nvidia(root: &Path, library_path: std::ffi::OsString) -> Nvidia {
    let version = text(root, "proc/driver/nvidia/version").map(|text| {
        let first = text.lines().next().unwrap_or_default();
        // As in "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024".
        let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
        first.split_whitespace().find(number).unwrap_or("of unknown version").to_owned()
    });
    let usual = [
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/aarch64-linux-gnu",
        "usr/lib64",
        "usr/lib",
        "usr/lib/wsl/lib",
        "usr/local/nvidia/lib64",
        "run/opengl-driver/lib",
    ];
    let folders = std::env::split_paths(&library_path).filter(|folder| folder.is_absolute());
    let library = folders
        .chain(usual.iter().map(|folder| root.join(folder)))
        .map(|folder| folder.join("libcuda.so.1"))
        .find(|path| path.exists());
    let mut entries: Vec<_> =
        fs::read_dir(root.join("proc/driver/nvidia/gpus")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    let gpus = entries.iter().filter_map(|folder| field(&text(folder, "information")?, "Model", ':')).collect();
    Nvidia { driver: version, library, gpus }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_machine_without_anything_known_is_no_error() {
        let root = machine(&[]);
        assert_eq!(memory(root.path()), None);
        assert_eq!(nvidia(root.path(), Default::default()), Nvidia { driver: None, library: None, gpus: vec![] });
        assert!(system(root.path()).starts_with(std::env::consts::OS));
    }

    #[test]
    fn driver_library_and_gpus_are_found() {
        let version =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:\n";
        let root = machine(&[
            ("proc/driver/nvidia/version", version),
            ("proc/driver/nvidia/gpus/0000:17:00.0/information", "Model: \t\t NVIDIA H100\nIRQ: 5\n"),
            ("usr/lib64/libcuda.so.1", ""),
            ("elsewhere/libcuda.so.1", ""),
        ]);
        let found = nvidia(root.path(), Default::default());
        assert_eq!(found.driver.as_deref(), Some("550.54.15"));
        assert_eq!(found.gpus, ["NVIDIA H100"]);
        assert_eq!(found.library, Some(root.path().join("usr/lib64/libcuda.so.1")));
        let elsewhere = root.path().join("elsewhere");
        let found = nvidia(root.path(), elsewhere.clone().into_os_string());
        assert_eq!(found.library, Some(elsewhere.join("libcuda.so.1")));
    }

    #[test]
    fn a_container_limits_the_memory() {
        let info = "MemTotal:       24684096 kB\nMemFree: 1 kB\nMemAvailable:   23434504 kB\n";
        let root = machine(&[("proc/meminfo", info), ("sys/fs/cgroup/memory.max", "max\n")]);
        let whole = memory(root.path()).unwrap();
        assert_eq!(whole, Memory { total: 24_684_096 * 1024, available: 23_434_504 * 1024 });
        let files =
            [("proc/meminfo", info), ("sys/fs/cgroup/memory.max", "4096"), ("sys/fs/cgroup/memory.current", "96")];
        assert_eq!(memory(machine(&files).path()), Some(Memory { total: 4096, available: 4000 }));
    }
}
