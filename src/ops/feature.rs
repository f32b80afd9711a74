//! Feature maps on their way between the convolutions of the refinement decoder.
//!
//! On a GPU a convolution leaves the batch norm and ReLU that follow it to whoever reads its map, so that the normalised map
//! is never written. Each map is read by exactly one op, which adds to the gradients that of the raw map (after the batch
//! norm's backward), of γ and of β.

use crate::ops::batch_norm::MaskBits;
use crate::tape::{Id, Var};
use crate::tensor::Tensor;

/// A feature map and what is still to be done with it.
#[derive(Clone)]
pub struct Feature {
    /// The map: normalised where nothing is pending.
    pub value: Var,
    /// What its reader is to apply.
    pub pending: Option<Pending>,
}

/// Batch norm + ReLU still to be applied to a map, and the mask to be appended to it as its last channel.
#[derive(Clone)]
pub struct Pending {
    /// `[4, stored(C)]`: mean, 1/√(var + ε), γ, β.
    pub affine: Tensor,
    /// The parameter γ, for its gradient.
    pub gamma: Id,
    /// The parameter β, for its gradient.
    pub beta: Id,
    /// Channels C of the map.
    pub channels: usize,
    /// Whether the statistics are the batch's, through which gradients flow, or running ones.
    pub of_batch: bool,
    /// The last frame, channel C of what the reader sees.
    pub mask: Option<MaskBits>,
}

impl From<Var> for Feature {
    fn from(value: Var) -> Self {
        Self { value, pending: None }
    }
}
