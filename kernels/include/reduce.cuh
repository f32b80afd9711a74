// Sums and maxima over a warp or a block, in an order that does not change between runs.
#pragma once

#include "common.cuh"

// Every lane gets the sum of all 32.
__device__ inline float warp_sum(float x) {
    for (int offset = 16; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    }
    return x;
}

// Every lane gets the maximum of all 32.
__device__ inline float warp_max(float x) {
    for (int offset = 16; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    }
    return x;
}

// Every thread gets the sum over the block. `scratch` holds a float a warp; it may be reused after the call.
__device__ inline float block_sum(float x, SharedPtr<float> scratch) {
    const unsigned warps = blockDim.x / 32;
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = x;
    }
    __syncthreads();
    float sum = 0.0f;
    for (unsigned i = 0; i < warps; ++i) {
        sum += scratch[i];
    }
    __syncthreads();
    return sum;
}
