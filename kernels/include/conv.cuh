// The two matrix products behind the convolutions, on channels-last maps with a zero border.
//
// A kernel walks over the stored pixels of a grid [batch, height, width], border included, as one flat row. Neighbours in a
// line are then neighbours in memory and in the tile, so a tile of M pixels with TAPS taps needs one window of M + TAPS − 1
// rows for all its taps, and a tile may begin and end anywhere. Pixels of the border are computed like the others and stored
// as zeros, which is what the border holds: 2·(1/H + 1/W) more work, no second kernel and no bounds check but one a row.
// ConvWindows says where the rows of a line lie, which is all that tells the four convolutions apart:
//   conv, forward and input gradient: 3 lines of 3 taps around the pixel;
//   up_conv, forward: for each phase 2 lines of 2 taps;
//   up_conv, input gradient: 8 lines of 2 taps. A pixel gathers 4×4 output pixels at stride 2; in pairs of output pixels
//   the stride is 1, and a line is one half of the pairs of one output line.
//
// Shared memory is a ring of two or three buffers filled by asynchronous copies. Rows are swizzled in units of 16 bytes so
// that the eight rows of an 8×8 matrix fall on different banks wherever the first row lies.
//
// The batch norm + ReLU between two convolutions have no pass of their own. The product that makes a map sums its moments as
// the tile leaves. Kernels named norm_… read such a raw map: when a thread's copies for a step have arrived, it normalizes
// them where they lie, before the barrier that shows them to the others. That takes no registers while the products run,
// which copies held in registers would (8 to 12 beside 64 sums and their operands, of 128), and no more barriers, for two
// more accesses to shared memory an element. The border's zeros are left alone, and a mask is appended by its bit. The product
// that makes the gradient at such a map applies the ReLU's mask to it, from x, and sums what dγ and dβ need. So a map costs
// 2 passes over memory forward, not 5, and 8 backward, not 9.
#pragma once

#include "affine.cuh"
#include "async.cuh"
#include "common.cuh"
#include "mma.cuh"
#include "tile.cuh"
#include "patches.cuh"

namespace conv {

constexpr int THREADS = 256;

// A pixel of the grid. Border pixels before the first line count as the last ones of a sample before it.
struct Position {
    int batch, row, column;
};
__device__ inline Position position(int pixel, unsigned height, unsigned width) {
    const unsigned shifted = static_cast<unsigned>(pixel + static_cast<int>(height * width));
    const unsigned line = shifted / width;
    return {static_cast<int>(line / height) - 1, static_cast<int>(line % height), static_cast<int>(shifted % width)};
}

__device__ inline long long window_offset(const ConvWindows &w, const Position &at) {
    return w.origin + at.batch * w.batch_step + at.row * w.row_step + at.column * w.column_step;
}
__device__ inline long long line_offset(const ConvWindows &w, unsigned line) {
    const bool halves = w.halves == 2;
    return (halves ? line / 2 : line) * w.line_step + (halves ? line % 2 : 0) * static_cast<long long>(w.channels);
}

// What normalizes `count` channels, in shared memory: mean, γ·rstd and β, zeros beyond the channels stored.
struct NormTable {
    SharedPtr<float> values; // [3, count]
    unsigned count;

    __device__ void fill(const ConvNorm &norm, unsigned first) const {
#pragma unroll 1
        for (unsigned i = threadIdx.x; i < count; i += THREADS) {
            const Affine<1> affine(norm.affine, norm.stride, first + i);
            values[i] = affine.mean[0];
            values[count + i] = affine.scale[0];
            values[2 * count + i] = affine.shift[0];
        }
    }

    // Of the vector of channels from `first` on.
    template <int N> __device__ Affine<N> of(unsigned first) const {
        Affine<N> affine;
#pragma unroll
        for (int part = 0; part < N; part += 4) {
            const SharedPtr<float> at = values + (first + part);
            const Pack<float, 4> mean = load<4>(at), scale = load<4>(at + count), shift = load<4>(at + 2 * count);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                affine.mean[part + j] = mean.v[j];
                affine.scale[part + j] = scale.v[j];
                affine.shift[part + j] = shift.v[j];
            }
        }
        return affine;
    }
};

// A vector of raw values in shared memory becomes what batch_norm_forward would have written.
template <typename T> __device__ inline void normalize(SharedPtr<T> at, const Affine<VECTOR<T>> &affine) {
    Pack<T, VECTOR<T>> pack = load<VECTOR<T>>(at);
#pragma unroll
    for (int j = 0; j < VECTOR<T>; ++j) {
        pack.v[j] = from_float<T>(fmaxf(affine.normal(to_float(pack.v[j]), j), 0.0f));
    }
    store(at, pack);
}

// ---- output = windows · panel ----
//
// A block of 256 threads owns M pixels × N output channels of one phase; its K dimension is lines × chunks of 32 bytes of
// channels × TAPS, a step of the ring being one line and chunk with all taps: (M + TAPS − 1 + TAPS·N)·32 bytes.
// bf16: a warp owns 32 pixels × N (M = 256) or N / 2 (M = 128) channels as m16n8k16 products. float: a thread owns
// 8 pixels × 4 channels. Consecutive blocks share the pixels (phases and channel tiles vary fastest), which then come from L2.
// Operations: 2·TAPS·lines·Cin·Cout a pixel; bytes from DRAM: input and output once. A 3×3 convolution of C to C channels in
// bf16 is 4.5·C operations a byte: below the balance of an RTX A6000 (about 200) for 32 channels, where DRAM bounds it,
// above for 64. From L2 a block reads each step's bytes for 2·32·TAPS·M·N / sizeof(T) operations: 70 to 110 a byte.
// Normalizing takes about 50 instructions for a vector of 8 channels a line: of the tensor cores' time on an RTX A6000 an
// eighth (64 channels) to a quarter (32), beside which they go on with another block's products. Moments and the sums for dγ
// and dβ are two floats for each block and channel, 2·4 bytes for M pixels' M·sizeof(T).

template <typename T, int N> constexpr int PIXELS = (sizeof(T) == 2 ? N > 64 : N > 32) ? 128 : 256;
// Buffers of the ring. Wider tiles are held to two blocks a multiprocessor by their registers, which leaves room for three,
// but for the widest beside a table of what normalizes; with two a third block of narrow tiles fits.
template <int TAPS, int N, bool NORM> constexpr int STAGES = N == 32 || (NORM && TAPS * N > 256) ? 2 : 3;

// Where pixel `pixel` of the grid goes in the output: its element, −2 − element for a zero of the border, −1 for nowhere.
__device__ inline long long output_place(const ConvGemm &p, int pixel, int py, int px) {
    const Position at = position(pixel, p.height, p.width);
    const int scale = static_cast<int>(p.scale);
    const int height = scale * (static_cast<int>(p.height) - 2) + 2, width = scale * (static_cast<int>(p.width) - 2) + 2;
    const int row = scale * at.row - (scale - 1) + py, column = scale * at.column - (scale - 1) + px;
    if (at.batch >= static_cast<int>(p.batch) || row < 0 || row >= height || column < 0 || column >= width) {
        return -1;
    }
    const long long line = static_cast<long long>(at.batch) * height + row;
    const long long element = (line * width + column) * p.channels;
    const bool border = row == 0 || row == height - 1 || column == 0 || column == width - 1;
    return border ? -2 - element : element;
}

// Sums each channel's values over the block. A thread brings those of its V channels, from V·(thread mod (N / V)) on;
// thread c < N gets the sum of channel c, the others nothing of use. `scratch` holds N floats a warp.
template <int N, int V> __device__ float sum_channels(const float (&values)[V], SharedPtr<float> scratch) {
    constexpr unsigned LANES = N / V; // lanes of a warp with different channels
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float left[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
        left[j] = values[j];
    }
    // Two lanes of the same channels share them out: each goes on with the sums of one half.
    unsigned first = lane % LANES * V;
#pragma unroll
    for (int offset = 16, half = V / 2; offset >= static_cast<int>(LANES); offset /= 2, half /= 2) {
        const bool upper = (lane & offset) != 0;
#pragma unroll
        for (int j = 0; j < V / 2; ++j) {
            if (j < half) {
                const float away = upper ? left[j] : left[j + half];
                left[j] = (upper ? left[j + half] : left[j]) + __shfl_xor_sync(0xffffffffu, away, offset);
            }
        }
        first += upper ? half : 0;
    }
    __syncthreads(); // the last call's sums have been read
#pragma unroll
    for (int j = 0; j < N / 32; ++j) {
        scratch[warp * N + first + j] = left[j];
    }
    __syncthreads();
    float sum = 0.0f;
    if (threadIdx.x < N) {
#pragma unroll
        for (int i = 0; i < THREADS / 32; ++i) {
            sum += scratch[i * N + threadIdx.x];
        }
    }
    return sum;
}

template <typename T, int TAPS, int N, bool NORM> __device__ void gemm(const ConvGemm &p) {
    constexpr int M = PIXELS<T, N>, V = VECTOR<T>, CHUNK = 2 * V;
    constexpr unsigned ROWS = M + TAPS - 1, WINDOW_BYTES = 32 * ROWS, PANEL_BYTES = 32 * TAPS * N;
    constexpr unsigned STAGE_BYTES = WINDOW_BYTES + PANEL_BYTES, PANEL = PANEL_BYTES / sizeof(T);
    constexpr int ROUNDS = ceil_div(2 * ROWS, THREADS), PANEL_UNITS = N / V, RING = STAGES<TAPS, N, NORM>;

    const ConvWindows &w = p.windows;
    const unsigned thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const unsigned tiles = ceil_div(p.channels, N), phases = p.scale * p.scale;
    const unsigned tile = blockIdx.x % tiles, phase = blockIdx.x / tiles % phases;
    const int first = static_cast<int>(blockIdx.x / (tiles * phases) * M);
    const int py = phase / p.scale, px = phase % p.scale;
    const unsigned chunks = ceil_div(w.channels, CHUNK), steps = w.lines * chunks;

    // The rows that this thread copies half of. A row outside the map's lines serves border pixels only: zeros. The border
    // itself holds zeros, but not once it is normalized: then each line of a row has a bit that says whether to read it.
    const T *values = static_cast<const T *>(w.values);
    int rows[ROUNDS]; // where they begin, in vectors
    unsigned inside = 0; // bit i, or TAPS·i + line of as many lines as taps, and 16 bits above it the mask's value
    const bool masked = NORM && p.norm.mask != nullptr && p.norm.channels / V % 2 == thread % 2;
#pragma unroll
    for (int i = 0; i < ROUNDS; ++i) {
        const int row = (thread + i * THREADS) / 2;
        const Position at = position(first + row + w.first_column + px, p.height, p.width);
        const bool read = at.batch >= 0 && at.batch < static_cast<int>(p.batch) && at.row >= 1 &&
                          at.row < static_cast<int>(p.height) - 1 && at.column >= 1;
        rows[i] = static_cast<int>((window_offset(w, at) + py * w.line_step) / V + thread % 2);
        if constexpr (NORM) {
#pragma unroll
            for (int l = 0; l < TAPS; ++l) {
                const unsigned y = at.row + py + l - 2, x = at.column - 1; // without the border
                if (read && y < p.height - 2 && x < p.width - 2) {
                    inside |= 1u << (TAPS * i + l);
                    if (masked) {
                        const PatchBits bits = {p.norm.mask, p.height - 2, p.width - 2, p.norm.patch};
                        inside |= static_cast<unsigned>(bits.at(at.batch, y, x)) << (16 + TAPS * i + l);
                    }
                }
            }
        } else {
            inside |= static_cast<unsigned>(read) << i;
        }
    }
    const T *panel = static_cast<const T *>(p.panel) + static_cast<size_t>(phase * tiles + tile) * steps * PANEL;

    unsigned line = 0; // of the next step to fetch
    const auto fetch = [&](unsigned step, unsigned stage) {
        const unsigned base = stage * STAGE_BYTES, chunk = step - line * chunks;
        const int offset = static_cast<int>(line_offset(w, line) / V) + 2 * static_cast<int>(chunk);
        const bool channel = chunk * CHUNK + thread % 2 * V < (NORM ? p.norm.stride : w.channels);
#pragma unroll
        for (int i = 0; i < ROUNDS; ++i) {
            const unsigned unit = thread + i * THREADS;
            if (unit < 2 * ROWS) {
                const bool read = (inside >> (NORM ? TAPS * i + line : i) & 1) != 0 && channel;
                async_copy16(shared_memory<T>(base + swizzled<2>(unit / 2, unit % 2)), read ? values + static_cast<long long>(rows[i] + offset) * V : values, read);
            }
        }
        const T *from = panel + static_cast<size_t>(step) * PANEL;
#pragma unroll
        for (int i = 0; i < static_cast<int>(ceil_div(PANEL_BYTES / 16, THREADS)); ++i) {
            const unsigned unit = thread + i * THREADS;
            if (PANEL_BYTES / 16 % THREADS == 0 || unit < PANEL_BYTES / 16) {
                const unsigned at = swizzled<PANEL_UNITS>(unit / PANEL_UNITS, unit % PANEL_UNITS);
                async_copy16(shared_memory<T>(base + WINDOW_BYTES + at), from + unit * V);
            }
        }
        line += chunk + 1 == chunks;
    };

    // Batch norm + ReLU of the units that this thread has copied, before the others read them.
    const NormTable table = {shared_memory<float>(RING * STAGE_BYTES), w.channels};
    const auto normalize_own = [&](unsigned step, unsigned stage) {
        unsigned line = 0;
#pragma unroll
        for (int l = 1; l < TAPS; ++l) {
            line += step >= l * chunks;
        }
        const unsigned channel = (step - line * chunks) * CHUNK + thread % 2 * V;
        if (channel < w.channels) {
            const Affine<V> affine = table.of<V>(channel);
            const unsigned element = p.norm.channels - channel; // of the mask
#pragma unroll 1
            for (unsigned unit = thread, bit = line; unit < 2 * ROWS; unit += THREADS, bit += TAPS) {
                if ((inside >> bit & 1) != 0) {
                    const SharedPtr<T> at = shared_memory<T>(stage * STAGE_BYTES + swizzled<2>(unit / 2, unit % 2));
                    normalize(at, affine);
                    if (p.norm.mask != nullptr && element < V) {
                        at[element] = from_float<T>(static_cast<float>(inside >> (16 + bit) & 1));
                    }
                }
            }
        }
    };

    constexpr int WARPS = M / 32, TILES = N * WARPS / 64; // warps along the pixels; 8-channel tiles of a warp
    constexpr int SUMS = sizeof(T) == 2 ? 2 * TILES * 4 : 32;
    float sums[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; ++i) {
        sums[i] = 0.0f;
    }
    const unsigned pixel_warp = warp % WARPS, channel_warp = warp / WARPS;
    constexpr int ACROSS = N / 4, DOWN = THREADS / ACROSS; // float: threads along channels and pixels
    const unsigned across = thread % ACROSS, down = thread / ACROSS;

    const auto multiply = [&](unsigned stage) {
        const unsigned base = stage * STAGE_BYTES;
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap) {
            if constexpr (sizeof(T) == 2) {
                uint32_t a[2][4];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const unsigned row = 32 * pixel_warp + 16 * i + lane % 16 + tap;
                    ldmatrix4(a[i], shared_memory<bf16>(base + swizzled<2>(row, lane / 16)));
                }
#pragma unroll
                for (int j = 0; j < TILES; j += 2) {
                    const unsigned unit = channel_warp * TILES + j + lane / 16;
                    const unsigned at = swizzled<PANEL_UNITS>(CHUNK * tap + lane % 16, unit);
                    uint32_t b[4];
                    ldmatrix4_transposed(b, shared_memory<bf16>(base + WINDOW_BYTES + at));
                    const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        mma_bf16(*reinterpret_cast<float(*)[4]>(&sums[(i * TILES + j) * 4]), a[i], left);
                        mma_bf16(*reinterpret_cast<float(*)[4]>(&sums[(i * TILES + j + 1) * 4]), a[i], right);
                    }
                }
            } else {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    Pack<float, 4> a[8];
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        a[i] = load<4>(shared_memory<float>(base + swizzled<2>(down + DOWN * i + tap, half)));
                    }
#pragma unroll
                    for (int k = 0; k < 4; ++k) {
                        const unsigned at = swizzled<PANEL_UNITS>(CHUNK * tap + 4 * half + k, across);
                        const Pack<float, 4> b = load<4>(shared_memory<float>(base + WINDOW_BYTES + at));
#pragma unroll
                        for (int i = 0; i < 8; ++i) {
#pragma unroll
                            for (int j = 0; j < 4; ++j) {
                                sums[4 * i + j] += a[i].v[k] * b.v[j];
                            }
                        }
                    }
                }
            }
        }
    };

#pragma unroll
    for (unsigned stage = 0; stage < RING - 1; ++stage) {
        if (stage < steps) {
            fetch(stage, stage);
        }
        async_commit();
    }
    if constexpr (NORM) {
        table.fill(p.norm, 0);
        __syncthreads();
    }
    unsigned reading = 0, writing = RING - 1;
    for (unsigned step = 0; step < steps; ++step) {
        async_wait<RING - 2>();
        if constexpr (NORM) {
            normalize_own(step, reading);
        }
        __syncthreads(); // this step's data is there, and the buffer read a step ago is free
        if (step + RING - 1 < steps) {
            fetch(step + RING - 1, writing);
        }
        async_commit();
        multiply(reading);
        writing = reading;
        reading = reading + 1 == RING ? 0 : reading + 1;
    }
    __syncthreads();

    // The sums leave as whole vectors: a thread has the same channels of OWN pixels. bf16 sums change hands in shared memory,
    // whose rows are 16 bytes apart beyond their length, against bank conflicts; those of floats are a thread's own anyway.
    constexpr unsigned PITCH = N + 8, PLACES = sizeof(T) == 2 ? M * PITCH * 2 : 0, SCRATCH = PLACES + 8 * M;
    constexpr unsigned VECTORS = N / V, APART = THREADS / VECTORS;
    constexpr int OWN = M / APART;
    const SharedPtr<long long> places = shared_memory<long long>(PLACES);
    const SharedPtr<float> scratch = shared_memory<float>(SCRATCH), centers = scratch + (THREADS / 32 * N);
    const SharedPtr<float> counts = centers + N; // pixels inside of the map, by warps
    if (thread < M) {
        const long long place = output_place(p, first + static_cast<int>(thread), py, px);
        places[thread] = place;
        const unsigned inner = __ballot_sync(0xffffffffu, place >= 0);
        if (lane == 0) {
            counts[warp] = static_cast<float>(__popc(inner));
        }
    }
    if constexpr (sizeof(T) == 2) {
        SharedPtr<bf16> staged = shared_memory<bf16>(0);
#pragma unroll
        for (int i = 0; i < 4 * TILES; ++i) { // pairs: 16-pixel tile, 8-channel tile, upper or lower half
            const unsigned row = 32 * pixel_warp + 16 * (i / (2 * TILES)) + 8 * (i % 2) + lane / 4;
            const unsigned column = (channel_warp * TILES + i / 2 % TILES) * 8 + lane % 4 * 2;
            store(staged + (row * PITCH + column),
                  Pack<bf16, 2>{from_float<bf16>(sums[2 * i]), from_float<bf16>(sums[2 * i + 1])});
        }
    }
    __syncthreads();
    const unsigned row = thread / VECTORS, column = thread % VECTORS * V, channel = tile * N + column;
    const bool stored = channel < p.channels;
    const auto value = [&](int i, long long place) { // of the i-th pixel
        Pack<T, V> pack;
        if constexpr (sizeof(T) == 2) {
            pack = load<V>(shared_memory<bf16>(0) + ((row + i * APART) * PITCH + column));
        } else {
            pack = {sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]};
        }
        return place < 0 ? Pack<T, V>{} : pack;
    };
    T *output = static_cast<T *>(p.output) + channel;
    const auto write = [&](long long place, const Pack<T, V> &pack) {
        if (place != -1 && stored) {
            store(output + (place < 0 ? -2 - place : place), pack);
        }
    };
    const unsigned block = blockIdx.x / tiles, blocks = gridDim.x / tiles, mine = tile * N + thread;
    if (NORM || p.sums.x == nullptr) {
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const long long place = places[row + i * APART];
            write(place, value(i, place));
        }
    } else { // through the ReLU, with the sums of dz·(x − mean) and dz
        const Affine<V> affine(p.sums.affine, p.channels, channel);
        const T *x = static_cast<const T *>(p.sums.x) + channel;
        float gamma[V] = {}, beta[V] = {};
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const long long place = places[row + i * APART];
            Pack<T, V> pack = value(i, place);
            if (place >= 0 && stored) {
                const Pack<T, V> values = load<V>(x + place);
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    const float xj = to_float(values.v[j]);
                    const float dz = affine.normal(xj, j) > 0.0f ? to_float(pack.v[j]) : 0.0f;
                    gamma[j] += dz * (xj - affine.mean[j]);
                    beta[j] += dz;
                    pack.v[j] = from_float<T>(dz);
                }
            }
            write(place, pack);
        }
        const float dgamma = sum_channels<N, V>(gamma, scratch), dbeta = sum_channels<N, V>(beta, scratch);
        if (thread < N && mine < p.sums.channels) {
            float *partials = p.sums.partials + static_cast<size_t>(mine) * blocks + block;
            partials[0] = dgamma * p.sums.affine[p.channels + mine]; // rstd
            partials[static_cast<size_t>(p.sums.channels) * blocks] = dbeta;
        }
    }
    if (p.sums.partials != nullptr && p.sums.x == nullptr) { // moments
        float sum[V] = {}, squares[V] = {}, count = 0.0f;
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const Pack<T, V> pack = value(i, places[row + i * APART]);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                sum[j] += to_float(pack.v[j]);
            }
        }
#pragma unroll
        for (int i = 0; i < M / 32; ++i) {
            count += counts[i];
        }
        const float center = sum_channels<N, V>(sum, scratch) / fmaxf(count, 1.0f);
        if (thread < N) {
            centers[thread] = center;
        }
        __syncthreads();
        float mean[V];
#pragma unroll
        for (int j = 0; j < V; ++j) {
            mean[j] = centers[column + j];
        }
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const long long place = places[row + i * APART];
            const Pack<T, V> pack = value(i, place);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float deviation = place < 0 ? 0.0f : to_float(pack.v[j]) - mean[j];
                squares[j] += deviation * deviation;
            }
        }
        const float spread = sum_channels<N, V>(squares, scratch);
        if (thread < N && mine < p.channels) {
            float *partials = p.sums.partials + static_cast<size_t>(mine) * blocks + block;
            partials[0] = center;
            partials[static_cast<size_t>(p.channels) * blocks] = spread;
        }
        if (tile == 0 && thread == 0) {
            p.sums.partials[static_cast<size_t>(2 * p.channels) * blocks + block] = count;
        }
    }
}

// Where element `i` of a panel comes from.
struct PanelPlace {
    unsigned phase, line, tap, input, output;
};
__device__ inline PanelPlace panel_place(const ConvPack &p, unsigned long long i, unsigned lines, unsigned taps,
                                         unsigned chunk) {
    unsigned rest = static_cast<unsigned>(i / p.tile);
    PanelPlace at;
    at.output = static_cast<unsigned>(i % p.tile);
    at.input = rest % chunk;
    rest /= chunk;
    at.tap = rest % taps;
    rest /= taps;
    at.input += rest % p.chunks * chunk;
    rest /= p.chunks;
    at.line = rest % lines;
    rest /= lines;
    at.output += rest % p.tiles * p.tile;
    at.phase = rest / p.tiles;
    return at;
}

// ---- partials = windowsᵀ · centers ----
//
// The weights' gradient: TAPS × (window channels × center channels), summed over pixels. A block of 256 threads owns one line,
// WIDE window channels × TALL center channels with all taps, and the pixels of one split; a step of the ring is 64 (bf16) or 32
// (float) pixels. Both operands lie pixel by pixel, so the tensor cores take them through transposed ldmatrix, and a
// tap is a row further in the window. bf16: a warp owns TAPS × 16 × 32 sums; float: a thread owns TAPS × 4 × 4. Tiles that need
// fewer threads share the pixels of a step between groups of threads, whose sums are added in fixed order at the end.
// The number of splits follows from the sizes alone, so a gradient is the same on every device; conv_weight_sum adds them up.
// Operations as in the forward; bytes: each tile reads its channels once a line, neighbouring blocks the same ones, from L2:
// 47 (32×32) to 94 (64×64) operations a byte. The partials are small beside that: one for every 8192 pixels.

// Buffers of the ring: three, if two blocks with what normalizes then fit a multiprocessor.
template <int AREA, bool NORM> constexpr int WEIGHT_STAGES = NORM && AREA == 4096 ? 2 : 3;
template <typename T> constexpr int STEP_PIXELS = 128 / sizeof(T);

template <typename T, int TAPS, int WIDE, int TALL, bool NORM>
__device__ void weight_gradient(const ConvWeightGradient &p) {
    constexpr bool NORM_WINDOWS = NORM && TAPS == 3, NORM_CENTERS = NORM && TAPS == 2; // whichever the input is
    constexpr int RING = WEIGHT_STAGES<WIDE * TALL, NORM>;
    constexpr int V = VECTOR<T>, STEP = STEP_PIXELS<T>, WINDOW_UNITS = WIDE / V, CENTER_UNITS = TALL / V;
    constexpr unsigned ROWS = STEP + TAPS - 1, WINDOW_BYTES = 16 * ROWS * WINDOW_UNITS;
    constexpr unsigned STAGE_BYTES = WINDOW_BYTES + 16 * STEP * CENTER_UNITS;
    constexpr int ROUNDS = ceil_div(ROWS * WINDOW_UNITS, THREADS), CENTER_ROUNDS = STEP * CENTER_UNITS / THREADS;
    constexpr int GROUPS = 4096 / (WIDE * TALL), GROUP = THREADS / GROUPS, SUMS = 16 * TAPS;

    const ConvWindows &w = p.windows;
    const unsigned thread = threadIdx.x, lane = thread % 32;
    const unsigned center_tiles = ceil_div(p.center_channels, TALL), window_tiles = ceil_div(w.channels, WIDE);
    const unsigned center_tile = blockIdx.x % center_tiles, window_tile = blockIdx.x / center_tiles % window_tiles;
    const unsigned line = blockIdx.x / (center_tiles * window_tiles) % w.lines;
    const unsigned split = blockIdx.x / (center_tiles * window_tiles * w.lines);
    const int pixels = static_cast<int>(p.batch * p.height * p.width);
    const int first = static_cast<int>(split * p.split), end = min(first + static_cast<int>(p.split), pixels);

    // What this thread copies: unit thread % UNITS of a row in each round.
    const unsigned window_unit = thread % WINDOW_UNITS, center_unit = thread % CENTER_UNITS;
    const unsigned window_channel = window_tile * WIDE + window_unit * V;
    const unsigned center_channel = center_tile * TALL + center_unit * V;
    const T *window_values = static_cast<const T *>(w.values);
    const T *center_values = static_cast<const T *>(p.centers);
    int pixel[ROUNDS], row[ROUNDS], column[ROUNDS], center_column[CENTER_ROUNDS];
    long long offset[ROUNDS];
#pragma unroll
    for (int i = 0; i < ROUNDS; ++i) {
        pixel[i] = first + w.first_column + static_cast<int>((thread + i * THREADS) / WINDOW_UNITS);
        const Position at = position(pixel[i], p.height, p.width);
        row[i] = at.row;
        column[i] = at.column;
        offset[i] = window_offset(w, at) + line_offset(w, line) + window_channel;
    }
    int center = first + static_cast<int>(thread / CENTER_UNITS);
    const int height = static_cast<int>(p.height), width = static_cast<int>(p.width);
    if constexpr (NORM_CENTERS) {
#pragma unroll
        for (int i = 0; i < CENTER_ROUNDS; ++i) {
            center_column[i] = position(center + i * (THREADS / CENTER_UNITS), p.height, p.width).column;
        }
    }

    // What is to be normalized: bits of the units that this thread has copied, those of the newest step lowest, and of their
    // pixels in the mask, which is an element of this thread's vector or not.
    constexpr int OWN = NORM_CENTERS ? CENTER_ROUNDS : ROUNDS;
    unsigned inside = 0, masks = 0;
    const unsigned own_channel = NORM_CENTERS ? center_channel : window_channel, element = p.norm.channels - own_channel;
    const bool masked = NORM_WINDOWS && p.norm.mask != nullptr && element < V;

    const auto fetch = [&](unsigned stage) {
        const unsigned base = stage * STAGE_BYTES;
#pragma unroll
        for (int i = 0; i < ROUNDS; ++i) {
            const unsigned to = (thread + i * THREADS) / WINDOW_UNITS;
            if (to < ROWS) {
                bool read = window_channel < w.channels && pixel[i] < pixels && row[i] >= 1 && row[i] < height - 1 &&
                            column[i] >= 1;
                if constexpr (NORM_WINDOWS) {
                    const int y = row[i] + static_cast<int>(line) - 2; // without the border
                    read = read && y >= 0 && y < height - 2 && column[i] < width - 1;
                    inside |= static_cast<unsigned>(read) << i;
                    if (read && masked) {
                        const PatchBits bits = {p.norm.mask, p.height - 2, p.width - 2, p.norm.patch};
                        const unsigned sample = static_cast<unsigned>(pixel[i]) / (p.height * p.width);
                        masks |= static_cast<unsigned>(bits.at(sample, y, column[i] - 1)) << i;
                    }
                    read = read && window_channel < p.norm.stride;
                }
                async_copy16(shared_memory<T>(base + swizzled<WINDOW_UNITS>(to, window_unit)),
                             read ? window_values + offset[i] : window_values, read);
            }
            pixel[i] += STEP;
            column[i] += STEP;
            offset[i] += STEP * w.column_step;
            while (column[i] >= width) {
                column[i] -= width;
                offset[i] += w.row_step - width * w.column_step;
                if (++row[i] == height) {
                    row[i] = 0;
                    offset[i] += w.batch_step - height * w.row_step;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < CENTER_ROUNDS; ++i) {
            const unsigned to = (thread + i * THREADS) / CENTER_UNITS;
            const int from = center + i * (THREADS / CENTER_UNITS);
            bool read = center_channel < p.center_channels && from < end;
            if constexpr (NORM_CENTERS) { // windows of lines of the border are zeros, so columns are all that matters
                read = read && center_column[i] >= 1 && center_column[i] < width - 1;
                inside |= static_cast<unsigned>(read) << i;
                center_column[i] += STEP;
                while (center_column[i] >= width) {
                    center_column[i] -= width;
                }
            }
            const size_t at = static_cast<size_t>(from) * p.center_channels + center_channel;
            async_copy16(shared_memory<T>(base + WINDOW_BYTES + swizzled<CENTER_UNITS>(to, center_unit)),
                         read ? center_values + at : center_values, read);
        }
        center += STEP;
    };

    float sums[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; ++i) {
        sums[i] = 0.0f;
    }
    // Batch norm + ReLU of the units that this thread copied RING − 1 steps ago, before the others read them.
    const NormTable table = {shared_memory<float>(RING * STAGE_BYTES), NORM_CENTERS ? TALL : WIDE};
    const auto normalize_own = [&](unsigned stage) {
        const unsigned age = OWN * (RING - 2);
        const Affine<V> affine = table.of<V>((NORM_CENTERS ? center_unit : window_unit) * V);
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            if ((inside >> (age + i) & 1) != 0) {
                const unsigned from = thread + i * THREADS;
                const unsigned at = NORM_CENTERS
                                        ? WINDOW_BYTES + swizzled<CENTER_UNITS>(from / CENTER_UNITS, center_unit)
                                        : swizzled<WINDOW_UNITS>(from / WINDOW_UNITS, window_unit);
                const SharedPtr<T> unit = shared_memory<T>(stage * STAGE_BYTES + at);
                normalize(unit, affine);
                if (masked) {
                    unit[element] = from_float<T>(static_cast<float>(masks >> (age + i) & 1));
                }
            }
        }
        inside <<= OWN;
        masks <<= OWN;
    };

    const unsigned group = thread / GROUP, member = thread % GROUP;
    constexpr int WARPS = WIDE / 16; // bf16: warps of a group along the window channels
    const unsigned window_warp = member / 32 % WARPS, center_warp = member / 32 / WARPS;
    const unsigned wide = member % (WIDE / 4), tall = member / (WIDE / 4); // float: this thread's channels / 4

    const auto multiply = [&](unsigned stage) {
        const unsigned base = stage * STAGE_BYTES;
        if constexpr (sizeof(T) == 2) {
#pragma unroll
            for (int k = 0; k < STEP / 16 / GROUPS; ++k) {
                const unsigned first_row = 16 * (group + k * GROUPS);
                uint32_t b[2][4];
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const unsigned at =
                        swizzled<CENTER_UNITS>(first_row + lane % 16, 4 * center_warp + 2 * j + lane / 16);
                    ldmatrix4_transposed(b[j], shared_memory<bf16>(base + WINDOW_BYTES + at));
                }
#pragma unroll
                for (int tap = 0; tap < TAPS; ++tap) {
                    const unsigned from = first_row + tap + lane / 16 * 8 + lane % 8;
                    uint32_t a[4];
                    ldmatrix4_transposed(a, shared_memory<bf16>(base + swizzled<WINDOW_UNITS>(
                                                                           from, 2 * window_warp + lane / 8 % 2)));
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        const uint32_t right[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                        mma_bf16(*reinterpret_cast<float(*)[4]>(&sums[(4 * tap + j) * 4]), a, right);
                    }
                }
            }
        } else {
#pragma unroll 2
            for (int k = 0; k < STEP / GROUPS; ++k) {
                const unsigned at = group * (STEP / GROUPS) + k;
                const Pack<float, 4> b =
                    load<4>(shared_memory<float>(base + WINDOW_BYTES + swizzled<CENTER_UNITS>(at, tall)));
#pragma unroll
                for (int tap = 0; tap < TAPS; ++tap) {
                    const Pack<float, 4> a =
                        load<4>(shared_memory<float>(base + swizzled<WINDOW_UNITS>(at + tap, wide)));
#pragma unroll
                    for (int i = 0; i < 16; ++i) {
                        sums[16 * tap + i] += a.v[i / 4] * b.v[i % 4];
                    }
                }
            }
        }
    };

    const unsigned steps = ceil_div(static_cast<unsigned>(end - first), STEP);
#pragma unroll
    for (unsigned stage = 0; stage < RING - 1; ++stage) {
        inside <<= OWN;
        masks <<= OWN;
        if (stage < steps) {
            fetch(stage);
        }
        async_commit();
    }
    if constexpr (NORM) {
        table.fill(p.norm, NORM_CENTERS ? center_tile * TALL : window_tile * WIDE);
        __syncthreads();
    }
    unsigned reading = 0;
    for (unsigned step = 0; step < steps; ++step) {
        async_wait<RING - 2>();
        if constexpr (NORM) {
            normalize_own(reading);
        }
        __syncthreads(); // this step's data is there, and the buffer read a step ago is free
        if (step + RING - 1 < steps) {
            fetch(reading == 0 ? RING - 1 : reading - 1);
        }
        async_commit();
        multiply(reading);
        reading = reading + 1 == RING ? 0 : reading + 1;
    }

    // The first group adds the sums of the others, one group after the other.
    SharedPtr<float> theirs = shared_memory<float>(0);
    for (unsigned other = 1; other < GROUPS; ++other) {
        __syncthreads();
        if (group == other) {
#pragma unroll
            for (int i = 0; i < SUMS; ++i) {
                theirs[i * GROUP + member] = sums[i];
            }
        }
        __syncthreads();
        if (group == 0) {
#pragma unroll
            for (int i = 0; i < SUMS; ++i) {
                sums[i] += theirs[i * GROUP + member];
            }
        }
    }
    if (group != 0) {
        return;
    }
    float *partials =
        p.partials + static_cast<size_t>(split * w.lines + line) * TAPS * w.channels * p.center_channels;
    constexpr int RUN = sizeof(T) == 2 ? 2 : 4; // neighbouring center channels that a thread owns
#pragma unroll
    for (int i = 0; i < SUMS / RUN; ++i) {
        unsigned tap, from, to;
        if constexpr (sizeof(T) == 2) {
            tap = i / 8;
            from = 16 * window_warp + i % 2 * 8 + lane / 4;
            to = 32 * center_warp + i / 2 % 4 * 8 + lane % 4 * 2;
        } else {
            tap = i / 4;
            from = 4 * wide + i % 4;
            to = 4 * tall;
        }
        from += window_tile * WIDE;
        to += center_tile * TALL;
        if (from < w.channels && to < p.center_channels) {
            Pack<float, RUN> pack;
#pragma unroll
            for (int j = 0; j < RUN; ++j) {
                pack.v[j] = sums[RUN * i + j];
            }
            store(partials + static_cast<size_t>(tap * w.channels + from) * p.center_channels + to, pack);
        }
    }
}

// Sums of 32 elements of the partials over all splits, for a block of 256 threads: the first warp's lanes return theirs in
// `sum`, and true. A warp sums every eighth split, then the warps' sums are added in their order.
__device__ inline bool sum_splits(const ConvWeightSum &p, unsigned element, size_t len, float &sum) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    SharedPtr<float> sums = shared_memory<float>(0);
    float mine = 0.0f;
#pragma unroll 4
    for (unsigned split = warp; split < p.splits; split += 8) {
        mine += p.partials[split * len + element];
    }
    sums[threadIdx.x] = mine;
    __syncthreads();
    sum = 0.0f;
    if (warp != 0) {
        return false;
    }
    for (int i = 0; i < 8; ++i) {
        sum += sums[32 * i + lane];
    }
    return true;
}

} // namespace conv

// Declares the products of a convolution with TAPS taps a line: name_N makes tiles of N output channels,
// name_weight_WxC of W window and C center channels; norm_name… are those whose input is still to be normalized.
#define CONV_KERNELS(name, TAPS)                                                                                       \
    CONV_PRODUCTS(name, TAPS, false)                                                                                   \
    CONV_PRODUCTS(norm_##name, TAPS, true)
#define CONV_PRODUCTS(name, TAPS, NORM)                                                                                \
    CONV_PRODUCT(name##_32_f32, float, TAPS, 32, NORM, 2)                                                              \
    CONV_PRODUCT(name##_64_f32, float, TAPS, 64, NORM, 2)                                                              \
    CONV_PRODUCT(name##_32_bf16, bf16, TAPS, 32, NORM, 3)                                                              \
    CONV_PRODUCT(name##_64_bf16, bf16, TAPS, 64, NORM, 2)                                                              \
    CONV_PRODUCT(name##_128_bf16, bf16, TAPS, 128, NORM, 2)                                                            \
    CONV_WEIGHT_PRODUCTS(name, TAPS, 32, 32, NORM)                                                                     \
    CONV_WEIGHT_PRODUCTS(name, TAPS, 32, 64, NORM)                                                                     \
    CONV_WEIGHT_PRODUCTS(name, TAPS, 64, 32, NORM)                                                                     \
    CONV_WEIGHT_PRODUCTS(name, TAPS, 64, 64, NORM)
#define CONV_PRODUCT(name, T, TAPS, N, NORM, blocks)                                                                   \
    KERNEL_RESIDENT(conv::THREADS, blocks, name, ConvGemm) { conv::gemm<T, TAPS, N, NORM>(p); }
#define CONV_WEIGHT_PRODUCTS(name, TAPS, WIDE, TALL, NORM)                                                             \
    CONV_WEIGHT_PRODUCT(name##_weight_##WIDE##x##TALL##_f32, float, TAPS, WIDE, TALL, NORM)                            \
    CONV_WEIGHT_PRODUCT(name##_weight_##WIDE##x##TALL##_bf16, bf16, TAPS, WIDE, TALL, NORM)
#define CONV_WEIGHT_PRODUCT(name, T, TAPS, WIDE, TALL, NORM)                                                           \
    KERNEL_RESIDENT(conv::THREADS, 2, name, ConvWeightGradient) {                                                      \
        conv::weight_gradient<T, TAPS, WIDE, TALL, NORM>(p);                                                           \
    }
