// The attention half of an encoder layer: y = layer_norm(x + drop(attention(x)·Woᵀ + bo)), forward and backward, in bf16.
//
// x, dx [R, T, 64]; y, dy [R, T, 64], or [R, 1, 64] where only the last step of a patch asks (LAST: x is then the residual's
// last step); in_weight [192, 64] (queries, keys, values), out_weight [64, 64] and all vectors float; valid [B, T]. Heads are
// 8, 16, 32 or 64 wide (HS), T at most 32. Dropout's elements are those of attention.cu and residual_norm.cu.
//
// Attention never leaves a patch, so that all of it fits where a tile of whole patches is: nothing but x and y (x, dy, dx)
// passes through memory, and nothing but x is kept for the backward. A tile has 32 slots for the tokens of ⌊32 / T⌋ patches;
// slots that are left over, and patches beyond the last, are zeros. Scores are computed for the whole tile, 32 × 32, and
// masked to the patches' own: that wastes most of them, but they are few beside the projections, and one softmax over the
// sums of products serves every T.
//
// Bytes a token: forward 256, backward 384. Operations a slot: forward 41 thousand, backward 123 thousand in products, and
// some 4 and 10 thousand instructions a warp and tile for softmax, dropout and norm. For 240 thousand tokens of six steps an
// RTX A6000 at its peaks takes forward 0.08 ms of memory, 0.07 of products, 0.05 of instructions; backward 0.12, 0.2, 0.13.
// Forward: 34 KB of shared memory a block of 128 threads, about 200 registers, two blocks a multiprocessor (three for the
// last step); backward 99 KB, 256 threads, one block.
#include "philox.cuh"
#include "tile.cuh"

namespace {

constexpr unsigned D = 64;     // width
constexpr unsigned SLOTS = 32; // tokens of a tile

// The patches of a tile.
struct Patches {
    unsigned first, count, steps, reciprocal;

    __device__ Patches(const SelfAttention &p, unsigned tile) : steps(p.steps), reciprocal(p.reciprocal) {
        const unsigned from = tile * p.tile_patches;
        count = from < p.rows ? min(p.tile_patches, p.rows - from) : 0;
        first = count != 0 ? from : 0;
    }
    __device__ unsigned tokens() const { return count * steps; }
    __device__ unsigned patch(unsigned slot) const { return slot * reciprocal >> 16; } // slot / steps
    __device__ size_t first_token() const { return static_cast<size_t>(first) * steps; }
};

// A query of a tile: every slot, or the last step of patch `row`.
template <bool LAST> struct Query {
    bool inside;
    unsigned patch; // of the tile
    unsigned step;  // among the patch's queries
    unsigned slot;  // of its token
    size_t index;   // among the queries of all patches

    __device__ Query(const Patches &patches, unsigned row) {
        if (LAST) {
            inside = row < patches.count;
            patch = inside ? row : 0;
            step = 0;
            slot = patch * patches.steps + patches.steps - 1;
            index = static_cast<size_t>(patches.first) + patch;
        } else {
            inside = row < patches.tokens();
            patch = patches.patch(row);
            step = row - patch * patches.steps;
            slot = row;
            index = patches.first_token() + row;
        }
    }
};

// One bit a slot: whether its token may be a key. All lanes of a warp call it.
__device__ inline unsigned valid_slots(const SelfAttention &p, const Patches &patches) {
    const unsigned slot = threadIdx.x % 32;
    bool valid = true;
    if (slot < patches.tokens()) {
        const unsigned patch = patches.patch(slot), sample = (patches.first + patch) / p.patches;
        valid = p.valid[static_cast<size_t>(sample) * p.steps + slot - patch * p.steps] != 0;
    }
    return __ballot_sync(0xffffffffu, valid);
}

// Of fragments whose rows are queries and whose columns are the 32 slots, a lane holds the rows lane / 4 + 8·j, and of the
// eight columns from 8·n on those from 2·(lane % 4) on. These are their bits, moved so that column 8·n + 2·(lane % 4) + e is
// bit 8·n + e.

// The keys that belong to a query's patch and are valid; all where there is no such query, whose sums must be finite.
template <bool LAST, int ROWS>
__device__ inline void own_keys(const SelfAttention &p, const Patches &patches, unsigned (&keys)[ROWS]) {
    const unsigned lane = threadIdx.x % 32, valid = valid_slots(p, patches);
#pragma unroll
    for (int j = 0; j < ROWS; ++j) {
        const Query<LAST> query(patches, lane / 4 + 8 * j);
        const unsigned own = (~0u >> (32 - p.steps)) << (query.patch * p.steps) & valid;
        keys[j] = (query.inside ? own : ~0u) >> (2 * (lane % 4));
    }
}

// The keys that dropout keeps. The four lanes of a row draw for a row each.
template <bool LAST, int ROWS>
__device__ inline void kept_keys(const SelfAttention &p, const Patches &patches, unsigned head, unsigned (&keys)[ROWS]) {
    const Dropout &dropout = p.probabilities;
    unsigned drawn = ~0u;
    const unsigned lane = threadIdx.x % 32;
    if (dropout.threshold != 0) {
        const Query<LAST> query(patches, lane / 4 + 8 * (lane % 4 % ROWS));
        const unsigned long long patch = patches.first + query.patch, queries = LAST ? 1 : p.steps;
        const unsigned long long first = ((patch * p.heads + head) * queries + query.step) * p.steps;
        const unsigned offset = static_cast<unsigned>(first % 8);
        unsigned long long bits = 0;
        for (unsigned i = 0; i < ceil_div(offset + p.steps, 8); ++i) {
            const Philox words = philox(dropout, static_cast<unsigned>(first / 8 + i));
            unsigned eight = 0;
#pragma unroll
            for (int half = 0; half < 8; ++half) {
                eight |= words.half_word(half) < dropout.threshold ? 0u : 1u << half;
            }
            bits |= static_cast<unsigned long long>(eight) << (8 * i);
        }
        drawn = query.inside ? static_cast<unsigned>(bits >> offset) << (query.patch * p.steps) : ~0u;
    }
#pragma unroll
    for (int j = 0; j < ROWS; ++j) {
        keys[j] = __shfl_sync(0xffffffffu, drawn, static_cast<int>(lane / 4 * 4 + j)) >> (2 * (lane % 4));
    }
}

__device__ inline bool bit(unsigned bits, int column, int e) { return (bits >> (8 * column + e) & 1) != 0; }

// Over the four lanes of a row.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Products q·k to probabilities. The only key of a query gets 1 to the last bit.
template <int QM>
__device__ inline void softmax(float (&s)[QM][4][4], const unsigned (&keys)[2 * QM], float scale) {
#pragma unroll
    for (int m = 0; m < QM; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float highest = -INFINITY, sum = 0.0f;
#pragma unroll
            for (int n = 0; n < 4; ++n) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float &score = s[m][n][2 * h + e];
                    score = bit(keys[2 * m + h], n, e) ? score : -INFINITY;
                    highest = fmaxf(highest, score);
                }
            }
            highest = row_max(highest);
#pragma unroll
            for (int n = 0; n < 4; ++n) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float &score = s[m][n][2 * h + e];
                    score = __expf((score - highest) * scale);
                    sum += score;
                }
            }
            const float inverse = 1.0f / row_sum(sum);
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                s[m][n][2 * h] *= inverse;
                s[m][n][2 * h + 1] *= inverse;
            }
        }
    }
}

// ---- forward ----
//
// A warp owns a tile, from the load of x to the store of y, without a barrier: a product's sums are the next one's operand
// in registers. Two tricks spare the exchanges that would take shared memory. Values are made transposed, Vᵀ = Wv·xᵀ, whose
// sums are the right operand of P·V. And a product's inner dimension may be permuted: of 32 columns a lane takes the eight
// from 8·(lane % 4) on, so that x and the weights are read by 16 bytes, and the sums of the last product (its columns
// permuted alike) are where x, dropout's counters and y's vectors are.
// Shared memory: the weights as bf16, rows of 16-byte units, the unit's highest bit turned in odd rows, so that the lanes of
// two rows read all banks; out_weight's columns are permuted to the order in which a lane holds the attention's output.

constexpr unsigned FORWARD_THREADS = 128;
constexpr unsigned WEIGHT_BYTES = 4 * D * D * 2;
constexpr unsigned FORWARD_VECTORS = WEIGHT_BYTES; // floats: in_bias [192], out_bias, gamma, beta [64]
constexpr unsigned OUT_BIAS = 3 * D, GAMMA = 4 * D, BETA = 5 * D, VECTORS_END = 6 * D;

// The 16 bytes that a lane reads of row `row`, the first 32 columns or the others.
__device__ inline SharedPtr<uint32_t> weights(unsigned row, unsigned half, unsigned quarter) {
    return shared_memory<uint32_t>(row * 128 + ((4 * half + quarter) ^ row % 2 * 4) * 16);
}

__device__ inline void fill_forward(const SelfAttention &p) {
#pragma unroll 4
    for (unsigned i = threadIdx.x; i < 4 * D * 8; i += FORWARD_THREADS) {
        const unsigned row = i / 8, half = i / 4 % 2, quarter = i % 4;
        const bool out = row >= 3 * D;
        const float *from = (out ? p.out_weight + (row - 3 * D) * D : p.in_weight + row * D) + 32 * half;
        Pack<uint32_t, 4> pack;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const Pack<float, 2> pair = load<2>(from + (out ? 8 * j + 2 * quarter : 8 * quarter + 2 * j));
            pack.v[j] = pack_bf16(pair.v[0], pair.v[1]);
        }
        store(weights(row, half, quarter), pack);
    }
    const SharedPtr<float> vectors = shared_memory<float>(FORWARD_VECTORS);
    for (unsigned i = threadIdx.x; i < VECTORS_END; i += blockDim.x) {
        const float *from = i < OUT_BIAS ? p.in_bias + i
                            : i < GAMMA  ? p.out_bias + (i - OUT_BIAS)
                            : i < BETA   ? p.gamma + (i - GAMMA)
                                         : p.beta + (i - BETA);
        vectors[i] = *from;
    }
}

// sums = x·Wᵀ + b for eight rows of the weights from `row` on; x [m][upper or lower eight rows][registers of a row].
template <int M>
__device__ inline void project(const uint32_t (&x)[M][2][8], unsigned row, float (&sums)[M][4]) {
    const unsigned lane = threadIdx.x % 32;
    const Pack<float, 2> bias = load<2>(shared_memory<float>(FORWARD_VECTORS) + row + 2 * (lane % 4));
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sums[m][i] = bias.v[i % 2];
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Pack<uint32_t, 4> w = load<4>(weights(row + lane / 4, half, lane % 4));
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            const uint32_t b[2] = {w.v[k], w.v[k + 1]};
#pragma unroll
            for (int m = 0; m < M; ++m) {
                const int at = 4 * half + k;
                const uint32_t a[4] = {x[m][0][at], x[m][1][at], x[m][0][at + 1], x[m][1][at + 1]};
                mma_bf16(sums[m], a, b);
            }
        }
    }
}

// Wv·xᵀ + b for 16 channels from row `row` of the weights on and the 32 slots, rounded: values[n][h] are channel
// lane / 4 + 8·h of slots 8·n + 2·(lane % 4)...
__device__ inline void project_values(const uint32_t (&x)[2][2][8], unsigned row, uint32_t (&values)[4][2]) {
    const unsigned lane = threadIdx.x % 32;
    const SharedPtr<float> bias = shared_memory<float>(FORWARD_VECTORS) + row + lane / 4;
    float sums[4][4];
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        sums[n][0] = sums[n][1] = bias[0];
        sums[n][2] = sums[n][3] = bias[8];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Pack<uint32_t, 4> upper = load<4>(weights(row + lane / 4, half, lane % 4));
        const Pack<uint32_t, 4> lower = load<4>(weights(row + lane / 4 + 8, half, lane % 4));
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            const uint32_t a[4] = {upper.v[k], lower.v[k], upper.v[k + 1], lower.v[k + 1]};
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const uint32_t b[2] = {x[n / 2][n % 2][4 * half + k], x[n / 2][n % 2][4 * half + k + 1]};
                mma_bf16(sums[n], a, b);
            }
        }
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        values[n][0] = pack_bf16(sums[n][0], sums[n][1]);
        values[n][1] = pack_bf16(sums[n][2], sums[n][3]);
    }
}

// A lane's registers of a token's row, zeros where it is not inside.
__device__ inline void load_row(const void *x, size_t token, bool inside, uint32_t (&row)[8]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        Pack<uint32_t, 4> pack = {};
        if (inside) {
            pack = load<4>(static_cast<const uint32_t *>(x) + token * (D / 2) + 16 * half + 4 * (threadIdx.x % 4));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            row[4 * half + i] = pack.v[i];
        }
    }
}

template <int HS, bool LAST> __device__ inline void forward(const SelfAttentionForward &params) {
    const SelfAttention &p = params.layer;
    constexpr int QM = LAST ? 1 : 2;            // times 16 queries
    constexpr int CHANNELS = HS > 16 ? HS : 16; // at a time
    const SharedPtr<float> vectors = shared_memory<float>(FORWARD_VECTORS);
    const unsigned lane = threadIdx.x % 32, quarter = lane % 4, warps = blockDim.x / 32;
    fill_forward(p);
    __syncthreads();

    const unsigned tiles = ceil_div(p.rows, p.tile_patches);
    for (unsigned tile = blockIdx.x * warps + threadIdx.x / 32; tile < tiles; tile += gridDim.x * warps) {
        const Patches patches(p, tile);
        uint32_t x[2][2][8], own[QM][2][8]; // of the slots, and of the queries
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const unsigned slot = 8 * j + lane / 4;
            load_row(p.x, patches.first_token() + slot, slot < patches.tokens(), x[j / 2][j % 2]);
        }
#pragma unroll
        for (int j = 0; j < 2 * QM; ++j) {
            if (LAST) {
                const Query<LAST> query(patches, 8 * j + lane / 4);
                load_row(p.x, patches.first_token() + query.slot, query.inside, own[j / 2][j % 2]);
            } else {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    own[j / 2][j % 2][i] = x[j / 2][j % 2][i];
                }
            }
        }
        unsigned keys[2 * QM];
        own_keys<LAST>(p, patches, keys);

        uint32_t attended[QM][4][4]; // as left operand: 16 channels at a time
#pragma unroll
        for (int first = 0; first < static_cast<int>(D); first += CHANNELS) {
            uint32_t values[CHANNELS / 16][4][2];
#pragma unroll
            for (int i = 0; i < CHANNELS / 16; ++i) {
                project_values(x, 2 * D + first + 16 * i, values[i]);
            }
#pragma unroll
            for (int channel = first; channel < first + CHANNELS; channel += HS) {
                float s[QM][4][4] = {};
#pragma unroll
                for (int k = channel; k < channel + HS; k += 16) {
                    // A head of eight channels fills half of the inner dimension.
                    float sums[QM][4], key_sums[2][4];
                    uint32_t a[QM][4] = {}, b[4][2] = {};
#pragma unroll
                    for (int part = 0; part < (HS == 8 ? 1 : 2); ++part) {
                        project(own, k + 8 * part, sums);
#pragma unroll
                        for (int m = 0; m < QM; ++m) {
                            a[m][2 * part] = pack_bf16(sums[m][0], sums[m][1]);
                            a[m][2 * part + 1] = pack_bf16(sums[m][2], sums[m][3]);
                        }
                        project(x, D + k + 8 * part, key_sums);
#pragma unroll
                        for (int n = 0; n < 4; ++n) {
                            b[n][part] = pack_bf16(key_sums[n / 2][n % 2 * 2], key_sums[n / 2][n % 2 * 2 + 1]);
                        }
                    }
#pragma unroll
                    for (int m = 0; m < QM; ++m) {
#pragma unroll
                        for (int n = 0; n < 4; ++n) {
                            mma_bf16(s[m][n], a[m], b[n]);
                        }
                    }
                }
                softmax<QM>(s, keys, p.scale);
                if (p.probabilities.threshold != 0) {
                    unsigned kept[2 * QM];
                    kept_keys<LAST>(p, patches, channel / HS, kept);
#pragma unroll
                    for (int m = 0; m < QM; ++m) {
#pragma unroll
                        for (int n = 0; n < 4; ++n) {
#pragma unroll
                            for (int i = 0; i < 4; ++i) {
                                s[m][n][i] *= bit(kept[2 * m + i / 2], n, i % 2) ? p.probabilities.scale : 0.0f;
                            }
                        }
                    }
                }
#pragma unroll
                for (int m = 0; m < QM; ++m) {
                    uint32_t weights[2][4];
                    fragment(s[m][0], s[m][1], weights[0]);
                    fragment(s[m][2], s[m][3], weights[1]);
#pragma unroll
                    for (int c = channel; c < channel + HS; c += 8) {
                        const int i = (c - first) / 16, h = c / 8 % 2;
                        float sums[4] = {};
#pragma unroll
                        for (int k = 0; k < 2; ++k) {
                            const uint32_t b[2] = {values[i][2 * k][h], values[i][2 * k + 1][h]};
                            mma_bf16(sums, weights[k], b);
                        }
                        attended[m][c / 16][2 * h] = pack_bf16(sums[0], sums[1]);
                        attended[m][c / 16][2 * h + 1] = pack_bf16(sums[2], sums[3]);
                    }
                }
            }
        }

        // Column 32·(n / 4) + 8·quarter + 2·(n % 4) + e, its row of the weights in the lane's place of the operand.
        float out[QM][8][4];
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            const Pack<float, 2> bias = load<2>(vectors + OUT_BIAS + n / 4 * 32 + 8 * quarter + n % 4 * 2);
            const unsigned row = 3 * D + n / 4 * 32 + lane / 8 * 8 + n % 4 * 2 + lane / 4 % 2;
#pragma unroll
            for (int m = 0; m < QM; ++m) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    out[m][n][i] = bias.v[i % 2];
                }
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Pack<uint32_t, 4> w = load<4>(weights(row, half, quarter));
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const uint32_t b[2] = {w.v[2 * k], w.v[2 * k + 1]};
#pragma unroll
                    for (int m = 0; m < QM; ++m) {
                        mma_bf16(out[m][n], attended[m][2 * half + k], b);
                    }
                }
            }
        }

#pragma unroll
        for (int j = 0; j < 2 * QM; ++j) {
            const Query<LAST> query(patches, 8 * j + lane / 4);
            float s[2][8], total = 0.0f, squares = 0.0f;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    s[half][i] = out[j / 2][4 * half + i / 2][j % 2 * 2 + i % 2];
                }
                dropout_apply8(p.residual, query.index * D + 32 * half + 8 * quarter, s[half]);
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const uint32_t pair = own[j / 2][j % 2][4 * half + i / 2];
                    s[half][i] += i % 2 == 0 ? low_bf16(pair) : high_bf16(pair);
                    total += s[half][i];
                }
            }
            const float mean = row_sum(total) / D;
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                squares += (s[i / 8][i % 8] - mean) * (s[i / 8][i % 8] - mean);
            }
            const float rstd = rsqrtf(row_sum(squares) / D + 1e-5f);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                Pack<uint32_t, 4> y;
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const unsigned column = 32 * half + 8 * quarter + 2 * i;
                    const Pack<float, 2> gamma = load<2>(vectors + GAMMA + column);
                    const Pack<float, 2> beta = load<2>(vectors + BETA + column);
                    y.v[i] = pack_bf16((s[half][2 * i] - mean) * rstd * gamma.v[0] + beta.v[0],
                                       (s[half][2 * i + 1] - mean) * rstd * gamma.v[1] + beta.v[1]);
                }
                if (query.inside) {
                    store(static_cast<uint32_t *>(params.y) + query.index * (D / 2) + 16 * half + 4 * quarter, y);
                }
            }
        }
    }
}

} // namespace

#define FORWARD(size)                                                                                                  \
    KERNEL(FORWARD_THREADS, self_attention_forward_##size##_bf16, SelfAttentionForward) { forward<size, false>(p); }          \
    KERNEL(FORWARD_THREADS, self_attention_forward_##size##_last_bf16, SelfAttentionForward) { forward<size, true>(p); }
FORWARD(8)
FORWARD(16)
FORWARD(32)
FORWARD(64)

// ---- backward ----
//
// A block of eight warps owns two tiles at a time and goes over them in a loop, in five stages between barriers. Everything is
// computed again from x; what a product of another stage reads passes through shared memory as bf16. Between the softmax of
// the recomputation and its gradient the probabilities stay in registers, and so do the sums of the weights' gradients until
// the block is done: 64 floats a thread. Then they go to the block's partials, which self_attention_sums adds in order.
//
//     stage  a warp owns                          computes
//     1      a tile, 16 channels                  q, k, v; scores and probabilities of its heads; the attention's output o
//     2      16 queries, 32 channels              s = x + drop(o·Woᵀ + bo), its norm's backward: ds, dr (of drop's input)
//     3      the same; 16 × 32 of dWo             do = dr·Wo; dWo += drᵀ·o
//     4      a tile, 16 channels                  dq, dk, dv
//     5      16 tokens, 32 channels; 3·16 × 32    dx = dq·Wq + dk·Wk + dv·Wv + ds; dWin += dq,dk,dvᵀ·x
//
// Warps that share a head of more than 16 channels each compute its scores. One block's shared memory fills a
// multiprocessor of an RTX A6000; the next tiles' x and dy are copied meanwhile.

namespace {

constexpr unsigned BACKWARD_THREADS = 256;
constexpr unsigned ROWS = 2 * SLOTS; // tokens of a block's two tiles
// Bytes of shared memory, tiles [rows, 64]: in_weight, out_weight, x twice, q, k, v, o, dr, do; then floats. dy lies in do's
// place, dq, dk, dv in that of q, k, v. What stage 4 transposes, 32 × 32 a warp, lies in the place of o and dr, and in
// stage 5 what the last steps' queries add to dx, float [32, 64].
constexpr unsigned TILE_BYTES = ROWS * D * 2;
constexpr unsigned OUT_WEIGHT_AT = 3 * D * D * 2, X_AT = OUT_WEIGHT_AT + D * D * 2, QKV_AT = X_AT + 2 * TILE_BYTES;
constexpr unsigned O_AT = QKV_AT + 3 * TILE_BYTES, DR_AT = O_AT + TILE_BYTES, DO_AT = DR_AT + TILE_BYTES;
constexpr unsigned IN_BIAS_AT = DO_AT + TILE_BYTES;       // float [192]
constexpr unsigned MOMENTS_AT = IN_BIAS_AT + 4 * 3 * D;   // float [64, 2, 4]
constexpr unsigned BACKWARD_BYTES = MOMENTS_AT + 4 * ROWS * 8;
static_assert(BACKWARD_BYTES == 101120, "as in gpu.rs, and at most 99 KB");
// Floats of a block's partials.
constexpr unsigned IN_BIAS_PART = 3 * D * D, OUT_WEIGHT_PART = IN_BIAS_PART + 3 * D;
constexpr unsigned OUT_BIAS_PART = OUT_WEIGHT_PART + D * D, GAMMA_PART = OUT_BIAS_PART + D, BETA_PART = GAMMA_PART + D;
constexpr unsigned PARTS = BETA_PART + D;

using Rows = Tile<D>;

// load_a and load_b_transposed of 16 rows that lie anywhere: the lane names the tile's row for its own of the 16.
__device__ inline void gather_a(const Rows &tile, unsigned own_row, unsigned k, uint32_t (&a)[4]) {
    ldmatrix4(a, tile.unit(own_row, k / 8 + threadIdx.x % 32 / 16));
}
__device__ inline void gather_b_transposed(const Rows &tile, unsigned own_row, unsigned n, uint32_t (&b)[2][2]) {
    uint32_t r[4];
    ldmatrix4_transposed(r, tile.unit(own_row, n / 8 + threadIdx.x % 32 / 16));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// Rounds the sums of 16×8 products to a tile's rows from `row` and columns from `column` on.
template <int N, int COLUMNS>
__device__ inline void store_sums(const Tile<COLUMNS> &tile, unsigned row, unsigned column, const float (&sums)[N][4]) {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const unsigned at = swizzled<COLUMNS / 8>(row + lane / 4 + 8 * h, column / 8 + n) + 4 * (lane % 4);
            shared_memory<uint32_t>(tile.base + at)[0] = pack_bf16(sums[n][2 * h], sums[n][2 * h + 1]);
        }
    }
}

// Two neighbouring elements of a tile.
__device__ inline uint32_t load_pair(const Rows &tile, unsigned row, unsigned column) {
    return shared_memory<uint32_t>(tile.base + swizzled<D / 8>(row, column / 8) + column % 8 * 2)[0];
}

// Of a head of eight channels, the half of the 16 that are loaded.
__device__ inline void keep_half(uint32_t (&a)[4], int half) {
    a[2 - 2 * half] = 0;
    a[3 - 2 * half] = 0;
}

// sums += left·rightᵀ over the channels of a head, from `channel` on: of the tile's queries by its slots.
template <int HS, int QM>
__device__ inline void head_products(const Rows &left, const Rows &right, unsigned tile, unsigned channel, int head,
                                     float (&sums)[QM][4][4]) {
    constexpr int KEYS = HS > 16 ? HS / 16 : 1; // times 16 channels
#pragma unroll
    for (int at = 0; at < KEYS; ++at) {
        uint32_t a[QM][4];
#pragma unroll
        for (int m = 0; m < QM; ++m) {
            load_a(left, tile * 16 * QM + 16 * m, channel + 16 * at, a[m]);
            if (HS == 8) {
                keep_half(a[m], head);
            }
        }
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            uint32_t b[2][2];
            load_b(right, tile * SLOTS + 8 * n, channel + 16 * at, b);
#pragma unroll
            for (int m = 0; m < QM; ++m) {
                mma_bf16(sums[m][n], a[m], b[0]);
                mma_bf16(sums[m][n + 1], a[m], b[1]);
            }
        }
    }
}

template <unsigned ROWS> __device__ inline void fill_weights(const Rows &tile, const float *from) {
#pragma unroll 2
    for (unsigned i = threadIdx.x; i < ROWS * 8; i += BACKWARD_THREADS) {
        Pack<bf16, 8> pack;
#pragma unroll
        for (int part = 0; part < 8; part += 4) {
            const Pack<float, 4> floats = load<4>(from + 8 * i + part);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                pack.v[part + j] = from_float<bf16>(floats.v[j]);
            }
        }
        store(tile.unit(i / 8, i % 8), pack);
    }
}

template <int HS, bool LAST> __device__ inline void backward(const SelfAttentionBackward &params) {
    const SelfAttention &p = params.layer;
    constexpr int QM = LAST ? 1 : 2;          // times 16 queries of a tile
    constexpr unsigned QUERIES = 16 * QM;     // of a tile, and rows of its q, o, dr, do
    constexpr int HEADS = HS == 8 ? 2 : 1;    // that a warp takes in stages 1 and 4
    const unsigned thread = threadIdx.x, lane = thread % 32, warp = thread / 32, quarter = lane % 4;
    const Rows in_weight{0}, out_weight{OUT_WEIGHT_AT}, q{QKV_AT}, k{QKV_AT + TILE_BYTES}, v{QKV_AT + 2 * TILE_BYTES};
    const Rows o{O_AT}, dr{DR_AT}, do_{DO_AT};
    const Tile<SLOTS> turned{O_AT + warp * SLOTS * SLOTS * 2};
    const SharedPtr<float> in_bias = shared_memory<float>(IN_BIAS_AT), moments = shared_memory<float>(MOMENTS_AT);
    const SharedPtr<float> last_dx = shared_memory<float>(O_AT);

    // In stages 1 and 4.
    const unsigned tile = warp % 2, channel = warp / 2 * 16;
    const unsigned head = HS == 8 ? 2 * (warp / 2) : channel / HS, head_channel = HS > 16 ? channel / HS * HS : channel;
    // In the others.
    const unsigned row = warp / 2 * 16, column = warp % 2 * 32;
    const bool queries_here = row < 2 * QUERIES;

    const unsigned pairs = ceil_div(ceil_div(p.rows, p.tile_patches), 2);
    const auto copy_x = [&](unsigned pair, unsigned buffer) {
#pragma unroll
        for (unsigned i = 0; i < 2; ++i) {
            const Patches patches(p, 2 * pair + i);
            const Rows to{X_AT + buffer * TILE_BYTES + i * SLOTS * 2 * D};
            fill_tile(to, static_cast<const bf16 *>(p.x) + patches.first_token() * D, D, SLOTS, patches.tokens());
        }
    };
    const auto copy_dy = [&](unsigned pair) {
#pragma unroll
        for (unsigned i = 0; i < 2; ++i) {
            const Patches patches(p, 2 * pair + i);
            const Rows to{DO_AT + i * QUERIES * 2 * D};
            const size_t first = LAST ? patches.first : patches.first_token();
            fill_tile(to, static_cast<const bf16 *>(params.dy) + first * D, D, QUERIES,
                      LAST ? patches.count : patches.tokens());
        }
    };
    copy_x(blockIdx.x, 0);
    copy_dy(blockIdx.x);
    async_commit();
    fill_weights<3 * D>(in_weight, p.in_weight);
    fill_weights<D>(out_weight, p.out_weight);
    if (thread < 3 * D) {
        in_bias[thread] = p.in_bias[thread];
    }

    // Gradients of the weights, 16 rows (of queries', keys', values' weights) × 32 columns.
    float din[3][4][4] = {}, dout[4][4] = {};
    float dgamma[8] = {}, dbeta[8] = {}; // columns column + 8·n + 2·quarter + e
    float dbias[2] = {};                 // of two neighbouring rows of the weights, over half of the tokens
    const unsigned bias_row = thread % 128 * 2, bias_half = thread / 128;

    unsigned buffer = 0;
    for (unsigned pair = blockIdx.x; pair < pairs; pair += gridDim.x, buffer ^= 1) {
        const Rows x{X_AT + buffer * TILE_BYTES};
        async_wait<0>();
        __syncthreads();
        if (pair + gridDim.x < pairs) {
            copy_x(pair + gridDim.x, buffer ^ 1);
        }
        async_commit();

        uint32_t probabilities[HEADS][QM][4][2]; // of neighbouring keys, rounded; negative where dropped
        {
            const Patches patches(p, 2 * pair + tile);
            float sums[3][2][2][4];
#pragma unroll
            for (int part = 0; part < 3; ++part) {
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    const Pack<float, 2> bias = load<2>(in_bias + part * D + channel + 8 * n + 2 * quarter);
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            sums[part][m][n][i] = bias.v[i % 2];
                        }
                    }
                }
            }
            const unsigned own_slot = tile * SLOTS + Query<true>(patches, lane % 16).slot; // of the last steps
#pragma unroll
            for (int at = 0; at < static_cast<int>(D); at += 16) {
                uint32_t a[2][4], own[4];
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    load_a(x, tile * SLOTS + 16 * m, at, a[m]);
                }
                if (LAST) {
                    gather_a(x, own_slot, at, own);
                }
#pragma unroll
                for (int part = 0; part < 3; ++part) {
                    uint32_t b[2][2];
                    load_b(in_weight, part * D + channel, at, b);
#pragma unroll
                    for (int m = 0; m < (part == 0 ? QM : 2); ++m) {
                        mma_bf16(sums[part][m][0], part == 0 && LAST ? own : a[m], b[0]);
                        mma_bf16(sums[part][m][1], part == 0 && LAST ? own : a[m], b[1]);
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                if (m < QM) {
                    store_sums(q, tile * QUERIES + 16 * m, channel, sums[0][m]);
                }
                store_sums(k, tile * SLOTS + 16 * m, channel, sums[1][m]);
                store_sums(v, tile * SLOTS + 16 * m, channel, sums[2][m]);
            }
            HS > 16 ? __syncthreads() : __syncwarp();

            unsigned keys[2 * QM], kept[2 * QM];
            own_keys<LAST>(p, patches, keys);
            float output[QM][2][4] = {};
#pragma unroll
            for (int h = 0; h < HEADS; ++h) {
                float s[QM][4][4] = {};
                head_products<HS>(q, k, tile, head_channel, h, s);
                softmax<QM>(s, keys, p.scale);
                float keep_scale = 1.0f;
                if (p.probabilities.threshold != 0) {
                    keep_scale = p.probabilities.scale;
                    kept_keys<LAST>(p, patches, head + h, kept);
#pragma unroll
                    for (int m = 0; m < QM; ++m) {
#pragma unroll
                        for (int n = 0; n < 4; ++n) {
#pragma unroll
                            for (int i = 0; i < 4; ++i) {
                                s[m][n][i] = bit(kept[2 * m + i / 2], n, i % 2) ? s[m][n][i] : -s[m][n][i];
                            }
                        }
                    }
                }
#pragma unroll
                for (int m = 0; m < QM; ++m) {
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        probabilities[h][m][n][0] = pack_bf16(s[m][n][0], s[m][n][1]);
                        probabilities[h][m][n][1] = pack_bf16(s[m][n][2], s[m][n][3]);
                    }
                }
#pragma unroll
                for (int at = 0; at < 2; ++at) {
                    uint32_t b[2][2];
                    load_b_transposed(v, tile * SLOTS + 16 * at, channel, b);
#pragma unroll
                    for (int m = 0; m < QM; ++m) {
                        float weights[2][4];
#pragma unroll
                        for (int i = 0; i < 8; ++i) {
                            weights[i / 4][i % 4] = fmaxf(s[m][2 * at + i / 4][i % 4], 0.0f) * keep_scale;
                        }
                        uint32_t a[4];
                        fragment(weights[0], weights[1], a);
#pragma unroll
                        for (int n = 0; n < 2; ++n) {
                            if (HS > 8 || n == h) {
                                mma_bf16(output[m][n], a, b[n]);
                            }
                        }
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < QM; ++m) {
                store_sums(o, tile * QUERIES + 16 * m, channel, output[m]);
            }
        }
        __syncthreads();

        float ds[4][4] = {}; // row + lane / 4 + 8·h, column + 8·n + 2·quarter + e at [n][2·h + e]
        {
            float s[4][4] = {};
            unsigned kept[2] = {~0u, ~0u};
            if (queries_here) {
                const Patches patches(p, 2 * pair + row / QUERIES);
#pragma unroll
                for (int at = 0; at < static_cast<int>(D); at += 16) {
                    uint32_t a[4];
                    load_a(o, row, at, a);
#pragma unroll
                    for (int n = 0; n < 4; n += 2) {
                        uint32_t b[2][2];
                        load_b(out_weight, column + 8 * n, at, b);
                        mma_bf16(s[n], a, b[0]);
                        mma_bf16(s[n + 1], a, b[1]);
                    }
                }
#pragma unroll
                for (int n = 0; n < 4; ++n) {
                    const unsigned at = column + 8 * n + 2 * quarter;
                    const Pack<float, 2> bias = load<2>(p.out_bias + at);
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        s[n][i] += bias.v[i % 2];
                    }
                }
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const Query<LAST> query(patches, row % QUERIES + lane / 4 + 8 * h);
                    float scale = 1.0f;
                    if (p.residual.threshold != 0) {
                        // The four lanes of a row draw for eight columns each.
                        scale = p.residual.scale;
                        const size_t counter = query.index * (D / 8) + column / 8 + quarter;
                        const Philox drawn = philox(p.residual, static_cast<unsigned>(counter));
                        unsigned eight = 0;
#pragma unroll
                        for (int i = 0; i < 8; ++i) {
                            eight |= drawn.half_word(i) < p.residual.threshold ? 0u : 1u << i;
                        }
                        unsigned bits = eight << (8 * quarter);
                        bits |= __shfl_xor_sync(0xffffffffu, bits, 1);
                        bits |= __shfl_xor_sync(0xffffffffu, bits, 2);
                        kept[h] = bits >> (2 * quarter);
                    }
                    const unsigned slot = LAST ? row / QUERIES * SLOTS + query.slot : row + lane / 4 + 8 * h;
                    float total = 0.0f, squares = 0.0f, gradient = 0.0f, product = 0.0f;
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        const unsigned at = column + 8 * n + 2 * quarter;
                        const uint32_t xs = load_pair(x, slot, at);
#pragma unroll
                        for (int e = 0; e < 2; ++e) {
                            float &sum = s[n][2 * h + e];
                            sum = (bit(kept[h], n, e) ? sum * scale : 0.0f) + (e == 0 ? low_bf16(xs) : high_bf16(xs));
                            total += sum;
                        }
                    }
                    // Over the warp's 32 columns; the other half's are in another warp.
                    const float mean = row_sum(total) / 32;
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        const unsigned at = column + 8 * n + 2 * quarter;
                        const uint32_t dy = load_pair(do_, row + lane / 4 + 8 * h, at);
                        const Pack<float, 2> gamma = load<2>(p.gamma + at);
#pragma unroll
                        for (int e = 0; e < 2; ++e) {
                            const float offset = s[n][2 * h + e] - mean;
                            const float g = (e == 0 ? low_bf16(dy) : high_bf16(dy)) * gamma.v[e];
                            squares += offset * offset;
                            gradient += g;
                            product += g * offset;
                        }
                    }
                    squares = row_sum(squares);
                    gradient = row_sum(gradient);
                    product = row_sum(product);
                    if (quarter == 0) {
                        store(moments + ((row + lane / 4 + 8 * h) * 2 + warp % 2) * 4,
                              Pack<float, 4>{{mean, squares, gradient, product}});
                    }
                }
            }
            __syncthreads();
            if (queries_here) {
                const float scale = p.residual.threshold != 0 ? p.residual.scale : 1.0f;
                float dresidual[4][4];
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const SharedPtr<float> both = moments + (row + lane / 4 + 8 * h) * 8;
                    const Pack<float, 4> one = load<4>(both), two = load<4>(both + 4);
                    const float mean = (one.v[0] + two.v[0]) / 2, apart = one.v[0] - two.v[0];
                    const float rstd = rsqrtf((one.v[1] + two.v[1] + apart * apart * 16) / D + 1e-5f);
                    const float a = (one.v[2] + two.v[2]) / D;
                    const float product =
                        one.v[3] + (one.v[0] - mean) * one.v[2] + two.v[3] + (two.v[0] - mean) * two.v[2];
                    const float b = product * rstd / D;
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        const unsigned at = column + 8 * n + 2 * quarter;
                        const uint32_t dys = load_pair(do_, row + lane / 4 + 8 * h, at);
                        const Pack<float, 2> gamma = load<2>(p.gamma + at);
#pragma unroll
                        for (int e = 0; e < 2; ++e) {
                            const float dy = e == 0 ? low_bf16(dys) : high_bf16(dys); // 0 where there is no query
                            const float normal = (s[n][2 * h + e] - mean) * rstd;
                            const float gradient = (dy * gamma.v[e] - a - normal * b) * rstd;
                            dgamma[2 * n + e] += dy * normal;
                            dbeta[2 * n + e] += dy;
                            ds[n][2 * h + e] = gradient;
                            dresidual[n][2 * h + e] = bit(kept[h], n, e) ? gradient * scale : 0.0f;
                        }
                    }
                }
                store_sums(dr, row, column, dresidual);
            }
        }
        __syncthreads();

        if (queries_here) {
            float sums[4][4] = {};
#pragma unroll
            for (int at = 0; at < static_cast<int>(D); at += 16) {
                uint32_t a[4];
                load_a(dr, row, at, a);
#pragma unroll
                for (int n = 0; n < 4; n += 2) {
                    uint32_t b[2][2];
                    load_b_transposed(out_weight, at, column + 8 * n, b);
                    mma_bf16(sums[n], a, b[0]);
                    mma_bf16(sums[n + 1], a, b[1]);
                }
            }
            store_sums(do_, row, column, sums);
        }
#pragma unroll
        for (unsigned at = 0; at < 2 * QUERIES; at += 16) {
            uint32_t a[4];
            load_a_transposed(dr, at, row, a);
#pragma unroll
            for (int n = 0; n < 4; n += 2) {
                uint32_t b[2][2];
                load_b_transposed(o, at, column + 8 * n, b);
                mma_bf16(dout[n], a, b[0]);
                mma_bf16(dout[n + 1], a, b[1]);
            }
        }
        const auto add_rows = [&](const Rows &from, unsigned rows) {
#pragma unroll 4
            for (unsigned i = bias_half * rows / 2; i < (bias_half + 1) * rows / 2; ++i) {
                const uint32_t two = load_pair(from, i, bias_row % D);
                dbias[0] += low_bf16(two);
                dbias[1] += high_bf16(two);
            }
        };
        if (bias_row >= 3 * D) {
            add_rows(dr, 2 * QUERIES);
        }
        __syncthreads();

        {
            float dq[QM][2][4] = {}, dk[2][2][4] = {}, dv[2][2][4] = {};
            const float keep_scale = p.probabilities.threshold != 0 ? p.probabilities.scale : 1.0f;
#pragma unroll
            for (int h = 0; h < HEADS; ++h) {
                float s[QM][4][4], dp[QM][4][4] = {};
                head_products<HS>(do_, v, tile, head_channel, h, dp);
                // The probabilities after dropout, then the scores' gradients, each turned by way of shared memory.
                const auto multiply_turned = [&](const float (&left)[QM][4][4], const Rows &right, float (&sums)[2][2][4]) {
#pragma unroll
                    for (int m = 0; m < QM; ++m) {
                        store_sums(turned, 16 * m, 0, left[m]);
                    }
                    __syncwarp();
#pragma unroll
                    for (int at = 0; at < QM; ++at) {
                        uint32_t b[2][2];
                        load_b_transposed(right, tile * QUERIES + 16 * at, channel, b);
#pragma unroll
                        for (int m = 0; m < 2; ++m) {
                            uint32_t a[4];
                            load_a_transposed(turned, 16 * at, 16 * m, a);
#pragma unroll
                            for (int n = 0; n < 2; ++n) {
                                if (HS > 8 || n == h) {
                                    mma_bf16(sums[m][n], a, b[n]);
                                }
                            }
                        }
                    }
                    __syncwarp();
                };
#pragma unroll
                for (int m = 0; m < QM; ++m) {
#pragma unroll
                    for (int row_half = 0; row_half < 2; ++row_half) {
                        // By the sum of the rounded probabilities, so that the scores' gradients still add up to zero.
                        float mean = 0.0f, sum = 0.0f;
#pragma unroll
                        for (int i = 0; i < 8; ++i) {
                            const int n = i / 2, at = 2 * row_half + i % 2;
                            const uint32_t two = probabilities[h][m][n][row_half];
                            s[m][n][at] = i % 2 == 0 ? low_bf16(two) : high_bf16(two);
                            dp[m][n][at] = s[m][n][at] > 0.0f ? dp[m][n][at] * keep_scale : 0.0f;
                            mean += fabsf(s[m][n][at]) * dp[m][n][at];
                            sum += fabsf(s[m][n][at]);
                        }
                        mean = row_sum(mean) / row_sum(sum);
#pragma unroll
                        for (int i = 0; i < 8; ++i) {
                            const int n = i / 2, at = 2 * row_half + i % 2;
                            dp[m][n][at] = fabsf(s[m][n][at]) * (dp[m][n][at] - mean) * p.scale;
                            s[m][n][at] = fmaxf(s[m][n][at], 0.0f) * keep_scale;
                        }
                    }
                }
                multiply_turned(s, do_, dv);
                multiply_turned(dp, q, dk);
#pragma unroll
                for (int at = 0; at < 2; ++at) {
                    uint32_t b[2][2];
                    load_b_transposed(k, tile * SLOTS + 16 * at, channel, b);
#pragma unroll
                    for (int m = 0; m < QM; ++m) {
                        uint32_t a[4];
                        fragment(dp[m][2 * at], dp[m][2 * at + 1], a);
#pragma unroll
                        for (int n = 0; n < 2; ++n) {
                            if (HS > 8 || n == h) {
                                mma_bf16(dq[m][n], a, b[n]);
                            }
                        }
                    }
                }
            }
            HS > 16 ? __syncthreads() : __syncwarp();
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                if (m < QM) {
                    store_sums(q, tile * QUERIES + 16 * m, channel, dq[m]);
                }
                store_sums(k, tile * SLOTS + 16 * m, channel, dk[m]);
                store_sums(v, tile * SLOTS + 16 * m, channel, dv[m]);
            }
        }
        __syncthreads();
        if (pair + gridDim.x < pairs) {
            copy_dy(pair + gridDim.x);
        }
        async_commit();

        // sums += rows of dq, dk or dv by their part of in_weight.
        const auto add_inputs = [&](const Rows &gradient, unsigned part, float (&sums)[4][4]) {
#pragma unroll
            for (int at = 0; at < static_cast<int>(D); at += 16) {
                uint32_t a[4];
                load_a(gradient, row, at, a);
#pragma unroll
                for (int n = 0; n < 4; n += 2) {
                    uint32_t b[2][2];
                    load_b_transposed(in_weight, part * D + at, column + 8 * n, b);
                    mma_bf16(sums[n], a, b[0]);
                    mma_bf16(sums[n + 1], a, b[1]);
                }
            }
        };
        if (LAST) {
            if (queries_here) {
                add_inputs(q, 0, ds);
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const unsigned at = (row + lane / 4 + i % 2 * 8) * D + column + i / 2 * 8 + 2 * quarter;
                    store(last_dx + at, Pack<float, 2>{{ds[i / 2][i % 2 * 2], ds[i / 2][i % 2 * 2 + 1]}});
                }
            }
            __syncthreads();
        }
        {
            const unsigned half = row / SLOTS;
            const Patches patches(p, 2 * pair + half);
            if (LAST) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const unsigned slot = row % SLOTS + lane / 4 + 8 * h;
                    const unsigned patch = patches.patch(slot);
                    const bool last = patch < patches.count && slot == (patch + 1) * p.steps - 1;
                    const unsigned at = (half * QUERIES + (last ? patch : 0)) * D + column + 2 * quarter;
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        const Pack<float, 2> two = load<2>(last_dx + at + 8 * n);
                        ds[n][2 * h] = last ? two.v[0] : 0.0f;
                        ds[n][2 * h + 1] = last ? two.v[1] : 0.0f;
                    }
                }
            } else {
                add_inputs(q, 0, ds);
            }
            add_inputs(k, 1, ds);
            add_inputs(v, 2, ds);
            uint32_t *dx = static_cast<uint32_t *>(params.dx) + patches.first_token() * (D / 2);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const unsigned slot = row % SLOTS + lane / 4 + 8 * h;
                if (slot < patches.tokens()) {
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        dx[slot * (D / 2) + column / 2 + 4 * n + quarter] = pack_bf16(ds[n][2 * h], ds[n][2 * h + 1]);
                    }
                }
            }
        }
#pragma unroll
        for (unsigned at = 0; at < ROWS; at += 16) {
            uint32_t b[4][2], a[4];
#pragma unroll
            for (int n = 0; n < 4; n += 2) {
                uint32_t two[2][2];
                load_b_transposed(x, at, column + 8 * n, two);
                b[n][0] = two[0][0], b[n][1] = two[0][1], b[n + 1][0] = two[1][0], b[n + 1][1] = two[1][1];
            }
#pragma unroll
            for (int part = LAST ? 1 : 0; part < 3; ++part) {
                load_a_transposed(Rows{QKV_AT + part * TILE_BYTES}, at, row, a);
#pragma unroll
                for (int n = 0; n < 4; ++n) {
                    mma_bf16(din[part][n], a, b[n]);
                }
            }
        }
        if (LAST) {
#pragma unroll
            for (unsigned i = 0; i < 2; ++i) {
                const Query<true> query(Patches(p, 2 * pair + i), lane % 16);
                uint32_t a[4];
                load_a_transposed(q, i * QUERIES, row, a);
#pragma unroll
                for (int n = 0; n < 4; n += 2) {
                    uint32_t b[2][2];
                    gather_b_transposed(x, i * SLOTS + query.slot, column + 8 * n, b);
                    mma_bf16(din[0][n], a, b[0]);
                    mma_bf16(din[0][n + 1], a, b[1]);
                }
            }
        }
        if (bias_row < D) {
            add_rows(q, 2 * QUERIES);
        } else if (bias_row < 3 * D) {
            add_rows(Rows{QKV_AT + bias_row / D * TILE_BYTES}, ROWS);
        }
    }

    float *partials = params.partials + static_cast<size_t>(blockIdx.x) * PARTS;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
        float *to = partials + (part < 3 ? part * D * D : OUT_WEIGHT_PART);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float (&sums)[4] = part < 3 ? din[part < 3 ? part : 0][i / 2] : dout[i / 2];
            const Pack<float, 2> two = {{sums[i % 2 * 2], sums[i % 2 * 2 + 1]}};
            store(to + (row + lane / 4 + i % 2 * 8) * D + column + i / 2 * 8 + 2 * quarter, two);
        }
    }
    __syncthreads();
    // Over the rows of the warp, then the warps; biases over their halves.
    const SharedPtr<float> norms = shared_memory<float>(O_AT);   // [2, 4, 64]
    const SharedPtr<float> biases = shared_memory<float>(DR_AT); // [2, 256]
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2) {
            dgamma[i] += __shfl_xor_sync(0xffffffffu, dgamma[i], lanes);
            dbeta[i] += __shfl_xor_sync(0xffffffffu, dbeta[i], lanes);
        }
        if (lane < 4) {
            const unsigned at = warp / 2 * D + column + i / 2 * 8 + 2 * quarter + i % 2;
            norms[at] = dgamma[i];
            norms[4 * D + at] = dbeta[i];
        }
    }
    biases[bias_half * 4 * D + bias_row] = dbias[0];
    biases[bias_half * 4 * D + bias_row + 1] = dbias[1];
    __syncthreads();
    const unsigned bias_part = thread < 3 * D ? IN_BIAS_PART + thread : OUT_BIAS_PART + thread - 3 * D;
    partials[bias_part] = biases[thread] + biases[4 * D + thread];
    if (thread < 2 * D) {
        const unsigned at = thread / D * 4 * D + thread % D;
        partials[GAMMA_PART + thread] = norms[at] + norms[at + D] + norms[at + 2 * D] + norms[at + 3 * D];
    }
}

} // namespace

#define BACKWARD(size)                                                                                                 \
    KERNEL(BACKWARD_THREADS, self_attention_backward_##size##_bf16, SelfAttentionBackward) { backward<size, false>(p); }      \
    KERNEL(BACKWARD_THREADS, self_attention_backward_##size##_last_bf16, SelfAttentionBackward) { backward<size, true>(p); }
BACKWARD(8)
BACKWARD(16)
BACKWARD(32)
BACKWARD(64)

// A block owns 32 of the partials' columns, as those of columns.cu do. Shared memory: float [8, 32].
KERNEL(256, self_attention_sums, SelfAttentionSums) {
    const SharedPtr<float> sums = shared_memory<float>(0);
    const unsigned lane = threadIdx.x % 32, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
#pragma unroll 4
    for (unsigned i = threadIdx.x / 32; i < p.blocks; i += 8) {
        sum += p.partials[static_cast<size_t>(i) * PARTS + column];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        float total = 0.0f;
        for (unsigned warp = 0; warp < 8; ++warp) {
            total += sums[32 * warp + lane];
        }
        float *to = column < IN_BIAS_PART      ? p.in_weight + column
                    : column < OUT_WEIGHT_PART ? p.in_bias + (column - IN_BIAS_PART)
                    : column < OUT_BIAS_PART   ? p.out_weight + (column - OUT_WEIGHT_PART)
                    : column < GAMMA_PART      ? p.out_bias + (column - OUT_BIAS_PART)
                    : column < BETA_PART       ? p.gamma + (column - GAMMA_PART)
                                               : p.beta + (column - BETA_PART);
        *to = total;
    }
}
