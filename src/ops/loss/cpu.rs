//! One pass over the lines for the sums, one for the gradient.

use super::{BINS, Comparison, Counts, Histogram, LossReport, LossSettings, PosWeight, Thresholds};
use crate::device::cpu::{Buffer, Cpu, Real, vectorized};
use crate::ops::map::Map;
use rayon::prelude::*;

const LINES: usize = 16;

/// Soft and hard sums over the valid pixels of one sample.
#[derive(Debug, Clone, Copy, Default)]
struct SampleSums {
    /// Valid pixels.
    valid: f64,
    /// Σ α_t (1 − p_t)^γ bce.
    focal: f64,
    /// Σ bce over burning pixels, and over the others.
    bce: [f64; 2],
    /// Σ p over burning pixels, and over the others.
    p: [f64; 2],
    /// Σ (1 − p) over burning pixels.
    missed: f64,
    /// Burning pixels.
    burning: f64,
}

impl SampleSums {
    fn add(&mut self, other: &Self) {
        self.valid += other.valid;
        self.focal += other.focal;
        self.missed += other.missed;
        self.burning += other.burning;
        for i in 0..2 {
            self.bce[i] += other.bce[i];
            self.p[i] += other.p[i];
        }
    }
}

/// What the gradient needs: the sums of each sample and of the batch.
pub struct Sums {
    samples: Vec<SampleSums>,
    batch: SampleSums,
}

#[derive(Default)]
struct Band {
    sums: SampleSums,
    counts: [Counts; 3], // all, growth, copy-last
    histograms: [Histogram; 2],
}

/// The three masks of one line.
struct Masks {
    target: Vec<u8>,
    last: Vec<u8>,
    valid: Vec<bool>,
}

impl Masks {
    fn new(width: usize) -> Self {
        Self { target: vec![0; width], last: vec![0; width], valid: vec![false; width] }
    }

    fn read(&mut self, comparison: &Comparison, b: usize, y: usize) {
        let grid = comparison.target.grid;
        grid.unpack_line(comparison.target.window(b), y, &mut self.target);
        grid.unpack_line(comparison.last.window(b), y, &mut self.last);
        let valid = &comparison.valid_patches.host()[b * grid.patches() + y / grid.patch * grid.cols..];
        for (pixels, valid) in self.valid.chunks_exact_mut(grid.patch).zip(valid) {
            pixels.fill(*valid);
        }
    }
}

fn map_of(comparison: &Comparison) -> Map {
    let grid = comparison.target.grid;
    let batch = comparison.valid_patches.len() / grid.patches();
    Map { batch, height: grid.height(), width: grid.width(), channels: 1, halo: 0 }
}

/// (1 − p_t)^γ
#[inline(always)]
fn focus<E: Real>(missed: E, gamma: f64) -> E {
    if gamma == 2.0 { missed * missed } else { missed.powf(E::of(gamma)) }
}

/// The loss with its statistics, and the sums for the gradient.
pub fn forward<E: Real>(
    z: &[E],
    comparison: &Comparison,
    settings: &LossSettings,
    thresholds: &Thresholds,
) -> (LossReport, Sums) {
    let map = map_of(comparison);
    let bands = map.bands(LINES);
    let partials: Vec<Band> = bands
        .par_iter()
        .map(|(b, first, lines)| {
            let mut band = Band::default();
            let mut masks = Masks::new(map.width);
            for y in *first..first + lines {
                masks.read(comparison, *b, y);
                band.add_line(&z[map.line(*b, y)], &masks, settings, thresholds);
            }
            band
        })
        .collect();
    let mut samples = vec![SampleSums::default(); map.batch];
    let mut whole = Band::default();
    for ((b, ..), band) in bands.iter().zip(&partials) {
        samples[*b].add(&band.sums);
        (0..3).for_each(|i| whole.counts[i] += band.counts[i]);
        (0..2).for_each(|i| whole.histograms[i] += &band.histograms[i]);
    }
    samples.iter().for_each(|sample| whole.sums.add(sample));
    let sums = Sums { samples, batch: whole.sums };
    let [focal, tversky, bce, dice] = sums.terms(settings, comparison.training);
    let loss = match *settings {
        LossSettings::FocalTversky { focal_weight, tversky_weight, .. } => {
            focal_weight * focal + tversky_weight * tversky
        }
        LossSettings::BceDice { bce_weight, dice_weight, .. } => bce_weight * bce + dice_weight * dice,
    };
    let [counts, growth, copy_last] = whole.counts;
    let [histogram, growth_histogram] = whole.histograms;
    (LossReport { loss, focal, tversky, bce, dice, counts, growth, copy_last, histogram, growth_histogram }, sums)
}

impl Band {
    fn add_line<E: Real>(&mut self, z: &[E], masks: &Masks, settings: &LossSettings, thresholds: &Thresholds) {
        for (i, z) in z.iter().enumerate() {
            if !masks.valid[i] {
                continue;
            }
            let burns = f64::from(masks.target[i]) > thresholds.target;
            let class = usize::from(masks.target[i] == 0);
            // towards the wrong side: +z where the pixel does not burn, −z where it does
            let wrong = if class == 0 { -*z } else { *z };
            let (p, missed, bce) = (z.sigmoid().f64(), wrong.sigmoid(), wrong.softplus());
            let sums = &mut self.sums;
            sums.valid += 1.0;
            sums.p[class] += p;
            match *settings {
                LossSettings::FocalTversky { focal_alpha, focal_gamma, .. } => {
                    let alpha = if class == 0 { focal_alpha } else { 1.0 - focal_alpha };
                    sums.focal += alpha * (focus(missed, focal_gamma) * bce).f64();
                }
                LossSettings::BceDice { .. } => sums.bce[class] += bce.f64(),
            }
            if class == 0 {
                sums.burning += 1.0;
                sums.missed += missed.f64();
            }
            let predicted = p > thresholds.prediction;
            let was_burning = masks.last[i] != 0;
            let bin = ((p * BINS as f64) as usize).min(BINS - 1);
            self.counts[0].add(predicted, burns);
            self.counts[2].add(was_burning, burns);
            self.histograms[0].add(bin, burns);
            if !was_burning {
                self.counts[1].add(predicted, burns);
                self.histograms[1].add(bin, burns);
            }
        }
    }
}

impl Counts {
    fn add(&mut self, predicted: bool, burns: bool) {
        *match (predicted, burns) {
            (true, true) => &mut self.tp,
            (true, false) => &mut self.fp,
            (false, true) => &mut self.fn_,
            (false, false) => &mut self.tn,
        } += 1;
    }
}

impl Histogram {
    fn add(&mut self, bin: usize, burns: bool) {
        let class = if burns { &mut self.positive } else { &mut self.negative };
        class[bin] += 1;
    }
}

impl Sums {
    fn pos_weight(&self, settings: &LossSettings, training: bool) -> f64 {
        match *settings {
            LossSettings::BceDice { pos_weight, .. } if training => match pos_weight {
                PosWeight::None => 1.0,
                PosWeight::Auto => (self.batch.valid - self.batch.burning).max(1.0) / self.batch.burning.max(1.0),
                PosWeight::Value(value) => value,
            },
            _ => 1.0,
        }
    }

    /// Samples with fire, and the mean over them of 1 − Dice.
    fn dice(&self) -> (f64, f64) {
        let with_fire = self.samples.iter().filter(|sample| sample.burning > 0.0);
        let (n, sum) = with_fire.fold((0.0, 0.0), |(n, sum), sample| {
            let [hit, false_alarm] = sample.p;
            (n + 1.0, sum + 1.0 - (2.0 * hit + 1.0) / (hit + false_alarm + sample.burning + 1.0))
        });
        (n, sum / n.max(1.0))
    }

    /// Focal, Tversky, cross-entropy and √Dice; 0 where the loss has no such term.
    fn terms(&self, settings: &LossSettings, training: bool) -> [f64; 4] {
        let valid = self.batch.valid.max(1.0);
        match *settings {
            LossSettings::FocalTversky { tversky_alpha, tversky_beta, .. } => {
                let tversky = |s: &SampleSums| {
                    1.0 - (s.p[0] + 1.0) / (s.p[0] + tversky_alpha * s.p[1] + tversky_beta * s.missed + 1.0)
                };
                let mean = self.samples.iter().map(tversky).sum::<f64>() / self.samples.len() as f64;
                [self.batch.focal / valid, mean, 0.0, 0.0]
            }
            LossSettings::BceDice { .. } => {
                let bce = self.pos_weight(settings, training) * self.batch.bce[0] + self.batch.bce[1];
                let (n, mean) = self.dice();
                [0.0, 0.0, bce / valid, if n > 0.0 { (mean + 1e-7).sqrt() } else { 0.0 }]
            }
        }
    }
}

/// Gradient of the loss by the logits, [B, H, W]; 0 at pixels that do not count.
pub fn backward<E: Real>(
    cpu: &Cpu,
    z: &[E],
    comparison: &Comparison,
    settings: &LossSettings,
    sums: &Sums,
) -> Buffer<E> {
    let map = map_of(comparison);
    let valid = sums.batch.valid.max(1.0);
    let slopes: Vec<[E; 2]> = sums.samples.iter().map(|s| sums.region_slopes(s, settings).map(E::of)).collect();
    let pos_weight = sums.pos_weight(settings, comparison.training);
    let mut dz = cpu.take(z.len());
    map.for_lines_mut(&mut dz, |b, y, dz| {
        let mut masks = Masks::new(map.width);
        masks.read(comparison, b, y);
        let z = &z[map.line(b, y)];
        vectorized(|| {
            for (i, (dz, z)) in dz.iter_mut().zip(z).enumerate() {
                *dz = E::zero();
                if !masks.valid[i] {
                    continue;
                }
                let class = usize::from(masks.target[i] == 0);
                let (wrong, sign) = if class == 0 { (-*z, -E::one()) } else { (*z, E::one()) };
                let missed = wrong.sigmoid();
                let hit = (-wrong).sigmoid();
                let point = match *settings {
                    // d/dz of α s^γ softplus, s = 1 − p_t: ± α s^γ (γ p_t softplus + s)
                    LossSettings::FocalTversky { focal_weight, focal_alpha, focal_gamma, .. } => {
                        let alpha = if class == 0 { focal_alpha } else { 1.0 - focal_alpha };
                        let slope = E::of(focal_gamma) * hit * wrong.softplus() + missed;
                        E::of(focal_weight * alpha / valid) * focus(missed, focal_gamma) * slope
                    }
                    LossSettings::BceDice { bce_weight, .. } => {
                        E::of(bce_weight * if class == 0 { pos_weight } else { 1.0 } / valid) * missed
                    }
                };
                *dz = sign * point + slopes[b][class] * hit * missed; // dp/dz = p (1 − p)
            }
        });
    });
    dz
}

impl Sums {
    /// Derivative of the weighted region term (Tversky or √Dice) by p: of burning pixels, and of the others.
    fn region_slopes(&self, s: &SampleSums, settings: &LossSettings) -> [f64; 2] {
        let [hit, false_alarm] = s.p;
        match *settings {
            LossSettings::FocalTversky { tversky_weight, tversky_alpha, tversky_beta, .. } => {
                let numerator = hit + 1.0;
                let denominator = hit + tversky_alpha * false_alarm + tversky_beta * s.missed + 1.0;
                let scale = -tversky_weight / self.samples.len() as f64 / (denominator * denominator);
                [scale * (denominator - numerator * (1.0 - tversky_beta)), -scale * numerator * tversky_alpha]
            }
            LossSettings::BceDice { dice_weight, .. } => {
                let (n, mean) = self.dice();
                if s.burning == 0.0 {
                    return [0.0; 2];
                }
                let (numerator, denominator) = (2.0 * hit + 1.0, hit + false_alarm + s.burning + 1.0);
                let scale = -dice_weight * 0.5 / (mean + 1e-7).sqrt() / n / (denominator * denominator);
                [scale * (2.0 * denominator - numerator), -scale * numerator]
            }
        }
    }
}
