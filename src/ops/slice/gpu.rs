//! Launches `kernels/slice.cu`.

use crate::Result;
use crate::device::gpu::{Gpu, params};
use crate::ops::columns::{MOST_BLOCKS, walk};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use std::ops::Range;

/// See [`super::slice`].
pub fn slice(tape: &mut Tape, gpu: &Gpu, x: &Var, rows: Range<usize>, cols: Range<usize>) -> Result<Var> {
    let part_shape: Vec<usize> = [rows.len(), cols.len()][..x.shape().len()].to_vec();
    let window = Window { width: x.shape().get(1).copied().unwrap_or(1), rows, cols };
    let part = window.cut(gpu, x.value(), &part_shape)?;
    let (gpu, id, shape) = (gpu.clone(), x.id(), x.shape().to_vec());
    Ok(tape.record(part, move |dy, gradients| gradients.add(id, window.place(&gpu, &dy, &shape)?)))
}

/// A range of rows and columns of a matrix whose rows have `width` elements.
pub struct Window {
    /// Elements of a row of the whole matrix.
    pub width: usize,
    /// Rows of the part.
    pub rows: Range<usize>,
    /// Columns of the part.
    pub cols: Range<usize>,
}

impl Window {
    /// The part of `whole`, as a tensor of `shape`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn cut(&self, gpu: &Gpu, whole: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let part = gpu.tensor(whole.dtype(), shape)?;
        let flat = self.flat();
        let vector = flat.vector(whole);
        let params = params::SliceForward {
            part: part.gpu_address(),
            whole: whole.gpu_address(),
            rows: flat.rows.len() as u64,
            first_row: flat.rows.start as u64,
            columns: flat.cols.len() as u32,
            first_column: flat.cols.start as u32,
            width: flat.width as u32,
            vectors: u32::from(vector > 1),
        };
        let launch = walk(flat.rows.len(), flat.cols.len() / vector, MOST_BLOCKS);
        gpu.launch_for("slice_forward", whole.dtype(), launch, &params)?;
        Ok(part)
    }

    /// A tensor of `shape` with `part` in its place and zeros elsewhere.
    ///
    /// # Errors
    /// What the device reports.
    pub fn place(&self, gpu: &Gpu, part: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let whole = gpu.tensor(part.dtype(), shape)?;
        let vector = self.vector(&whole);
        let rows = whole.len() / self.width;
        let params = params::SliceBackward {
            whole: whole.gpu_address(),
            part: part.gpu_address(),
            whole_rows: rows as u64,
            rows: self.rows.len() as u64,
            first_row: self.rows.start as u64,
            columns: self.cols.len() as u32,
            first_column: self.cols.start as u32,
            width: self.width as u32,
            vectors: u32::from(vector > 1),
        };
        gpu.launch_for("slice_backward", part.dtype(), walk(rows, self.width / vector, MOST_BLOCKS), &params)?;
        Ok(whole)
    }

    /// Whole rows lie one behind the other: a range of vectors, whatever the width.
    fn flat(&self) -> Self {
        let Self { width, rows, cols } = self;
        if *cols == (0..*width) && rows.end * width <= 1 << 20 {
            let (width, cols) = (rows.end * width, rows.start * width..rows.end * width);
            return Self { width, rows: 0..1, cols };
        }
        Self { width: *width, rows: rows.clone(), cols: cols.clone() }
    }

    /// Elements that move together: those of 16 bytes where every range is made of them.
    fn vector(&self, whole: &Tensor) -> usize {
        let vector = 16 / whole.dtype().bytes();
        let fits = [self.width, self.cols.start, self.cols.len()].iter().all(|n| n.is_multiple_of(vector));
        if fits { vector } else { 1 }
    }
}
