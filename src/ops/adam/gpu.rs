//! Launches `kernels/adam.cu`.

use super::{Step, Update};
use crate::Result;
use crate::device::gpu::{Buffer, Gpu, Launch, params};
use crate::ops::gradient_norm::GradientState;
use crate::tensor::DType;

const CHUNK: usize = 4096; // floats that a block updates

/// The factors of every group's update in device memory, where a captured update finds those of its step.
pub struct Factors {
    gpu: Gpu,
    buffer: Buffer,
}

impl Factors {
    /// For so many groups, all frozen until [`Factors::set`].
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn new(gpu: &Gpu, groups: usize) -> Result<Self> {
        let frozen = params::AdamFactors { frozen: 1, ..Default::default() };
        Ok(Self { gpu: gpu.clone(), buffer: gpu.upload(&vec![frozen; groups])? })
    }

    /// The factors of the updates that are launched from now on; none where a group is frozen.
    ///
    /// # Errors
    /// What the device reports.
    pub fn set(&self, groups: &[Option<Update>]) -> Result<()> {
        self.gpu.write(&self.buffer, &groups.iter().map(|update| factors(update.as_ref())).collect::<Vec<_>>())
    }

    /// Where they lie, by group.
    pub(in crate::ops) fn address(&self) -> *const params::AdamFactors {
        self.buffer.address().cast_const().cast()
    }
}

fn factors(update: Option<&Update>) -> params::AdamFactors {
    let Some(update) = update else { return params::AdamFactors { frozen: 1, ..Default::default() } };
    let step = update.step as f64;
    params::AdamFactors {
        beta1: update.beta1 as f32,
        beta2: update.beta2 as f32,
        rest1: (1.0 - update.beta1) as f32,
        rest2: (1.0 - update.beta2) as f32,
        eps: update.eps as f32,
        decay: update.weight_decay as f32,
        size: (update.rate / (1.0 - update.beta1.powf(step))) as f32,
        correction: (1.0 - update.beta2.powf(step)).sqrt() as f32,
        frozen: 0,
    }
}

/// See [`super::adam`]: one launch for all steps.
pub fn adam(gpu: &Gpu, steps: &mut [Step<'_>]) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    for Step { value, moments: [first, second], .. } in &mut *steps {
        for tensor in [&mut **value, first, second] {
            tensor.gpu_mut(gpu)?; // their own memory, where another tensor shares it
        }
    }
    let updates: Vec<_> = steps.iter().map(|step| factors(Some(&step.update))).collect();
    let factors = gpu.upload(&updates)?;
    let steps: Vec<_> = steps.iter().enumerate().map(|(group, step)| (step.parts(), group)).collect();
    launch(gpu, &steps, factors.address().cast_const().cast(), std::ptr::null())
}

/// One launch for all parameters, in place: their factors are those of their groups, their gradients are clipped as `state`
/// says.
///
/// # Errors
/// What the device reports.
pub fn adam_by_group(
    gpu: &Gpu,
    steps: &[(super::Parts<'_>, usize)],
    factors: &Factors,
    state: &GradientState,
) -> Result<()> {
    launch(gpu, steps, factors.address(), state.address())
}

fn launch(
    gpu: &Gpu,
    steps: &[(super::Parts<'_>, usize)],
    factors: *const params::AdamFactors,
    state: *const params::GradientState,
) -> Result<()> {
    let mut chunks = Vec::new();
    for ([value, gradient, first, second], group) in steps {
        let len = value.len();
        for tensor in [value, gradient, first, second] {
            assert_eq!((tensor.dtype(), tensor.len()), (DType::F32, len), "parameters of a GPU and their moments");
        }
        chunks.extend((0..len).step_by(CHUNK).map(|at| {
            let address = |tensor: &crate::tensor::Tensor| tensor.gpu_address().cast::<f32>().wrapping_add(at);
            params::AdamChunk {
                value: address(value),
                gradient: address(gradient),
                first: address(first),
                second: address(second),
                len: (len - at).min(CHUNK) as u64,
                group: *group as u64,
            }
        }));
    }
    if chunks.is_empty() {
        return Ok(());
    }
    let table = gpu.table(&chunks)?;
    let params = params::Adam { chunks: table.address().cast(), factors, state };
    gpu.launch("adam", Launch::linear(chunks.len(), 256), &params)
}
