//! Row by row, in blocks.

use crate::device::cpu::{Buffer, Cpu, Real, vectorized};
use crate::ops::dropout::{Dropout, cpu::apply_from};
use crate::ops::map::sum_partials;
use rayon::prelude::*;

const ROWS: usize = 512;
const EPS: f64 = 1e-5;

/// Sum of f over two equally long slices, in lanes so that it vectorises.
#[inline(always)]
fn lane_sum<E: Real>(a: &[E], b: &[E], f: impl Fn(E, E) -> E) -> E {
    const LANES: usize = 16;
    let mut lanes = [E::zero(); LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: E = a.remainder().iter().zip(b.remainder()).map(|(a, b)| f(*a, *b)).sum();
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0] + rest
}

/// y and s [rows, d], and the mean and reciprocal deviation of each row [rows, 2].
pub fn forward<E: Real>(
    cpu: &Cpu,
    x: &[E],
    residual: &[E],
    gamma: &[E],
    beta: &[E],
    dropout: Option<&Dropout>,
) -> (Buffer<E>, Buffer<E>, Buffer<E>) {
    let d = gamma.len();
    let mut y = cpu.take::<E>(x.len());
    let mut sum = cpu.take::<E>(x.len());
    let mut stats = cpu.take::<E>(x.len() / d * 2);
    let blocks = y.par_chunks_mut(ROWS * d).zip(sum.par_chunks_mut(ROWS * d)).zip(stats.par_chunks_mut(ROWS * 2));
    blocks.enumerate().for_each(|(i, ((y, sum), stats))| {
        let first = i * ROWS * d;
        let n = sum.len();
        sum.copy_from_slice(&residual[first..][..n]);
        if let Some(dropout) = dropout {
            apply_from(dropout, sum, first);
        }
        vectorized(|| {
            sum.iter_mut().zip(&x[first..]).for_each(|(s, x)| *s += *x);
            let rows = y.chunks_exact_mut(d).zip(sum.chunks_exact(d)).zip(stats.chunks_exact_mut(2));
            for ((y, s), stats) in rows {
                let mean = lane_sum(s, s, |s, _| s) / E::of(d as f64);
                let variance = lane_sum(s, s, |s, _| (s - mean) * (s - mean)) / E::of(d as f64);
                let rstd = E::one() / (variance + E::of(EPS)).sqrt();
                for (((y, s), g), b) in y.iter_mut().zip(s).zip(gamma).zip(beta) {
                    *y = (*s - mean) * rstd * *g + *b;
                }
                stats.copy_from_slice(&[mean, rstd]);
            }
        });
    });
    (y, sum, stats)
}

/// Turns dy into ds in place; returns the gradients of γ and β.
pub fn backward<E: Real>(dy: &mut [E], sum: &[E], stats: &[E], gamma: &[E]) -> (Vec<E>, Vec<E>) {
    let d = gamma.len();
    let blocks = dy.par_chunks_mut(ROWS * d).zip(sum.par_chunks(ROWS * d)).zip(stats.par_chunks(ROWS * 2));
    let (dgamma, dbeta): (Vec<_>, Vec<_>) = blocks
        .map(|((dy, sum), stats)| {
            let mut dgamma = vec![E::zero(); d];
            let mut dbeta = vec![E::zero(); d];
            let mut normal = vec![E::zero(); d];
            vectorized(|| {
                for ((dy, s), stats) in dy.chunks_exact_mut(d).zip(sum.chunks_exact(d)).zip(stats.chunks_exact(2)) {
                    let (mean, rstd) = (stats[0], stats[1]);
                    for i in 0..d {
                        normal[i] = (s[i] - mean) * rstd;
                        dgamma[i] += dy[i] * normal[i];
                        dbeta[i] += dy[i];
                        dy[i] *= gamma[i];
                    }
                    let a = lane_sum(dy, &normal, |dy, _| dy) / E::of(d as f64);
                    let b = lane_sum(dy, &normal, |dy, n| dy * n) / E::of(d as f64);
                    dy.iter_mut().zip(&normal).for_each(|(dy, n)| *dy = (*dy - a - *n * b) * rstd);
                }
            });
            (dgamma, dbeta)
        })
        .unzip();
    (sum_partials(dgamma, d), sum_partials(dbeta, d))
}
