//! The run folder, console progress and metrics.jsonl.
