//! Launches `kernels/gradient_norm.cu`.

use crate::Result;
use crate::device::gpu::{Gpu, Launch, params};
use crate::tensor::{DType, Tensor};

const CHUNK: usize = 4096; // floats that a block sums

/// Σ g²: one launch for all gradients, and one small copy to the host, which adds the partial sums in their order.
pub fn squares(gpu: &Gpu, gradients: &[&Tensor]) -> Result<f64> {
    let mut chunks = Vec::new();
    for gradient in gradients {
        assert_eq!(gradient.dtype(), DType::F32, "gradients of parameters are float");
        let (len, whole) = (gradient.len(), gradient.gpu_address().cast_const().cast::<f32>());
        chunks.extend(
            (0..len).step_by(CHUNK).map(|at| params::GradientChunk {
                gradient: whole.wrapping_add(at),
                len: (len - at).min(CHUNK) as u64,
            }),
        );
    }
    if chunks.is_empty() {
        return Ok(0.0);
    }
    let table = gpu.upload(&chunks)?;
    let partials = gpu.take(4 * chunks.len())?;
    let params = params::GradientNorm { chunks: table.address().cast(), partials: partials.address().cast() };
    let launch = Launch { shared: 4 * 8, ..Launch::linear(chunks.len(), 256) }; // a float for each warp
    gpu.launch("gradient_norm", launch, &params)?;
    Ok(gpu.download::<f32>(&partials, chunks.len())?.into_iter().map(f64::from).sum())
}
