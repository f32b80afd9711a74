//! The run folder, console progress and metrics.jsonl.

pub mod console;
pub mod folder;
pub mod tracker;
