//! `emberformer experiments`

use crate::cli::print;
use crate::cli::setup::report_line;
use crate::cli::train::run_name;
use crate::config::Config;
use crate::device::gpu;
use crate::report::compare::Comparison;
use crate::track::folder::{FinishedRun, RunFolder};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The seed's two experiments.
const FULL: [&str; 2] = ["configs/emberformer.yaml", "configs/emberformer_bce_dice.yaml"];
/// The same two losses, small.
const QUICK: [&str; 2] = ["configs/emberformer_quick.yaml", "configs/emberformer_quick_bce_dice.yaml"];

/// Trains the experiments, one at a time on each device, each with its log under logs/, then compares them: in the
/// terminal, and as a page in report.html beside the runs.
///
/// A run that was begun before is resumed. If one fails, the others are still trained, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  emberformer experiments --quick
  emberformer experiments --config configs/emberformer.yaml --config configs/emberformer_pixel.yaml --set data.data_dir=~/deep_crown")]
pub struct Args {
    /// Configuration file; give it once for each experiment [default: configs/emberformer.yaml and emberformer_bce_dice.yaml]
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// The small pair: configs/emberformer_quick.yaml and emberformer_quick_bce_dice.yaml
    #[arg(long, conflicts_with = "config")]
    quick: bool,
    /// Devices, as in cuda:0,cuda:1: experiments run side by side, one on each; auto takes every GPU, else the CPU
    #[arg(long, value_name = "DEVICE,...", default_value = "auto")]
    device: String,
    /// Overrides a key of every configuration; may be given several times
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Epochs at most
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Folder of the runs [default: train.checkpoint_dir, which is runs]
    #[arg(long, value_name = "DIR")]
    runs_dir: Option<PathBuf>,
    /// Folder of the logs
    #[arg(long, value_name = "DIR", default_value = "logs")]
    logs_dir: PathBuf,
}

/// One experiment.
struct Experiment {
    config: PathBuf,
    name: String,
    folder: PathBuf,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let paths = match (args.config.as_slice(), args.quick) {
        ([], true) => QUICK.map(PathBuf::from).to_vec(),
        ([], false) => FULL.map(PathBuf::from).to_vec(),
        (given, _) => given.to_vec(),
    };
    // Every configuration is checked before the first run begins.
    let mut experiments: Vec<Experiment> = Vec::new();
    for config in paths {
        let loaded = Config::load(Some(&config), &args.set)?;
        let name = run_name(&loaded.config, Some(&config))?;
        let folder = args.runs_dir.as_ref().unwrap_or(&loaded.config.train.checkpoint_dir).join(&name);
        if experiments.iter().any(|other| other.folder == folder) {
            let problem = format!("two experiments would both be the run {}", folder.display());
            return Err(Error::usage(config.display(), problem, "give one of them a wandb.run_name"));
        }
        experiments.push(Experiment { config, name, folder });
    }
    std::fs::create_dir_all(&args.logs_dir).map_err(|e| Error::io(&args.logs_dir, "cannot create the folder", &e))?;

    let devices = devices(&args.device, experiments.len());
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for device in &devices {
            let (next, results, args) = (&next, &results, &args);
            let prefixed = devices.len() > 1;
            let experiments = &experiments;
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(experiment) = experiments.get(i) else { break };
                    let run = train(experiment, args, device, prefixed)
                        .and_then(|()| FinishedRun::read(&RunFolder::open(&experiment.folder)?));
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(i, run);
                }
            });
        }
    });
    let (mut finished, mut folders, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for (i, run) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let experiment = &experiments[i];
        match run {
            Ok(run) => {
                finished.push(run);
                folders.push(experiment.folder.clone());
            }
            Err(error) => {
                eprintln!("error: {error}");
                failures.push(experiment.name.clone());
            }
        }
    }
    if !finished.is_empty() {
        print(&format!("\n{}", Comparison::new(&finished).text()))?;
        if let Some(line) = report_line(&folders, &folders[0].with_file_name("report.html")) {
            print(&line)?;
        }
    }
    match failures.as_slice() {
        [] => Ok(()),
        names => Err(Error::failed(
            "experiments",
            format_args!("{} of {} failed: {}", names.len(), experiments.len(), names.join(", ")),
            format_args!("see the logs under {}", args.logs_dir.display()),
        )),
    }
}

/// The devices that a text names, no more than there are experiments; `auto` is every GPU where there are several.
fn devices(text: &str, experiments: usize) -> Vec<String> {
    let mut devices: Vec<String> = match (text, gpu::count()) {
        ("auto", n @ 2..) => (0..n).map(|i| format!("cuda:{i}")).collect(),
        _ => text.split(',').map(|device| device.trim().to_string()).collect(),
    };
    devices.truncate(experiments.max(1));
    devices
}

/// Trains in a process of its own, whose lines go to the log and to the terminal, there under the run's name where
/// several train at a time.
fn train(experiment: &Experiment, args: &Args, device: &str, prefixed: bool) -> Result<()> {
    let log = args.logs_dir.join(format!("{}.log", experiment.name));
    print(&format!("=== {} (log: {})", experiment.name, log.display()))?;
    let prefix = if prefixed { format!("[{}] ", experiment.name) } else { String::new() };
    let program = std::env::current_exe().map_err(|e| Error::io("emberformer", "cannot find this program", &e))?;
    let mut command = Command::new(program);
    command.arg("train").arg("--config").arg(&experiment.config).args(["--device", device]);
    command.args(args.set.iter().flat_map(|set| ["--set", set]));
    command.args(args.epochs.iter().flat_map(|n| ["--epochs".to_string(), n.to_string()]));
    command.args(args.runs_dir.iter().flat_map(|dir| ["--runs-dir".as_ref(), dir.as_os_str()]));
    if experiment.folder.join("config.yaml").exists() {
        command.arg("--resume");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io("emberformer train", "cannot start", &e))?;
    let file = Mutex::new(File::create(&log).map_err(|e| Error::io(&log, "cannot write", &e))?);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(|| copy_lines(stdout, &file, &prefix, std::io::stdout()));
        scope.spawn(|| copy_lines(stderr, &file, &prefix, std::io::stderr()));
    });
    let status = child.wait().map_err(|e| Error::io("emberformer train", "cannot wait for", &e))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::failed(
        &experiment.name,
        format_args!("training ended with {status}"),
        format_args!("see {}", log.display()),
    ))
}

/// Copies lines to the log and on; a terminal or log that goes away does not end the training.
fn copy_lines(from: Option<impl Read>, log: &Mutex<File>, prefix: &str, mut to: impl Write) {
    let Some(from) = from else { return };
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        if let Ok(mut log) = log.lock() {
            drop(log.write_all(&line));
        }
        line.splice(..0, prefix.bytes());
        drop(to.write_all(&line).and_then(|()| to.flush()));
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::devices;

    #[test]
    fn a_device_serves_one_experiment_at_a_time() {
        assert_eq!(devices("cuda:0, cuda:1", 3), ["cuda:0", "cuda:1"]);
        assert_eq!(devices("cuda:0,cuda:1", 1), ["cuda:0"]);
        assert_eq!(devices("cpu", 2), ["cpu"]);
    }
}
