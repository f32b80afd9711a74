// The end of the refinement decoder: batch norm + ReLU of a raw map x and the last 1×1 convolution,
// y = Σ_c w_c·max(0, γ_c·(x_c − mean_c)·rstd_c + β_c) (+ w_C·mask) + b. The normalized map is never written.
//
// x, dx: maps [B, H + 2, W + 2, S], C of the S stored channels real; affine [4, S]: mean, rstd, γ, β, zeros beyond C; w, dw
// [C], or [C + 1] with the last frame's mask [B, N, words] as channel C; b, db [1]; dγ, dβ [C]; y, dy [B, H, W], float
// whatever the activations are: they are what the loss reads and writes.
//
// With g = dy where the ReLU is open and d = x − mean, all gradients follow from two sums a channel, A = Σ g·d and B = Σ g:
// dβ = w·B, dγ = w·rstd·A, dw = γ·rstd·A + β·B, and dx = γ·rstd·(w·g − mean of w·g − d·rstd²·mean of w·g·d). So the
// backward reads x twice: for the sums (partials a block, added up by `parameters`, a block a channel, in fixed order), and
// to write dx, its border and the channels beyond C zeros.
//
// A thread owns one vector of channels (pixels.cuh) with what belongs to them in registers, and loads the vectors of several
// pixels before it uses any; where they lie follows without divisions (walk.cuh). Forward: the partial products of PIXELS
// pixels a thread meet in shared memory, so that both the reads of x and the writes of y are whole lines. Forward and
// backward go through the map from its end: what the pass before has read or written last may still lie in the L2 cache.
//
// Bytes a pixel (s = sizeof(T)): forward and sums S·s + 4, backward 2·S·s + 4: four maps in all, where batch norm and this
// convolution apart move ten. Instructions a vector of bf16, as disassembled for sm_86: 110, 97 and 129, where an RTX A6000
// issues 25 in the time of a byte, 400 to 800 a vector: memory bound, on an H100 (8.6 a byte) too. At most 128 registers:
// two blocks a multiprocessor keep 32 KiB of loads in flight, six times what 768 GB/s over 84 of them need.
#include "pixels.cuh"
#include "walk.cuh"

// Pixels of a thread of the forward (the launch's span is as many times the block's rows), and those that it loads at a time.
constexpr unsigned PIXELS = 8, FLIGHT = 4;

// What normalizes the channels of a thread.
template <typename T> struct Normal {
    float mean[VECTOR<T>], scale[VECTOR<T>], shift[VECTOR<T>]; // scale: γ·rstd, shift: β

    __device__ Normal(const OutputConvInput &p, unsigned channel) {
        const unsigned stride = p.map.stride;
#pragma unroll
        for (int part = 0; part < VECTOR<T>; part += 4) {
            const float *at = p.affine + channel + part;
            const Pack<float, 4> means = load<4>(at), rstd = load<4>(at + stride), gamma = load<4>(at + 2 * stride);
            const Pack<float, 4> beta = load<4>(at + 3 * stride);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                mean[part + j] = means.v[j];
                scale[part + j] = rstd.v[j] * gamma.v[j];
                shift[part + j] = beta.v[j];
            }
        }
    }
};

template <typename T> __device__ inline Channels<T> weights_of(const OutputConvInput &p, unsigned channel) {
    Channels<T> weights;
#pragma unroll
    for (int j = 0; j < VECTOR<T>; ++j) {
        weights.v[j] = channel + j < p.map.channels ? p.weight[channel + j] : 0.0f;
    }
    return weights;
}

// The mask's value at a pixel.
__device__ inline float mask_value(const OutputConvInput &p, const Walk &at) {
    const unsigned columns = p.map.width >> p.log_patch, patches = (p.map.height >> p.log_patch) * columns;
    const unsigned patch = (at.y >> p.log_patch) * columns + (at.x >> p.log_patch), side_mask = (1u << p.log_patch) - 1;
    const unsigned bit = ((at.y & side_mask) << p.log_patch) + (at.x & side_mask);
    const size_t word = ((static_cast<size_t>(at.sample) * patches + patch) << (p.log_patch == 4 ? 2 : 0)) + bit / 64;
    return static_cast<float>(p.mask[word] >> bit % 64 & 1);
}

// The number, among stored pixels, of an inner pixel, or where that is not `wanted` of the first one: loads need no branch.
__device__ inline unsigned stored_pixel(const Map &map, const Walk &at, bool wanted) {
    const unsigned pixel = (at.sample * (map.height + 2) + at.y + 1) * (map.width + 2) + at.x + 1;
    return wanted ? pixel : map.width + 3;
}

// The vector of a stored pixel of which `from` is that of pixel 0.
template <typename T>
__device__ inline Pack<T, VECTOR<T>> load_vector(const T *from, unsigned pixel, unsigned vectors) {
    return load<VECTOR<T>>(from + VECTOR<T> * static_cast<size_t>(pixel * vectors));
}

// Blocks do not share pixels: gridDim.y is 1, and a thread takes several vectors where a pixel has more than lanes.
template <typename T> __device__ void output_conv_forward(const OutputConvForward &p) {
    constexpr int N = VECTOR<T>;
    const Map &map = p.input.map;
    const unsigned vectors = map.stride / N, lanes = min(vectors, 32u), rows = blockDim.x / lanes;
    const unsigned lane = threadIdx.x % lanes, row = threadIdx.x / lanes;
    const unsigned pitch = lanes | 1; // odd, so that neighbouring pixels lie in different banks
    const unsigned first = (gridDim.x - 1 - blockIdx.x) * p.span, end = min(first + p.span, inner_pixels(map));
    float sums[PIXELS] = {};
    for (unsigned vector = lane; vector < vectors && row < rows; vector += lanes) {
        const T *x = static_cast<const T *>(p.input.x) + vector * N;
        const Normal<T> normal(p.input, vector * N);
        const Channels<T> weights = weights_of<T>(p.input, vector * N);
        Walk at(map.height, map.width, first + row, rows);
#pragma unroll
        for (unsigned flight = 0; flight < PIXELS; flight += FLIGHT) {
            Pack<T, N> packs[FLIGHT];
#pragma unroll
            for (unsigned k = 0; k < FLIGHT; ++k) {
                const bool wanted = first + (flight + k) * rows + row < end;
                packs[k] = load_vector(x, stored_pixel(map, at, wanted), vectors);
                at.advance();
            }
#pragma unroll
            for (unsigned k = 0; k < FLIGHT; ++k) {
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    const float z = fmaf(to_float(packs[k].v[j]) - normal.mean[j], normal.scale[j], normal.shift[j]);
                    sums[flight + k] = fmaf(fmaxf(z, 0.0f), weights.v[j], sums[flight + k]);
                }
            }
        }
    }
    const SharedPtr<float> scratch = shared_memory<float>(0); // [span, pitch]
    if (row < rows) {
#pragma unroll
        for (unsigned k = 0; k < PIXELS; ++k) {
            scratch[(k * rows + row) * pitch + lane] = sums[k];
        }
    }
    __syncthreads();
    const float bias = p.bias[0];
    for (unsigned i = threadIdx.x; i < end - first; i += blockDim.x) {
        float sum = bias;
        if (p.input.mask != nullptr) {
            const Walk at(map.height, map.width, first + i, 0);
            sum += p.input.weight[map.channels] * mask_value(p.input, at);
        }
        for (unsigned part = 0; part < lanes; ++part) {
            sum += scratch[i * pitch + part];
        }
        p.y[first + i] = sum;
    }
}
KERNELS_RESIDENT(256, 2, output_conv_forward, OutputConvForward)

template <typename T> __device__ void output_conv_sums(const OutputConvSums &p) {
    constexpr int N = VECTOR<T>;
    const Map &map = p.input.map;
    const Share share = share_of<T>(map.stride);
    const T *x = static_cast<const T *>(p.input.x) + share.channel;
    const unsigned vectors = map.stride / N, pixels = inner_pixels(map), step = gridDim.x * share.rows;
    const bool has_mask = p.input.mask != nullptr && share.channel == 0;
    float sums[2 * N + 2] = {}; // A, B; then of dy and of dy·mask
    if (share.active) {
        const Normal<T> normal(p.input, share.channel);
        unsigned i = blockIdx.x * share.rows + share.row;
        Walk at(map.height, map.width, i, step);
        while (i < pixels) {
            Pack<T, N> packs[FLIGHT];
            float dy[FLIGHT], mask[FLIGHT];
#pragma unroll
            for (unsigned k = 0; k < FLIGHT; ++k) {
                const bool wanted = i < pixels;
                packs[k] = load_vector(x, stored_pixel(map, at, wanted), vectors);
                dy[k] = wanted ? p.dy[i] : 0.0f;
                mask[k] = has_mask && wanted ? mask_value(p.input, at) : 0.0f;
                i += step;
                at.advance();
            }
#pragma unroll
            for (unsigned k = 0; k < FLIGHT; ++k) {
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    const float d = to_float(packs[k].v[j]) - normal.mean[j];
                    const float g = fmaf(d, normal.scale[j], normal.shift[j]) > 0.0f ? dy[k] : 0.0f;
                    sums[j] = fmaf(g, d, sums[j]);
                    sums[N + j] += g;
                }
                sums[2 * N] += dy[k];
                sums[2 * N + 1] = fmaf(dy[k], mask[k], sums[2 * N + 1]);
            }
        }
    }
    sum_rows(share, sums, shared_memory<float>(0), [&](unsigned lane, unsigned j, float sum) {
        const unsigned vector = blockIdx.y * share.lanes + lane, channel = vector * N + j % N;
        unsigned line = j / N * map.channels + channel;
        bool wanted = channel < map.channels;
        if (j >= 2 * N) {
            line = 2 * map.channels + j - 2 * N;
            wanted = vector == 0;
        }
        if (wanted) {
            p.partials[static_cast<size_t>(line) * gridDim.x + blockIdx.x] = sum;
        }
    });
}
KERNELS_RESIDENT(256, 2, output_conv_sums, OutputConvSums)

// A block a channel, the last one for bias and mask.
KERNEL(256, output_conv_parameters, OutputConvParameters) {
    const unsigned c = blockIdx.x, channels = p.input.map.channels, stride = p.input.map.stride;
    const float *first = p.partials + static_cast<size_t>(c < channels ? c : 2 * channels) * p.blocks;
    const float *second = p.partials + static_cast<size_t>(c < channels ? channels + c : 2 * channels + 1) * p.blocks;
    float a = 0.0f, b = 0.0f;
    for (unsigned i = threadIdx.x; i < p.blocks; i += blockDim.x) {
        a += first[i];
        b += second[i];
    }
    const SharedPtr<float> scratch = shared_memory<float>(0);
    a = block_sum(a, scratch);
    b = block_sum(b, scratch);
    if (threadIdx.x != 0) {
        return;
    }
    if (c < channels) {
        const float rstd = p.input.affine[stride + c], gamma = p.input.affine[2 * stride + c];
        const float weight = p.input.weight[c];
        p.dgamma[c] = weight * rstd * a;
        p.dbeta[c] = weight * b;
        p.dweight[c] = fmaf(gamma * rstd, a, p.input.affine[3 * stride + c] * b);
    } else {
        p.dbias[0] = a;
        if (p.input.mask != nullptr) {
            p.dweight[channels] = b;
        }
    }
}

template <typename T> __device__ void output_conv_backward(const OutputConvBackward &p) {
    constexpr int N = VECTOR<T>;
    const Map &map = p.input.map;
    const Share share = share_of<T>(map.stride);
    if (!share.active) {
        return;
    }
    const T *x = static_cast<const T *>(p.input.x) + share.channel;
    T *dx = static_cast<T *>(p.dx) + share.channel;
    const Normal<T> normal(p.input, share.channel);
    const Channels<T> weights = weights_of<T>(p.input, share.channel);
    float open[N], base[N], slope[N]; // dx = open·g − base − slope·d
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const unsigned channel = share.channel + j;
        const bool real = channel < map.channels;
        open[j] = normal.scale[j] * weights.v[j];
        base[j] = real ? normal.scale[j] * p.share * p.dbeta[channel] : 0.0f;
        slope[j] = real ? normal.scale[j] * p.share * p.dgamma[channel] * p.input.affine[map.stride + channel] : 0.0f;
    }
    const unsigned vectors = map.stride / N, first = (gridDim.x - 1 - blockIdx.x) * p.span;
    const unsigned end = min(first + p.span, stored_pixels(map));
    Walk at(map.height + 2, map.width + 2, first + share.row, share.rows);
    for (unsigned i = first + share.row; i < end; i += FLIGHT * share.rows) {
        Pack<T, N> packs[FLIGHT];
        float dy[FLIGHT];
        bool inside[FLIGHT];
#pragma unroll
        for (unsigned k = 0; k < FLIGHT; ++k) {
            const unsigned line = at.y - 1, column = at.x - 1; // wrap round on the border
            inside[k] = i + k * share.rows < end && line < map.height && column < map.width;
            packs[k] = load_vector(x, min(i + k * share.rows, end - 1), vectors);
            dy[k] = inside[k] ? p.dy[(at.sample * map.height + line) * map.width + column] : 0.0f;
            at.advance();
        }
#pragma unroll
        for (unsigned k = 0; k < FLIGHT; ++k) {
            T *to = dx + N * static_cast<size_t>((i + k * share.rows) * vectors);
            if (inside[k]) {
                Channels<T> gradients;
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    const float d = to_float(packs[k].v[j]) - normal.mean[j];
                    const float g = fmaf(d, normal.scale[j], normal.shift[j]) > 0.0f ? dy[k] : 0.0f;
                    gradients.v[j] = fmaf(-d, slope[j], fmaf(g, open[j], -base[j]));
                }
                store_channels(to, gradients);
            } else if (i + k * share.rows < end) {
                store(to, Pack<T, N>{});
            }
        }
    }
}
KERNELS_RESIDENT(256, 2, output_conv_backward, OutputConvBackward)
