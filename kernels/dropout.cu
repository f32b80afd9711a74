// Dropout by itself: to = from·m / (1 − p), the mask drawn again in the backward.
//
// from, to [len], len a multiple of 8. A thread owns eight neighbouring elements, which share one Philox counter, in a
// grid-stride loop. Bytes an element: 2·sizeof(T); about 8 integer operations: memory bound.
#include "common.cuh"
#include "philox.cuh"
#include "vectors.cuh"

template <typename T> __device__ void dropout_apply(const DropoutApply &p) {
    const T *from = static_cast<const T *>(p.from);
    T *to = static_cast<T *>(p.to);
    const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
    unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; i < p.len / 8; i += stride) {
        float x[8];
        load_floats<8>(from + 8 * i, x);
        dropout_apply8(p.dropout, 8 * i, x);
        store_floats<8>(to + 8 * i, x);
    }
}
KERNELS(256, dropout_apply, DropoutApply)
