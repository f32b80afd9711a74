//! Batches where the network's ops find them.

use super::{Inputs, Target};
use crate::Result;
use crate::device::gpu::Gpu;
use crate::device::{Array, Device};
use crate::ops::batch_norm::MaskBits;
use crate::ops::loss::Comparison;
use crate::patch::Grid;
use crate::tensor::{DType, Tensor};

/// A batch as the network's ops read it.
#[derive(Clone)]
pub struct DeviceBatch {
    /// What the network sees.
    pub inputs: DeviceInputs,
    /// What it should have said.
    pub target: DeviceTarget,
}

/// What the network sees.
#[derive(Clone)]
pub struct DeviceInputs {
    /// Samples B.
    pub batch: usize,
    /// Steps T of the longest history; shorter ones are padded on the left.
    pub history: usize,
    /// Patch grid.
    pub grid: Grid,
    /// Burning pixels as patch bits, [B, T, N, words].
    pub frames: Array<u64>,
    /// Wind speed and direction, scaled to [0, 1], [B·T, 2], in the activations' type.
    pub wind: Tensor,
    /// Static patch tokens, [B·N, Cs], in the activations' type.
    pub statics: Tensor,
    /// Whether a step is real, [B, T].
    pub valid_steps: Array<bool>,
    /// Place of a step in its sample's own history, 0 for padding, [B, T].
    pub ages: Array<u32>,
    /// The last step of every history, [B, N, words].
    pub last: MaskBits,
}

/// What the network should have said.
#[derive(Clone)]
pub struct DeviceTarget {
    /// Burning pixels, [B, N, words].
    pub mask: MaskBits,
    /// Whether a patch counts, [B, N].
    pub valid_patches: Array<bool>,
}

impl DeviceInputs {
    /// A copy of `inputs`, which have been checked, with activations of type `dtype`.
    pub(super) fn new(device: &Device, dtype: DType, inputs: &Inputs) -> Result<Self> {
        let Inputs { batch, history, grid, .. } = *inputs;
        let rows = batch * grid.patches();
        let tensor = |shape: &[usize], values: &[f32]| {
            Tensor::from_host(device, dtype, shape, values.iter().map(|x| f64::from(*x)))
        };
        let ages = inputs.valid_steps.chunks_exact(history).flat_map(|steps| {
            steps.iter().scan(0u32, |real, valid| {
                *real += u32::from(*valid);
                Some(real.saturating_sub(1))
            })
        });
        let window = grid.patches() * grid.words();
        let histories = inputs.frames.chunks_exact(history * window);
        let last = histories.flat_map(|frames| frames[frames.len() - window..].iter().copied()).collect();
        Ok(Self {
            batch,
            history,
            grid,
            frames: Array::new(device, inputs.frames.clone())?,
            wind: tensor(&[batch * history, 2], &inputs.wind)?,
            statics: tensor(&[rows, inputs.statics.len() / rows], &inputs.statics)?,
            valid_steps: Array::new(device, inputs.valid_steps.clone())?,
            ages: Array::new(device, ages.collect())?,
            last: MaskBits { grid, bits: Array::new(device, last)? },
        })
    }
}

impl DeviceTarget {
    /// A copy of `target`, which has been checked.
    pub(super) fn new(device: &Device, grid: Grid, target: &Target) -> Result<Self> {
        Ok(Self {
            mask: MaskBits { grid, bits: Array::new(device, target.bits.clone())? },
            valid_patches: Array::new(device, target.valid_patches.clone())?,
        })
    }
}

impl DeviceBatch {
    /// Room on a GPU for `batch` histories of up to `history` steps, its content arbitrary.
    ///
    /// # Errors
    /// Where the device's memory runs out.
    pub fn uninitialized(
        gpu: &Gpu,
        dtype: DType,
        grid: Grid,
        channels: usize,
        (batch, history): (usize, usize),
    ) -> Result<Self> {
        let (patches, words) = (batch * grid.patches(), grid.words());
        let inputs = DeviceInputs {
            batch,
            history,
            grid,
            frames: Array::uninitialized(gpu, patches * history * words)?,
            wind: gpu.tensor(dtype, &[batch * history, 2])?,
            statics: gpu.tensor(dtype, &[patches, channels])?,
            valid_steps: Array::uninitialized(gpu, batch * history)?,
            ages: Array::uninitialized(gpu, batch * history)?,
            last: MaskBits { grid, bits: Array::uninitialized(gpu, patches * words)? },
        };
        let mask = MaskBits { grid, bits: Array::uninitialized(gpu, patches * words)? };
        let target = DeviceTarget { mask, valid_patches: Array::uninitialized(gpu, patches)? };
        Ok(Self { inputs, target })
    }

    /// Copies a batch of the same shape, which has been checked, to where this one lies on a GPU.
    pub(crate) fn overwrite(&self, gpu: &Gpu, inputs: &Inputs, target: &Target) -> Result<()> {
        let device = Device::Gpu(gpu.clone());
        let from = DeviceInputs::new(&device, self.inputs.wind.dtype(), inputs)?;
        let from = Self { inputs: from, target: DeviceTarget::new(&device, inputs.grid, target)? };
        self.inputs.frames.copy_from(gpu, &from.inputs.frames)?;
        self.inputs.wind.copy_from(gpu, &from.inputs.wind)?;
        self.inputs.statics.copy_from(gpu, &from.inputs.statics)?;
        self.inputs.valid_steps.copy_from(gpu, &from.inputs.valid_steps)?;
        self.inputs.ages.copy_from(gpu, &from.inputs.ages)?;
        self.inputs.last.bits.copy_from(gpu, &from.inputs.last.bits)?;
        self.target.mask.bits.copy_from(gpu, &from.target.mask.bits)?;
        self.target.valid_patches.copy_from(gpu, &from.target.valid_patches)
    }

    /// What the loss compares logits with.
    pub fn comparison(&self, training: bool) -> Comparison {
        Comparison {
            target: self.target.mask.clone(),
            last: self.inputs.last.clone(),
            valid_patches: self.target.valid_patches.clone(),
            training,
        }
    }
}
