//! The ops of the network: one folder each, with meaning, shapes and tape node in `mod.rs` and the CPU reference in
//! `cpu.rs`. An op takes and returns values on a tape; its backward follows the gradient contract of [`crate::tape`].
//!
//! Feature maps are channels last with a border of one zero pixel on every side, [B, H + 2, W + 2, C], so that the windows
//! of a convolution are contiguous runs of memory; see [`map`].

pub mod adam;
pub mod attention;
pub mod batch_norm;
mod columns;
pub mod conv;
pub mod dropout;
pub mod feature;
pub mod feed_forward;
pub mod gather;
pub mod gradient_norm;
pub mod linear;
pub mod loss;
pub mod map;
pub mod output_conv;
pub mod pyramid;
pub mod refinement_input;
pub mod residual_norm;
pub mod self_attention;
pub mod slice;
pub mod token_embedding;
pub mod up_conv;
