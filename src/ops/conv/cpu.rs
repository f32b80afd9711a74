//! Each line is three matrix products, one for each kernel line: in a channels-last map the three pixels under the kernel
//! are one run of 3·Cin values, so the products read the map itself through overlapping columns.

use crate::device::cpu::{Buffer, Cpu, Mat, MatMut, Real, gemm};
use crate::ops::map::{Map, sum_partials};
use rayon::prelude::*;

const LINES: usize = 16; // lines of a partial weight gradient

/// y, with a zero border.
pub fn forward<E: Real>(cpu: &Cpu, input: &Map, x: &[E], weight: &[E], output: &Map) -> Buffer<E> {
    let (m, k) = (output.channels, 3 * input.channels);
    let packed =
        pack(output.channels, input.channels, |ky, kx, ci, co| weight[((co * input.channels + ci) * 3 + ky) * 3 + kx]);
    let mut y = cpu.take(output.len());
    correlate(input, x, &packed, m, k, output, &mut y);
    y
}

/// Gradient of x's first `dx_map.channels` channels, with a zero border: the correlation of dy with the turned kernel.
pub fn input_gradient<E: Real>(
    cpu: &Cpu,
    output: &Map,
    dy: &[E],
    weight: &[E],
    input: &Map,
    dx_map: &Map,
) -> Buffer<E> {
    let (m, k) = (dx_map.channels, 3 * output.channels);
    let packed = pack(dx_map.channels, output.channels, |ky, kx, co, ci| {
        weight[((co * input.channels + ci) * 3 + 2 - ky) * 3 + 2 - kx]
    });
    let mut dx = cpu.take(dx_map.len());
    correlate(output, dy, &packed, m, k, dx_map, &mut dx);
    dx
}

/// Kernels as three [outputs, 3·inputs] matrices, columns first.
fn pack<E: Real>(outputs: usize, inputs: usize, weight: impl Fn(usize, usize, usize, usize) -> E) -> Vec<E> {
    let mut packed = Vec::with_capacity(9 * inputs * outputs);
    for (ky, kx) in (0..9).map(|i| (i / 3, i % 3)) {
        for input in 0..inputs {
            packed.extend((0..outputs).map(|output| weight(ky, kx, input, output)));
        }
    }
    packed
}

fn correlate<E: Real>(from: &Map, x: &[E], packed: &[E], m: usize, k: usize, to: &Map, y: &mut [E]) {
    to.for_lines_mut(y, |b, line, y| {
        for (ky, kernel) in packed.chunks_exact(m * k).enumerate() {
            let x = &x[from.stored_line(b, line + ky)..][..from.pitch()];
            let windows = Mat::new(x, (k, to.width), 1, from.channels);
            gemm(MatMut::of_row_major_t(y, m, to.width), Mat::new(kernel, (m, k), 1, m), windows, ky > 0);
        }
    });
}

/// dW [Cout, Cin, 3, 3]. Bands of lines are one product: where a window spans two lines, dy is the border's zero.
pub fn weight_gradient<E: Real>(input: &Map, x: &[E], output: &Map, dy: &[E]) -> Vec<E> {
    let (m, n) = (3 * input.channels, output.channels);
    let partials: Vec<Vec<E>> = input
        .bands(LINES)
        .par_iter()
        .map(|(b, first, lines)| {
            let pixels = (lines - 1) * (output.width + 2) + output.width;
            let dy = &dy[output.stored_line(*b, first + 1) + output.channels..];
            let mut dw = vec![E::zero(); 3 * m * n];
            for (ky, dw) in dw.chunks_exact_mut(m * n).enumerate() {
                let windows = Mat::new(&x[input.stored_line(*b, first + ky)..], (m, pixels), 1, input.channels);
                gemm(MatMut::of_row_major_t(dw, m, n), windows, Mat::row_major(dy, pixels, n), false);
            }
            dw
        })
        .collect();
    let sum = sum_partials(partials, 3 * m * n); // [ky, co, kx·ci]
    (0..sum.len())
        .map(|i| {
            let (kx, ky, ci, co) = (i % 3, i / 3 % 3, i / 9 % input.channels, i / 9 / input.channels);
            sum[(ky * n + co) * m + kx * input.channels + ci]
        })
        .collect()
}
