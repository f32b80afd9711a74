// Functions of the special function unit where two or three units in the last place suffice: one instruction each.
#pragma once

#include "common.cuh"

// 2^x; 0 where that is below 2^-126
__device__ inline float fast_exp2(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return std::exp2(x);
#endif
}

// 1 / x of a normal number
__device__ inline float fast_reciprocal(float x) {
#ifdef __CUDACC__
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return 1.0f / x;
#endif
}

// log2(x) to 2^-22, of itself or, between 1/2 and 2, absolutely; −∞ of 0
__device__ inline float fast_log2(float x) {
#ifdef __CUDACC__
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return std::log2(x);
#endif
}
