// What surrounds the matrix products of a linear layer: bias, exact GELU and dropout, forward and backward.
//
// z = x·Wᵀ [rows, outputs] comes from a matrix product, in the type of the activations. Forward: y = z + b in place, or
// y = drop(gelu(z + b)) to memory of its own, z being kept for the backward, which adds b again: so z + b is never rounded
// and one tensor less is written. Backward: dy becomes the gradient of z + b in place, and db its column sums; the products
// dW = dzᵀ·x and dx = dz·W follow.
//
// A thread keeps to 8 neighbouring columns (16-byte vectors, one Philox counter) and walks down the rows (columns.cuh), bias
// and column sums in registers; where outputs is no multiple of 8 it keeps to one column. Sums over blocks go through
// partials [blocks, outputs], summed by column_sums in their order.
//
// Bytes an element: bias 2·sizeof(T), GELU 2·sizeof(T), its backward 3·sizeof(T), bias backward sizeof(T). GELU takes some
// 30 operations an element and dropout 10, a third of what the memory leaves time for.
#include "columns.cuh"
#include "gelu.cuh"
#include "philox.cuh"
#include "vectors.cuh"

__device__ inline void drop(const Dropout &dropout, unsigned long long first, float (&x)[8]) {
    dropout_apply8(dropout, first, x);
}
__device__ inline void drop(const Dropout &dropout, unsigned long long element, float (&x)[1]) {
    x[0] *= dropout_factor(dropout, element);
}

// The bias of the thread's columns; zeros where there is none.
template <int V> __device__ void load_bias(const float *bias, const Columns<V> &columns, float (&b)[V]) {
    if (bias != nullptr && columns.active) {
        load_floats<V>(bias + columns.column, b);
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            b[i] = 0.0f;
        }
    }
}

template <typename T, int V> __device__ void add_bias(const LinearBias &p) {
    const Columns<V> columns(p.outputs);
    float bias[V];
    load_bias(p.bias, columns, bias);
    columns.for_rows(p.rows, [&](unsigned long long row) {
        T *at = static_cast<T *>(p.y) + row * p.outputs + columns.column;
        float y[V];
        load_floats<V>(at, y);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            y[i] += bias[i];
        }
        store_floats<V>(at, y);
    });
}
template <typename T> __device__ void linear_bias(const LinearBias &p) {
    p.outputs % 8 == 0 ? add_bias<T, 8>(p) : add_bias<T, 1>(p);
}
KERNELS(256, linear_bias, LinearBias)

template <typename T, int V> __device__ void sum_bias(const LinearBiasBackward &p) {
    const Columns<V> columns(p.outputs);
    float sum[V] = {};
    columns.for_rows(p.rows, [&](unsigned long long row) {
        float dy[V];
        load_floats<V>(static_cast<const T *>(p.dy) + row * p.outputs + columns.column, dy);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            sum[i] += dy[i];
        }
    });
    columns.store_partials(sum, p.partials, p.outputs);
}
template <typename T> __device__ void linear_bias_backward(const LinearBiasBackward &p) {
    p.outputs % 8 == 0 ? sum_bias<T, 8>(p) : sum_bias<T, 1>(p);
}
KERNELS(256, linear_bias_backward, LinearBiasBackward)

template <typename T, int V> __device__ void gelu(const LinearGelu &p) {
    const Columns<V> columns(p.outputs);
    float bias[V];
    load_bias(p.bias, columns, bias);
    columns.for_rows(p.rows, [&](unsigned long long row) {
        const unsigned long long at = row * p.outputs + columns.column;
        float y[V];
        load_floats<V>(static_cast<const T *>(p.product) + at, y);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float z = y[i] + bias[i];
            y[i] = z * standard_normal<T>(z).cdf;
        }
        drop(p.dropout, at, y);
        store_floats<V>(static_cast<T *>(p.y) + at, y);
    });
}
template <typename T> __device__ void linear_gelu(const LinearGelu &p) {
    p.outputs % 8 == 0 ? gelu<T, 8>(p) : gelu<T, 1>(p);
}
KERNELS(256, linear_gelu, LinearGelu)

template <typename T, int V> __device__ void gelu_backward(const LinearGeluBackward &p) {
    const Columns<V> columns(p.outputs);
    float bias[V], sum[V] = {};
    load_bias(p.bias, columns, bias);
    columns.for_rows(p.rows, [&](unsigned long long row) {
        const unsigned long long at = row * p.outputs + columns.column;
        float dz[V], product[V];
        load_floats<V>(static_cast<const T *>(p.dy) + at, dz);
        load_floats<V>(static_cast<const T *>(p.product) + at, product);
        drop(p.dropout, at, dz);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const float z = product[i] + bias[i];
            const Normal normal = standard_normal<T>(z);
            dz[i] *= normal.cdf + z * normal.density;
            sum[i] += dz[i];
        }
        store_floats<V>(static_cast<T *>(p.dy) + at, dz);
    });
    if (p.partials != nullptr) {
        columns.store_partials(sum, p.partials, p.outputs);
    }
}
template <typename T> __device__ void linear_gelu_backward(const LinearGeluBackward &p) {
    p.outputs % 8 == 0 ? gelu_backward<T, 8>(p) : gelu_backward<T, 1>(p);
}
KERNELS(256, linear_gelu_backward, LinearGeluBackward)
