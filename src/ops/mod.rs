//! The ops of the network: one folder each, with meaning and shapes in `mod.rs` and the CPU reference in `cpu.rs`.

pub mod loss;
