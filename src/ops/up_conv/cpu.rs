//! Matrix products on the maps themselves, as in `ops/conv`.

use crate::device::cpu::{Buffer, Cpu, Mat, MatMut, Real, gemm};
use crate::ops::map::{Map, sum_partials};
use rayon::prelude::*;

const LINES: usize = 8; // input lines of a partial weight gradient

/// Kernel lines that phase `p` applies to its two input lines, the upper one first.
const TAPS: [[usize; 2]; 2] = [[3, 1], [2, 0]];

/// y, with a zero border.
pub fn forward<E: Real>(cpu: &Cpu, input: &Map, x: &[E], weight: &[E], output: &Map) -> Buffer<E> {
    let (m, k) = (output.channels, 2 * input.channels);
    // [py, px, input line, input pixel · ci, co]
    let mut packed = Vec::with_capacity(8 * m * k);
    for (py, px) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for ky in TAPS[py] {
            for kx in TAPS[px] {
                for ci in 0..input.channels {
                    packed.extend((0..m).map(|co| weight[((ci * m + co) * 4 + ky) * 4 + kx]));
                }
            }
        }
    }
    let mut y = cpu.take(output.len());
    output.for_lines_mut(&mut y, |b, line, y| {
        let py = line % 2;
        for px in 0..2 {
            let kernels = packed[(py * 2 + px) * 2 * m * k..][..2 * m * k].chunks_exact(m * k);
            for (i, kernel) in kernels.enumerate() {
                // halo coordinates: phase 0 sees lines y and y + 1 of the stored map, phase 1 lines y + 1 and y + 2
                let x = &x[input.stored_line(b, line / 2 + py + i)..][..input.pitch()];
                let windows = Mat::new(&x[px * input.channels..], (k, input.width), 1, input.channels);
                let y = MatMut::new(&mut y[px * m..], (m, input.width), 2 * m);
                gemm(y, Mat::new(kernel, (m, k), 1, m), windows, i > 0);
            }
        }
    });
    y
}

/// dx, with a zero border: each input pixel gathers the 4×4 output pixels that it reached.
pub fn input_gradient<E: Real>(cpu: &Cpu, output: &Map, dy: &[E], weight: &[E], input: &Map) -> Buffer<E> {
    let (m, k) = (input.channels, 4 * output.channels);
    // [ky, kx · co, ci]
    let mut packed = Vec::with_capacity(4 * m * k);
    for (ky, kx) in (0..16).map(|i| (i / 4, i % 4)) {
        for co in 0..output.channels {
            packed.extend((0..m).map(|ci| weight[((ci * output.channels + co) * 4 + ky) * 4 + kx]));
        }
    }
    let mut dx = cpu.take(input.len());
    input.for_lines_mut(&mut dx, |b, line, dx| {
        for (ky, kernel) in packed.chunks_exact(m * k).enumerate() {
            let dy = &dy[output.stored_line(b, 2 * line + ky)..][..output.pitch()];
            let windows = Mat::new(dy, (k, input.width), 1, 2 * output.channels);
            gemm(MatMut::of_row_major_t(dx, m, input.width), Mat::new(kernel, (m, k), 1, m), windows, ky > 0);
        }
    });
    dx
}

/// dW [Cin, Cout, 4, 4].
pub fn weight_gradient<E: Real>(input: &Map, x: &[E], output: &Map, dy: &[E]) -> Vec<E> {
    let (m, n) = (4 * output.channels, input.channels);
    let partials: Vec<Vec<E>> = input
        .bands(LINES)
        .par_iter()
        .map(|(b, first, lines)| {
            let mut dw = vec![E::zero(); 4 * m * n];
            for line in *first..first + lines {
                let x = Mat::row_major(&x[input.line(*b, line)], input.width, n);
                for (ky, dw) in dw.chunks_exact_mut(m * n).enumerate() {
                    let dy = &dy[output.stored_line(*b, 2 * line + ky)..][..output.pitch()];
                    let windows = Mat::new(dy, (m, input.width), 1, 2 * output.channels);
                    gemm(MatMut::of_row_major_t(dw, m, n), windows, x, line > *first);
                }
            }
            dw
        })
        .collect();
    let sum = sum_partials(partials, 4 * m * n); // [ky, ci, kx · co]
    (0..sum.len())
        .map(|i| {
            let (kx, ky, co, ci) = (i % 4, i / 4 % 4, i / 16 % output.channels, i / 16 / output.channels);
            sum[(ky * n + ci) * m + kx * output.channels + co]
        })
        .collect()
}
