//! Checked strided views of slices, and the matrix product on them.

use super::Real;

/// A strided view of a slice; rows or columns may overlap.
#[derive(Clone, Copy)]
pub struct Mat<'a, E> {
    data: &'a [E],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A strided view to write through, column by column: a column's elements lie side by side, and columns do not overlap.
pub struct MatMut<'a, E> {
    data: &'a mut [E],
    rows: usize,
    cols: usize,
    col_stride: usize,
}

fn span(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

impl<'a, E: Real> Mat<'a, E> {
    /// Element (r, c) is `data[r · row_stride + c · col_stride]`.
    ///
    /// # Panics
    /// If the view does not lie within `data`.
    pub fn new(data: &'a [E], (rows, cols): (usize, usize), row_stride: usize, col_stride: usize) -> Self {
        assert!(span(rows, cols, row_stride, col_stride) <= data.len(), "matrix view outside its slice");
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// A row-major matrix.
    pub fn row_major(data: &'a [E], rows: usize, cols: usize) -> Self {
        Self::new(data, (rows, cols), cols, 1)
    }

    /// The same elements with rows and columns exchanged.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }
}

impl<'a, E: Real> MatMut<'a, E> {
    /// Element (r, c) is `data[r + c · col_stride]`.
    ///
    /// # Panics
    /// If the view does not lie within `data` or its columns overlap.
    pub fn new(data: &'a mut [E], (rows, cols): (usize, usize), col_stride: usize) -> Self {
        assert!(span(rows, cols, 1, col_stride) <= data.len(), "matrix view outside its slice");
        assert!(col_stride >= rows || cols <= 1, "columns overlap");
        Self { data, rows, cols, col_stride }
    }

    /// The transpose of a row-major matrix of `cols` rows: what a product's rows×cols result is when it is to be laid out
    /// row after row.
    pub fn of_row_major_t(data: &'a mut [E], rows: usize, cols: usize) -> Self {
        Self::new(data, (rows, cols), rows)
    }
}

/// `out = a·b`, or `out += a·b` where `accumulate`, on the calling thread.
///
/// # Panics
/// If the shapes do not agree.
pub fn gemm<E: Real>(out: MatMut<'_, E>, a: Mat<'_, E>, b: Mat<'_, E>, accumulate: bool) {
    assert!(out.rows == a.rows && out.cols == b.cols && a.cols == b.rows, "shapes of a matrix product disagree");
    // SAFETY: every element that the product reads or writes was checked at the views' construction to lie within their
    // slices; `out` is borrowed mutably and its columns do not overlap.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data.as_mut_ptr(),
            out.col_stride as isize,
            1,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            E::one(),
            E::one(),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_of_overlapping_columns() {
        // Columns of `b` are windows of three elements, one apart: what a convolution reads.
        let signal = [1.0, 2.0, 3.0, 4.0, 5.0];
        let kernel = [1.0, 0.0, -1.0, 1.0, 1.0, 1.0];
        let mut out = [10.0f64; 6];
        gemm(
            MatMut::of_row_major_t(&mut out, 2, 3),
            Mat::row_major(&kernel, 2, 3),
            Mat::new(&signal, (3, 3), 1, 1),
            false,
        );
        assert_eq!(out, [-2.0, 6.0, -2.0, 9.0, -2.0, 12.0]);
        gemm(
            MatMut::of_row_major_t(&mut out, 2, 3),
            Mat::row_major(&kernel, 2, 3),
            Mat::new(&signal, (3, 3), 1, 1),
            true,
        );
        assert_eq!(out, [-4.0, 12.0, -4.0, 18.0, -4.0, 24.0]);
    }
}
