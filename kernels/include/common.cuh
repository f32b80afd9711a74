// What every kernel file includes: element types, vectors of them, shared memory, and how a kernel is declared.
//
// The same source compiles with nvcc for the GPU and with the host's compiler for the emulated device
// (emulate/emulate.h). Kernels therefore keep to what is declared here and in the other headers of this folder:
// - one-dimensional blocks, threads a multiple of 32; collectives of whole warps only;
// - shared memory is dynamic and reached through shared_memory<T>(); static __shared__ arrays do not exist;
// - 16-byte accesses through load() and store(), inline PTX behind the wrappers of mma.cuh and async.cuh.
#pragma once

#include "params.h"
#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_bf16.h>

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

// A pointer into the block's shared memory.
template <typename T> using SharedPtr = T *;

// The block's dynamic shared memory from `offset` bytes on. Uninitialised until the block has written it.
template <typename T> __device__ inline SharedPtr<T> shared_memory(unsigned offset) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    return reinterpret_cast<T *>(dynamic_shared + offset);
}

// Declares a kernel of at most `threads` threads a block and its only argument p:
// KERNEL(256, name, Params) { ... p.x ... }
#define KERNEL(threads, name, Params)                                                                                  \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Params p)
// The same for a kernel that wants the registers of `blocks` blocks a multiprocessor, no fewer: left to itself the compiler
// may spill some for the sake of more blocks.
#define KERNEL_RESIDENT(threads, blocks, name, Params)                                                                 \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)

#else
#include "emulate.h"
#endif

// Declares name_f32 and name_bf16, which call the template name<T>(p).
#define KERNELS(threads, name, Params)                                                                                 \
    KERNEL(threads, name##_f32, Params) { name<float>(p); }                                                            \
    KERNEL(threads, name##_bf16, Params) { name<bf16>(p); }
#define KERNELS_RESIDENT(threads, blocks, name, Params)                                                                \
    KERNEL_RESIDENT(threads, blocks, name##_f32, Params) { name<float>(p); }                                           \
    KERNEL_RESIDENT(threads, blocks, name##_bf16, Params) { name<bf16>(p); }

// N elements that move together: N·sizeof(T) is 4, 8 or 16 bytes, and addresses are multiples of that.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

#ifdef __CUDACC__
template <int N, typename T> __device__ inline Pack<T, N> load(const T *from) {
    return *reinterpret_cast<const Pack<T, N> *>(from);
}
template <int N, typename T> __device__ inline void store(T *to, const Pack<T, N> &pack) {
    *reinterpret_cast<Pack<T, N> *>(to) = pack;
}
#endif

// Elements of a 16-byte access: 4 floats, 8 bf16.
template <typename T> constexpr int VECTOR = 16 / sizeof(T);

__host__ __device__ constexpr unsigned ceil_div(unsigned a, unsigned b) { return (a + b - 1) / b; }
