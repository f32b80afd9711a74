//! Comparison of runs, pictures.

pub mod pictures;
