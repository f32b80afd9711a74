//! What a machine is, read from files of the system below `root`, which is `/` but in tests.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// A machine in words, for the records of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system, kernel and architecture.
    pub system: String,
    /// The processor's model.
    pub processor: Option<String>,
    /// Cores that the process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Models of the NVIDIA GPUs.
    pub gpus: Vec<String>,
    /// Version of the NVIDIA driver.
    pub driver: Option<String>,
}

impl Machine {
    /// The machine that this runs on.
    pub fn this() -> Self {
        let root = Path::new("/");
        let Nvidia { driver, gpus, .. } = nvidia(root, std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default());
        Self {
            system: system(root),
            processor: processor(root),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory: memory(root).map(|memory| memory.total),
            gpus,
            driver,
        }
    }
}

/// Bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What programs may still take.
    pub available: u64,
}

/// What of NVIDIA's software and hardware is there.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Nvidia {
    /// Version of the kernel driver.
    pub driver: Option<String>,
    /// The driver's library, which programs need.
    pub library: Option<PathBuf>,
    /// Their models.
    pub gpus: Vec<String>,
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

/// Operating system, kernel and architecture.
pub fn system(root: &Path) -> String {
    let distribution = text(root, "etc/os-release").and_then(|text| field(&text, "PRETTY_NAME", '='));
    let kernel = text(root, "proc/sys/kernel/osrelease").map(|text| format!("kernel {}", text.trim()));
    let known = [distribution, kernel, Some(std::env::consts::ARCH.to_owned())];
    format!("{} ({})", std::env::consts::OS, known.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// The processor's model, where the system tells it.
pub fn processor(root: &Path) -> Option<String> {
    field(&text(root, "proc/cpuinfo")?, "model name", ':')
}

/// The machine's memory, or the container's where that is less.
pub fn memory(root: &Path) -> Option<Memory> {
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
pub fn nvidia(root: &Path, library_path: std::ffi::OsString) -> Nvidia {
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
