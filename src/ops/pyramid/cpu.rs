//! Pooling and resizing, line by line.

use crate::device::cpu::{Buffer, Cpu, Real, vectorized};
use crate::ops::map::Map;
use rayon::prelude::*;

/// Average pooling.
pub fn pool<E: Real>(cpu: &Cpu, from: &Map, x: &[E], to: &Map, factor: usize) -> Buffer<E> {
    let share = E::of(1.0 / (factor * factor) as f64);
    let mut y = cpu.take(to.len());
    to.for_lines_mut(&mut y, |b, line, y| {
        vectorized(|| {
            y.fill(E::zero());
            for fy in 0..factor {
                let x = &x[from.line(b, line * factor + fy)];
                for (i, x) in x.chunks_exact(from.channels).take(to.width * factor).enumerate() {
                    let y = &mut y[i / factor * to.channels..][..to.channels];
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += *x * share);
                }
            }
        });
    });
    y
}

/// Gradient of [`pool`]'s input: each pixel gets its window's share; dropped ones 0.
pub fn pool_backward<E: Real>(cpu: &Cpu, from: &Map, to: &Map, dy: &[E], factor: usize) -> Buffer<E> {
    let share = E::of(1.0 / (factor * factor) as f64);
    let mut dx = cpu.take(from.len());
    from.for_lines_mut(&mut dx, |b, line, dx| {
        dx.fill(E::zero());
        if line / factor < to.height {
            let dy = &dy[to.line(b, line / factor)];
            for (i, dx) in dx.chunks_exact_mut(from.channels).take(to.width * factor).enumerate() {
                let dy = &dy[i / factor * to.channels..][..to.channels];
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = *dy * share);
            }
        }
    });
    dx
}

/// For each output coordinate the two source coordinates and the weight of the second.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f64)> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
            let low = (at as usize).min(from - 1);
            (low, (low + 1).min(from - 1), at - low as f64)
        })
        .collect()
}

/// The sum of the resized levels.
pub fn resize_sum<E: Real>(cpu: &Cpu, levels: &[Map], values: &[&[E]], to: &Map) -> Buffer<E> {
    let c = to.channels;
    let tables: Vec<_> = levels.iter().map(|map| (taps(map.height, to.height), taps(map.width, to.width))).collect();
    let mut y = cpu.take(to.len());
    to.for_lines_mut(&mut y, |b, line, y| {
        vectorized(|| {
            y.fill(E::zero());
            for ((map, x), (rows, cols)) in levels.iter().zip(values).zip(&tables) {
                let (top, bottom, down) = rows[line];
                let (top, bottom, down) = (&x[map.line(b, top)], &x[map.line(b, bottom)], E::of(down));
                for (y, (left, right, across)) in y.chunks_exact_mut(c).zip(cols) {
                    let (left, right, across) = (left * c, right * c, E::of(*across));
                    for i in 0..c {
                        let upper = top[left + i] + (top[right + i] - top[left + i]) * across;
                        let lower = bottom[left + i] + (bottom[right + i] - bottom[left + i]) * across;
                        y[i] += upper + (lower - upper) * down;
                    }
                }
            }
        });
    });
    y
}

/// Gradient of one level: the transpose of its resizing, one sample after the other in order.
pub fn resize_backward<E: Real>(cpu: &Cpu, level: &Map, to: &Map, dy: &[E]) -> Buffer<E> {
    let c = to.channels;
    let (rows, cols) = (taps(level.height, to.height), taps(level.width, to.width));
    let mut dx = cpu.zeros::<E>(level.len());
    dx.par_chunks_mut(level.height * level.pitch()).enumerate().for_each(|(b, dx)| {
        vectorized(|| {
            for (line, (top, bottom, down)) in rows.iter().enumerate() {
                let dy = &dy[to.line(b, line)];
                for (dy, (left, right, across)) in dy.chunks_exact(c).zip(&cols) {
                    for (row, weight) in [(top, 1.0 - down), (bottom, *down)] {
                        for (col, weight) in [(left, weight * (1.0 - across)), (right, weight * across)] {
                            let weight = E::of(weight);
                            let dx = &mut dx[row * level.pitch() + col * c..][..c];
                            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += *dy * weight);
                        }
                    }
                }
            }
        });
    });
    dx
}
