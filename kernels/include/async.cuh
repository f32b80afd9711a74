// Copies from global to shared memory that run beside the computation (cp.async, sm_80 and later).
//
// A thread's copies since its last commit form a group; async_wait<N>() returns when at most N of its newest groups are
// still under way. Other threads see the data after a __syncthreads() that follows the wait.
#pragma once

#include "common.cuh"

#ifdef __CUDACC__
// 16 bytes, both addresses multiples of 16; zeros where not `inside` (`from` is then not read).
template <typename T> __device__ inline void async_copy16(SharedPtr<T> to, const T *from, bool inside = true) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    const int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ inline void async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
#else
template <typename T> inline void async_copy16(SharedPtr<T> to, const T *from, bool inside = true) {
    emulate::async_copy(to.offset, from, inside ? 16 : 0);
}
inline void async_commit() { emulate::async_commit(); }
template <int N> inline void async_wait() { emulate::async_wait(N); }
#endif
