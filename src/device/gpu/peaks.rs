//! What a GPU reaches in practice: the yardstick for measured times.

use super::{Gemm, Gpu};
use crate::Result;
use crate::tensor::DType;

/// Measured rates of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Peaks {
    /// Bytes read and written by a copy within its memory, a second.
    pub bytes_per_second: f64,
    /// Floating-point operations of a large matrix product of bf16 by cuBLAS, a second.
    pub flops_per_second: f64,
}

const RUNS: u32 = 10;

impl Gpu {
    /// Copies half a gigabyte and multiplies matrices of 8192×8192 bf16, ten times each after a first time.
    ///
    /// # Errors
    /// Where memory runs out, and what the driver reports.
    pub fn peaks(&self) -> Result<Peaks> {
        let bytes = 1 << 29;
        let (from, to) = (self.take(bytes)?, self.take(bytes)?);
        self.fill_zero(&from)?;
        let copy = self.rate(|| self.copy(&from, &to))?;
        drop((from, to));
        let n = 8192;
        let operand = |seed: u32| {
            let words = (0..n * n / 2).map(|i: usize| {
                let x = (i as u32 ^ seed).wrapping_mul(0x9E37_79B9);
                (x ^ x >> 15) & 0xBFFF_BFFF // two bf16 below 2
            });
            let buffer = self.upload(&words.collect::<Vec<u32>>())?;
            Ok::<_, crate::Error>(crate::tensor::Tensor::from_gpu(&[n, n], DType::BF16, buffer))
        };
        let (a, b) = (operand(1)?, operand(2)?);
        let mut c = self.tensor(DType::BF16, &[n, n])?;
        let product = Gemm { a: &a, b: &b, m: n, n, k: n, transpose_a: false, transpose_b: false };
        let multiply = self.rate(|| self.gemm(&product, &mut c))?;
        Ok(Peaks { bytes_per_second: 2.0 * bytes as f64 * copy, flops_per_second: 2.0 * (n as f64).powi(3) * multiply })
    }

    /// Runs a second.
    fn rate(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        work()?;
        let seconds = self.time(|| (0..RUNS).try_for_each(|_| work()))?;
        Ok(f64::from(RUNS) / seconds)
    }
}
