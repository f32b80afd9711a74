// The exact GELU, z·Φ(z), and its derivative Φ(z) + z·φ(z) (D. Hendrycks & K. Gimpel, "Gaussian error linear units", 2016).
//
// Φ(−a) = e^(−a²/2)·q(1 / (1 + 0.28·a)) for a ≥ 0, with a polynomial q of degree 6 without constant term, fitted for the
// least error of a·Φ(−a) with q(1) = 1/2 (the form is C. Hastings', "Approximations for digital computers", 1955). In float
// it is off by 1.4e-7 at most, rounding included. The exponential serves φ too: Φ and φ take 18 instructions, half of what
// erff alone does, and those bound the kernels that keep their hidden units on the multiprocessor.
#pragma once

#include "fast_math.cuh"

// Distribution function and density of the standard normal distribution.
struct Normal {
    float cdf, density;
};

// For activations of type T: float ones deserve the library's accuracy.
template <typename T> __device__ Normal standard_normal(float z);
template <> __device__ inline Normal standard_normal<float>(float z) {
    return {0.5f * (1.0f + erff(z * 0.70710678f)), 0.39894228f * expf(-0.5f * z * z)};
}
template <> __device__ inline Normal standard_normal<bf16>(float z) {
    const float t = fast_reciprocal(1.0f + 0.28f * fabsf(z));
    const float exponential = fast_exp2(-0.72134752f * z * z); // e^(−z²/2)
    float q = 0.3910753f - 0.10608108f * t;
    q = 0.27072571f + t * (-0.23909114f + t * q);
    q = t * (0.11665316f + t * (0.06671805f + t * q));
    const float tail = q * exponential;
    return {z < 0.0f ? tail : 1.0f - tail, 0.39894228f * exponential};
}
