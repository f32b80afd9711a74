// What a batch norm does to the channels of one vector, from the affine [4, stride] that batch_norm_affine writes.
#pragma once

#include "common.cuh"

// What normalizes N neighbouring channels; zeros beyond those stored.
template <int N> struct Affine {
    float mean[N], scale[N], shift[N]; // scale: γ·rstd, shift: β

    Affine() = default;
    __device__ Affine(const float *affine, unsigned stride, unsigned channel) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const bool stored = channel < stride;
            const float *at = affine + channel + j;
            mean[j] = stored ? at[0] : 0.0f;
            scale[j] = stored ? at[stride] * at[2 * stride] : 0.0f;
            shift[j] = stored ? at[3 * stride] : 0.0f;
        }
    }

    // γ·(x − mean)·rstd + β of channel j. All kernels compute it so: the ReLU's mask is its sign.
    __device__ float normal(float x, int j) const { return fmaf(x - mean[j], scale[j], shift[j]); }
};
