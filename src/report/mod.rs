//! Comparison of runs, pictures.

pub mod compare;
pub mod pictures;
