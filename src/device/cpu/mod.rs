//! The host as a device: recycled buffers, threads over chunks whose bounds do not depend on their number, vector
//! instructions of the machine at hand, and matrix products from the `gemm` crate.

mod buffer;
mod matrix;

pub use buffer::{Buffer, Cpu};
pub use matrix::{Mat, MatMut, gemm};

use num_traits::{Float, NumAssign};
use std::iter::Sum;

/// f32 or f64, the types of the CPU path.
pub trait Real: Float + NumAssign + Sum + Send + Sync + std::fmt::Debug + 'static {
    /// From a constant or a host value.
    fn of(x: f64) -> Self;
    /// To double precision.
    fn f64(self) -> f64;
    /// e^x, vectorisable; f32: within 2 ulp.
    fn exp_fast(self) -> Self;
    /// 1 − erf(x) for x ≥ 0, vectorisable; f32: absolute error under 1e-7.
    fn erfc_positive(self) -> Self;

    /// The Gaussian error function.
    #[inline(always)]
    fn erf(self) -> Self {
        let tail = self.abs().erfc_positive();
        if self < Self::zero() { tail - Self::one() } else { Self::one() - tail }
    }

    /// 1 / (1 + e^−x) without overflow.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let e = (-self.abs()).exp_fast();
        let small = e / (Self::one() + e);
        if self < Self::zero() { small } else { Self::one() - small }
    }

    /// ln(1 + e^x) without overflow.
    #[inline(always)]
    fn softplus(self) -> Self {
        self.max(Self::zero()) + (-self.abs()).exp_fast().ln_1p()
    }
}

/// 2^t for |t| < 126 from its nearest integer and a Taylor polynomial on the rest.
#[inline(always)]
fn exp2_f32(t: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding it leaves the nearest integer in the low mantissa bits
    let shifted = t + ROUND;
    let r = (t - (shifted - ROUND)) * std::f32::consts::LN_2;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let p = 1.0 / 720.0 + r * (1.0 / 5040.0);
    let p = 1.0 / 24.0 + r * (1.0 / 120.0 + r * p);
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * p)));
    p * f32::from_bits(exponent)
}

impl Real for f32 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn exp_fast(self) -> Self {
        // x = n·ln 2 + r with ln 2 in two parts, so that r keeps its low bits.
        let x = self.clamp(-87.0, 88.0);
        const ROUND: f32 = 12_582_912.0;
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
        let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
        let p = 1.0 / 720.0 + r * (1.0 / 5040.0);
        let p = 1.0 / 24.0 + r * (1.0 / 120.0 + r * p);
        let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * p)));
        p * f32::from_bits(exponent)
    }
    #[inline(always)]
    fn erfc_positive(self) -> Self {
        // −log2(erfc(x)) / x, fitted by Chebyshev interpolation on [0, 4]; beyond, erfc is under 2e-8.
        const C: [f32; 10] = [
            1.627_907_3,
            0.918_433_06,
            0.148_392_57,
            -0.027_975_63,
            2.589_815e-4,
            2.041_656e-3,
            -7.796_744e-4,
            1.540_621_3e-4,
            -1.656_448e-5,
            7.638_802e-7,
        ];
        let x = self.min(4.0);
        let q = C.iter().rev().fold(0.0, |q, c| q * x + c);
        exp2_f32(-x * q)
    }
}

impl Real for f64 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn exp_fast(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn erfc_positive(self) -> Self {
        libm::erfc(self)
    }
}

/// Runs a loop compiled for the widest vector instructions of this machine. Mark what it calls `#[inline(always)]`.
#[inline(always)]
pub fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_functions_are_close_to_the_exact_ones() {
        for i in -8000..=8000 {
            let x = f64::from(i) / 1000.0;
            let (exp, erf) = (f64::from((x as f32).exp_fast()), f64::from(Real::erf(x as f32)));
            let x = f64::from(x as f32);
            assert!((exp / x.exp() - 1.0).abs() < 3e-7, "exp({x}) = {exp}");
            assert!((erf - libm::erf(x)).abs() < 1.5e-7, "erf({x}) = {erf}");
        }
        for z in [-1e4f32, -100.0, 100.0, 1e4] {
            assert!((0.0..=1.0).contains(&z.sigmoid()) && z.softplus().is_finite(), "{z}");
        }
    }
}
