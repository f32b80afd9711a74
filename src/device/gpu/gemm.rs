//! Matrix products: cuBLAS on a GPU, a host product on the emulated device.

use crate::tensor::{DType, Tensor};
use std::ffi::c_void;

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

/// A product whose operands have been checked, by their addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub a: *const c_void,
    pub b: *const c_void,
    pub c: *mut c_void,
    /// Type of A and B.
    pub of: DType,
    /// Type of C.
    pub to: DType,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub transpose_a: bool,
    pub transpose_b: bool,
}

impl Product {
    /// # Panics
    /// If the operands' sizes or types do not fit; the ops see to it.
    pub fn new(gemm: &Gemm<'_>, c: &Tensor) -> Self {
        let Gemm { a, b, m, n, k, transpose_a, transpose_b } = *gemm;
        assert_eq!([a.len(), b.len(), c.len()], [m * k, k * n, m * n], "operands of a matrix product");
        assert_eq!(a.dtype(), b.dtype(), "operands of one type");
        assert!(c.dtype() == DType::F32 || c.dtype() == a.dtype(), "C is float or of the operands' type");
        let (of, to) = (a.dtype(), c.dtype());
        let (a, b, c) = (a.gpu_address(), b.gpu_address(), c.gpu_address());
        Self { a, b, c, of, to, m, n, k, transpose_a, transpose_b }
    }

    /// Elements from one stored row to the next of A and B.
    pub fn strides(&self) -> [usize; 2] {
        [if self.transpose_a { self.m } else { self.k }, if self.transpose_b { self.k } else { self.n }]
    }
}
