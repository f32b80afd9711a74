// Residual connection, dropout and layer norm: s = x + drop(r), y = γ·(s − mean(s))·rstd(s) + β row by row, and backward.
//
// x, r, y [rows, width], width a multiple of 8; γ, β [width] float. The backward computes s, mean and rstd again from x and
// r: that moves no more bytes than keeping s would, and s is never rounded. Backward: with n = (s − mean)·rstd and g = dy·γ,
// ds = (g − mean(g) − n·mean(g·n))·rstd; dx = ds, dr = ds·mask; dγ = Σ dy·n and dβ = Σ dy over all rows, by partials
// [blocks, 2·width] (dγ, then dβ) that column_sums adds in their order.
//
// `lanes` neighbouring threads, a power of two up to 32, own a row: each holds K vectors of 8 of its elements in registers,
// so every row is read once; a warp takes 32 / lanes rows at a time. A thread keeps to its columns, and so holds their γ, β
// and sums in registers. K is 1, 2 or 4 for rows of up to 256, 512 and 1024 elements, each a kernel of its own, so that the
// wide ones do not take registers from the narrow ones.
//
// Bytes an element: forward 3·sizeof(T), backward 5·sizeof(T) (4 without dropout); about 30 operations: memory bound.
#include "philox.cuh"
#include "vectors.cuh"

// A thread's place in the rows of its block.
template <int K> struct Place {
    unsigned lanes, slot, slots; // slot: which of the block's rows
    unsigned lane, width;

    __device__ Place(unsigned lanes, unsigned width)
        : lanes(lanes), slot(threadIdx.x / lanes), slots(blockDim.x / lanes), lane(threadIdx.x % lanes), width(width) {}

    __device__ unsigned column(int k) const { return 8 * (lane + k * lanes); }
    __device__ bool inside(int k) const { return column(k) < width; }

    // Over the lanes of the row; every lane gets it. All lanes of the warp call it.
    __device__ float sum(float x) const {
        for (unsigned offset = lanes / 2; offset > 0; offset /= 2) {
            x += __shfl_xor_sync(0xffffffffu, x, static_cast<int>(offset));
        }
        return x;
    }

    // Mean and reciprocal deviation of a row, whose elements beyond `width` are zeros.
    __device__ void moments(const float (&s)[K][8], float &mean, float &rstd) const {
        float total = 0.0f, squares = 0.0f;
#pragma unroll
        for (int k = 0; k < K; ++k) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                total += s[k][i];
            }
        }
        mean = sum(total) / static_cast<float>(width);
#pragma unroll
        for (int k = 0; k < K; ++k) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                squares += inside(k) ? (s[k][i] - mean) * (s[k][i] - mean) : 0.0f;
            }
        }
        rstd = rsqrtf(sum(squares) / static_cast<float>(width) + 1e-5f);
    }
};

template <int K> __device__ void load_columns(const float *from, const Place<K> &place, float (&x)[K][8]) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
        if (place.inside(k)) {
            load_floats<8>(from + place.column(k), x[k]);
        }
    }
}

// x + drop(residual) of eight elements.
template <typename T>
__device__ void load_sum(const void *x, const void *residual, const Dropout &dropout, unsigned long long at,
                         float (&s)[8]) {
    float term[8];
    load_floats<8>(static_cast<const T *>(x) + at, term);
    load_floats<8>(static_cast<const T *>(residual) + at, s);
    dropout_apply8(dropout, at, s);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        s[i] += term[i];
    }
}

template <typename T, int K> __device__ void forward(const ResidualNormForward &p) {
    const Place<K> place(p.lanes, p.width);
    float gamma[K][8] = {}, beta[K][8] = {};
    load_columns(p.gamma, place, gamma);
    load_columns(p.beta, place, beta);
    // Rows are counted by the block, so that all lanes of a warp meet in the shuffles.
    const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * place.slots;
    for (unsigned long long first = static_cast<unsigned long long>(blockIdx.x) * place.slots; first < p.rows;
         first += stride) {
        const unsigned long long row = first + place.slot;
        float s[K][8] = {};
#pragma unroll
        for (int k = 0; k < K; ++k) {
            if (row < p.rows && place.inside(k)) {
                load_sum<T>(p.x, p.residual, p.dropout, row * p.width + place.column(k), s[k]);
            }
        }
        float mean, rstd;
        place.moments(s, mean, rstd);
#pragma unroll
        for (int k = 0; k < K; ++k) {
            if (row < p.rows && place.inside(k)) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    s[k][i] = (s[k][i] - mean) * rstd * gamma[k][i] + beta[k][i];
                }
                store_floats<8>(static_cast<T *>(p.y) + row * p.width + place.column(k), s[k]);
            }
        }
    }
}
template <typename T> __device__ void residual_norm_forward_256(const ResidualNormForward &p) { forward<T, 1>(p); }
template <typename T> __device__ void residual_norm_forward_512(const ResidualNormForward &p) { forward<T, 2>(p); }
template <typename T> __device__ void residual_norm_forward_1024(const ResidualNormForward &p) { forward<T, 4>(p); }
KERNELS(256, residual_norm_forward_256, ResidualNormForward)
KERNELS(256, residual_norm_forward_512, ResidualNormForward)
KERNELS(256, residual_norm_forward_1024, ResidualNormForward)

template <typename T, int K> __device__ void backward(const ResidualNormBackward &p) {
    const Place<K> place(p.lanes, p.width);
    float gamma[K][8] = {}, dgamma[K][8] = {}, dbeta[K][8] = {};
    load_columns(p.gamma, place, gamma);
    const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * place.slots;
    for (unsigned long long first = static_cast<unsigned long long>(blockIdx.x) * place.slots; first < p.rows;
         first += stride) {
        const unsigned long long row = first + place.slot;
        float g[K][8] = {}, n[K][8] = {}; // dy, then g; s, then n
#pragma unroll
        for (int k = 0; k < K; ++k) {
            if (row < p.rows && place.inside(k)) {
                const unsigned long long at = row * p.width + place.column(k);
                load_floats<8>(static_cast<const T *>(p.dx) + at, g[k]);
                load_sum<T>(p.x, p.residual, p.dropout, at, n[k]);
            }
        }
        float mean, rstd, total = 0.0f, product = 0.0f;
        place.moments(n, mean, rstd);
#pragma unroll
        for (int k = 0; k < K; ++k) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                n[k][i] = (n[k][i] - mean) * rstd;
                dgamma[k][i] += g[k][i] * n[k][i]; // nothing where the row or the column is outside: dy is 0 there
                dbeta[k][i] += g[k][i];
                g[k][i] *= gamma[k][i];
                total += g[k][i];
                product += g[k][i] * n[k][i];
            }
        }
        const float a = place.sum(total) / static_cast<float>(p.width);
        const float b = place.sum(product) / static_cast<float>(p.width);
#pragma unroll
        for (int k = 0; k < K; ++k) {
            if (row < p.rows && place.inside(k)) {
                const unsigned long long at = row * p.width + place.column(k);
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    g[k][i] = (g[k][i] - a - n[k][i] * b) * rstd;
                }
                store_floats<8>(static_cast<T *>(p.dx) + at, g[k]);
                if (p.dresidual != nullptr) {
                    dropout_apply8(p.dropout, at, g[k]);
                    store_floats<8>(static_cast<T *>(p.dresidual) + at, g[k]);
                }
            }
        }
    }
    SharedPtr<float> sums = shared_memory<float>(0); // [slots][2·width]
    const unsigned columns = 2 * p.width;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        if (place.inside(k)) {
            const unsigned at = place.slot * columns + place.column(k);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                sums[at + i] = dgamma[k][i];
                sums[at + p.width + i] = dbeta[k][i];
            }
        }
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) {
        float total = 0.0f;
        for (unsigned slot = 0; slot < place.slots; ++slot) {
            total += sums[slot * columns + i];
        }
        p.partials[static_cast<unsigned long long>(blockIdx.x) * columns + i] = total;
    }
}
template <typename T> __device__ void residual_norm_backward_256(const ResidualNormBackward &p) { backward<T, 1>(p); }
template <typename T> __device__ void residual_norm_backward_512(const ResidualNormBackward &p) { backward<T, 2>(p); }
template <typename T> __device__ void residual_norm_backward_1024(const ResidualNormBackward &p) { backward<T, 4>(p); }
KERNELS(256, residual_norm_backward_256, ResidualNormBackward)
KERNELS(256, residual_norm_backward_512, ResidualNormBackward)
KERNELS(256, residual_norm_backward_1024, ResidualNormBackward)
