//! Comparison of runs, pictures.
