//! The feed-forward half of a transformer's layer: y = layer_norm(x + drop(h·W2ᵀ + b2)) with h = drop(gelu(x·W1ᵀ + b1))
//! (A. Vaswani et al., "Attention is all you need", 2017, with GELU).
//!
//! x [rows, d], W1 [hidden, d], W2 [d, hidden], biases, γ and β of the norm → y [rows, d]. One kernel each way for bf16 on a
//! GPU where d is 64 and hidden 64, 128, 192 or 256; elsewhere [`linear`] twice, then [`residual_norm`].

mod gpu;

use crate::Result;
use crate::device::Device;
use crate::ops::dropout::Dropout;
use crate::ops::linear::{Activation, linear};
use crate::ops::residual_norm::residual_norm;
use crate::tape::{Tape, Var};

/// The layer's parameters.
pub struct Layer<'a> {
    /// W1 [hidden, d]
    pub w1: &'a Var,
    /// b1 `[hidden]`
    pub b1: &'a Var,
    /// W2 [d, hidden]
    pub w2: &'a Var,
    /// b2 `[d]`
    pub b2: &'a Var,
    /// Scale of the norm, `[d]`
    pub gamma: &'a Var,
    /// Offset of the norm, `[d]`
    pub beta: &'a Var,
    /// Dropout of the hidden units, [rows, hidden].
    pub inner: Option<Dropout>,
    /// Dropout of what is added to x, [rows, d].
    pub outer: Option<Dropout>,
}

/// The layer's output, of x's shape; leading dimensions of x are rows.
pub fn feed_forward(tape: &mut Tape, x: &Var, layer: &Layer<'_>) -> Result<Var> {
    if let Device::Gpu(gpu) = tape.device().clone()
        && gpu::fits(x, layer)
    {
        return gpu::feed_forward(tape, &gpu, x, layer);
    }
    let hidden = linear(tape, x, layer.w1, Some(layer.b1), Activation::Gelu(layer.inner))?; // [rows, hidden]
    let update = linear(tape, &hidden, layer.w2, Some(layer.b2), Activation::Identity)?; // [rows, d]
    residual_norm(tape, x, &update, layer.gamma, layer.beta, layer.outer)
}
