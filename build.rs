//! Compiles the kernels twice: with nvcc into the images that GPUs run, and with the host's compiler for the emulated
//! device; and makes the Rust side of `kernels/include/params.h`.
//!
//! Without nvcc the build warns and goes on: everything but `--device cuda:N` works. Variables: `NVCC`, `CUDA_HOME`,
//! `CUDA_PATH` (where nvcc is; an empty `NVCC`: none), `EMBERFORMER_CUDA_ARCHS` (compute capabilities, comma separated), `EMBERFORMER_DENY_SPILLS`
//! (a kernel that spills registers fails the build), `LIBCLANG_PATH` (for bindgen).

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Compute capabilities that get machine code: A100, RTX A6000 and RTX 30, L40 and RTX 40, H100 and H200.
const ARCHITECTURES: &str = "80,86,89,90";
/// Compute capability of the intermediate code that newer GPUs translate for themselves.
const PTX: u32 = 80;
/// Oldest release of nvcc.
const OLDEST_NVCC: (u32, u32) = (12, 4);
/// Where `scripts/toolchain.sh` puts the compiler.
const TOOLCHAIN: &str = ".toolchain";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    for path in ["build.rs", "kernels", TOOLCHAIN] {
        println!("cargo:rerun-if-changed={path}");
    }
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "EMBERFORMER_CUDA_ARCHS", "EMBERFORMER_DENY_SPILLS", "LIBCLANG_PATH"]
    {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let kernels = kernel_files()?;
    bind_params(&out)?;
    compile_for_the_host(&kernels, &out)?;
    let images = match find_nvcc() {
        Some(nvcc) => compile_for_gpus(&nvcc, &kernels, &out)?,
        None => {
            println!(
                "cargo:warning=no nvcc found (NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda, {TOOLCHAIN}): this \
                 build holds no GPU kernels; scripts/toolchain.sh fetches a compiler"
            );
            Images::default()
        }
    };
    fs::write(out.join("images.rs"), images.source()).map_err(|e| format!("cannot write images.rs: {e}"))
}

/// `kernels/*.cu` in alphabetical order.
fn kernel_files() -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir("kernels").map_err(|e| format!("cannot list kernels: {e}"))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    files.sort();
    Ok(files)
}

fn bind_params(out: &Path) -> Result<(), String> {
    if env::var_os("LIBCLANG_PATH").is_none()
        && let Some(folder) = toolchain("clang/native", "libclang.so")
    {
        // SAFETY: a build script has one thread at this point.
        unsafe { env::set_var("LIBCLANG_PATH", folder) };
    }
    let generate = || {
        bindgen::Builder::default()
            .header("kernels/include/params.h")
            .clang_arg("-fparse-all-comments")
            .derive_default(true)
            .layout_tests(true)
            .generate()
    };
    // bindgen panics where there is no libclang.
    let bindings = std::panic::catch_unwind(generate)
        .map_err(|_| {
            "bindgen found no libclang: run scripts/toolchain.sh, install it (Debian: libclang-dev), or set LIBCLANG_PATH"
                .to_string()
        })?
        .map_err(|e| format!("kernels/include/params.h: {e}"))?;
    bindings.write_to_file(out.join("params.rs")).map_err(|e| format!("cannot write params.rs: {e}"))
}

fn compile_for_the_host(kernels: &[PathBuf], out: &Path) -> Result<(), String> {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .includes(["kernels/include", "kernels/emulate"])
        .flag("-ffp-contract=off") // sums come out the same whatever the compiler
        .flag("-fno-strict-aliasing")
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-Wno-unknown-pragmas") // #pragma unroll
        .flag("-xc++");
    // Objects are kept by what they are made from, as the images are.
    let kept = kept_folder(out, "kernel-objects")?;
    let compiler = build.get_compiler();
    let shared =
        format!("{:?}{:?}{}{}", compiler.path(), compiler.args(), texts("kernels/include")?, texts("kernels/emulate")?);
    let mut archive = cc::Build::new();
    let own = ["kernels/emulate/emulate.cpp", "kernels/emulate/checks.cu"];
    for source in kernels.iter().map(PathBuf::as_path).chain(own.map(Path::new)) {
        let text = fs::read_to_string(source).map_err(|e| format!("{}: {e}", source.display()))?;
        let name = source.file_stem().unwrap_or_default().to_string_lossy();
        let object = kept.join(format!("{name}-{:016x}.o", fnv1a(shared.bytes().chain(text.bytes()))));
        if !object.exists() {
            let made = build.clone().file(source).try_compile_intermediates().map_err(|e| e.to_string())?;
            let fresh = object.with_extension(format!("{}.tmp", std::process::id()));
            let moved = fs::copy(&made[0], &fresh).and_then(|_| fs::rename(&fresh, &object));
            moved.map_err(|e| format!("cannot keep {}: {e}", object.display()))?;
        }
        archive.object(object);
    }
    archive
        .cpp(true)
        .link_lib_modifier("+whole-archive") // kernels register themselves; nothing refers to them by symbol
        .try_compile("emberformer_emulated")
        .map_err(|e| e.to_string())
}

/// A folder in target/ for what debug and release builds share.
fn kept_folder(out: &Path, name: &str) -> Result<PathBuf, String> {
    let folder = out.ancestors().nth(4).unwrap_or(out).join(name);
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    Ok(folder)
}

/// The texts of a folder's files, one after the other.
fn texts(folder: &str) -> Result<String, String> {
    let mut files: Vec<_> = fs::read_dir(folder).map_err(|e| format!("cannot list {folder}: {e}"))?.flatten().collect();
    files.sort_by_key(fs::DirEntry::path);
    files.iter().map(|f| fs::read_to_string(f.path()).map_err(|e| format!("{}: {e}", f.path().display()))).collect()
}

/// A folder of the fetched toolchain that holds `file`.
fn toolchain(under: &str, file: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(Path::new(TOOLCHAIN).join("lib")).ok()?.flatten();
    let folders = versions.map(|python| python.path().join("site-packages").join(under));
    folders.filter(|folder| folder.join(file).exists()).find_map(|folder| folder.canonicalize().ok())
}

fn find_nvcc() -> Option<PathBuf> {
    if let Some(given) = env::var_os("NVCC") {
        return Some(PathBuf::from(given)).filter(|nvcc| !nvcc.as_os_str().is_empty());
    }
    let homes =
        ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(|home| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = homes.chain(env::split_paths(&path)).chain([PathBuf::from("/usr/local/cuda/bin")]);
    let folders = folders.chain(toolchain("nvidia/cu13/bin", "nvcc"));
    folders.map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())
}

#[derive(Default)]
struct Images {
    architectures: Vec<u32>,
    compiler: String,
    files: Vec<(String, PathBuf)>,
}

impl Images {
    fn source(&self) -> String {
        let mut text = format!(
            "pub const ARCHITECTURES: &[u32] = &{:?};\npub const PTX: u32 = {PTX};\npub const COMPILER: &str = {:?};\n\
             pub static IMAGES: &[(&str, &[u8])] = &[\n",
            self.architectures, self.compiler
        );
        for (name, path) in &self.files {
            let _ = writeln!(text, "    ({name:?}, include_bytes!({:?})),", path.display().to_string());
        }
        text + "];\n"
    }
}

/// One fatbin a kernel file, with machine code for every architecture and PTX.
fn compile_for_gpus(nvcc: &Path, kernels: &[PathBuf], out: &Path) -> Result<Images, String> {
    println!("cargo:rerun-if-changed={}", nvcc.display());
    let listed = env::var("EMBERFORMER_CUDA_ARCHS").unwrap_or_else(|_| ARCHITECTURES.to_string());
    let architectures = listed
        .split(',')
        .map(|arch| match arch.trim().parse::<u32>() {
            Ok(arch) if arch >= 80 => Ok(arch),
            _ => Err(format!(
                "EMBERFORMER_CUDA_ARCHS={listed}: {arch:?} is no compute capability from 80 on, as in 80,86"
            )),
        })
        .collect::<Result<BTreeSet<u32>, _>>()?;
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok((output.stdout, output.stderr)),
        Ok(output) => Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr))),
        Err(e) => Err(format!("cannot run {}: {e}", nvcc.display())),
    };
    let (version, _) = run(Command::new(nvcc).arg("--version"))?;
    let version = String::from_utf8_lossy(&version).into_owned();
    let release = version.lines().find_map(|line| line.split_once("release ")).map_or("?", |(_, rest)| rest);
    let release = release.split(',').next().unwrap_or_default().to_string();
    let number = |text: Option<&str>| text.and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let mut parts = release.split('.');
    if (number(parts.next()), number(parts.next())) < OLDEST_NVCC {
        return Err(format!(
            "{} is nvcc {release}, 12.4 is the oldest that compiles the kernels; set NVCC to a newer one (scripts/toolchain.sh \
             fetches 13.0), or to nothing for a build without GPU kernels",
            nvcc.display()
        ));
    }

    let mut flags: Vec<String> =
        ["-std=c++17", "-O3", "-fatbin", "-Xptxas=-v", "-Wno-deprecated-gpu-targets"].map(String::from).into();
    flags.push("-Ikernels/include".into());
    flags.extend(architectures.iter().map(|arch| format!("-gencode=arch=compute_{arch},code=sm_{arch}")));
    flags.push(format!("-gencode=arch=compute_{PTX},code=compute_{PTX}"));

    // Images are kept by what they are made from, so that debug and release builds share them.
    let kept = kept_folder(out, "kernel-images")?;
    let shared = format!("{version}{flags:?}{}", texts("kernels/include")?);

    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; kernels.len()]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(source) = kernels.get(i) else { break };
                    let result = compile_one(nvcc, source, &flags, &shared, &kept, &run);
                    if let Ok(mut results) = results.lock() {
                        results[i] = Some(result);
                    }
                }
            });
        }
    });
    let mut images =
        Images { architectures: architectures.into_iter().collect(), compiler: release, files: Vec::new() };
    let mut report =
        "kernel                                        arch  registers   shared    stack   spills\n".to_string();
    let mut spilling = Vec::new();
    for (source, result) in kernels.iter().zip(results.into_inner().unwrap_or_default()) {
        let (image, log) = result.unwrap_or_else(|| Err("a compiler thread ended early".into()))?;
        for usage in usages(&log) {
            let _ = writeln!(
                report,
                "{:<44} {:>5} {:>10} {:>8} {:>8} {:>8}",
                usage.kernel, usage.architecture, usage.registers, usage.shared, usage.stack, usage.spilled
            );
            if usage.spilled > 0 || usage.stack > 0 {
                spilling.push(format!("{} ({})", usage.kernel, usage.architecture));
            }
        }
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        images.files.push((name, image));
    }
    let path = kept_folder(out, "")?.join("kernel_report.txt");
    fs::write(&path, report).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    if !spilling.is_empty() {
        let message = format!("kernels that keep registers in memory: {}; see {}", spilling.join(", "), path.display());
        if env::var_os("EMBERFORMER_DENY_SPILLS").is_some() {
            return Err(message);
        }
        println!("cargo:warning={message}");
    }
    Ok(images)
}

type Output = (Vec<u8>, Vec<u8>);

/// The image of one file and what the assembler said of it; from an earlier build where nothing has changed.
fn compile_one(
    nvcc: &Path,
    source: &Path,
    flags: &[String],
    shared: &str,
    kept: &Path,
    run: &impl Fn(&mut Command) -> Result<Output, String>,
) -> Result<(PathBuf, String), String> {
    let text = fs::read_to_string(source).map_err(|e| format!("{}: {e}", source.display()))?;
    let name = source.file_stem().unwrap_or_default().to_string_lossy();
    let key = fnv1a(shared.bytes().chain(text.bytes()));
    let image = kept.join(format!("{name}-{key:016x}.fatbin"));
    let log_path = image.with_extension("log");
    if let (true, Ok(log)) = (image.exists(), fs::read_to_string(&log_path)) {
        return Ok((image, log));
    }
    let fresh = image.with_extension(format!("{}.tmp", std::process::id()));
    let (_, log) = run(Command::new(nvcc).args(flags).arg("-o").arg(&fresh).arg(source))?;
    let log = String::from_utf8_lossy(&log).into_owned();
    let written = fs::write(&log_path, &log).and_then(|()| fs::rename(&fresh, &image));
    written.map_err(|e| format!("cannot keep {}: {e}", image.display()))?;
    Ok((image, log))
}

/// FNV-1a (G. Fowler, L. C. Noll & K.-P. Vo), 64 bits.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What one kernel takes on one architecture.
#[derive(Default)]
struct Usage {
    kernel: String,
    architecture: String,
    registers: u32,
    /// Bytes of static shared memory; what a launch asks for comes on top.
    shared: u32,
    /// Bytes of local memory.
    stack: u32,
    /// Bytes of spill stores and loads.
    spilled: u32,
}

/// Reads the assembler's report (`ptxas -v`).
fn usages(log: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    let number_before = |line: &str, what: &str| {
        let number = line.split(what).next()?.split_whitespace().next_back()?;
        line.contains(what).then(|| number.parse::<u32>().ok()).flatten()
    };
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut parts = rest.split('\'');
            let kernel = parts.next().unwrap_or_default().to_string();
            let architecture = parts.nth(1).unwrap_or_default().to_string();
            usages.push(Usage { kernel, architecture, ..Usage::default() });
        }
        let Some(usage) = usages.last_mut() else { continue };
        for (what, to) in [
            (" bytes stack frame", &mut usage.stack),
            (" registers", &mut usage.registers),
            (" bytes smem", &mut usage.shared),
        ] {
            if let Some(n) = number_before(line, what) {
                *to = n;
            }
        }
        let spills =
            [" bytes spill stores", " bytes spill loads"].into_iter().filter_map(|what| number_before(line, what));
        usage.spilled += spills.sum::<u32>();
    }
    usages
}
