//! The training loop, metrics, early stopping and checkpoints.

pub mod checkpoint;
pub mod metrics;
pub mod settings;
pub mod stopping;
