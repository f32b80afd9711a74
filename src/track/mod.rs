//! A run's folder and all that is written about a run: metrics.jsonl, the log, the terminal, TensorBoard's event files and
//! Weights & Biases' offline runs.

pub mod console;
pub mod folder;
mod sink;
mod system;
mod tensorboard;
pub mod tracker;
pub mod wandb;
