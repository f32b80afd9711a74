//! The one error type: it names the subject (a file, a key, a device), the problem and the remedy.

use std::fmt;
use std::path::Path;

/// Crate-wide result.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure it was, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bad command line or configuration: exit code 2.
    Usage,
    /// The work itself failed (data, checkpoint, disk, device): exit code 1.
    Failed,
    /// A signal asked for an end: exit code 130, as shells have it.
    Interrupted,
}

/// An error in one line: `subject: problem; remedy`.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    subject: String,
    problem: String,
    remedy: String,
}

impl Error {
    /// The command line or the configuration is wrong (exit code 2).
    pub fn usage(subject: impl fmt::Display, problem: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Usage,
            subject: subject.to_string(),
            problem: problem.to_string(),
            remedy: remedy.to_string(),
        }
    }

    /// A file, store, checkpoint or device failed (exit code 1).
    pub fn failed(subject: impl fmt::Display, problem: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { kind: Kind::Failed, ..Self::usage(subject, problem, remedy) }
    }

    /// A signal asked for an end (exit code 130).
    pub fn interrupted(subject: impl fmt::Display, problem: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { kind: Kind::Interrupted, ..Self::usage(subject, problem, remedy) }
    }

    /// An operating-system error at a path: `action` is what was attempted, as in "cannot read".
    pub fn io(path: impl AsRef<Path>, action: &str, source: &std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let remedy = match source.kind() {
            E::NotFound => "check the path",
            E::PermissionDenied => "check the permissions",
            E::StorageFull | E::QuotaExceeded => "free disk space and run it again",
            E::ReadOnlyFilesystem => "choose a folder that can be written",
            _ => "check the file and the disk",
        };
        Self::failed(path.as_ref().display(), format_args!("{action}: {source}"), remedy)
    }

    /// What is wrong, without subject and remedy.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// The same about something within `file`: a failure of the work, whatever it was before.
    pub fn within(self, file: impl fmt::Display) -> Self {
        let Self { subject, problem, remedy, .. } = self;
        Self::failed(file, format_args!("{subject}: {problem}"), remedy)
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The process's exit code for this error.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Failed => 1,
            Kind::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.subject, self.problem, self.remedy)
    }
}

impl std::error::Error for Error {}
