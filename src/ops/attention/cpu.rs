//! One patch at a time: its scores fit in the first-level cache.

use crate::device::cpu::{Buffer, Cpu, Real, vectorized};
use crate::ops::dropout::{Dropout, cpu::apply_from};
use rayon::prelude::*;

/// Sizes of an attention: `rows` patches of `batch` samples, `queries` and `steps` of width `d` in `heads` heads.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Patches of all samples, R.
    pub rows: usize,
    /// Queries of a patch, Tq.
    pub queries: usize,
    /// Keys of a patch, T.
    pub steps: usize,
    /// Width d.
    pub d: usize,
    /// Heads.
    pub heads: usize,
    /// Samples B.
    pub batch: usize,
}

impl Sizes {
    fn scale<E: Real>(&self) -> E {
        E::of(1.0 / ((self.d / self.heads) as f64).sqrt())
    }

    fn probabilities(&self) -> usize {
        self.heads * self.queries * self.steps
    }
}

/// Dot product in eight lanes, so that it vectorises.
#[inline(always)]
pub fn dot<E: Real>(a: &[E], b: &[E]) -> E {
    const LANES: usize = 8;
    let mut lanes = [E::zero(); LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: E = a.remainder().iter().zip(b.remainder()).map(|(a, b)| *a * *b).sum();
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    let quads = [lanes[0] + lanes[4], lanes[1] + lanes[5], lanes[2] + lanes[6], lanes[3] + lanes[7]];
    rest + (quads[0] + quads[2]) + (quads[1] + quads[3])
}

/// to += a·x
#[inline(always)]
fn axpy<E: Real>(to: &mut [E], a: E, x: &[E]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += a * *x);
}

/// The output [R, Tq, d], and the probabilities before dropout [R, heads, Tq, T] that the backward needs.
pub fn forward<E: Real>(
    cpu: &Cpu,
    sizes: &Sizes,
    q: &[E],
    kv: &[E],
    valid: &[bool],
    dropout: Option<&Dropout>,
) -> (Buffer<E>, Buffer<E>) {
    let Sizes { queries, steps, d, heads, .. } = *sizes;
    let (width, scale, patches) = (d / heads, sizes.scale::<E>(), sizes.rows / sizes.batch);
    let mut y = cpu.take::<E>(sizes.rows * queries * d);
    let mut p = cpu.take::<E>(sizes.rows * sizes.probabilities());
    let rows = y.par_chunks_mut(queries * d).zip(p.par_chunks_mut(sizes.probabilities()));
    let rows = rows.zip(q.par_chunks(queries * d).zip(kv.par_chunks(steps * 2 * d)));
    rows.enumerate().for_each_init(Vec::new, |dropped, (row, ((y, p), (q, kv)))| {
        let valid = &valid[row / patches * steps..][..steps];
        vectorized(|| {
            for (i, p) in p.chunks_exact_mut(steps).enumerate() {
                let (head, query) = (i / queries, i % queries);
                let q = &q[query * d + head * width..][..width];
                let mut highest = E::neg_infinity();
                for (step, score) in p.iter_mut().enumerate().filter(|(step, _)| valid[*step]) {
                    *score = dot(q, &kv[step * 2 * d + head * width..][..width]) * scale;
                    highest = highest.max(*score);
                }
                let mut sum = E::zero();
                for (score, valid) in p.iter_mut().zip(valid) {
                    *score = if *valid { (*score - highest).exp_fast() } else { E::zero() };
                    sum += *score;
                }
                p.iter_mut().for_each(|p| *p /= sum);
            }
        });
        let weights = drop_copy(dropout, p, row, dropped);
        vectorized(|| {
            y.fill(E::zero());
            for (i, p) in weights.chunks_exact(steps).enumerate() {
                let (head, query) = (i / queries, i % queries);
                let y = &mut y[query * d + head * width..][..width];
                for (step, p) in p.iter().enumerate() {
                    axpy(y, *p, &kv[step * 2 * d + d + head * width..][..width]);
                }
            }
        });
    });
    (y, p)
}

/// The probabilities of a patch after dropout, in `copy` where there is any.
fn drop_copy<'a, E: Real>(dropout: Option<&Dropout>, p: &'a [E], row: usize, copy: &'a mut Vec<E>) -> &'a [E] {
    let Some(dropout) = dropout else { return p };
    copy.clear();
    copy.extend_from_slice(p);
    apply_from(dropout, copy, row * p.len());
    copy
}

/// Gradients of q [R, Tq, d] and kv [R, T, 2d].
pub fn backward<E: Real>(
    cpu: &Cpu,
    sizes: &Sizes,
    dy: &[E],
    q: &[E],
    kv: &[E],
    p: &[E],
    dropout: Option<&Dropout>,
) -> (Buffer<E>, Buffer<E>) {
    let Sizes { queries, steps, d, heads, .. } = *sizes;
    let (width, scale) = (d / heads, sizes.scale::<E>());
    let mut dq = cpu.take::<E>(q.len());
    let mut dkv = cpu.take::<E>(kv.len());
    let rows = dq.par_chunks_mut(queries * d).zip(dkv.par_chunks_mut(steps * 2 * d));
    rows.enumerate().for_each_init(
        || (Vec::new(), Vec::new()),
        |(dropped, dp), (row, (dq, dkv))| {
            let (q, dy) = (&q[row * queries * d..][..queries * d], &dy[row * queries * d..][..queries * d]);
            let kv = &kv[row * steps * 2 * d..][..steps * 2 * d];
            let p = &p[row * sizes.probabilities()..][..sizes.probabilities()];
            let weights = drop_copy(dropout, p, row, dropped);
            dp.resize(p.len(), E::zero());
            dkv.fill(E::zero());
            vectorized(|| {
                for i in 0..heads * queries {
                    let (head, query) = (i / queries, i % queries);
                    let dy = &dy[query * d + head * width..][..width];
                    for step in 0..steps {
                        let at = step * 2 * d + d + head * width;
                        dp[i * steps + step] = dot(dy, &kv[at..][..width]);
                        axpy(&mut dkv[at..][..width], weights[i * steps + step], dy);
                    }
                }
            });
            if let Some(dropout) = dropout {
                apply_from(dropout, dp, row * p.len());
            }
            vectorized(|| {
                dq.fill(E::zero());
                for (i, (p, dp)) in p.chunks_exact(steps).zip(dp.chunks_exact(steps)).enumerate() {
                    let (head, query) = (i / queries, i % queries);
                    let at = query * d + head * width;
                    let mean = p.iter().zip(dp).map(|(p, dp)| *p * *dp).sum::<E>();
                    for step in 0..steps {
                        let ds = p[step] * (dp[step] - mean) * scale;
                        let key = step * 2 * d + head * width;
                        axpy(&mut dq[at..][..width], ds, &kv[key..][..width]);
                        axpy(&mut dkv[key..][..width], ds, &q[at..][..width]);
                    }
                }
            });
        },
    );
    (dq, dkv)
}
