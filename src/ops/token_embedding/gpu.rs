//! Launches `kernels/token_embedding.cu`.

use super::Tokens;
use crate::Result;
use crate::device::gpu::{Gpu, Launch, params};
use crate::tape::{Id, Tape, Var};
use crate::tensor::{DType, Tensor};
use std::ptr::null_mut;

const THREADS: u32 = 256;
/// Patches of a group, and channels of a block, in the backward.
const GROUP: usize = 64;

/// See [`super::token_embedding`]; d is a multiple of 8.
pub fn token_embedding(
    tape: &mut Tape,
    gpu: &Gpu,
    tokens: &Tokens,
    weight: &Var,
    bias: &Var,
    wind: Option<&Var>,
    statics: Option<&Var>,
) -> Result<Var> {
    let (d, inputs) = (weight.shape()[0], weight.shape()[1]);
    let (batch, history, patches) = (tokens.batch, tokens.history, tokens.grid.patches());
    let dtype = tokens.activations;
    let address = |var: Option<&Var>| var.map_or(null_mut(), |var| var.value().gpu_address());

    let pixels = if inputs == 1 { None } else { Some(gpu.tensor(DType::F32, &[inputs + 1, d])?) };
    let steps = gpu.tensor(DType::F32, &[batch * history, d])?;
    let tables = params::TokenEmbeddingTables {
        pixels: pixels.as_ref().map_or(null_mut(), Tensor::gpu_address).cast(),
        steps: steps.gpu_address().cast(),
        weight: weight.value().gpu_address().cast(),
        bias: bias.value().gpu_address().cast(),
        wind: address(wind),
        ages: tokens.ages.gpu_address(),
        rows: (batch * history) as u32,
        inputs: inputs as u32,
        d: d as u32,
    };
    let len = pixels.as_ref().map_or(0, Tensor::len) + steps.len();
    gpu.launch_for("token_embedding_tables", dtype, Launch::linear(len.div_ceil(256), THREADS), &tables)?;

    let y = gpu.tensor(dtype, &[batch * patches, history, d])?;
    let forward = params::TokenEmbeddingForward {
        y: y.gpu_address(),
        frames: tokens.frames.gpu_address(),
        weight: pixels.as_ref().unwrap_or(weight.value()).gpu_address().cast(),
        steps: steps.gpu_address().cast(),
        statics: address(statics),
        batch: batch as u32,
        history: history as u32,
        patches: patches as u32,
        words: tokens.grid.words() as u32,
        pixels: (tokens.grid.patch * tokens.grid.patch) as u32,
        d: d as u32,
    };
    let name = if inputs == 1 { "token_embedding_forward_mean" } else { "token_embedding_forward_pixels" };
    gpu.launch_for(name, dtype, Launch::linear((batch * patches * d / 8).div_ceil(256), THREADS), &forward)?;

    let ids = Ids { weight: weight.id(), bias: bias.id(), wind: wind.map(Var::id), statics: statics.map(Var::id) };
    let (gpu, tokens) = (gpu.clone(), tokens.clone());
    Ok(tape.record(y, move |dy, gradients| {
        let grads = backward(&gpu, &tokens, &dy, inputs, &ids)?;
        gradients.add(ids.weight, grads.weight)?;
        gradients.add(ids.bias, grads.bias)?;
        if let (Some(id), Some(wind)) = (ids.wind, grads.wind) {
            gradients.add(id, wind)?;
        }
        if let (Some(id), Some(statics)) = (ids.statics, grads.statics) {
            gradients.add(id, statics)?;
        }
        Ok(())
    }))
}

/// The values that have gradients.
struct Ids {
    weight: Id,
    bias: Id,
    wind: Option<Id>,
    statics: Option<Id>,
}

struct Grads {
    /// [d, inputs]
    weight: Tensor,
    /// `[d]`
    bias: Tensor,
    /// [B·T, d]
    wind: Option<Tensor>,
    /// [B·N, d]
    statics: Option<Tensor>,
}

/// From dy [B·N, T, d].
fn backward(gpu: &Gpu, tokens: &Tokens, dy: &Tensor, inputs: usize, ids: &Ids) -> Result<Grads> {
    let (batch, history, patches) = (tokens.batch, tokens.history, tokens.grid.patches());
    let (dtype, d) = (dy.dtype(), dy.len() / (batch * patches * history));
    let wanted = |id: Option<Id>, rows: usize| id.map(|_| gpu.tensor(dtype, &[rows, d])).transpose();
    let statics = wanted(ids.statics, batch * patches)?;
    let wind = wanted(ids.wind, batch * history)?;
    let groups = patches.div_ceil(GROUP);
    // As many as run at a time.
    let blocks = (batch * groups).min(if inputs > 64 { 2 } else { 4 } * gpu.multiprocessors());
    let step_sums = gpu.tensor(DType::F32, &[batch, groups, history, d])?;
    let weight_sums = gpu.tensor(DType::F32, &[blocks, d, inputs])?;
    let params = params::TokenEmbeddingBackward {
        dy: dy.gpu_address(),
        frames: tokens.frames.gpu_address(),
        dstatics: statics.as_ref().map_or(null_mut(), Tensor::gpu_address),
        step_sums: step_sums.gpu_address().cast(),
        weight_sums: weight_sums.gpu_address().cast(),
        batch: batch as u32,
        history: history as u32,
        patches: patches as u32,
        words: tokens.grid.words() as u32,
        pixels: (tokens.grid.patch * tokens.grid.patch) as u32,
        inputs: inputs as u32,
        d: d as u32,
    };
    let name = match inputs {
        1 => "mean",
        16 => "4",
        64 => "8",
        _ => "16",
    };
    let per_patch = if inputs == 1 { 4 } else { 8 * tokens.grid.words() };
    let shared = 4 * (GROUP + 4) * 64 + GROUP * per_patch;
    let launch = Launch { grid: [blocks as u32, d.div_ceil(64) as u32, 1], block: THREADS, shared: shared as u32 };
    gpu.launch_for(&format!("token_embedding_backward_{name}"), dtype, launch, &params)?;

    // Sums over rows: [m, rows, columns] to [m, columns], in the activations' type too where `rounded`.
    let sum = |from: &Tensor, m: usize, rows: usize, to: &Tensor, rounded: Option<&Tensor>| {
        let columns = to.len() / m;
        let params = params::TokenEmbeddingSum {
            from: from.gpu_address().cast(),
            to: to.gpu_address().cast(),
            rounded: rounded.map_or(null_mut(), Tensor::gpu_address),
            rows: rows as u32,
            columns: columns as u32,
        };
        let launch = Launch { grid: [columns.div_ceil(32) as u32, m as u32, 1], block: THREADS, shared: 4 * THREADS };
        gpu.launch_for("token_embedding_sum", dtype, launch, &params)
    };
    let weight = gpu.tensor(DType::F32, &[d, inputs])?;
    sum(&weight_sums, 1, blocks, &weight, None)?;
    let steps = gpu.tensor(DType::F32, &[batch * history, d])?;
    sum(&step_sums, batch, groups, &steps, wind.as_ref())?;
    let bias = gpu.tensor(DType::F32, &[d])?;
    sum(&steps, 1, batch * history, &bias, None)?;
    Ok(Grads { weight, bias, wind, statics })
}
