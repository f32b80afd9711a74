// The exact GELU is z·Φ(z), its derivative Φ(z) + z·φ(z) (D. Hendrycks & K. Gimpel, "Gaussian error linear units", 2016).
#pragma once

#include "common.cuh"

__device__ inline float normal_cdf(float z) { return 0.5f * (1.0f + erff(z * 0.70710678118654752f)); }
__device__ inline float normal_density(float z) { return 0.39894228040143268f * expf(-0.5f * z * z); }
