//! Matrix products over blocks of rows.

use crate::device::cpu::{Buffer, Cpu, Mat, MatMut, Real, gemm, vectorized};
use crate::ops::dropout::{Dropout, cpu::apply_from};
use crate::ops::map::sum_partials;
use rayon::prelude::*;

const ROWS: usize = 1024; // rows of a forward block: input and output stay in the second-level cache
const PARTIAL_ROWS: usize = 8192; // rows of a partial weight gradient

/// x·Wᵀ + b.
pub fn forward<E: Real>(cpu: &Cpu, x: &[E], weight: &[E], bias: Option<&[E]>, inputs: usize) -> Buffer<E> {
    let outputs = weight.len() / inputs;
    let mut y = cpu.take(x.len() / inputs * outputs);
    y.par_chunks_mut(ROWS * outputs).zip(x.par_chunks(ROWS * inputs)).for_each(|(y, x)| {
        let rows = x.len() / inputs;
        if let Some(bias) = bias {
            y.chunks_exact_mut(outputs).for_each(|y| y.copy_from_slice(bias));
        }
        let weight = Mat::row_major(weight, outputs, inputs);
        gemm(MatMut::of_row_major_t(y, outputs, rows), weight, Mat::row_major(x, rows, inputs).t(), bias.is_some());
    });
    y
}

/// dy·W.
pub fn input_gradient<E: Real>(cpu: &Cpu, dy: &[E], weight: &[E], inputs: usize) -> Buffer<E> {
    let outputs = weight.len() / inputs;
    let mut dx = cpu.take(dy.len() / outputs * inputs);
    dx.par_chunks_mut(ROWS * inputs).zip(dy.par_chunks(ROWS * outputs)).for_each(|(dx, dy)| {
        let rows = dy.len() / outputs;
        let weight = Mat::row_major(weight, outputs, inputs).t();
        gemm(MatMut::of_row_major_t(dx, inputs, rows), weight, Mat::row_major(dy, rows, outputs).t(), false);
    });
    dx
}

/// dyᵀ·x [out, in] and the column sums of dy `[out]`.
pub fn weight_gradient<E: Real>(x: &[E], dy: &[E], inputs: usize, outputs: usize) -> (Vec<E>, Vec<E>) {
    let blocks = x.par_chunks(PARTIAL_ROWS * inputs).zip(dy.par_chunks(PARTIAL_ROWS * outputs));
    let (dw, db): (Vec<_>, Vec<_>) = blocks
        .map(|(x, dy)| {
            let rows = x.len() / inputs;
            let mut dw = vec![E::zero(); inputs * outputs];
            let x = Mat::row_major(x, rows, inputs).t();
            gemm(MatMut::of_row_major_t(&mut dw, inputs, outputs), x, Mat::row_major(dy, rows, outputs), false);
            let mut db = vec![E::zero(); outputs];
            vectorized(|| {
                for dy in dy.chunks_exact(outputs) {
                    db.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += *dy);
                }
            });
            (dw, db)
        })
        .unzip();
    (sum_partials(dw, inputs * outputs), sum_partials(db, outputs))
}

/// drop(gelu(z)), element by element.
pub fn gelu<E: Real>(cpu: &Cpu, pre: &[E], dropout: Option<&Dropout>) -> Buffer<E> {
    let mut y = cpu.take(pre.len());
    y.par_chunks_mut(ELEMENTS).zip(pre.par_chunks(ELEMENTS)).enumerate().for_each(|(i, (y, pre))| {
        vectorized(|| {
            for (y, z) in y.iter_mut().zip(pre) {
                *y = *z * normal_cdf(*z);
            }
        });
        if let Some(dropout) = dropout {
            apply_from(dropout, y, i * ELEMENTS);
        }
    });
    y
}

const ELEMENTS: usize = 1 << 14;

/// Turns the gradient of drop(gelu(z)) into that of z, in place.
pub fn gelu_backward<E: Real>(dy: &mut [E], pre: &[E], dropout: Option<&Dropout>) {
    dy.par_chunks_mut(ELEMENTS).zip(pre.par_chunks(ELEMENTS)).enumerate().for_each(|(i, (dy, pre))| {
        if let Some(dropout) = dropout {
            apply_from(dropout, dy, i * ELEMENTS);
        }
        vectorized(|| {
            let density = E::of(0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2);
            for (dy, z) in dy.iter_mut().zip(pre) {
                *dy *= normal_cdf(*z) + *z * density * (E::of(-0.5) * *z * *z).exp_fast();
            }
        });
    });
}

#[inline(always)]
fn normal_cdf<E: Real>(z: E) -> E {
    E::of(0.5) * (E::one() + (z * E::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}
