// Sums, scales and conversions of whole arrays.
//
// Each thread takes 16-byte vectors in a grid-stride loop, the last block's first threads the rest. Bytes an element: add
// 3·sizeof(T), scale 2·sizeof(T), cast 4 + sizeof(T); one operation each, so memory bound.
#include "common.cuh"

template <typename T, typename F> __device__ void for_each_vector(unsigned long long len, F f) {
    constexpr int N = VECTOR<T>;
    const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
    const unsigned long long first = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    for (unsigned long long i = first; i < len / N; i += stride) {
        f(i * N, N);
    }
    if (first < len % N) {
        f(len - 1 - first, 1);
    }
}

template <typename T> __device__ void add(const Add &p) {
    constexpr int N = VECTOR<T>;
    T *to = static_cast<T *>(p.to);
    const T *from = static_cast<const T *>(p.from);
    for_each_vector<T>(p.len, [&](unsigned long long at, int n) {
        if (n == 1) {
            to[at] = from_float<T>(to_float(to[at]) + to_float(from[at]));
            return;
        }
        Pack<T, N> sum = load<N>(to + at);
        const Pack<T, N> term = load<N>(from + at);
        for (int i = 0; i < N; ++i) {
            sum.v[i] = from_float<T>(to_float(sum.v[i]) + to_float(term.v[i]));
        }
        store(to + at, sum);
    });
}
KERNELS(256, add, Add)

template <typename T> __device__ void scale(const Scale &p) {
    constexpr int N = VECTOR<T>;
    T *values = static_cast<T *>(p.values);
    for_each_vector<T>(p.len, [&](unsigned long long at, int n) {
        if (n == 1) {
            values[at] = from_float<T>(to_float(values[at]) * p.factor);
            return;
        }
        Pack<T, N> pack = load<N>(values + at);
        for (int i = 0; i < N; ++i) {
            pack.v[i] = from_float<T>(to_float(pack.v[i]) * p.factor);
        }
        store(values + at, pack);
    });
}
KERNELS(256, scale, Scale)

template <typename T> __device__ void cast(const Cast &p) {
    T *to = static_cast<T *>(p.to);
    for_each_vector<float>(p.len, [&](unsigned long long at, int n) {
        if (n == 1) {
            to[at] = from_float<T>(p.from[at]);
            return;
        }
        const Pack<float, 4> from = load<4>(p.from + at);
        Pack<T, 4> pack;
        for (int i = 0; i < 4; ++i) {
            pack.v[i] = from_float<T>(from.v[i]);
        }
        store(to + at, pack);
    });
}
KERNELS(256, cast, Cast)
