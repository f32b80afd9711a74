//! Multi-head attention over the steps of one patch: softmax(q·kᵀ / √(d / heads))·v, padded steps masked out as keys,
//! dropout on the probabilities (Vaswani et al., 2017).
//!
//! q [R, Tq, d]; kv [R, T, 2d], keys then values; valid [B, T] → [R, Tq, d], R = B·N patches. Tq is T, or 1 in the last
//! layer, where only the last step is asked for.

pub mod cpu;
mod gpu;

use crate::device::{Array, Device};
use crate::ops::dropout::Dropout;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};

/// Attention of every patch's queries over its own steps.
pub fn attention(
    tape: &mut Tape,
    q: &Var,
    kv: &Var,
    valid: &Array<bool>,
    heads: usize,
    dropout: Option<Dropout>,
) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::attention(tape, &gpu, q, kv, valid, heads, dropout),
    };
    let (q, kv) = (q.clone(), kv.clone());
    let sizes = cpu::Sizes {
        rows: q.shape()[0],
        queries: q.shape()[1],
        steps: kv.shape()[1],
        d: q.shape()[2],
        heads,
        batch: valid.len() / kv.shape()[1],
    };
    let valid = valid.clone();
    let (y, p) = with_real!(q.value().dtype(), E => {
        let (y, p) = cpu::forward::<E>(&cpu, &sizes, q.value().cpu(), kv.value().cpu(), valid.host(), dropout.as_ref());
        let p_shape = [sizes.rows, heads, sizes.queries, sizes.steps];
        (Tensor::from_buffer(q.shape(), y), Tensor::from_buffer(&p_shape, p))
    });
    Ok(tape.record(y, move |dy, gradients| {
        with_real!(dy.dtype(), E => {
            let (dq, dkv) =
                cpu::backward::<E>(&cpu, &sizes, dy.cpu(), q.value().cpu(), kv.value().cpu(), p.cpu(), dropout.as_ref());
            gradients.add(q.id(), Tensor::from_buffer(q.shape(), dq))?;
            gradients.add(kv.id(), Tensor::from_buffer(kv.shape(), dkv))?;
        });
        Ok(())
    }))
}
