//! Training engine for EmberFormer, a network that predicts the next burned area of a wildfire from the
//! fire's history, wind and terrain. `main.rs` is the command line; everything it does is a call into here.
//!
//! Rooms, from the ground up; each may use only those before it in this list: error, extent, storage, patch,
//! device, tensor, tape, ops, model, optim, verify, data, train, track, report, config, cli.

pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod extent;
pub mod model;
pub mod ops;
pub mod optim;
pub mod patch;
pub mod report;
pub mod storage;
pub mod tape;
pub mod tensor;
pub mod track;
pub mod train;
pub mod verify;

pub use error::{Error, Result};
