//! Training engine for EmberFormer, a network that predicts the next burned area of a wildfire from the
//! fire's history, wind and terrain. `main.rs` is the command line; everything it does is a call into here.
//!
//! Rooms, from the ground up; each may use only those above it in this list.

pub mod error;
pub mod patch;

pub mod device;
pub mod tensor;
pub mod tape;
pub mod ops;
pub mod model;
pub mod optim;
pub mod verify;
pub mod data;
pub mod train;
pub mod track;
pub mod report;
pub mod config;
pub mod cli;

pub use error::{Error, Result};
