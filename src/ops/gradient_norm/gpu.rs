//! Launches `kernels/gradient_norm.cu`.

use crate::Result;
use crate::device::gpu::{Buffer, Gpu, Launch, params};
use crate::ops::adam::Factors;
use crate::ops::loss::LossBuffers;
use crate::tensor::{DType, Tensor};

const CHUNK: usize = 4096; // floats that a block sums

/// Norm of the gradients in device memory, and whether the run's numbers are still finite.
pub struct GradientState {
    gpu: Gpu,
    state: Buffer,
    limit: f64,
}

/// What a [`GradientState`] holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradientReport {
    /// Of the last batch.
    pub norm: f64,
    /// The number, from 0, of the first batch since the last reset whose norm is not finite.
    pub first_bad: Option<u64>,
}

impl GradientState {
    /// With gradients whose norm is above `limit` brought down to it.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn new(gpu: &Gpu, limit: Option<f64>) -> Result<Self> {
        let state = gpu.take(size_of::<params::GradientState>())?;
        gpu.fill_zero(&state)?;
        Ok(Self { gpu: gpu.clone(), state, limit: limit.unwrap_or(0.0) })
    }

    /// Forgets bad batches.
    ///
    /// # Errors
    /// What the device reports.
    pub fn reset(&self) -> Result<()> {
        self.gpu.fill_zero(&self.state)
    }

    /// What it holds now.
    ///
    /// # Errors
    /// What the device reports of this copy or of a kernel before it.
    pub fn report(&self) -> Result<GradientReport> {
        let words = self.gpu.download::<u64>(&self.state, 2)?;
        Ok(GradientReport { norm: f64::from_bits(words[0]), first_bad: words[1].checked_sub(1) })
    }

    pub(in crate::ops) fn address(&self) -> *mut params::GradientState {
        self.state.address().cast()
    }
}

/// Leaves the norm of all gradients, each with its group, of which the frozen ones do not count, in `state`; nothing is
/// updated any more where it or the loss in `losses` is not finite.
///
/// # Errors
/// What the device reports.
pub fn gradient_clip(
    gpu: &Gpu,
    gradients: &[(&Tensor, usize)],
    factors: &Factors,
    losses: &LossBuffers,
    state: &GradientState,
) -> Result<()> {
    let (partials, len) = launch(gpu, gradients, factors.address())?;
    let [batches, bad] = losses.counters();
    let params = params::GradientClip {
        state: state.address(),
        partials: partials.address().cast(),
        batches,
        bad,
        limit: state.limit,
        len: len as u64,
    };
    gpu.launch("gradient_clip", Launch::linear(1, 32), &params)
}

/// Σ g²: one launch for all gradients, and one small copy to the host, which adds the partial sums in their order.
pub fn squares(gpu: &Gpu, gradients: &[&Tensor]) -> Result<f64> {
    let gradients: Vec<_> = gradients.iter().map(|gradient| (*gradient, 0)).collect();
    let (partials, len) = launch(gpu, &gradients, std::ptr::null())?;
    Ok(gpu.download::<f32>(&partials, len)?.into_iter().map(f64::from).sum())
}

fn launch(gpu: &Gpu, gradients: &[(&Tensor, usize)], factors: *const params::AdamFactors) -> Result<(Buffer, usize)> {
    let mut chunks = Vec::new();
    for (gradient, group) in gradients {
        assert_eq!(gradient.dtype(), DType::F32, "gradients of parameters are float");
        let (len, whole) = (gradient.len(), gradient.gpu_address().cast_const().cast::<f32>());
        chunks.extend((0..len).step_by(CHUNK).map(|at| params::GradientChunk {
            gradient: whole.wrapping_add(at),
            len: (len - at).min(CHUNK) as u64,
            group: *group as u64,
        }));
    }
    let partials = gpu.take(4 * chunks.len())?;
    if !chunks.is_empty() {
        let table = gpu.table(&chunks)?;
        let params =
            params::GradientNorm { chunks: table.address().cast(), factors, partials: partials.address().cast() };
        let launch = Launch { shared: 4 * 8, ..Launch::linear(chunks.len(), 256) }; // a float for each warp
        gpu.launch("gradient_norm", launch, &params)?;
    }
    Ok((partials, chunks.len()))
}
