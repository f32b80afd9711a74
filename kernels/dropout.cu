// Dropout by itself: to = from·m / (1 − p), the mask drawn again in the backward.
//
// from, to [len], len a multiple of 8. A thread owns eight neighbouring elements, which share one Philox counter, in a
// grid-stride loop. Bytes an element: 2·sizeof(T); about 8 integer operations: memory bound.
#include "common.cuh"
#include "philox.cuh"

template <typename T> __device__ void dropout_apply(const DropoutApply &p) {
    constexpr int N = VECTOR<T>;
    const T *from = static_cast<const T *>(p.from);
    T *to = static_cast<T *>(p.to);
    const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
    unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; i < p.len / 8; i += stride) {
        float x[8];
        for (int part = 0; part < 8; part += N) {
            const Pack<T, N> pack = load<N>(from + 8 * i + part);
            for (int j = 0; j < N; ++j) {
                x[part + j] = to_float(pack.v[j]);
            }
        }
        dropout_apply8(p.dropout, 8 * i, x);
        for (int part = 0; part < 8; part += N) {
            Pack<T, N> pack;
            for (int j = 0; j < N; ++j) {
                pack.v[j] = from_float<T>(x[part + j]);
            }
            store(to + 8 * i + part, pack);
        }
    }
}
KERNELS(256, dropout_apply, DropoutApply)
