//! Launches `kernels/feed_forward.cu`.

use super::Layer;
use crate::Result;
use crate::device::gpu::{Gpu, Launch, params};
use crate::ops::dropout::Dropout;
use crate::tape::{Tape, Var};
use crate::tensor::DType;
use std::ptr::null_mut;

/// Features of a row.
const D: usize = 64;
/// Rows of a block of the forward, and of a tile of the backward.
const BLOCK_ROWS: usize = 256;
const TILE: usize = 32;
/// Most blocks of the forward for each multiprocessor, which runs one at a time.
const FORWARD_BLOCKS: usize = 3;

/// Whether there are kernels for these sizes: their weights have to fit into shared memory.
pub fn fits(x: &Var, layer: &Layer<'_>) -> bool {
    let hidden = layer.w1.shape()[0];
    let sizes = layer.w1.shape()[1] == D && hidden.is_multiple_of(64) && (64..=256).contains(&hidden);
    sizes && x.value().dtype() == DType::BF16 && !x.value().is_empty()
}

/// See [`super::feed_forward`]; sizes that [`fits`] allows.
pub fn feed_forward(tape: &mut Tape, gpu: &Gpu, x: &Var, layer: &Layer<'_>) -> Result<Var> {
    let (hidden, rows) = (layer.w1.shape()[0], x.value().len() / D);
    assert_eq!(x.shape().last(), Some(&D), "feed_forward: {:?} by {:?}", x.shape(), layer.w1.shape());
    assert_eq!(layer.w2.shape(), [D, hidden], "feed_forward: {:?}", layer.w1.shape());
    let (inner, outer) = (layer.inner, layer.outer);
    let weights = gpu.tensor(DType::BF16, &[2, hidden * D])?;
    let pack = params::FeedForwardPack {
        to: weights.gpu_address(),
        w1: layer.w1.value().gpu_address().cast(),
        w2: layer.w2.value().gpu_address().cast(),
        len: (hidden * D) as u32,
    };
    gpu.launch_for("feed_forward_pack", DType::BF16, Launch::linear((weights.len() / 8).div_ceil(256), 256), &pack)?;
    let y = gpu.tensor(DType::BF16, x.shape())?;
    let saved = match tape.is_recording() {
        true => Some((gpu.tensor(DType::BF16, &[rows, D])?, gpu.tensor(DType::F32, &[rows.next_multiple_of(16)])?)),
        false => None,
    };
    let forward = params::FeedForward {
        y: y.gpu_address(),
        normalized: saved.as_ref().map_or(null_mut(), |(normalized, _)| normalized.gpu_address()),
        rstd: saved.as_ref().map_or(null_mut(), |(_, rstd)| rstd.gpu_address()).cast(),
        x: x.value().gpu_address(),
        weights: weights.gpu_address(),
        b1: layer.b1.value().gpu_address().cast(),
        b2: layer.b2.value().gpu_address().cast(),
        gamma: layer.gamma.value().gpu_address().cast(),
        beta: layer.beta.value().gpu_address().cast(),
        rows: rows as u64,
        hidden: hidden as u32,
        inner: Dropout::params(gpu, inner.as_ref())?,
        outer: Dropout::params(gpu, outer.as_ref())?,
    };
    let launch =
        Launch::linear(rows.div_ceil(BLOCK_ROWS).min(FORWARD_BLOCKS * gpu.multiprocessors()), 2 * BLOCK_ROWS as u32);
    let shared = 260 * hidden as u32; // both weights and b1
    gpu.launch_for("feed_forward", DType::BF16, Launch { shared, ..launch }, &forward)?;
    let Some((normalized, rstd)) = saved else { return Ok(tape.leaf(y)) };

    let gpu = gpu.clone();
    let (x, b1, gamma) = (x.clone(), layer.b1.clone(), layer.gamma.clone());
    let ids = [layer.w1, layer.w2, layer.b1, layer.b2, layer.gamma, layer.beta].map(Var::id);
    Ok(tape.record(y, move |mut dy, gradients| {
        let blocks = rows.div_ceil(TILE).min(gpu.multiprocessors());
        let columns = (2 * D + 1) * hidden + 3 * D;
        let partials = gpu.tensor(DType::F32, &[blocks, columns])?;
        let backward = params::FeedForwardBackward {
            dx: dy.gpu_mut(&gpu)?,
            dy: dy.gpu_address(),
            x: x.value().gpu_address(),
            normalized: normalized.gpu_address(),
            rstd: rstd.gpu_address().cast(),
            weights: weights.gpu_address(),
            b1: b1.value().gpu_address().cast(),
            gamma: gamma.value().gpu_address().cast(),
            partials: partials.gpu_address().cast(),
            rows: rows as u64,
            hidden: hidden as u32,
            inner: Dropout::params(&gpu, inner.as_ref())?,
            outer: Dropout::params(&gpu, outer.as_ref())?,
        };
        // Both weights, four tiles of 64 features with rstd, and one of hidden units.
        let shared = 256 * hidden + 4 * 2 * TILE * D + 4 * TILE + 2 * TILE * hidden;
        let launch = Launch { shared: shared as u32, ..Launch::linear(blocks, hidden as u32) };
        gpu.launch_for("feed_forward_backward", DType::BF16, launch, &backward)?;

        let shapes: [&[usize]; 6] = [&[hidden, D], &[D, hidden], &[hidden], &[D], &[D], &[D]];
        let sums = shapes.map(|shape| gpu.tensor(DType::F32, shape));
        let [dw1, dw2, db1, db2, dgamma, dbeta] = sums;
        let sums = [dw1?, dw2?, db1?, db2?, dgamma?, dbeta?];
        let [dw1, dw2, db1, db2, dgamma, dbeta] = sums.each_ref().map(|sum| sum.gpu_address().cast());
        let sum = params::FeedForwardSum {
            dw1,
            dw2,
            db1,
            db2,
            dgamma,
            dbeta,
            partials: partials.gpu_address().cast(),
            blocks: blocks as u32,
            hidden: hidden as u32,
        };
        let launch = Launch { shared: 4 * 256, ..Launch::linear(columns.div_ceil(32), 256) };
        gpu.launch("feed_forward_sum", launch, &sum)?;
        for (id, sum) in ids.into_iter().zip(sums) {
            gradients.add(id, sum)?;
        }
        gradients.add(x.id(), dy)
    }))
}
