//! The official client `wandb`, where it is installed, uploads a run while it is being written.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The first client that follows a run that is still being written.
const FIRST_LIVE: [u32; 2] = [0, 24];

/// How long a finished run waits for the upload of its earlier parts, and for its own.
const EARLIER: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

/// The upload of one run.
pub(super) struct Client {
    /// Earlier parts of the run, whose upload must be over first.
    earlier: Vec<PathBuf>,
    /// The part that is being written.
    part: PathBuf,
    /// What the client prints.
    log: PathBuf,
    live: bool,
    state: State,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

enum State {
    /// Not begun.
    Waiting,
    Running(Child),
    /// It is for the user to upload.
    Over,
}

impl Client {
    /// Looks for the client; `part` is the file of records that is being written, after `earlier` ones of the run.
    pub(super) fn new(earlier: Vec<PathBuf>, part: PathBuf) -> Self {
        let log = folder(&part).parent().unwrap_or(Path::new(".")).join("upload.log");
        let mut this = Self { earlier, part, log, live: false, state: State::Waiting, notes: Vec::new() };
        match version() {
            Ok(version) => this.live = version >= FIRST_LIVE,
            Err(problem) => {
                let remedy = this.by_hand();
                this.end(format!(
                    "{problem}, so the run stays on the disk; to upload it: pip install wandb, then {remedy}"
                ));
            }
        }
        this.tick();
        this
    }

    /// Begins where it can, and sees whether it has come to an end.
    pub(super) fn tick(&mut self) {
        if matches!(self.state, State::Waiting) && self.live && self.unfinished().is_empty() {
            self.start(&["beta", "sync", "--live"], vec![self.part.clone()]);
        }
        let State::Running(child) = &mut self.state else { return };
        match child.try_wait() {
            // It also ends well where nobody is logged in.
            Ok(Some(status)) if !(status.success() && is_uploaded(&self.part)) => {
                let (log, remedy) = (self.log.display(), self.by_hand());
                self.end(format!("the upload ended early ({status}), see {log}; to try again: {remedy}"));
            }
            Ok(Some(_)) => self.state = State::Over,
            _ => {}
        }
    }

    /// The last record is written: the upload is given a minute, then goes on by itself.
    pub(super) fn finish(&mut self) {
        let began = Instant::now();
        while matches!(self.state, State::Waiting) && self.live && began.elapsed() < EARLIER {
            std::thread::sleep(Duration::from_millis(100));
            self.tick();
        }
        if matches!(self.state, State::Waiting) {
            let parts = [self.unfinished(), vec![self.part.clone()]].concat();
            self.start(&["sync"], parts);
        }
        let began = Instant::now();
        while matches!(self.state, State::Running(_)) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(100));
            self.tick();
        }
        if matches!(self.state, State::Running(_)) {
            self.end(format!("the upload goes on by itself, see {}", self.log.display()));
        }
    }

    fn end(&mut self, note: String) {
        self.notes.push(note);
        self.state = State::Over;
    }

    /// Earlier parts that are not uploaded.
    fn unfinished(&self) -> Vec<PathBuf> {
        self.earlier.iter().filter(|part| !is_uploaded(part)).cloned().collect()
    }

    /// The command that uploads what is not yet uploaded.
    fn by_hand(&self) -> String {
        let parts = [self.unfinished(), vec![self.part.clone()]].concat();
        let folders: Vec<String> = parts.iter().map(|part| folder(part).display().to_string()).collect();
        format!("wandb sync {}", folders.join(" "))
    }

    /// In a process group of its own, so that neither an interrupt from the terminal nor this program's end stops it.
    fn start(&mut self, arguments: &[&str], parts: Vec<PathBuf>) {
        let mut command = Command::new("wandb");
        command.args(arguments).args(parts.iter().map(|part| folder(part))).stdin(Stdio::null());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let child = log.and_then(|log| command.stdout(log.try_clone()?).stderr(log).spawn());
        match child {
            Ok(child) => self.state = State::Running(child),
            Err(e) => {
                let remedy = self.by_hand();
                self.end(format!("the upload cannot begin: {e}; to upload the run: {remedy}"));
            }
        }
    }
}

/// Whether a part is uploaded: the client leaves a mark beside it.
fn is_uploaded(part: &Path) -> bool {
    let mut mark = part.as_os_str().to_os_string();
    mark.push(".synced");
    Path::new(&mark).exists()
}

/// The folder of a file of records.
fn folder(part: &Path) -> &Path {
    part.parent().unwrap_or(Path::new("."))
}

/// The client's version, as it tells.
fn version() -> Result<[u32; 2], String> {
    let output = Command::new("wandb").arg("--version").stdin(Stdio::null()).output().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "the client `wandb` is not installed".to_string(),
        _ => format!("the client `wandb` does not start: {e}"),
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| "the client `wandb` does not tell its version".to_string())
}

/// Major and minor version from a line such as `wandb, version 0.31.0`.
fn parse_version(text: &str) -> Option<[u32; 2]> {
    let (_, version) = text.trim().rsplit_once(' ')?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(parse_version("wandb, version 0.31.0\n"), Some([0, 31]));
        assert_eq!(parse_version("wandb, version 0.24.1rc1"), Some([0, 24]));
        assert_eq!(parse_version("usage: wandb"), None);
        assert!([0, 23] < FIRST_LIVE && [0, 24] >= FIRST_LIVE && [1, 0] >= FIRST_LIVE);
    }
}
