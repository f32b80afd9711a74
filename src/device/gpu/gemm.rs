//! Matrix products: cuBLAS on a GPU, a host product on the emulated device.

use crate::tensor::{DType, Tensor};

/// C = A·B, or C += A·B: A is [m, k], B is [k, n], C is [m, n], all row-major, sums in float.
///
/// A and B share their element type; C has the same one, or float.
pub struct Gemm<'a> {
    /// [m, k], or [k, m] where `transpose_a`.
    pub a: &'a Tensor,
    /// [k, n], or [n, k] where `transpose_b`.
    pub b: &'a Tensor,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// Whether A is stored transposed.
    pub transpose_a: bool,
    /// Whether B is stored transposed.
    pub transpose_b: bool,
    /// Elements from one stored row of A to the next; `None`: no gap.
    pub row_a: Option<usize>,
    /// Elements from one stored row of C to the next; `None`: no gap.
    pub row_c: Option<usize>,
    /// Whether the product is added to C.
    pub accumulate: bool,
}

impl Gemm<'_> {
    /// Elements from one stored row to the next of A, B and C.
    pub(super) fn strides(&self) -> [usize; 3] {
        let a = self.row_a.unwrap_or(if self.transpose_a { self.m } else { self.k });
        [a, if self.transpose_b { self.k } else { self.n }, self.row_c.unwrap_or(self.n)]
    }

    /// # Panics
    /// If the operands' sizes or types do not fit; the ops see to it.
    pub(super) fn check(&self, c: &Tensor) {
        let [a, b, row_c] = self.strides();
        let extent = |rows: usize, columns: usize, stride: usize| (rows - 1) * stride + columns;
        let [ra, ca] = if self.transpose_a { [self.k, self.m] } else { [self.m, self.k] };
        let [rb, cb] = if self.transpose_b { [self.n, self.k] } else { [self.k, self.n] };
        assert!(extent(ra, ca, a) <= self.a.len(), "A {:?} for {ra}x{ca} by {a}", self.a.shape());
        assert!(extent(rb, cb, b) <= self.b.len(), "B {:?} for {rb}x{cb}", self.b.shape());
        assert!(extent(self.m, self.n, row_c) <= c.len(), "C {:?} for {}x{}", c.shape(), self.m, self.n);
        assert_eq!(self.a.dtype(), self.b.dtype(), "operands of one type");
        assert!(c.dtype() == DType::F32 || c.dtype() == self.a.dtype(), "C is float or of the operands' type");
    }
}
