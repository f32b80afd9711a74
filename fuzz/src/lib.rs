//! What several targets need.

use std::path::PathBuf;
use std::sync::OnceLock;

/// A folder of this process in memory, where there is one, with `bytes` in its file `name`.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
        parent.join(format!("emberformer-fuzz-{}", std::process::id()))
    });
    let path = folder.join(name);
    let parent = path.parent().expect("a folder");
    std::fs::create_dir_all(parent).expect("a folder to write to");
    std::fs::write(&path, bytes).expect("a file to write");
    path
}
