//! The attention half of an encoder layer: y = layer_norm(x + drop(attention(x)·Woᵀ + bo)), where attention projects x to
//! queries, keys and values and masks out padded steps as keys (Vaswani et al., 2017, layer norm after the residual).
//!
//! x [R, T, d] → [R, T, d], or [R, 1, d] where only the last step's query is asked for; then x is the residual's last step
//! too. On a GPU in bf16, for d of 64, heads 8, 16, 32 or 64 wide and T up to 32, one kernel computes all of it forward and
//! one backward; elsewhere the ops that it consists of follow one another.

mod gpu;

use crate::Result;
use crate::device::{Array, Device};
use crate::ops::attention::attention;
use crate::ops::dropout::Dropout;
use crate::ops::linear::{Activation, linear};
use crate::ops::residual_norm::residual_norm;
use crate::ops::slice::{last_step, slice};
use crate::tape::{Tape, Var};

/// The layer's parameters.
#[derive(Clone)]
pub struct Weights {
    /// Projection to queries, keys and values, [3·d, d].
    pub in_weight: Var,
    /// Its bias, [3·d].
    pub in_bias: Var,
    /// Projection of what was attended to, [d, d].
    pub out_weight: Var,
    /// Its bias, `[d]`.
    pub out_bias: Var,
    /// Scale of the layer norm, `[d]`.
    pub gamma: Var,
    /// Shift of the layer norm, `[d]`.
    pub beta: Var,
}

/// Dropout of the layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dropouts {
    /// Of the attention's probabilities.
    pub probabilities: Option<Dropout>,
    /// Of what is added to x.
    pub residual: Option<Dropout>,
}

/// The layer for every step of x, or for the `last` one of each patch; valid is [B, T].
pub fn self_attention(
    tape: &mut Tape,
    x: &Var,
    weights: &Weights,
    valid: &Array<bool>,
    heads: usize,
    last: bool,
    dropouts: Dropouts,
) -> Result<Var> {
    if let Device::Gpu(gpu) = tape.device().clone()
        && gpu::takes(x, heads)
    {
        return gpu::self_attention(tape, &gpu, x, weights, valid, heads, last, dropouts);
    }
    composed(tape, x, weights, valid, heads, last, dropouts)
}

fn composed(
    tape: &mut Tape,
    x: &Var,
    weights: &Weights,
    valid: &Array<bool>,
    heads: usize,
    last: bool,
    dropouts: Dropouts,
) -> Result<Var> {
    let (rows, d) = (x.shape()[0], x.shape()[2]);
    let mut part = |range: std::ops::Range<usize>| {
        let w = slice(tape, &weights.in_weight, range.clone(), 0..d)?;
        Ok((w, slice(tape, &weights.in_bias, range, 0..1)?))
    };
    let ((wq, bq), (wkv, bkv)) = (part(0..d)?, part(d..3 * d)?);
    let kv = linear(tape, x, &wkv, Some(&bkv), Activation::Identity)?; // [R, T, 2d]
    let x = if last {
        let x = last_step(tape, x)?; // [R, d]
        tape.reshape(&x, &[rows, 1, d])
    } else {
        x.clone()
    };
    let q = linear(tape, &x, &wq, Some(&bq), Activation::Identity)?; // [R, T or 1, d]
    let attended = attention(tape, &q, &kv, valid, heads, dropouts.probabilities)?;
    let attended = linear(tape, &attended, &weights.out_weight, Some(&weights.out_bias), Activation::Identity)?;
    residual_norm(tape, &x, &attended, &weights.gamma, &weights.beta, dropouts.residual)
}
