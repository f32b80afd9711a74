// V neighbouring activations as floats: whole 16-byte vectors where V is 8, single elements where it is 1.
#pragma once

#include "common.cuh"

template <int V, typename T> __device__ inline void load_floats(const T *from, float (&x)[V]) {
    constexpr int N = V < VECTOR<T> ? V : VECTOR<T>;
#pragma unroll
    for (int part = 0; part < V; part += N) {
        const Pack<T, N> pack = load<N>(from + part);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            x[part + i] = to_float(pack.v[i]);
        }
    }
}

template <int V, typename T> __device__ inline void store_floats(T *to, const float (&x)[V]) {
    constexpr int N = V < VECTOR<T> ? V : VECTOR<T>;
#pragma unroll
    for (int part = 0; part < V; part += N) {
        Pack<T, N> pack;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            pack.v[i] = from_float<T>(x[part + i]);
        }
        store(to + part, pack);
    }
}
