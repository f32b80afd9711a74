//! Launches `kernels/adam.cu`.

use super::Step;
use crate::Result;
use crate::device::gpu::{Gpu, Launch, params};
use crate::tensor::DType;

const CHUNK: usize = 4096; // floats that a block updates

/// See [`super::adam`]: one launch for all steps.
pub fn adam(gpu: &Gpu, steps: &mut [Step<'_>]) -> Result<()> {
    let mut chunks = Vec::new();
    for Step { value, gradient, moments: [first, second], update } in steps {
        let len = value.len();
        for tensor in [&**value, *gradient, &*first, &*second] {
            assert_eq!((tensor.dtype(), tensor.len()), (DType::F32, len), "parameters of a GPU and their moments");
        }
        let step = update.step as f64;
        let whole = params::AdamChunk {
            value: value.gpu_mut(gpu)?.cast(),
            gradient: gradient.gpu_address().cast(),
            first: first.gpu_mut(gpu)?.cast(),
            second: second.gpu_mut(gpu)?.cast(),
            len: len as u64,
            beta1: update.beta1 as f32,
            beta2: update.beta2 as f32,
            rest1: (1.0 - update.beta1) as f32,
            rest2: (1.0 - update.beta2) as f32,
            eps: update.eps as f32,
            decay: update.weight_decay as f32,
            size: (update.rate / (1.0 - update.beta1.powf(step))) as f32,
            correction: (1.0 - update.beta2.powf(step)).sqrt() as f32,
        };
        chunks.extend((0..len).step_by(CHUNK).map(|at| params::AdamChunk {
            value: whole.value.wrapping_add(at),
            gradient: whole.gradient.wrapping_add(at),
            first: whole.first.wrapping_add(at),
            second: whole.second.wrapping_add(at),
            len: (len - at).min(CHUNK) as u64,
            ..whole
        }));
    }
    if chunks.is_empty() {
        return Ok(());
    }
    let table = gpu.upload(&chunks)?;
    gpu.launch("adam", Launch::linear(chunks.len(), 256), &params::Adam { chunks: table.address().cast() })
}
