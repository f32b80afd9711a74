//! Launches `kernels/loss.cu`.

use super::{BINS, Comparison, Counts, LossReport, LossSettings, PosWeight, Thresholds};
use crate::device::gpu::{Gpu, Launch, params};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Threads of a block.
const THREADS: usize = 256;
/// Vectors of four pixels that a thread of `loss_sums` takes.
const VECTORS: usize = 4;
/// Floats of a block's partial sums.
const PARTIALS: usize = 8;
/// Sums that `loss_finalize` keeps of a sample.
const SAMPLE_SUMS: usize = 9;
/// Slots of a histogram: its bins, that of the threshold split in two.
const SLOTS: usize = BINS + 1;
/// Focal, Tversky, cross-entropy, Dice, loss.
const TERMS: usize = 5;

/// See [`super::segmentation_loss`]; the logits are float.
pub fn segmentation_loss(
    gpu: &Gpu,
    logits: &Tensor,
    comparison: &Comparison,
    settings: &LossSettings,
    thresholds: &Thresholds,
    backward: bool,
) -> Result<(LossReport, Option<Tensor>)> {
    assert_eq!(logits.dtype(), DType::F32, "logits are float on a GPU");
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
        target: comparison.target.bits.gpu_address(),
        last: comparison.last.bits.gpu_address(),
        valid: comparison.valid_patches.gpu_address().cast(),
        vectors: vectors as u32,
        line: (grid.width() / 4) as u32,
        patches: grid.patches() as u32,
        cols: grid.cols as u32,
        log_patch: grid.patch.trailing_zeros(),
    };
    let launch = |vectors_of_block: usize, shared: usize| Launch {
        grid: [vectors.div_ceil(vectors_of_block) as u32, batch as u32, 1],
        block: THREADS as u32,
        shared: shared as u32,
    };
    let mut finalize = params::LossFinalize { batch: batch as u32, pos_weight: 1.0, ..Default::default() };
    let mut gamma = 0.0;
    match *settings {
        LossSettings::FocalTversky {
            focal_weight,
            tversky_weight,
            focal_alpha,
            focal_gamma,
            tversky_alpha,
            tversky_beta,
        } => {
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
    let focal = finalize.focal;

    // The histogram and behind it the terms, so that one copy brings both.
    let result = gpu.take((4 * SLOTS + TERMS) * size_of::<u64>())?;
    gpu.fill_zero(&result)?;
    let histogram = result.address().cast::<u64>();
    let sums_launch = launch(THREADS * VECTORS, (4 * SLOTS + PARTIALS * THREADS / 32) * size_of::<f32>());
    let blocks = sums_launch.grid[0];
    let partials = gpu.take(batch * blocks as usize * PARTIALS * size_of::<f32>())?;
    let sums = params::LossSums {
        pixels,
        partials: partials.address().cast(),
        histogram,
        threshold: thresholds.prediction as f32,
        focal,
        gamma,
    };
    gpu.launch("loss_sums", sums_launch, &sums)?;

    let samples = gpu.take(batch * SAMPLE_SUMS * size_of::<f64>())?;
    let factors = gpu.tensor(DType::F32, &[batch, 4])?;
    (finalize.partials, finalize.blocks) = (sums.partials, blocks);
    finalize.samples = samples.address().cast();
    finalize.terms = histogram.wrapping_add(4 * SLOTS).cast();
    finalize.factors = factors.gpu_address().cast();
    let shared = (SAMPLE_SUMS * size_of::<f64>()) as u32;
    gpu.launch("loss_finalize", Launch { grid: [1; 3], block: 512, shared }, &finalize)?;

    let mut dlogits = None;
    if backward {
        let tensor = gpu.tensor(DType::F32, logits.shape())?; // [B, H, W]
        let params = params::LossGradient {
            pixels,
            factors: factors.gpu_address().cast(),
            gradient: tensor.gpu_address().cast(),
            focal,
            gamma,
        };
        gpu.launch("loss_gradient", launch(THREADS, 0), &params)?;
        dlogits = Some(tensor);
    }
    Ok((report(&gpu.download::<u64>(&result, 4 * SLOTS + TERMS)?, thresholds), dlogits))
}

/// Reads what [`segmentation_loss`] downloads.
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
