//! Comparison of runs, pictures.

pub mod compare;
