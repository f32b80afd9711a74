//! Launches `kernels/attention.cu`.

use crate::Result;
use crate::device::Array;
use crate::device::gpu::{Gpu, Launch, params};
use crate::ops::dropout::Dropout;
use crate::tape::{Tape, Var};
use crate::tensor::DType;

const THREADS: u32 = 256;
/// Shared memory that leaves an SM several blocks.
const SHARED: usize = 24 * 1024;

/// See [`super::attention`]; d is a multiple of 8, T at most 64, the head size 4 to 64.
pub fn attention(
    tape: &mut Tape,
    gpu: &Gpu,
    q: &Var,
    kv: &Var,
    valid: &Array<bool>,
    heads: usize,
    dropout: Option<Dropout>,
) -> Result<Var> {
    let (rows, queries, d) = (q.shape()[0], q.shape()[1], q.shape()[2]);
    let steps = kv.shape()[1];
    let (head_size, batch) = (d / heads, valid.len() / steps);
    let (variant, slice) = match head_size {
        8 => ("8", 8),
        16 => ("16", 8),
        _ if head_size.is_multiple_of(8) && head_size <= 32 => ("32", 8),
        _ if head_size.is_multiple_of(8) => ("64", 8),
        _ => ("any", 4),
    };
    let lanes = head_size.div_ceil(slice).next_power_of_two();
    let sizes = params::AttentionSizes {
        rows: rows as u32,
        patches: (rows / batch) as u32,
        queries: queries as u32,
        steps: steps as u32,
        heads: heads as u32,
        head_size: head_size as u32,
        lanes: lanes as u32,
        scale: (1.0 / (head_size as f64).sqrt()) as f32,
    };
    let dtype = q.value().dtype();
    let y = gpu.tensor(dtype, q.shape())?;
    let log_sums = gpu.tensor(DType::F32, &[rows, queries, heads])?;
    let forward = params::AttentionForward {
        y: y.gpu_address(),
        log_sums: log_sums.gpu_address().cast(),
        q: q.value().gpu_address(),
        kv: kv.value().gpu_address(),
        valid: valid.gpu_address().cast(),
        sizes,
        dropout: Dropout::params(gpu, dropout.as_ref())?,
    };
    let threads = rows * queries * heads * lanes;
    let launch = Launch::linear(threads.div_ceil(THREADS as usize), THREADS);
    gpu.launch_for(&format!("attention_forward_{variant}"), dtype, launch, &forward)?;

    let (gpu, q, kv, valid) = (gpu.clone(), q.clone(), kv.clone(), valid.clone());
    Ok(tape.record(y, move |dy, gradients| {
        let dq = gpu.tensor(dtype, q.shape())?;
        let dkv = gpu.tensor(dtype, kv.shape())?;
        let head_bytes = 4 * queries * (2 * (steps | 1) + 1); // of one patch
        let block_heads = (SHARED / head_bytes).clamp(1, heads);
        let block_rows = (THREADS as usize / (queries * block_heads * lanes))
            .min(SHARED / (block_heads * head_bytes))
            .clamp(1, rows);
        let threads = (block_rows * steps * block_heads * lanes) as u32;
        let launch = Launch {
            grid: [rows.div_ceil(block_rows) as u32, heads.div_ceil(block_heads) as u32, 1],
            block: threads.next_multiple_of(32).min(THREADS),
            shared: (block_rows * block_heads * head_bytes) as u32,
        };
        let params = params::AttentionBackward {
            dq: dq.gpu_address(),
            dkv: dkv.gpu_address(),
            dy: dy.gpu_address(),
            log_sums: log_sums.gpu_address().cast(),
            q: q.value().gpu_address(),
            kv: kv.value().gpu_address(),
            valid: valid.gpu_address().cast(),
            sizes,
            dropout: Dropout::params(&gpu, dropout.as_ref())?,
            block_rows: block_rows as u32,
            block_heads: block_heads as u32,
        };
        gpu.launch_for(&format!("attention_backward_{variant}"), dtype, launch, &params)?;
        gradients.add(q.id(), dq)?;
        gradients.add(kv.id(), dkv)
    }))
}
