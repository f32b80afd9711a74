// What enters the refinement decoder: concat puts rows side by side, to_map gives a grid its zero border.
//
// concat: a [R, m], b [R, n] → y [R, S], zeros beyond m + n; m a multiple of 8. to_map: x [B·H·W, S] → y [B, H + 2, W + 2,
// S]. The backwards take dy apart again and drop the border. A thread owns one 16-byte vector of what is written, except in
// concat's backward, where it owns one of dy. Bytes an element: 2·sizeof(T), no arithmetic: memory bound.
#include "pixels.cuh"

template <typename T> __device__ void concat_forward(const ConcatForward &p) {
    constexpr unsigned N = VECTOR<T>;
    const unsigned vectors = p.stride / N, i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = i / vectors, column = i % vectors * N;
    if (row >= p.rows) {
        return;
    }
    const T *a = static_cast<const T *>(p.a), *b = static_cast<const T *>(p.b);
    T *y = static_cast<T *>(p.y);
    Pack<T, N> pack;
    if (column < p.m) {
        pack = load<N>(a + element(row, p.m, column));
    } else {
#pragma unroll
        for (unsigned j = 0; j < N; ++j) {
            const unsigned at = column - p.m + j;
            pack.v[j] = at < p.n ? b[element(row, p.n, at)] : from_float<T>(0.0f);
        }
    }
    store(y + element(row, p.stride, column), pack);
}
KERNELS(256, concat_forward, ConcatForward)

template <typename T> __device__ void concat_backward(const ConcatBackward &p) {
    constexpr unsigned N = VECTOR<T>;
    const unsigned vectors = p.stride / N, i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = i / vectors, column = i % vectors * N;
    if (row >= p.rows) {
        return;
    }
    T *da = static_cast<T *>(p.da), *db = static_cast<T *>(p.db);
    const Pack<T, N> pack = load<N>(static_cast<const T *>(p.dy) + element(row, p.stride, column));
    if (column < p.m) {
        store(da + element(row, p.m, column), pack);
    } else {
#pragma unroll
        for (unsigned j = 0; j < N; ++j) {
            const unsigned at = column - p.m + j;
            if (at < p.n) {
                db[element(row, p.n, at)] = pack.v[j];
            }
        }
    }
}
KERNELS(256, concat_backward, ConcatBackward)

template <typename T> __device__ void to_map_forward(const ToMapForward &p) {
    constexpr unsigned N = VECTOR<T>;
    const unsigned vectors = p.map.stride / N, i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned pixel = i / vectors, channel = i % vectors * N;
    if (pixel >= stored_pixels(p.map)) {
        return;
    }
    const Place place = place_of(p.map, pixel);
    Pack<T, N> pack;
    if (place.inside) {
        pack = load<N>(static_cast<const T *>(p.x) + element(inner_pixel(p.map, place), p.map.stride, channel));
    } else {
#pragma unroll
        for (unsigned j = 0; j < N; ++j) {
            pack.v[j] = from_float<T>(0.0f);
        }
    }
    store(static_cast<T *>(p.y) + element(pixel, p.map.stride, channel), pack);
}
KERNELS(256, to_map_forward, ToMapForward)

template <typename T> __device__ void to_map_backward(const ToMapBackward &p) {
    constexpr unsigned N = VECTOR<T>;
    const unsigned vectors = p.map.stride / N, i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned pixel = i / vectors, channel = i % vectors * N;
    if (pixel >= inner_pixels(p.map)) {
        return;
    }
    const T *dy = static_cast<const T *>(p.dy);
    const Pack<T, N> pack = load<N>(dy + element(stored_pixel(p.map, pixel), p.map.stride, channel));
    store(static_cast<T *>(p.dx) + element(pixel, p.map.stride, channel), pack);
}
KERNELS(256, to_map_backward, ToMapBackward)
