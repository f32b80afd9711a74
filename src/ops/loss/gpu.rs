//! Launches `kernels/loss.cu` and reads what it leaves.

use super::{BINS, Comparison, Counts, LossReport, LossSettings, PosWeight, Thresholds};
use crate::device::gpu::{Buffer, Gpu, Launch, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Threads of a block.
const THREADS: usize = 256;
/// Vectors of four pixels that a thread takes at a time.
const VECTORS: usize = 2;
/// Floats of a block's partial sums.
const PARTIALS: usize = 8;
/// Doubles that `loss_finalize` keeps of a sample.
const SAMPLE_SUMS: usize = 8;
/// Slots of a histogram: its bins, that of the threshold split in two.
const SLOTS: usize = params::LOSS_SLOTS as usize;
/// 64-bit words of what a batch gave: its histogram, then the terms.
const OUTPUT: usize = size_of::<params::LossOutput>() / size_of::<u64>();
/// Those of what batches gave together: the same, then samples, batches and the first bad one.
const TOTALS: usize = size_of::<params::LossTotals>() / size_of::<u64>();

/// Where the losses of batches go on a GPU: those of the last batch and their totals. Its addresses never change, and
/// [`segmentation_loss_on`] waits for nothing, so that a captured step may hold both; only [`LossBuffers::report`] and
/// [`LossBuffers::totals`] wait for the GPU.
pub struct LossBuffers {
    gpu: Gpu,
    thresholds: Thresholds,
    /// Zeros between batches.
    histogram: Buffer,
    last: Buffer,
    totals: Buffer,
}

/// What the batches since the last reset gave together.
#[derive(Debug, Clone, PartialEq)]
pub struct LossTotals {
    /// Batches.
    pub batches: u64,
    /// Samples.
    pub samples: u64,
    /// Sums over the batches: loss and terms times samples, counts and histograms.
    pub sums: LossReport,
    /// The number, from 0, of the first batch whose loss was not finite.
    pub first_bad: Option<u64>,
}

impl LossBuffers {
    /// Empty totals, for batches that are all counted with these thresholds.
    ///
    /// # Errors
    /// Where memory runs out.
    pub fn new(gpu: &Gpu, thresholds: &Thresholds) -> Result<Self> {
        let words = |n: usize| gpu.take(n * size_of::<u64>());
        let (histogram, last, totals) = (words(4 * SLOTS)?, words(OUTPUT)?, words(TOTALS)?);
        gpu.fill_zero(&histogram)?;
        gpu.fill_zero(&last)?;
        gpu.fill_zero(&totals)?;
        Ok(Self { gpu: gpu.clone(), thresholds: *thresholds, histogram, last, totals })
    }

    /// The report of the last batch.
    ///
    /// # Errors
    /// What the device reports of this copy or of a kernel before it.
    pub fn report(&self) -> Result<LossReport> {
        Ok(report(&self.gpu.download::<u64>(&self.last, OUTPUT)?, &self.thresholds))
    }

    /// What the batches since the last reset gave together.
    ///
    /// # Errors
    /// What the device reports of this copy or of a kernel before it.
    pub fn totals(&self) -> Result<LossTotals> {
        let words = self.gpu.download::<u64>(&self.totals, TOTALS)?;
        let (sums, counts) = words.split_at(OUTPUT);
        let sums = report(sums, &self.thresholds);
        Ok(LossTotals { samples: counts[0], batches: counts[1], sums, first_bad: counts[2].checked_sub(1) })
    }

    /// Empties the totals, in order with what is launched; the sum of losses times samples goes on from `loss`.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn reset(&self, loss: f64) -> Result<()> {
        let mut words = vec![0; TOTALS];
        words[OUTPUT - 1] = loss.to_bits(); // the last of the terms
        self.gpu.write(&self.totals, &words)
    }

    /// Where the number of batches and that of the first bad one, from 1, lie.
    pub(in crate::ops) fn counters(&self) -> [*const u64; 2] {
        [1, 2].map(|i| self.totals.address().cast_const().cast::<u64>().wrapping_add(OUTPUT + i))
    }
}

/// See [`super::segmentation_loss`]: leaves the report in `buffers`, adds it to their totals and returns the gradient,
/// without waiting for the GPU. The logits are float.
///
/// # Errors
/// Where memory runs out; a batch or window beyond what the kernels count.
pub fn segmentation_loss_on(
    logits: &Tensor,
    comparison: &Comparison,
    settings: &LossSettings,
    backward: bool,
    buffers: &LossBuffers,
) -> Result<Option<Tensor>> {
    assert_eq!(logits.dtype(), DType::F32, "logits are float on a GPU");
    let gpu = &buffers.gpu;
    let grid = comparison.target.grid;
    let batch = comparison.valid_patches.len() / grid.patches();
    assert_eq!(logits.len(), batch * grid.pixels(), "logits of every pixel");
    let vectors = grid.pixels() / 4;
    if u32::try_from(grid.pixels()).is_err() || batch > 65_535 {
        return Err(Error::failed(
            gpu.describe(),
            format_args!("loss of {batch} windows of {}x{} pixels", grid.height(), grid.width()),
            "use at most 65535 windows of fewer than 2^32 pixels",
        ));
    }
    let pixels = params::LossPixels {
        logits: logits.gpu_address().cast(),
        target: comparison.target.bits.gpu_address().cast(),
        last: comparison.last.bits.gpu_address().cast(),
        valid: comparison.valid_patches.gpu_address().cast(),
        vectors: vectors as u32,
        line: (grid.width() / 4) as u32,
        patches: grid.patches() as u32,
        cols: grid.cols as u32,
        log_patch: grid.patch.trailing_zeros(),
    };
    let launch = |rounds: usize, shared: usize| Launch {
        grid: [vectors.div_ceil(rounds * VECTORS * THREADS) as u32, batch as u32, 1],
        block: THREADS as u32,
        shared: shared as u32,
    };
    let mut finalize = params::LossFinalize { batch: batch as u32, pos_weight: 1.0, ..Default::default() };
    let (mut kind, mut gamma) = (params::LOSS_CROSS_ENTROPY, 0.0);
    match *settings {
        LossSettings::FocalTversky {
            focal_weight,
            tversky_weight,
            focal_alpha,
            focal_gamma,
            tversky_alpha,
            tversky_beta,
        } => {
            if focal_gamma != 0.0 {
                kind = if focal_gamma == 2.0 { params::LOSS_FOCAL_SQUARE } else { params::LOSS_FOCAL };
            }
            gamma = focal_gamma as f32;
            (finalize.focal, finalize.point_weight, finalize.region_weight) = (1, focal_weight, tversky_weight);
            finalize.focal_alpha = focal_alpha;
            (finalize.tversky_alpha, finalize.tversky_beta) = (tversky_alpha, tversky_beta);
        }
        LossSettings::BceDice { bce_weight, dice_weight, pos_weight } => {
            (finalize.point_weight, finalize.region_weight) = (bce_weight, dice_weight);
            match pos_weight {
                PosWeight::Auto => finalize.auto_weight = comparison.training.into(),
                PosWeight::Value(value) if comparison.training => finalize.pos_weight = value,
                PosWeight::None | PosWeight::Value(_) => {}
            }
        }
    }

    // Clearing and adding up a histogram costs a block as much as a few hundred pixels: as many rounds as leave the GPU
    // some 256 blocks.
    let rounds = (batch * vectors / (256 * VECTORS * THREADS)).clamp(2, 8);
    let sums_launch = launch(rounds, (4 * (SLOTS + 1) + PARTIALS * THREADS / 32) * size_of::<f32>());
    let blocks = sums_launch.grid[0];
    let partials = gpu.take(batch * blocks as usize * PARTIALS * size_of::<f32>())?;
    let sums = params::LossSums {
        pixels,
        partials: partials.address().cast(),
        histogram: buffers.histogram.address().cast(),
        threshold: buffers.thresholds.prediction as f32,
        kind,
        gamma,
        rounds: rounds as u32,
    };
    gpu.launch("loss_sums", sums_launch, &sums)?;

    let samples = gpu.take(batch * SAMPLE_SUMS * size_of::<f64>())?;
    let factors = gpu.tensor(DType::F32, &[batch, 4])?;
    (finalize.partials, finalize.blocks) = (sums.partials, blocks);
    finalize.samples = samples.address().cast();
    finalize.histogram = sums.histogram;
    finalize.last = buffers.last.address().cast();
    finalize.totals = buffers.totals.address().cast();
    finalize.factors = factors.gpu_address().cast();
    const FINALIZE_THREADS: usize = 512;
    let finalize_launch = Launch {
        shared: (SAMPLE_SUMS * size_of::<f64>()) as u32,
        ..Launch::linear(1 + (4 * SLOTS).div_ceil(FINALIZE_THREADS), FINALIZE_THREADS as u32)
    };
    gpu.launch("loss_finalize", finalize_launch, &finalize)?;

    if !backward {
        return Ok(None);
    }
    let gradient = gpu.tensor(DType::F32, logits.shape())?; // [B, H, W]
    let params = params::LossGradient {
        pixels,
        factors: factors.gpu_address().cast(),
        gradient: gradient.gpu_address().cast(),
        kind,
        gamma,
    };
    gpu.launch("loss_gradient", launch(1, 0), &params)?;
    Ok(Some(gradient))
}

/// Reads a `LossOutput` of `params.h`.
fn report(result: &[u64], thresholds: &Thresholds) -> LossReport {
    let (slots, terms) = result.split_at(4 * SLOTS);
    let term = |i: usize| f64::from_bits(terms[i]);
    let mut report = LossReport {
        focal: term(0),
        tversky: term(1),
        bce: term(2),
        dice: term(3),
        loss: term(4),
        counts: Counts::default(),
        growth: Counts::default(),
        copy_last: Counts::default(),
        histogram: Default::default(),
        growth_histogram: Default::default(),
    };
    // The kernel's arithmetic: the pixels of this bin may lie on either side of the threshold.
    let split = ((thresholds.prediction as f32 * BINS as f32) as usize).min(BINS - 1);
    for (group, slots) in slots.chunks_exact(SLOTS).enumerate() {
        let was_burning = group / 2 == 1;
        let burns = (group % 2) as f64 > thresholds.target;
        let count = |counts: &mut Counts, predicted, n| {
            *match (predicted, burns) {
                (true, true) => &mut counts.tp,
                (true, false) => &mut counts.fp,
                (false, true) => &mut counts.fn_,
                (false, false) => &mut counts.tn,
            } += n;
        };
        for (slot, n) in slots.iter().enumerate() {
            let predicted = slot > split;
            let bin = slot - usize::from(predicted);
            count(&mut report.counts, predicted, *n);
            count(&mut report.copy_last, was_burning, *n);
            let growth = (!was_burning).then_some(&mut report.growth_histogram);
            for histogram in std::iter::once(&mut report.histogram).chain(growth) {
                let class = if burns { &mut histogram.positive } else { &mut histogram.negative };
                class[bin] += n;
            }
            if !was_burning {
                count(&mut report.growth, predicted, *n);
            }
        }
    }
    report
}
