//! The training loop, metrics, early stopping and checkpoints.
