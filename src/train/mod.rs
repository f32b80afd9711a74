//! The training loop, metrics, early stopping and checkpoints.

mod captured;
pub mod checkpoint;
pub mod engine;
pub mod evaluate;
pub mod metrics;
pub mod pretrained;
pub mod run;
pub mod settings;
pub mod stopping;
