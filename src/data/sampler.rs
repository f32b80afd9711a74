//! The order in which samples are visited.
