//! Files that appear whole or not at all: written beside their place, synced, then renamed.

use crate::{Error, Result};
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A temporary file in the folder of `path`, which is made where it is missing. It goes away where it is not kept.
///
/// # Errors
/// A folder that cannot be made or written, a full disk.
pub fn begin(path: &Path) -> Result<NamedTempFile> {
    let folder = folder_of(path);
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "cannot create the folder", &e))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".partial-");
    // Temporary files are private by default; what remains here is an ordinary file under the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder).map_err(|e| Error::io(path, "cannot write", &e))
}

/// Syncs the temporary file and gives it the name `path`, in the place of what was there.
///
/// # Errors
/// A full disk, a folder that was made read-only.
pub fn keep(file: NamedTempFile, path: &Path) -> Result<()> {
    let fail = |e: &std::io::Error| Error::io(path, "cannot write", e);
    file.as_file().sync_all().map_err(|e| fail(&e))?;
    file.persist(path).map_err(|e| fail(&e.error))?;
    // The rename itself reaches the disk with the folder. Where folders cannot be opened there is nothing to sync.
    if let Ok(folder) = std::fs::File::open(folder_of(path)) {
        folder.sync_all().map_err(|e| fail(&e))?;
    }
    Ok(())
}

/// Writes a whole file.
///
/// # Errors
/// As [`begin`] and [`keep`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = begin(path)?;
    file.write_all(bytes).map_err(|e| Error::io(path, "cannot write", &e))?;
    keep(file, path)
}
