// Token embedding: y[r, t] = b + fire(r, t) + wind[b, t] + statics[r] + position(age[b, t]), r = b·N + n.
//
// frames [B, T, N, words], bits of the patches; y and dy [B·N, T, d], wind [B·T, d], statics [B·N, d] in the activations'
// type; weight [d, inputs] and bias [d] float. With one input the fire is the burned fraction times the weight; with P² it
// is the sum of the weights of the burning pixels. d is a multiple of 8.
//
// Most patches burn nowhere or everywhere, the rest are on the front. A patch of which more than half burns is therefore
// taken as everything less its other pixels, so that only the front's patches cost a loop over bits.
#include "vectors.cuh"

namespace {

// PE[age, i]. The angle takes double precision, and is reduced in it, since it grows to the length of the history; the sine
// of a multiple of π then needs no reduction of its own.
__device__ inline float position(unsigned age, unsigned i, unsigned d) {
    const double turns = age * exp(-log(10000.0) * (i / 2 * 2) / d) * (0.5 / 3.14159265358979323846);
    const float half_turns = static_cast<float>(2.0 * (turns - rint(turns)));
    return i % 2 == 0 ? sinpif(half_turns) : cospif(half_turns);
}

} // namespace

// A thread an element of either table: small, so nothing but plain loops.
template <typename T> __device__ void token_embedding_tables(const TokenEmbeddingTables &p) {
    const unsigned pixel_rows = p.pixels == nullptr ? 0 : p.inputs + 1;
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = i / p.d, channel = i % p.d;
    const float *weight = p.weight + static_cast<size_t>(channel) * p.inputs;
    if (row < pixel_rows) {
        float x = 0.0f;
        if (row < p.inputs) {
            x = weight[row];
        } else {
            for (unsigned input = 0; input < p.inputs; ++input) {
                x += weight[input];
            }
        }
        p.pixels[i] = x;
    } else if (row < pixel_rows + p.rows) {
        const unsigned step = row - pixel_rows, at = step * p.d + channel;
        float x = p.bias[channel] + position(p.ages[step], channel, p.d);
        if (p.wind != nullptr) {
            x += to_float(static_cast<const T *>(p.wind)[at]);
        }
        p.steps[at] = x;
    }
}
KERNELS(256, token_embedding_tables, TokenEmbeddingTables)

namespace {

// A thread owns eight channels of a patch and walks its steps: 8·sizeof(T) bytes written a step and, shared by the patch's
// threads, 8·words read; statics stay in registers, steps and weights come from the caches. About 30 operations a step, so
// memory bound.
template <typename T, bool PIXELS> __device__ inline void forward(const TokenEmbeddingForward &p) {
    const unsigned vectors = p.d / 8, i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned row = i / vectors, channel = 8 * (i % vectors);
    const unsigned sample = row / p.patches, patch = row % p.patches;
    if (row >= p.batch * p.patches) {
        return;
    }
    float statics[8] = {};
    if (p.statics != nullptr) {
        load_floats<8>(static_cast<const T *>(p.statics) + static_cast<size_t>(row) * p.d + channel, statics);
    }
    const float *weight = p.weight + channel;
    const float *steps = p.steps + static_cast<size_t>(sample) * p.history * p.d + channel;
    const unsigned long long *frame =
        p.frames + (static_cast<size_t>(sample) * p.history * p.patches + patch) * p.words;
    T *y = static_cast<T *>(p.y) + static_cast<size_t>(row) * p.history * p.d + channel;
    float terms[8];
    if (!PIXELS) {
        load_floats<8>(weight, terms);
    }
    for (unsigned t = 0; t < p.history; ++t) {
        float sum[8];
        load_floats<8>(steps, sum);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            sum[c] += statics[c];
        }
        int burning = 0;
        for (unsigned w = 0; w < p.words; ++w) {
            burning += __popcll(frame[w]);
        }
        if (!PIXELS) {
            const float fraction = static_cast<float>(burning) / static_cast<float>(p.pixels);
#pragma unroll
            for (int c = 0; c < 8; ++c) {
                sum[c] += fraction * terms[c];
            }
        } else {
            const bool most = 2 * static_cast<unsigned>(burning) > p.pixels;
            const float sign = most ? -1.0f : 1.0f;
            if (most) {
                load_floats<8>(weight + p.pixels * p.d, terms);
#pragma unroll
                for (int c = 0; c < 8; ++c) {
                    sum[c] += terms[c];
                }
            }
            for (unsigned w = 0; w < p.words; ++w) {
                // P = 4 fills a quarter of its word.
                const unsigned long long full = p.pixels == 16 ? 0xffffull : ~0ull;
                unsigned long long bits = (most ? ~frame[w] : frame[w]) & full;
                for (; bits != 0; bits &= bits - 1) {
                    const unsigned input = 64 * w + static_cast<unsigned>(__ffsll(static_cast<long long>(bits))) - 1;
                    load_floats<8>(weight + input * p.d, terms);
#pragma unroll
                    for (int c = 0; c < 8; ++c) {
                        sum[c] += sign * terms[c];
                    }
                }
            }
        }
        store_floats<8>(y, sum);
        y += p.d;
        steps += p.d;
        frame += static_cast<size_t>(p.patches) * p.words;
    }
}

} // namespace

template <typename T> __device__ void token_embedding_forward_mean(const TokenEmbeddingForward &p) {
    forward<T, false>(p);
}
KERNELS(256, token_embedding_forward_mean, TokenEmbeddingForward)

template <typename T> __device__ void token_embedding_forward_pixels(const TokenEmbeddingForward &p) {
    forward<T, true>(p);
}
KERNELS_RESIDENT(256, 4, token_embedding_forward_pixels, TokenEmbeddingForward)

namespace {

constexpr unsigned GROUP = 64;    // patches of a group
constexpr unsigned CHANNELS = 64; // channels of a block
constexpr unsigned QUARTERS = 4;  // threads that share a channel

// A block takes 64 channels (its y says which) of groups of 64 patches of one sample, in a grid-stride loop over groups;
// step by step their gradients pass through shared memory, so that dy is read once, by 16-byte vectors, the next step's
// ahead of time. Of a channel, a thread owns a quarter of the patches for the sums over the group, and a quarter of the
// inputs, INPUTS, for the weights, whose sums stay in its registers until the block is done. INPUTS is 0 where the only
// input is the burned fraction. 8·sizeof(T) bytes read for eight elements; memory bound.
// Shared memory: gradients float [64, 64]; sums of the quarters float [4, 64]; bits [64, words], or burned fractions
// float [64].
template <typename T, int INPUTS> __device__ inline void backward(const TokenEmbeddingBackward &p) {
    constexpr int N = VECTOR<T>;
    using Vectors = Pack<T, N>;
    const SharedPtr<float> tile = shared_memory<float>(0);
    const SharedPtr<float> quarters = shared_memory<float>(4 * GROUP * CHANNELS);
    constexpr unsigned BITS = 4 * (GROUP + QUARTERS) * CHANNELS;
    const SharedPtr<unsigned long long> bits = shared_memory<unsigned long long>(BITS);
    const SharedPtr<float> fractions = shared_memory<float>(BITS);

    const unsigned thread = threadIdx.x, lane = thread % 32;
    const unsigned first_channel = blockIdx.y * CHANNELS;
    // In loading: eight channels of two patches.
    const unsigned load_patch = thread / 8, load_channel = thread % 8 * 8;
    const bool loads = first_channel + load_channel < p.d;
    // In summing: a quarter of a channel.
    const unsigned channel = thread % CHANNELS, quarter = thread / CHANNELS;
    const bool stored = first_channel + channel < p.d;

    float all = 0.0f; // mean: the weight's sum; pixels: what quarters that mostly burn add to all their inputs
    float sums[INPUTS == 0 ? 1 : INPUTS] = {};

    const unsigned groups = ceil_div(p.patches, GROUP);
    for (unsigned at = blockIdx.x; at < p.batch * groups; at += gridDim.x) {
        const unsigned sample = at / groups, first = at % groups * GROUP;
        Vectors next[2][8 / N];
        unsigned long long next_bits = 0;
        float next_fraction = 0.0f;
        const auto fetch = [&](unsigned t) {
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const unsigned patch = first + load_patch + 32 * k;
                const bool inside = loads && patch < p.patches;
                const size_t row = static_cast<size_t>(sample) * p.patches + patch;
                const T *dy = static_cast<const T *>(p.dy) + (row * p.history + t) * p.d + first_channel + load_channel;
#pragma unroll
                for (int part = 0; part < 8 / N; ++part) {
                    if (inside) {
                        next[k][part] = load<N>(dy + N * part);
                    } else {
#pragma unroll
                        for (int i = 0; i < N; ++i) {
                            next[k][part].v[i] = from_float<T>(0.0f);
                        }
                    }
                }
            }
            const size_t frame = (static_cast<size_t>(sample) * p.history + t) * p.patches + first;
            if (INPUTS == 0) {
                int burning = 0;
                if (thread < GROUP && first + thread < p.patches) {
                    for (unsigned w = 0; w < p.words; ++w) {
                        burning += __popcll(p.frames[(frame + thread) * p.words + w]);
                    }
                }
                next_fraction = static_cast<float>(burning) / static_cast<float>(p.pixels);
            } else {
                const bool inside = thread < GROUP * p.words && first + thread / p.words < p.patches;
                next_bits = inside ? p.frames[frame * p.words + thread] : 0;
            }
        };
        fetch(0);
        float statics[2][8] = {};
        for (unsigned t = 0; t < p.history; ++t) {
#pragma unroll
            for (int k = 0; k < 2; ++k) {
#pragma unroll
                for (int part = 0; part < 8; part += 4) {
                    Pack<float, 4> x;
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        x.v[i] = to_float(next[k][(part + i) / N].v[(part + i) % N]);
                        statics[k][part + i] += x.v[i];
                    }
                    store(tile + (load_patch + 32 * k) * CHANNELS + load_channel + part, x);
                }
            }
            if (INPUTS == 0) {
                if (thread < GROUP) {
                    fractions[thread] = next_fraction;
                }
            } else if (thread < GROUP * p.words) {
                bits[thread] = next_bits;
            }
            __syncthreads();
            if (t + 1 < p.history) {
                fetch(t + 1);
            }
            float step = 0.0f;
#pragma unroll
            for (unsigned i = 0; i < GROUP / QUARTERS; ++i) {
                const unsigned patch = quarter * (GROUP / QUARTERS) + i;
                const float x = tile[patch * CHANNELS + channel];
                step += x;
                if (INPUTS == 0) {
                    all += fractions[patch] * x;
                }
            }
            if (INPUTS != 0) {
                // The lanes of a warp look at 32 patches at a time for any that burn in this quarter of the inputs.
                constexpr unsigned long long MASK = ~0ull >> (INPUTS == 0 ? 0 : 64 - INPUTS);
#pragma unroll
                for (unsigned half = 0; half < GROUP; half += 32) {
                    const unsigned input = quarter * INPUTS;
                    const unsigned long long word = bits[(half + lane) * p.words + input / 64];
                    const unsigned long long mine = word >> input % 64 & MASK;
                    unsigned burning = __ballot_sync(0xffffffffu, mine != 0);
                    for (; burning != 0; burning &= burning - 1) {
                        const int from = __ffs(static_cast<int>(burning)) - 1;
                        unsigned long long on = __shfl_sync(0xffffffffu, mine, from);
                        float x = tile[(half + static_cast<unsigned>(from)) * CHANNELS + channel];
                        if (2 * __popcll(on) > INPUTS) {
                            on = ~on & MASK;
                            all += x;
                            x = -x;
                        }
                        if (on != 0) {
#pragma unroll
                            for (int i = 0; i < INPUTS; ++i) {
                                sums[i] += (on >> i & 1) != 0 ? x : 0.0f;
                            }
                        }
                    }
                }
            }
            quarters[quarter * CHANNELS + channel] = step;
            __syncthreads();
            if (quarter == 0 && stored) {
                float sum = 0.0f;
#pragma unroll
                for (unsigned i = 0; i < QUARTERS; ++i) {
                    sum += quarters[i * CHANNELS + channel];
                }
                p.step_sums[(static_cast<size_t>(at) * p.history + t) * p.d + first_channel + channel] = sum;
            }
        }
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const unsigned patch = first + load_patch + 32 * k;
            if (p.dstatics != nullptr && loads && patch < p.patches) {
                const size_t row = static_cast<size_t>(sample) * p.patches + patch;
                store_floats<8>(static_cast<T *>(p.dstatics) + row * p.d + first_channel + load_channel, statics[k]);
            }
        }
    }

    float *weight_sums = p.weight_sums + (static_cast<size_t>(blockIdx.x) * p.d + first_channel + channel) * p.inputs;
    if (INPUTS == 0) {
        __syncthreads();
        quarters[quarter * CHANNELS + channel] = all;
        __syncthreads();
        if (quarter == 0 && stored) {
            float sum = 0.0f;
#pragma unroll
            for (unsigned i = 0; i < QUARTERS; ++i) {
                sum += quarters[i * CHANNELS + channel];
            }
            *weight_sums = sum;
        }
    } else if (stored) {
#pragma unroll
        for (int i = 0; i < INPUTS; i += 4) {
            Pack<float, 4> pack;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                pack.v[j] = sums[i + j < INPUTS ? i + j : 0] + all;
            }
            store(weight_sums + quarter * INPUTS + i, pack);
        }
    }
}

} // namespace

template <typename T> __device__ void token_embedding_backward_mean(const TokenEmbeddingBackward &p) {
    backward<T, 0>(p);
}
KERNELS(256, token_embedding_backward_mean, TokenEmbeddingBackward)

template <typename T> __device__ void token_embedding_backward_4(const TokenEmbeddingBackward &p) { backward<T, 4>(p); }
KERNELS(256, token_embedding_backward_4, TokenEmbeddingBackward)

template <typename T> __device__ void token_embedding_backward_8(const TokenEmbeddingBackward &p) {
    backward<T, 16>(p);
}
KERNELS(256, token_embedding_backward_8, TokenEmbeddingBackward)

template <typename T> __device__ void token_embedding_backward_16(const TokenEmbeddingBackward &p) {
    backward<T, 64>(p);
}
KERNELS(256, token_embedding_backward_16, TokenEmbeddingBackward)

// Sums of rows in an order that does not change: a block owns 32 columns, its eight warps every eighth row.
// Shared memory: float [8, 32].
template <typename T> __device__ void token_embedding_sum(const TokenEmbeddingSum &p) {
    const SharedPtr<float> parts = shared_memory<float>(0);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned column = blockIdx.x * 32 + lane;
    const float *from = p.from + static_cast<size_t>(blockIdx.y) * p.rows * p.columns;
    float sum = 0.0f;
    if (column < p.columns) {
#pragma unroll 8
        for (unsigned row = warp; row < p.rows; row += 8) {
            sum += from[static_cast<size_t>(row) * p.columns + column];
        }
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (warp == 0 && column < p.columns) {
        for (unsigned i = 1; i < 8; ++i) {
            sum += parts[i * 32 + lane];
        }
        const size_t at = static_cast<size_t>(blockIdx.y) * p.columns + column;
        p.to[at] = sum;
        if (p.rounded != nullptr) {
            static_cast<T *>(p.rounded)[at] = from_float<T>(sum);
        }
    }
}
KERNELS(256, token_embedding_sum, TokenEmbeddingSum)
