//! Feature maps on their way between the convolutions of the refinement decoder.
//!
//! On a GPU a convolution leaves the batch norm and ReLU that follow it to whoever reads its map, so that the normalised map
//! is never written. Each map is read by exactly one op, which adds to the gradients that of the raw map (after the batch
//! norm's backward), of γ and of β.

use crate::Result;
use crate::device::Device;
use crate::ops::batch_norm::{self, MaskBits, Statistics, batch_norm_relu};
use crate::tape::{Id, Tape, Var};
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

impl Feature {
    /// The normalised map, for a reader that does not normalise it itself.
    pub fn normalized(self, tape: &mut Tape) -> Result<Var> {
        match (self.pending, tape.device().clone()) {
            (Some(pending), Device::Gpu(gpu)) => batch_norm::gpu::normalize(tape, &gpu, &self.value, 1, pending),
            _ => Ok(self.value),
        }
    }
}

impl From<Var> for Feature {
    fn from(value: Var) -> Self {
        Self { value, pending: None }
    }
}

/// The batch norm + ReLU that follow a convolution, and the mask to be appended after them.
pub struct Norm<'a> {
    /// `[C]`
    pub gamma: &'a Var,
    /// `[C]`
    pub beta: &'a Var,
    /// What normalises.
    pub statistics: Statistics<'a>,
    /// The last frame.
    pub append: Option<&'a MaskBits>,
}

impl Norm<'_> {
    /// Normalises a map with a border at once.
    pub(super) fn apply(self, tape: &mut Tape, x: &Var) -> Result<Feature> {
        Ok(batch_norm_relu(tape, x, self.gamma, self.beta, self.statistics, 1, self.append)?.into())
    }
}
