//! A dot product a pixel.

use crate::device::cpu::{Buffer, Cpu, Real, vectorized};
use crate::ops::attention::cpu::dot;
use crate::ops::map::{Map, sum_partials};
use rayon::prelude::*;

/// Logits [B, H, W].
pub fn forward<E: Real>(cpu: &Cpu, map: &Map, x: &[E], weight: &[E], bias: E) -> Buffer<E> {
    let plain = Map { halo: 0, channels: 1, ..*map };
    let mut y = cpu.take(plain.len());
    plain.for_lines_mut(&mut y, |b, line, y| {
        let x = &x[map.line(b, line)];
        vectorized(|| y.iter_mut().zip(x.chunks_exact(map.channels)).for_each(|(y, x)| *y = dot(x, weight) + bias));
    });
    y
}

/// dx, with a zero border, of the map's channels.
pub fn input_gradient<E: Real>(cpu: &Cpu, map: &Map, dy: &[E], weight: &[E]) -> Buffer<E> {
    let plain = Map { halo: 0, channels: 1, ..*map };
    let mut dx = cpu.take(map.len());
    map.for_lines_mut(&mut dx, |b, line, dx| {
        let dy = &dy[plain.line(b, line)];
        vectorized(|| {
            for (dx, dy) in dx.chunks_exact_mut(map.channels).zip(dy) {
                dx.iter_mut().zip(weight).for_each(|(dx, w)| *dx = *w * *dy);
            }
        });
    });
    dx
}

/// dw `[C]` and db.
pub fn weight_gradient<E: Real>(map: &Map, x: &[E], dy: &[E]) -> (Vec<E>, E) {
    let (c, plain) = (map.channels, Map { halo: 0, channels: 1, ..*map });
    let partials = map.bands(1);
    let partials = partials.par_iter().map(|(b, line, _)| {
        let mut sums = vec![E::zero(); c + 1];
        vectorized(|| {
            for (x, dy) in x[map.line(*b, *line)].chunks_exact(c).zip(&dy[plain.line(*b, *line)]) {
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += *x * *dy);
                sums[c] += *dy;
            }
        });
        sums
    });
    let mut dw = sum_partials(partials.collect(), c + 1);
    let db = dw.pop().unwrap_or_else(E::zero);
    (dw, db)
}
