//! Parts of small tensors, for weights that several ops share: a range of rows or of columns of a matrix.

pub(super) mod gpu;

use crate::device::Device;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Result, with_real};
use std::ops::Range;

/// Rows `rows` and columns `cols` of x: [r, c] (a vector counts as one column).
pub fn slice(tape: &mut Tape, x: &Var, rows: Range<usize>, cols: Range<usize>) -> Result<Var> {
    let cpu = match tape.device().clone() {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(gpu) => return gpu::slice(tape, &gpu, x, rows, cols),
    };
    let width = x.shape().get(1).copied().unwrap_or(1);
    let (id, shape) = (x.id(), x.shape().to_vec());
    let part_shape: Vec<usize> = [rows.len(), cols.len()][..shape.len()].to_vec();
    let part = with_real!(x.value().dtype(), E => {
        let mut part = cpu.take::<E>(rows.len() * cols.len());
        for (to, row) in part.chunks_exact_mut(cols.len()).zip(rows.clone()) {
            to.copy_from_slice(&x.value().cpu::<E>()[row * width..][cols.clone()]);
        }
        Tensor::from_buffer(&part_shape, part)
    });
    Ok(tape.record(part, move |dy, gradients| {
        let dx = with_real!(dy.dtype(), E => {
            let mut dx = cpu.zeros::<E>(shape.iter().product());
            for (from, row) in dy.cpu::<E>().chunks_exact(cols.len()).zip(rows) {
                dx[row * width..][cols.clone()].copy_from_slice(from);
            }
            Tensor::from_buffer(&shape, dx)
        });
        gradients.add(id, dx)?;
        Ok(())
    }))
}

/// The last of T steps: x [R, T, d] → [R, d].
pub fn last_step(tape: &mut Tape, x: &Var) -> Result<Var> {
    let (r, t, d) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let flat = tape.reshape(x, &[r, t * d]);
    slice(tape, &flat, 0..r, (t - 1) * d..t * d)
}
