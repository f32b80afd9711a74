//! Statistics in double precision, line by line and summed in order.

use super::MaskBits;
use crate::device::cpu::{Buffer, Cpu, Real, vectorized};
use crate::ops::map::{Map, sum_partials};
use rayon::prelude::*;

const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;
const LINES: usize = 8;

/// What normalises each channel.
pub struct Affine<E> {
    mean: Vec<E>,
    rstd: Vec<E>,
    gamma: Vec<E>,
    beta: Vec<E>,
}

impl<E: Real> Affine<E> {
    /// From mean and biased variance.
    pub fn new(mean: &[f64], var: &[f64], gamma: &[E], beta: &[E]) -> Self {
        Self {
            mean: mean.iter().map(|m| E::of(*m)).collect(),
            rstd: var.iter().map(|v| E::of(1.0 / (v + EPS).sqrt())).collect(),
            gamma: gamma.to_vec(),
            beta: beta.to_vec(),
        }
    }

    /// As one buffer [4, C] to save.
    pub fn pack(&self, cpu: &Cpu) -> Buffer<E> {
        let mut packed = cpu.take(4 * self.mean.len());
        for (to, from) in
            packed.chunks_exact_mut(self.mean.len()).zip([&self.mean, &self.rstd, &self.gamma, &self.beta])
        {
            to.copy_from_slice(from);
        }
        packed
    }

    /// Back from [`Affine::pack`].
    pub fn unpack(packed: &[E]) -> Self {
        let parts: Vec<Vec<E>> = packed.chunks_exact(packed.len() / 4).map(<[E]>::to_vec).collect();
        let [mean, rstd, gamma, beta] = [0, 1, 2, 3].map(|i| parts[i].clone());
        Self { mean, rstd, gamma, beta }
    }
}

/// Mean and biased variance of each channel.
pub fn moments<E: Real>(map: &Map, x: &[E]) -> (Vec<f64>, Vec<f64>) {
    let c = map.channels;
    let over_lines = |f: &(dyn Fn(&mut [f64], &[E]) + Sync)| {
        let bands = map.bands(LINES);
        let partials = bands.par_iter().map(|(b, first, lines)| {
            let mut sums = vec![0.0; c];
            (*first..first + lines).for_each(|y| f(&mut sums, &x[map.line(*b, y)]));
            sums
        });
        let mut sums = sum_partials(partials.collect(), c);
        sums.iter_mut().for_each(|sum| *sum /= map.pixels() as f64);
        sums
    };
    let mean = over_lines(&|sums, line| {
        vectorized(|| line.chunks_exact(c).for_each(|x| sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.f64())));
    });
    let var = over_lines(&|sums, line| {
        vectorized(|| {
            for x in line.chunks_exact(c) {
                for ((sum, x), mean) in sums.iter_mut().zip(x).zip(&mean) {
                    let d = x.f64() - mean;
                    *sum += d * d;
                }
            }
        });
    });
    (mean, var)
}

/// running ← (1 − momentum)·running + momentum·batch, with the unbiased variance.
pub fn update_running<E: Real>(mean: &mut [E], var: &mut [E], batch_mean: &[f64], batch_var: &[f64], pixels: usize) {
    let unbias = pixels as f64 / (pixels as f64 - 1.0).max(1.0);
    let towards = |running: &mut E, batch: f64| *running = E::of((1.0 - MOMENTUM) * running.f64() + MOMENTUM * batch);
    mean.iter_mut().zip(batch_mean).for_each(|(running, batch)| towards(running, *batch));
    var.iter_mut().zip(batch_var).for_each(|(running, batch)| towards(running, batch * unbias));
}

/// y, with a zero border and the appended mask.
pub fn forward<E: Real>(
    cpu: &Cpu,
    map: &Map,
    x: &[E],
    affine: &Affine<E>,
    out: &Map,
    append: Option<&MaskBits>,
) -> Buffer<E> {
    let mut y = cpu.take(out.len());
    out.for_lines_mut(&mut y, |b, line, y| {
        let x = &x[map.line(b, line)];
        vectorized(|| {
            for (y, x) in y.chunks_exact_mut(out.channels).zip(x.chunks_exact(map.channels)) {
                affine.apply(x, y);
            }
        });
        if let Some(mask) = append {
            let mut pixels = vec![0; map.width];
            mask.grid.unpack_line(mask.window(b), line, &mut pixels);
            for (y, burns) in y.chunks_exact_mut(out.channels).zip(pixels) {
                y[map.channels] = E::of(f64::from(burns));
            }
        }
    });
    y
}

/// Derivative of the ReLU, as a factor: a choice between two constants vectorises, one between values became a branch.
#[inline(always)]
fn step<E: Real>(z: E) -> E {
    if z > E::zero() { E::one() } else { E::zero() }
}

/// The loops over the channels of one pixel. Slices are cut to one length first, so that they vectorise.
impl<E: Real> Affine<E> {
    /// Mean, reciprocal deviation, γ and β of the first `c` channels.
    #[inline(always)]
    fn channels(&self, c: usize) -> (&[E], &[E], &[E], &[E]) {
        (&self.mean[..c], &self.rstd[..c], &self.gamma[..c], &self.beta[..c])
    }

    /// y = max(0, γ·normal + β)
    #[inline(always)]
    fn apply(&self, x: &[E], y: &mut [E]) {
        let c = x.len();
        let (mean, rstd, gamma, beta) = self.channels(c);
        let y = &mut y[..c];
        for i in 0..c {
            y[i] = (gamma[i] * ((x[i] - mean[i]) * rstd[i]) + beta[i]).max(E::zero());
        }
    }

    /// Adds the pixel's dz·normal and dz to the sums.
    #[inline(always)]
    fn add_sums(&self, dy: &[E], x: &[E], sum_gamma: &mut [f64], sum_beta: &mut [f64]) {
        let c = x.len();
        let (mean, rstd, gamma, beta) = self.channels(c);
        let (dy, sum_gamma, sum_beta) = (&dy[..c], &mut sum_gamma[..c], &mut sum_beta[..c]);
        for i in 0..c {
            let normal = (x[i] - mean[i]) * rstd[i];
            let dz = dy[i] * step(gamma[i] * normal + beta[i]);
            sum_gamma[i] += dz.f64() * normal.f64();
            sum_beta[i] += dz.f64();
        }
    }

    /// dy ← γ·rstd·(dz − mean(dz) − normal·mean(dz·normal))
    #[inline(always)]
    fn input_gradient(&self, dy: &mut [E], x: &[E], mean_gamma: &[E], mean_beta: &[E]) {
        let c = x.len();
        let (mean, rstd, gamma, beta) = self.channels(c);
        let (dy, mean_gamma, mean_beta) = (&mut dy[..c], &mean_gamma[..c], &mean_beta[..c]);
        for i in 0..c {
            let normal = (x[i] - mean[i]) * rstd[i];
            let dz = dy[i] * step(gamma[i] * normal + beta[i]);
            dy[i] = gamma[i] * rstd[i] * (dz - mean_beta[i] - normal * mean_gamma[i]);
        }
    }
}

/// Turns dy into dx in place (its border stays zero); returns the gradients of γ and β.
pub fn backward<E: Real>(map: &Map, dy: &mut [E], x: &[E], affine: &Affine<E>, of_batch: bool) -> (Vec<E>, Vec<E>) {
    let c = map.channels;
    let partials = {
        let dy = &*dy;
        let bands = map.bands(LINES);
        bands
            .par_iter()
            .map(|(b, first, lines)| {
                let mut sums = vec![0.0; 2 * c];
                let (gamma, beta) = sums.split_at_mut(c);
                vectorized(|| {
                    for y in *first..first + lines {
                        let line = map.line(*b, y);
                        for (dy, x) in dy[line.clone()].chunks_exact(c).zip(x[line].chunks_exact(c)) {
                            affine.add_sums(dy, x, gamma, beta);
                        }
                    }
                });
                sums
            })
            .collect()
    };
    let sums: Vec<f64> = sum_partials(partials, 2 * c);
    let mean_of = |sum: f64| if of_batch { E::of(sum / map.pixels() as f64) } else { E::zero() };
    let mean_gamma: Vec<E> = sums[..c].iter().map(|sum| mean_of(*sum)).collect();
    let mean_beta: Vec<E> = sums[c..].iter().map(|sum| mean_of(*sum)).collect();
    map.for_lines_mut(dy, |b, y, dy| {
        let x = &x[map.line(b, y)];
        vectorized(|| {
            for (dy, x) in dy.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                affine.input_gradient(dy, x, &mean_gamma, &mean_beta);
            }
        });
    });
    let gradient = |sums: &[f64]| sums.iter().map(|sum| E::of(*sum)).collect();
    (gradient(&sums[..c]), gradient(&sums[c..]))
}
