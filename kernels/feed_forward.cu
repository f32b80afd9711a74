// The feed-forward half of a transformer's layer in one kernel forward and one backward, bf16, 64 features:
// y = layer_norm(s)·γ + β with s = x + drop(h·W2ᵀ + b2) and h = drop(gelu(x·W1ᵀ + b1)).
//
// x, y, dx, dy, normalized [rows, 64]; W1 [hidden, 64], W2 [64, hidden], which feed_forward_pack rounds to bf16; biases, γ, β
// float. The hidden rows never leave a multiprocessor. The forward leaves n = (s − mean(s))·rstd(s) and rstd for the backward:
// 132 bytes a row, which save it two of seven products and a second pass over the hidden units, far more than they cost.
//
// Forward. A block of 16 warps keeps both weights in shared memory, and each of its warps walks over tiles of 16 rows on its
// own, without a barrier: while one waits for memory another computes GELU and a third multiplies. Rows of tokens pass from
// product to product in registers, since the sums of one are laid out as the operand of the next. The order of k in a product
// and of n among its tiles is free, so features are dealt out such that a thread of a quad owns whole runs of eight: position
// 8·j + 2·t + c of 32 stands for feature 8·t + 2·j + c, with tile j, thread t and element c. Its memory accesses are then
// 16-byte vectors, a run is one Philox counter, and so are W's fragments, read from rows as they are.
//
// Backward. With g = dy·γ: ds = (g − mean(g) − n·mean(g·n))·rstd, df = drop(ds), dh = df·W2, dp = drop(dh)·gelu'(p) of
// p = x·W1ᵀ + b1, dx = ds + dp·W1, dW2 = dfᵀ·h, dW1 = dpᵀ·x. A block walks over tiles of 32 rows; a warp owns 32 hidden
// units, whose two weight gradients stay in its registers (128 a thread) over all tiles. It computes pᵀ and dhᵀ, hidden units
// as rows: hᵀ and dpᵀ are then the left operands of the weight gradients as they are, and only dpᵀ goes to shared memory, for
// dx, where the warps share out the features. The number of blocks is fixed (one for each multiprocessor of an RTX A6000), so that sums
// do not depend on the GPU; feed_forward_sum adds up the blocks' gradients in their order.
//
// Bytes a row: forward 388 (256 where no backward follows), backward 516, and a block's partials once. Operations: 4·64·hidden
// forward, 10·64·hidden backward; instructions a hidden unit: 36 and 40, a third of them Philox. On an RTX A6000, 240,000 rows
// of 256 hidden units cost 0.12 ms of memory, 0.10 ms of products and 0.13 ms of instructions forward, 0.18, 0.25 and 0.25
// backward. Shared memory: 260·hidden bytes forward, 16.1 KB + 320·hidden backward, 65 and 96 KB at 256; one block a
// multiprocessor, of 16 warps forward and hidden / 32 backward.
#include "gelu.cuh"
#include "philox.cuh"
#include "reduce.cuh"
#include "tile.cuh"

namespace {

constexpr unsigned D = 64; // features
using Words = Pack<uint32_t, 4>; // eight bf16

// Byte of 16-byte unit `unit` of row `row`, rows of `units` units: two neighbouring rows, from four units of which eight lanes
// read at a time, are on different banks.
__device__ inline unsigned paired(unsigned row, unsigned unit, unsigned units) {
    return 16 * (row * units + (unit ^ row % 2 * 4));
}

// The row of B's fragment for tile j of 32 positions.
__device__ inline unsigned spread(unsigned g, unsigned j) { return g / 2 * 8 + 2 * j + g % 2; }

__device__ inline void load_run(const float *from, float (&x)[8]) {
    const Pack<float, 4> low = load<4>(from), high = load<4>(from + 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        x[i] = low.v[i];
        x[4 + i] = high.v[i];
    }
}

__device__ inline Words pack_run(const float (&x)[8]) {
    Words words;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        words.v[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
    }
    return words;
}

// Over the four threads of a quad; each gets it.
__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

} // namespace

KERNEL(256, feed_forward_pack_bf16, FeedForwardPack) {
    const unsigned at = 8 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (at < 2 * p.len) {
        float w[8];
        load_run(at < p.len ? p.w1 + at : p.w2 + (at - p.len), w);
        store(static_cast<uint32_t *>(p.to) + at / 2, pack_run(w));
    }
}

KERNEL(512, feed_forward_bf16, FeedForward) {
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const unsigned units = p.hidden / 8, second = 2 * D * p.hidden, biases = 2 * second;
    const bf16 *w1 = static_cast<const bf16 *>(p.weights), *w2 = w1 + D * p.hidden;
    for (unsigned i = threadIdx.x; i < 8 * p.hidden; i += blockDim.x) {
        async_copy16(shared_memory<bf16>(paired(i / 8, i % 8, 8)), w1 + 8 * i);
        async_copy16(shared_memory<bf16>(second + paired(i / units, i % units, units)), w2 + 8 * i);
    }
    for (unsigned i = threadIdx.x; i < p.hidden / 4; i += blockDim.x) {
        async_copy16(shared_memory<float>(biases + 16 * i), p.b1 + 4 * i);
    }
    async_commit();
    async_wait<0>();
    __syncthreads();

    const unsigned warps = blockDim.x / 32;
    const unsigned long long stride = 16ull * warps * gridDim.x;
    for (unsigned long long first = 16ull * (blockIdx.x * warps + threadIdx.x / 32); first < p.rows; first += stride) {
        // x as fragments of A: rows g and g + 8, k in 32 positions a pair.
        uint32_t x[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const unsigned half = i % 2, group = i / 2;
            const unsigned long long row = first + g + 8 * half;
            Words words = {};
            if (row < p.rows) {
                words = load<4>(static_cast<const uint32_t *>(p.x) + (row * D + 32 * group + 8 * t) / 2);
            }
            x[2 * group][half] = words.v[0];
            x[2 * group][2 + half] = words.v[1];
            x[2 * group + 1][half] = words.v[2];
            x[2 * group + 1][2 + half] = words.v[3];
        }
        float sums[8][4] = {};
        for (unsigned c = 0; c < p.hidden / 32; ++c) { // 32 hidden units
            float pre[4][4] = {};
#pragma unroll
            for (int group = 0; group < 2; ++group) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const Words w = load<4>(shared_memory<uint32_t>(paired(32 * c + spread(g, j), 4 * group + t, 8)));
                    mma_bf16(pre[j], x[2 * group], {w.v[0], w.v[1]});
                    mma_bf16(pre[j], x[2 * group + 1], {w.v[2], w.v[3]});
                }
            }
            const unsigned unit = 32 * c + 8 * t;
            const Pack<float, 4> bias[2] = {load<4>(shared_memory<float>(biases + 4 * unit)),
                                            load<4>(shared_memory<float>(biases + 4 * unit + 16))};
            uint32_t a[2][4];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float h[8];
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const float z = pre[i / 2][2 * half + i % 2] + bias[i / 4].v[i % 4];
                    h[i] = z * standard_normal<bf16>(z).cdf;
                }
                dropout_apply8(p.inner, (first + g + 8 * half) * p.hidden + unit, h);
                const Words words = pack_run(h);
                a[0][half] = words.v[0];
                a[0][2 + half] = words.v[1];
                a[1][half] = words.v[2];
                a[1][2 + half] = words.v[3];
            }
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const unsigned row = j / 4 * 32 + spread(g, j % 4);
                const Words w = load<4>(shared_memory<uint32_t>(second + paired(row, 4 * c + t, units)));
                mma_bf16(sums[j], a[0], {w.v[0], w.v[1]});
                mma_bf16(sums[j], a[1], {w.v[2], w.v[3]});
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const unsigned long long row = first + g + 8 * half;
            float s[2][8], mean = 0.0f, variance = 0.0f;
#pragma unroll
            for (int group = 0; group < 2; ++group) {
                float bias[8];
                load_run(p.b2 + 32 * group + 8 * t, bias);
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    s[group][i] = sums[4 * group + i / 2][2 * half + i % 2] + bias[i];
                }
                dropout_apply8(p.outer, row * D + 32 * group + 8 * t, s[group]);
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const uint32_t pair = x[2 * group + i / 4][i / 2 % 2 * 2 + half];
                    s[group][i] += i % 2 == 0 ? low_bf16(pair) : high_bf16(pair);
                    mean += s[group][i];
                }
            }
            mean = quad_sum(mean) / D;
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                variance += (s[i / 8][i % 8] - mean) * (s[i / 8][i % 8] - mean);
            }
            const float rstd = rsqrtf(quad_sum(variance) / D + 1e-5f);
            if (p.normalized != nullptr && t == 0) {
                p.rstd[row] = rstd;
            }
#pragma unroll
            for (int group = 0; group < 2; ++group) {
                const unsigned column = 32 * group + 8 * t;
                float gamma[8], beta[8];
                load_run(p.gamma + column, gamma);
                load_run(p.beta + column, beta);
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    s[group][i] = (s[group][i] - mean) * rstd;
                    gamma[i] = s[group][i] * gamma[i] + beta[i];
                }
                if (row < p.rows) {
                    store(static_cast<uint32_t *>(p.y) + (row * D + column) / 2, pack_run(gamma));
                    if (p.normalized != nullptr) {
                        store(static_cast<uint32_t *>(p.normalized) + (row * D + column) / 2, pack_run(s[group]));
                    }
                }
            }
        }
    }
}

namespace {

constexpr unsigned ROWS = 32;                // of the backward's tile
constexpr unsigned TILE = 2 * ROWS * D;      // bytes of a tile of [32, 64]
constexpr unsigned COLUMNS = 3 * D;          // b2, γ, β

// Where the backward keeps what in shared memory.
struct Places {
    unsigned hidden;

    __device__ Tile<64> w1() const { return {0}; } // [hidden, 64]
    // Columns 64·i.. of W2, [64, 64]
    __device__ Tile<64> w2(unsigned i) const { return {(hidden + D * i) * 2 * D}; }
    __device__ Tile<64> x() const { return {4 * D * hidden}; }
    __device__ Tile<64> df() const { return {4 * D * hidden + TILE}; } // dy before
    // n, then ds, then dx; two, since a tile's dx leaves while the next one's n is at work.
    __device__ Tile<64> ds(unsigned parity) const { return {4 * D * hidden + (2 + parity) * TILE}; }
    __device__ unsigned rstd() const { return 4 * D * hidden + 4 * TILE; }
    __device__ Tile<ROWS> dp() const { return {rstd() + 4 * ROWS}; } // [hidden, 32]
    __device__ SharedPtr<float> columns() const { return shared_memory<float>(dp().base); } // afterwards
};

// Of eight elements from `first` on, the bits of those that stay.
__device__ inline unsigned kept_bits(const Dropout &dropout, unsigned long long first) {
    if (dropout.threshold == 0) {
        return 0xffu;
    }
    const Philox drawn = philox(dropout, static_cast<unsigned>(first / 8));
    unsigned bits = 0;
#pragma unroll
    for (unsigned i = 0; i < 8; ++i) {
        bits |= (drawn.half_word(i) < dropout.threshold ? 0u : 1u) << i;
    }
    return bits;
}

// Starts the copies of a tile's rows.
__device__ inline void fetch(const FeedForwardBackward &p, const Places &places, unsigned tile, unsigned parity) {
    const unsigned long long first = static_cast<unsigned long long>(tile) * ROWS;
    const unsigned valid = static_cast<unsigned>(min(p.rows - first, static_cast<unsigned long long>(ROWS)));
    fill_tile(places.x(), static_cast<const bf16 *>(p.x) + first * D, D, ROWS, valid);
    fill_tile(places.df(), static_cast<const bf16 *>(p.dy) + first * D, D, ROWS, valid);
    fill_tile(places.ds(parity), static_cast<const bf16 *>(p.normalized) + first * D, D, ROWS, valid);
    if (threadIdx.x < ROWS / 4) { // rows of rstd are there up to a multiple of 16
        const bool inside = 4 * threadIdx.x < valid;
        async_copy16(shared_memory<float>(places.rstd() + 16 * threadIdx.x),
                     inside ? p.rstd + first + 4 * threadIdx.x : p.rstd, inside);
    }
    async_commit();
}

// Stores a tile's dx.
__device__ inline void store_dx(const FeedForwardBackward &p, const Places &places, unsigned tile, unsigned parity) {
    const unsigned long long first = static_cast<unsigned long long>(tile) * ROWS;
    for (unsigned i = threadIdx.x; i < ROWS * D / 8; i += blockDim.x) {
        if (first + i / 8 < p.rows) {
            store(static_cast<bf16 *>(p.dx) + first * D + 8 * i, load<8>(places.ds(parity).unit(i / 8, i % 8)));
        }
    }
}

} // namespace

KERNEL_RESIDENT(256, 1, feed_forward_backward_bf16, FeedForwardBackward) {
    const Places places{p.hidden};
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = p.hidden / 32, g = lane / 4, t = lane % 4;
    const unsigned tiles = static_cast<unsigned>((p.rows + ROWS - 1) / ROWS);
    const bf16 *w1 = static_cast<const bf16 *>(p.weights), *w2 = w1 + D * p.hidden;
    fill_tile(places.w1(), w1, D, p.hidden, p.hidden);
    for (unsigned i = 0; i < p.hidden / 64; ++i) {
        fill_tile(places.w2(i), w2 + 64 * i, p.hidden, D, D);
    }
    fetch(p, places, blockIdx.x, 0);

    // The warp's 32 hidden units, two tiles of 16 rows: sums of dW1 and of dW2ᵀ, and of db1 for rows g and g + 8.
    float dw1[2][8][4] = {}, dw2[2][8][4] = {}, db1[2][2] = {};
    float db2[2] = {}, dgamma[2] = {}, dbeta[2] = {}; // of columns 2·lane and the next, over the rows that the warp takes
    const Pack<float, 2> gamma = load<2>(p.gamma + 2 * lane);

    // Which of the warp's hidden units stay: those of row `lane` of the tile. Half of the warps draw before the barrier that
    // begins a tile's products, half behind it, so that of two warps that share a tensor core one multiplies while the
    // other computes GELU.
    const bool early = 2 * warp < warps;
    const auto draw = [&](unsigned tile) {
        const unsigned long long row = static_cast<unsigned long long>(tile) * ROWS + lane;
        unsigned bits = 0;
#pragma unroll 1
        for (unsigned i = 0; i < 4; ++i) {
            bits |= kept_bits(p.inner, row * p.hidden + 32 * warp + 8 * i) << 8 * i;
        }
        return bits;
    };
    unsigned hidden_bits = early ? draw(blockIdx.x) : 0;

    unsigned parity = 0;
    for (unsigned tile = blockIdx.x; tile < tiles; tile += gridDim.x, parity ^= 1) {
        const unsigned long long first = static_cast<unsigned long long>(tile) * ROWS;
        const Tile<64> x = places.x(), df = places.df(), ds = places.ds(parity);
        async_wait<0>();
        __syncthreads(); // the tile is there, and all of the last one's dx
        if (tile != blockIdx.x) {
            store_dx(p, places, tile - gridDim.x, parity ^ 1);
        }
        for (unsigned four = 4 * warp; four < ROWS; four += 4 * warps) { // four rows of layer norm
            // A quad's lanes draw eight elements of one row each.
            const unsigned bits = kept_bits(p.outer, (first + four + t) * D + 8 * g);
            float d[4][2], n[4][2], mean[4], product[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const Pack<bf16, 2> dy_pair = load<2>(df.at(four + i, 2 * lane));
                const Pack<bf16, 2> n_pair = load<2>(ds.at(four + i, 2 * lane));
                mean[i] = product[i] = 0.0f;
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const float dy = to_float(dy_pair.v[j]);
                    n[i][j] = to_float(n_pair.v[j]);
                    dgamma[j] += dy * n[i][j];
                    dbeta[j] += dy;
                    d[i][j] = dy * gamma.v[j];
                    mean[i] += d[i][j];
                    product[i] += d[i][j] * n[i][j];
                }
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                mean[i] = warp_sum(mean[i]) / D;
                product[i] = warp_sum(product[i]) / D;
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float rstd = shared_memory<float>(places.rstd())[four + i];
                const unsigned kept = __shfl_sync(0xffffffffu, bits, static_cast<int>(4 * g + i)) >> 2 * t;
                float dropped[2];
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    d[i][j] = (d[i][j] - mean[i] - n[i][j] * product[i]) * rstd;
                    dropped[j] = (kept >> j & 1) != 0 ? d[i][j] * p.outer.scale : 0.0f;
                    db2[j] += dropped[j];
                }
                store(ds.at(four + i, 2 * lane), Pack<bf16, 2>{from_float<bf16>(d[i][0]), from_float<bf16>(d[i][1])});
                store(df.at(four + i, 2 * lane),
                      Pack<bf16, 2>{from_float<bf16>(dropped[0]), from_float<bf16>(dropped[1])});
            }
        }
        __syncthreads();
        if (!early) {
            hidden_bits = draw(tile);
        }

        float bias[2][2]; // of rows g and g + 8
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            bias[i / 2][i % 2] = p.b1[32 * warp + 8 * i + g];
        }
#pragma unroll 1
        for (int k = 0; k < 2; ++k) { // 16 rows
            float pre[2][2][4] = {}, dh[2][2][4] = {}; // pᵀ and dhᵀ, then hᵀ and dpᵀ: [2·16 hidden units, 2·8 rows]
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                uint32_t a[4], b[2][2];
                load_b(x, 16 * k, 16 * i, b);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    load_a(places.w1(), 32 * warp + 16 * m, 16 * i, a);
                    mma_bf16(pre[m][0], a, b[0]);
                    mma_bf16(pre[m][1], a, b[1]);
                }
                load_b(df, 16 * k, 16 * i, b);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    load_a_transposed(places.w2(warp / 2), 16 * i, warp % 2 * 32 + 16 * m, a);
                    mma_bf16(dh[m][0], a, b[0]);
                    mma_bf16(dh[m][1], a, b[1]);
                }
            }
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const int row = static_cast<int>(16 * k + 8 * n + 2 * t);
                const unsigned kept[2] = {__shfl_sync(0xffffffffu, hidden_bits, row) >> g,
                                          __shfl_sync(0xffffffffu, hidden_bits, row + 1) >> g};
#pragma unroll
                for (int m = 0; m < 2; ++m) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const float factor = (kept[i % 2] >> (16 * m + i / 2 * 8) & 1) != 0 ? p.inner.scale : 0.0f;
                        const float z = pre[m][n][i] + bias[m][i / 2];
                        const Normal normal = standard_normal<bf16>(z);
                        pre[m][n][i] = z * normal.cdf * factor;
                        dh[m][n][i] *= (normal.cdf + z * normal.density) * factor;
                        db1[m][i / 2] += dh[m][n][i];
                    }
                }
            }
            uint32_t h[2][4], dp[2][4];
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                fragment(pre[m][0], pre[m][1], h[m]);
                fragment(dh[m][0], dh[m][1], dp[m]);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const SharedPtr<bf16> to =
                        places.dp().at(32 * warp + 16 * m + i % 2 * 8 + g, 16 * k + i / 2 * 8 + 2 * t);
                    store(to, Pack<bf16, 2>{from_float<bf16>(low_bf16(dp[m][i])), from_float<bf16>(high_bf16(dp[m][i]))});
                }
            }
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                uint32_t b[2][2];
                load_b_transposed(df, 16 * k, 16 * n, b);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    mma_bf16(dw2[m][2 * n], h[m], b[0]);
                    mma_bf16(dw2[m][2 * n + 1], h[m], b[1]);
                }
                load_b_transposed(x, 16 * k, 16 * n, b);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    mma_bf16(dw1[m][2 * n], dp[m], b[0]);
                    mma_bf16(dw1[m][2 * n + 1], dp[m], b[1]);
                }
            }
        }
        if (early) {
            hidden_bits = draw(tile + gridDim.x);
        }
        __syncthreads(); // dp is there, x and df are free
        if (tile + gridDim.x < tiles) {
            fetch(p, places, tile + gridDim.x, parity ^ 1);
        }
        for (unsigned part = warp; part < 8; part += warps) { // 16 rows and 16 features of dx
            const unsigned m = part / 4 * 16, n = part % 4 * 16;
            float dx[2][4] = {};
#pragma unroll 4
            for (unsigned k = 0; k < p.hidden; k += 16) {
                uint32_t a[4], b[2][2];
                load_a_transposed(places.dp(), k, m, a);
                load_b_transposed(places.w1(), k, n, b);
                mma_bf16(dx[0], a, b[0]);
                mma_bf16(dx[1], a, b[1]);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const SharedPtr<bf16> at = ds.at(m + i % 2 * 8 + g, n + i / 2 * 8 + 2 * t);
                Pack<bf16, 2> pair = load<2>(at);
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    pair.v[j] = from_float<bf16>(to_float(pair.v[j]) + dx[i / 2][i % 2 * 2 + j]);
                }
                store(at, pair);
            }
        }
    }
    __syncthreads();
    const unsigned last = blockIdx.x + (tiles - 1 - blockIdx.x) / gridDim.x * gridDim.x;
    store_dx(p, places, last, parity ^ 1);

    float *partials = p.partials + static_cast<size_t>(blockIdx.x) * ((2 * D + 1) * p.hidden + COLUMNS);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const unsigned unit = 32 * warp + 16 * m + 8 * half + g;
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                const unsigned column = 8 * n + 2 * t;
                store(partials + unit * D + column, Pack<float, 2>{dw1[m][n][2 * half], dw1[m][n][2 * half + 1]});
                partials[(D + column) * p.hidden + unit] = dw2[m][n][2 * half];
                partials[(D + column + 1) * p.hidden + unit] = dw2[m][n][2 * half + 1];
            }
            const float sum = quad_sum(db1[m][half]);
            if (t == 0) {
                partials[2 * D * p.hidden + unit] = sum;
            }
        }
    }
    const SharedPtr<float> columns = places.columns(); // [warps][192]
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        columns[warp * COLUMNS + 2 * lane + j] = db2[j];
        columns[warp * COLUMNS + D + 2 * lane + j] = dgamma[j];
        columns[warp * COLUMNS + 2 * D + 2 * lane + j] = dbeta[j];
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < COLUMNS; i += blockDim.x) {
        float sum = 0.0f;
        for (unsigned w = 0; w < warps; ++w) {
            sum += columns[w * COLUMNS + i];
        }
        partials[(2 * D + 1) * p.hidden + i] = sum;
    }
}

// A block of eight warps sums 32 columns of the partials: each warp every eighth block's, then the first adds their sums in
// order.
KERNEL(256, feed_forward_sum, FeedForwardSum) {
    const unsigned columns = (2 * D + 1) * p.hidden + COLUMNS, column = blockIdx.x * 32 + threadIdx.x % 32;
    SharedPtr<float> sums = shared_memory<float>(0); // [8][32]
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 4
        for (unsigned i = threadIdx.x / 32; i < p.blocks; i += 8) {
            sum += p.partials[static_cast<size_t>(i) * columns + column];
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= 32 || column >= columns) {
        return;
    }
    sum = 0.0f;
    for (unsigned warp = 0; warp < 8; ++warp) {
        sum += sums[32 * warp + threadIdx.x];
    }
    unsigned at = column;
    const auto put = [&](float *to, unsigned len) {
        if (at < len) {
            to[at] = sum;
        }
        at -= len; // beyond every length once it has been stored
    };
    put(p.dw1, D * p.hidden);
    put(p.dw2, D * p.hidden);
    put(p.db1, p.hidden);
    put(p.db2, D);
    put(p.dgamma, D);
    put(p.dbeta, D);
}
