//! Matrix products: cuBLAS on a GPU, a host product on the emulated device.

use crate::tensor::{DType, Tensor};

/// C = A·B: A is [m, k], B is [k, n], C is [m, n], all row-major, sums in float.
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
}

impl Gemm<'_> {
    /// Elements from one stored row to the next of A and B.
    pub(super) fn strides(&self) -> [usize; 2] {
        [if self.transpose_a { self.m } else { self.k }, if self.transpose_b { self.k } else { self.n }]
    }

    /// # Panics
    /// If the operands' sizes or types do not fit; the ops see to it.
    pub(super) fn check(&self, c: &Tensor) {
        let lengths = [self.a.len(), self.b.len(), c.len()];
        assert_eq!(lengths, [self.m * self.k, self.k * self.n, self.m * self.n], "operands of a matrix product");
        assert_eq!(self.a.dtype(), self.b.dtype(), "operands of one type");
        assert!(c.dtype() == DType::F32 || c.dtype() == self.a.dtype(), "C is float or of the operands' type");
    }
}
