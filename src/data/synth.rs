//! Simulated fires in the Deep Crown layout.
