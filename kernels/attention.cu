// Attention over the steps of a patch: y = drop(softmax(scale·q·kᵀ))·v for each head, padded steps masked out as keys.
//
// q, y, dq, dy [R, Tq, d]; kv, dkv [R, T, 2d], keys then values; valid [B, T]; log_sums float [R, Tq, heads], from which
// the backward makes the probabilities again instead of reading them. d = heads·head size is a multiple of 8, T up to 64,
// head sizes 4 to 64. Dropout's element is ((row·heads + head)·Tq + query)·T + step.
//
// `lanes` neighbouring threads share a head, each with a slice of it: eight elements where the head size is a multiple of
// eight (one 16-byte access in bf16, so a warp reads and writes whole runs of memory), else four. A dot product is a
// thread's own part and log2(lanes) shuffles. The last slices of a head may be short or empty; they hold zeros. Histories
// are short, so that nothing is tiled: the keys that the queries of a patch share come from the first-level cache, most of
// them by one broadcast. Kernels are named by the largest head size that they take; `any` takes all.
//
// Bytes a patch: forward 2·(Tq + T)·d·sizeof(T), backward (3·Tq + 4·T)·d·sizeof(T); operations: 4·Tq·T·d and 10·Tq·T·d.
// Memory bound for T up to about 20.
#include "common.cuh"
#include "philox.cuh"
#include "vectors.cuh"

namespace {

// The elements that a thread owns of a head.
struct Slice {
    unsigned offset; // from the row's start
    unsigned count;  // 0 to V
    bool vectors;    // whether it is moved as vectors, whole
};

template <int V, int LANES> __device__ inline Slice slice(const AttentionSizes &sizes, unsigned head, unsigned lane) {
    const unsigned first = lane * V;
    const unsigned left = first < sizes.head_size ? sizes.head_size - first : 0;
    return {head * sizes.head_size + first, left < V ? left : V, LANES != 0 || sizes.head_size % V == 0};
}

// Elements as they lie in memory.
template <typename T, int V> struct Raw {
    T v[V];
};

template <int V, typename T> __device__ inline Raw<T, V> fetch(const T *from, const Slice &slice) {
    constexpr int N = V < VECTOR<T> ? V : VECTOR<T>;
    Raw<T, V> raw;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        raw.v[i] = from_float<T>(0.0f);
    }
    if (slice.vectors) {
        if (slice.count != 0) {
#pragma unroll
            for (int part = 0; part < V; part += N) {
                const Pack<T, N> pack = load<N>(from + slice.offset + part);
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    raw.v[part + i] = pack.v[i];
                }
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            if (i < static_cast<int>(slice.count)) {
                raw.v[i] = from[slice.offset + i];
            }
        }
    }
    return raw;
}

template <typename T, int V> __device__ inline void widen(const Raw<T, V> &raw, float (&x)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
        x[i] = to_float(raw.v[i]);
    }
}

template <int V, typename T> __device__ inline void read(const T *from, const Slice &slice, float (&x)[V]) {
    widen(fetch<V>(from, slice), x);
}

template <int V, typename T> __device__ inline void write(T *to, const Slice &slice, const float (&x)[V]) {
    if (slice.vectors) {
        if (slice.count != 0) {
            store_floats<V>(to + slice.offset, x);
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            if (i < static_cast<int>(slice.count)) {
                to[slice.offset + i] = from_float<T>(x[i]);
            }
        }
    }
}

template <int V> __device__ inline float dot(const float (&a)[V], const float (&b)[V]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        sum += a[i] * b[i];
    }
    return sum;
}

// The sum over the threads that share a head; LANES is 0 where only the launch knows their number.
template <int LANES> __device__ inline float sum_lanes(float x, unsigned lanes) {
    if (LANES != 0) {
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2) {
            x += __shfl_xor_sync(0xffffffffu, x, offset);
        }
    } else {
        for (int offset = static_cast<int>(lanes / 2); offset > 0; offset /= 2) {
            x += __shfl_xor_sync(0xffffffffu, x, offset);
        }
    }
    return x;
}

// Rounded before anything is taken from it, in the forward as in the backward: the only key of a query then gets the
// probability 1 to the last bit, and its score the gradient zero.
template <int V, int LANES>
__device__ inline float scaled_score(const float (&q)[V], const float (&k)[V], const AttentionSizes &sizes) {
    return __fmul_rn(sum_lanes<LANES>(dot(q, k), sizes.lanes), sizes.scale);
}

// One bit a step: whether dropout keeps the `steps` elements from `first` on. The threads that share a head draw a counter
// in turn. All lanes of a warp call it together.
__device__ inline unsigned long long kept(const Dropout &dropout, unsigned long long first, unsigned steps,
                                          unsigned lane, unsigned lanes) {
    if (dropout.threshold == 0) {
        return ~0ull;
    }
    const unsigned offset = static_cast<unsigned>(first % 8);
    const unsigned long long counter = first / 8;
    unsigned long long bits = 0;
    for (unsigned i = lane; i < ceil_div(offset + steps, 8); i += lanes) {
        const Philox drawn = philox(dropout, static_cast<unsigned>(counter + i));
        unsigned long long eight = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            eight |= drawn.half_word(j) < dropout.threshold ? 0ull : 1ull << j;
        }
        const int at = 8 * static_cast<int>(i) - static_cast<int>(offset);
        bits |= at < 0 ? eight >> -at : eight << at;
    }
    for (int other = static_cast<int>(lanes / 2); other > 0; other /= 2) {
        bits |= __shfl_xor_sync(0xffffffffu, bits, other);
    }
    return bits;
}

// A thread owns a slice of a query and its sum of values; scores and their greatest are kept as they come.
template <typename T, int V, int LANES> __device__ inline void forward(const AttentionForward &p) {
    const AttentionSizes &sizes = p.sizes;
    const unsigned lanes = LANES != 0 ? LANES : sizes.lanes, d = sizes.heads * sizes.head_size;
    const unsigned index = blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes; // (row, query, head)
    const bool inside = index < sizes.rows * sizes.queries * sizes.heads;
    // Threads beyond the end go along with the first item, for the shuffles.
    const unsigned item = inside ? index : 0, lane = threadIdx.x % lanes;
    const unsigned head = item % sizes.heads, query_row = item / sizes.heads;
    const unsigned row = query_row / sizes.queries, query = query_row % sizes.queries;
    const Slice own = slice<V, LANES>(sizes, head, lane);

    const unsigned char *valid = p.valid + static_cast<size_t>(row / sizes.patches) * sizes.steps;
    const T *keys = static_cast<const T *>(p.kv) + static_cast<size_t>(row) * sizes.steps * 2 * d;
    float q[V];
    read(static_cast<const T *>(p.q) + static_cast<size_t>(query_row) * d, own, q);
    const unsigned long long element =
        ((static_cast<unsigned long long>(row) * sizes.heads + head) * sizes.queries + query) * sizes.steps;
    unsigned long long keep = kept(p.dropout, element, sizes.steps, lane, lanes);

    float highest = 0.0f, sum = 0.0f;
    float y[V] = {};
    Raw<T, V> next_k = fetch<V>(keys, own), next_v = fetch<V>(keys + d, own);
    for (unsigned step = 0; step < sizes.steps; ++step, keep >>= 1) {
        float k[V], v[V];
        widen(next_k, k);
        widen(next_v, v);
        if (step + 1 < sizes.steps) {
            keys += 2 * d;
            next_k = fetch<V>(keys, own);
            next_v = fetch<V>(keys + d, own);
        }
        const float score = scaled_score<V, LANES>(q, k, sizes);
        if (valid[step] == 0) {
            continue;
        }
        if (sum == 0.0f || score > highest) {
            const float shrink = sum == 0.0f ? 0.0f : __expf(highest - score);
            highest = score;
            sum *= shrink;
#pragma unroll
            for (int i = 0; i < V; ++i) {
                y[i] *= shrink;
            }
        }
        const float weight = __expf(score - highest);
        sum += weight;
        const float dropped = (keep & 1) != 0 ? weight : 0.0f;
#pragma unroll
        for (int i = 0; i < V; ++i) {
            y[i] += dropped * v[i];
        }
    }
    if (inside) {
        const float factor = (p.dropout.threshold == 0 ? 1.0f : p.dropout.scale) / sum;
#pragma unroll
        for (int i = 0; i < V; ++i) {
            y[i] *= factor;
        }
        write(static_cast<T *>(p.y) + static_cast<size_t>(query_row) * d, own, y);
        if (lane == 0) {
            p.log_sums[item] = highest + logf(sum);
        }
    }
}

// A block owns some heads of some patches, in two passes around their probabilities and gradients of probabilities in
// shared memory: in the first a thread owns a slice of a query, in the second a slice of a key and its value.
// Shared memory, each [block rows, block heads, Tq]: probabilities float [stride], negative where dropped, of stride T or
// T + 1 (odd, so that a column's elements lie in different banks); their gradients float [stride]; and mean float.
template <typename T, int V, int LANES> __device__ inline void backward(const AttentionBackward &p) {
    const AttentionSizes &sizes = p.sizes;
    const unsigned lanes = LANES != 0 ? LANES : sizes.lanes, d = sizes.heads * sizes.head_size;
    const unsigned queries = sizes.queries, steps = sizes.steps, stride = steps | 1;
    const unsigned first_row = blockIdx.x * p.block_rows, first_head = blockIdx.y * p.block_heads;
    const unsigned rows = min(p.block_rows, sizes.rows - first_row);
    const unsigned heads = min(p.block_heads, sizes.heads - first_head);
    const unsigned all = p.block_rows * p.block_heads * queries;
    const SharedPtr<float> probabilities = shared_memory<float>(0);
    const SharedPtr<float> gradients = shared_memory<float>(4 * all * stride);
    const SharedPtr<float> means = shared_memory<float>(8 * all * stride);
    const float keep_scale = p.dropout.threshold == 0 ? 1.0f : p.dropout.scale;

    for (unsigned start = 0; start < rows * queries * heads * lanes; start += blockDim.x) {
        const unsigned thread = start + threadIdx.x;
        // Threads beyond the end go along with the first item, for the shuffles.
        const bool inside = thread < rows * queries * heads * lanes;
        const unsigned item = inside ? thread / lanes : 0, lane = thread % lanes; // (row, query, head)
        const unsigned head = first_head + item % heads, query = item / heads % queries;
        const unsigned local_row = item / heads / queries, row = first_row + local_row;
        const Slice own = slice<V, LANES>(sizes, head, lane);
        const size_t query_row = static_cast<size_t>(row) * queries + query;
        const unsigned char *valid = p.valid + static_cast<size_t>(row / sizes.patches) * steps;
        const T *keys = static_cast<const T *>(p.kv) + static_cast<size_t>(row) * steps * 2 * d;
        const unsigned at = (local_row * heads + head - first_head) * queries + query;
        const unsigned long long element =
            ((static_cast<unsigned long long>(row) * sizes.heads + head) * queries + query) * steps;
        unsigned long long keep = kept(p.dropout, element, steps, lane, lanes);
        const float log_sum = p.log_sums[query_row * sizes.heads + head];
        float q[V], dy[V];
        read(static_cast<const T *>(p.q) + query_row * d, own, q);
        read(static_cast<const T *>(p.dy) + query_row * d, own, dy);
        Raw<T, V> next_k = fetch<V>(keys, own), next_v = fetch<V>(keys + d, own);
        float mean = 0.0f;
        float weighted[V] = {}, plain[V] = {}; // keys times probability, with and without its gradient
        for (unsigned step = 0; step < steps; ++step, keep >>= 1) {
            float k[V], v[V];
            widen(next_k, k);
            widen(next_v, v);
            if (step + 1 < steps) {
                keys += 2 * d;
                next_k = fetch<V>(keys, own);
                next_v = fetch<V>(keys + d, own);
            }
            const float score = scaled_score<V, LANES>(q, k, sizes);
            const float product = sum_lanes<LANES>(dot(dy, v), lanes) * keep_scale;
            const bool stays = (keep & 1) != 0;
            const float probability = valid[step] != 0 ? __expf(score - log_sum) : 0.0f;
            const float gradient = stays ? product : 0.0f;
            const float term = probability * gradient;
            mean += term;
#pragma unroll
            for (int i = 0; i < V; ++i) {
                weighted[i] += term * k[i];
                plain[i] += probability * k[i];
            }
            if (inside && lane == 0) {
                probabilities[at * stride + step] = stays ? probability : -probability;
                gradients[at * stride + step] = gradient;
            }
        }
        if (inside) {
            if (lane == 0) {
                means[at] = mean;
            }
            // Rounded before the difference, as the only key's term is.
#pragma unroll
            for (int i = 0; i < V; ++i) {
                weighted[i] = (weighted[i] - __fmul_rn(mean, plain[i])) * sizes.scale;
            }
            write(static_cast<T *>(p.dq) + query_row * d, own, weighted);
        }
    }
    __syncthreads();

    for (unsigned thread = threadIdx.x; thread < rows * steps * heads * lanes; thread += blockDim.x) {
        const unsigned item = thread / lanes, lane = thread % lanes; // (row, step, head)
        const unsigned head = first_head + item % heads, step = item / heads % steps;
        const unsigned local_row = item / heads / steps, row = first_row + local_row;
        const Slice own = slice<V, LANES>(sizes, head, lane);
        const unsigned first = (local_row * heads + head - first_head) * queries;
        const size_t query_row = static_cast<size_t>(row) * queries;
        const T *q_row = static_cast<const T *>(p.q) + query_row * d;
        const T *dy_row = static_cast<const T *>(p.dy) + query_row * d;
        float dk[V] = {}, dv[V] = {};
#pragma unroll 2
        for (unsigned query = 0; query < queries; ++query, q_row += d, dy_row += d) {
            float q[V], dy[V];
            read(q_row, own, q);
            read(dy_row, own, dy);
            const unsigned at = first + query;
            const float signed_probability = probabilities[at * stride + step];
            const float weight = fmaxf(signed_probability, 0.0f) * keep_scale;
            const float dscore =
                fabsf(signed_probability) * (gradients[at * stride + step] - means[at]) * sizes.scale;
#pragma unroll
            for (int i = 0; i < V; ++i) {
                dk[i] += dscore * q[i];
                dv[i] += weight * dy[i];
            }
        }
        T *dkeys = static_cast<T *>(p.dkv) + (static_cast<size_t>(row) * steps + step) * 2 * d;
        write(dkeys, own, dk);
        write(dkeys + d, own, dv);
    }
}

} // namespace

#define ATTENTION(size, V, LANES)                                                                                      \
    template <typename T> __device__ void attention_forward_##size(const AttentionForward &p) {                        \
        forward<T, V, LANES>(p);                                                                                       \
    }                                                                                                                  \
    template <typename T> __device__ void attention_backward_##size(const AttentionBackward &p) {                      \
        backward<T, V, LANES>(p);                                                                                      \
    }                                                                                                                  \
    KERNELS(256, attention_forward_##size, AttentionForward)                                                           \
    KERNELS(256, attention_backward_##size, AttentionBackward)

// Multiples of 8.
ATTENTION(8, 8, 1)
ATTENTION(16, 8, 2)
ATTENTION(32, 8, 4)
ATTENTION(64, 8, 8)
ATTENTION(any, 4, 0)
