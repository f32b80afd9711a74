//! One patch at a time; gradients of the weights in blocks of patches, summed in order.

use super::Tokens;
use crate::device::cpu::{Buffer, Cpu, Real, vectorized};
use crate::ops::map::sum_partials;
use rayon::prelude::*;

const PATCHES: usize = 256; // patches of a block

/// The terms of the sum; wind and statics already projected to d.
pub struct Terms<'a, E> {
    /// [d, 1] or [d, P²]
    pub weight: &'a [E],
    /// `[d]`
    pub bias: &'a [E],
    /// [B·T, d]
    pub wind: Option<&'a [E]>,
    /// [B·N, d]
    pub statics: Option<&'a [E]>,
}

/// Gradients of the terms.
pub struct Gradients<E: Real> {
    /// [d, 1] or [d, P²]
    pub weight: Buffer<E>,
    /// `[d]`
    pub bias: Buffer<E>,
    /// [B·T, d]
    pub wind: Buffer<E>,
    /// [B·N, d]
    pub statics: Buffer<E>,
}

/// Sinusoidal positions 0..steps, [steps, d].
pub fn positions<E: Real>(steps: usize, d: usize) -> Vec<E> {
    let value = |p: usize, i: usize| {
        let angle = p as f64 * (-(10000f64.ln()) * (i / 2 * 2) as f64 / d as f64).exp();
        if i.is_multiple_of(2) { angle.sin() } else { angle.cos() }
    };
    (0..steps).flat_map(|p| (0..d).map(move |i| E::of(value(p, i)))).collect()
}

impl Tokens {
    fn bits(&self, b: usize, t: usize, n: usize) -> &[u64] {
        let words = self.grid.words();
        &self.frames.host()[((b * self.history + t) * self.grid.patches() + n) * words..][..words]
    }

    fn fraction<E: Real>(&self, bits: &[u64]) -> E {
        let burning: u32 = bits.iter().map(|word| word.count_ones()).sum();
        E::of(f64::from(burning) / (self.grid.patch * self.grid.patch) as f64)
    }
}

/// Calls `f` with the number of every set bit.
#[inline(always)]
fn for_set_bits(bits: &[u64], mut f: impl FnMut(usize)) {
    for (i, word) in bits.iter().enumerate() {
        let mut rest = *word;
        while rest != 0 {
            f(i * 64 + rest.trailing_zeros() as usize);
            rest &= rest - 1;
        }
    }
}

#[inline(always)]
fn add<E: Real>(to: &mut [E], terms: &[E]) {
    to.iter_mut().zip(terms).for_each(|(to, term)| *to += *term);
}

/// tokens [B·N, T, d]
pub fn forward<E: Real>(cpu: &Cpu, tokens: &Tokens, terms: &Terms<'_, E>, d: usize) -> Buffer<E> {
    let (n, t, inputs) = (tokens.grid.patches(), tokens.history, terms.weight.len() / d);
    // [inputs, d]: a set bit then adds one contiguous row
    let weight_t: Vec<E> = (0..inputs * d).map(|i| terms.weight[i % d * inputs + i / d]).collect();
    let positions = positions::<E>(t, d);
    let mut y = cpu.take(tokens.batch * n * t * d);
    y.par_chunks_mut(t * d).enumerate().for_each(|(row, y)| {
        let (b, patch) = (row / n, row % n);
        vectorized(|| {
            for (step, y) in y.chunks_exact_mut(d).enumerate() {
                y.copy_from_slice(terms.bias);
                let bits = tokens.bits(b, step, patch);
                if inputs == 1 {
                    let fire = tokens.fraction::<E>(bits);
                    y.iter_mut().zip(&weight_t).for_each(|(y, w)| *y += fire * *w);
                } else {
                    for_set_bits(bits, |i| add(y, &weight_t[i * d..][..d]));
                }
                if let Some(wind) = terms.wind {
                    add(y, &wind[(b * t + step) * d..][..d]);
                }
                if let Some(statics) = terms.statics {
                    add(y, &statics[row * d..][..d]);
                }
                add(y, &positions[tokens.ages.host()[b * t + step] as usize * d..][..d]);
            }
        });
    });
    y
}

/// Gradients from dy [B·N, T, d].
pub fn backward<E: Real>(cpu: &Cpu, tokens: &Tokens, dy: &[E], d: usize, inputs: usize) -> Gradients<E> {
    let (n, t) = (tokens.grid.patches(), tokens.history);
    let mut statics = cpu.take::<E>(tokens.batch * n * d);
    statics.par_chunks_mut(d).zip(dy.par_chunks(t * d)).for_each(|(sum, dy)| {
        sum.fill(E::zero());
        dy.chunks_exact(d).for_each(|dy| add(sum, dy));
    });
    let blocks: Vec<_> = (0..tokens.batch)
        .flat_map(|b| (0..n).step_by(PATCHES).map(move |first| (b, first..n.min(first + PATCHES))))
        .collect();
    // of each block: weight [inputs, d], then the sums over its patches [T, d]
    let partials: Vec<Vec<E>> = blocks
        .par_iter()
        .map(|(b, patches)| {
            let mut sums = vec![E::zero(); (inputs + t) * d];
            let (weight, steps) = sums.split_at_mut(inputs * d);
            vectorized(|| {
                for patch in patches.clone() {
                    for (step, dy) in dy[(b * n + patch) * t * d..][..t * d].chunks_exact(d).enumerate() {
                        add(&mut steps[step * d..][..d], dy);
                        let bits = tokens.bits(*b, step, patch);
                        if inputs == 1 {
                            let fire = tokens.fraction::<E>(bits);
                            weight.iter_mut().zip(dy).for_each(|(w, dy)| *w += fire * *dy);
                        } else {
                            for_set_bits(bits, |i| add(&mut weight[i * d..][..d], dy));
                        }
                    }
                }
            });
            sums
        })
        .collect();
    let mut wind = cpu.zeros::<E>(tokens.batch * t * d);
    let mut bias = cpu.zeros::<E>(d);
    for ((b, _), sums) in blocks.iter().zip(&partials) {
        let steps = &sums[inputs * d..];
        add(&mut wind[b * t * d..][..t * d], steps);
        steps.chunks_exact(d).for_each(|step| add(&mut bias, step));
    }
    let weight_t = sum_partials(partials, (inputs + t) * d);
    let weight: Vec<E> = (0..d * inputs).map(|i| weight_t[i % inputs * d + i / inputs]).collect();
    Gradients { weight: cpu.copied(&weight), bias, wind, statics }
}
