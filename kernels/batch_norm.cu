// Batch norm + ReLU: y = max(0, γ·(x − mean)·rstd + β), statistics over batch and space of each channel.
//
// x, dy, dx: maps [B, H + 2h, W + 2h, S], S channels stored of which C are real; y: the same with one more channel (and its
// own stride) where a mask is appended. γ, β, dγ, dβ, running statistics [C]; affine [4, S]: mean, rstd, γ, β, zeros
// beyond C; mask [B, N, words] as src/patch.rs packs bits.
//
// Forward: moments (first stage: mean and sum of squared deviations of each block's pixels), affine (second stage, running
// statistics), forward. Backward: sums (first stage of dγ and dβ), parameters (second stage), backward. Between convolutions
// moments, forward and sums are theirs (include/conv.cuh), and affine and parameters merge what their blocks leave, up to
// some 40,000 partials a channel, which is why each takes a block a channel. Sums over pixels
// are of deviations, from a running mean within a thread and between means above, so that a mean much larger than the
// deviation costs no digits. The ReLU's mask is computed again from x, which is saved anyway, with the forward's formula.
//
// A thread owns one vector of channels (pixels.cuh) with their parameters in registers, a block a span of pixels. Bytes an
// element: moments s, forward 2s, sums 2s, backward 3s (s = sizeof(T)); 4 to 8 operations each: memory bound, which is why
// nothing but x is saved and dx takes dy's place.
#include "affine.cuh"
#include "patches.cuh"
#include "pixels.cuh"

template <typename T> __device__ void batch_norm_moments(const BatchNormMoments &p) {
    constexpr int N = VECTOR<T>;
    const Share share = share_of<T>(p.map.stride);
    const T *x = static_cast<const T *>(p.x);
    const unsigned first = blockIdx.x * p.span, end = min(first + p.span, inner_pixels(p.map));
    // Of the thread's pixels, by Welford's recurrence.
    float count = 0.0f, mean[N], squares[N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
        mean[j] = squares[j] = 0.0f;
    }
    if (share.active) {
#pragma unroll 4
        for (unsigned i = first + share.row; i < end; i += share.rows) {
            const Channels<T> values = load_channels(x + element(stored_pixel(p.map, i), p.map.stride, share.channel));
            count += 1.0f;
            const float part = 1.0f / count;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float deviation = values.v[j] - mean[j];
                mean[j] += deviation * part;
                squares[j] += deviation * (values.v[j] - mean[j]);
            }
        }
    }
    const SharedPtr<float> means = shared_memory<float>(0), sums = means + N * blockDim.x, counts = sums + N * blockDim.x;
#pragma unroll
    for (int j = 0; j < N; ++j) {
        means[j * blockDim.x + threadIdx.x] = mean[j];
        sums[j * blockDim.x + threadIdx.x] = squares[j];
    }
    counts[threadIdx.x] = count;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < share.lanes * N; i += blockDim.x) {
        const unsigned j = i / share.lanes, lane = i % share.lanes, column = j * blockDim.x + lane;
        const unsigned channel = (blockIdx.y * share.lanes + lane) * N + j;
        if (channel >= p.map.stride) {
            continue;
        }
        const float base = means[column]; // row 0 has a pixel
        float sum = 0.0f;
        for (unsigned row = 1; row < share.rows; ++row) {
            sum += counts[row * share.lanes] * (means[column + row * share.lanes] - base);
        }
        const float center = base + sum / static_cast<float>(end - first);
        sum = 0.0f;
        for (unsigned row = 0; row < share.rows; ++row) {
            const float distance = means[column + row * share.lanes] - center;
            sum += sums[column + row * share.lanes] + counts[row * share.lanes] * distance * distance;
        }
        p.partials[static_cast<size_t>(channel) * gridDim.x + blockIdx.x] = center;
        p.partials[(static_cast<size_t>(p.map.stride) + channel) * gridDim.x + blockIdx.x] = sum;
    }
    if (blockIdx.y == 0 && threadIdx.x == 0) {
        p.partials[static_cast<size_t>(2 * p.map.stride) * gridDim.x + blockIdx.x] = static_cast<float>(end - first);
    }
}
KERNELS(256, batch_norm_moments, BatchNormMoments)

// Number, mean and sum of squared deviations of some pixels.
struct Moments {
    float count, mean, squares;

    // Together with others (T. F. Chan et al., 1979).
    __device__ void merge(const Moments &other) {
        if (other.count > 0.0f) {
            const float total = count + other.count, part = other.count / total, distance = other.mean - mean;
            mean += distance * part;
            squares += other.squares + distance * distance * count * part;
            count = total;
        }
    }
};

// A block a channel: a thread merges every 256th of the partials, then the lanes of a warp merge, then the warps.
KERNEL(256, batch_norm_affine, BatchNormAffine) {
    constexpr float EPSILON = 1e-5f, MOMENTUM = 0.1f;
    const unsigned channel = blockIdx.x;
    float mean = 0.0f, var = 0.0f;
    const bool real = channel < p.channels;
    if (p.partials != nullptr) {
        const float *means = p.partials + static_cast<size_t>(channel) * p.blocks;
        const float *squares = means + static_cast<size_t>(p.stride) * p.blocks;
        const float *counts = p.partials + static_cast<size_t>(2 * p.stride) * p.blocks;
        Moments all = {};
        for (unsigned i = threadIdx.x; i < p.blocks; i += blockDim.x) {
            all.merge({counts[i], means[i], squares[i]});
        }
        for (int lanes = 16; lanes > 0; lanes /= 2) {
            all.merge({__shfl_xor_sync(0xffffffffu, all.count, lanes), __shfl_xor_sync(0xffffffffu, all.mean, lanes),
                       __shfl_xor_sync(0xffffffffu, all.squares, lanes)});
        }
        const SharedPtr<float> warps = shared_memory<float>(0); // [3, warps]
        const unsigned n = blockDim.x / 32, warp = threadIdx.x / 32;
        if (threadIdx.x % 32 == 0) {
            warps[warp] = all.count;
            warps[n + warp] = all.mean;
            warps[2 * n + warp] = all.squares;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            for (unsigned i = 1; i < n; ++i) {
                all.merge({warps[i], warps[n + i], warps[2 * n + i]});
            }
            mean = all.mean;
            var = all.squares / all.count;
            if (real) {
                const float unbiased = all.squares / fmaxf(all.count - 1.0f, 1.0f);
                p.running_mean[channel] += MOMENTUM * (mean - p.running_mean[channel]);
                p.running_var[channel] += MOMENTUM * (unbiased - p.running_var[channel]);
            }
        }
    } else if (real) {
        mean = p.running_mean[channel];
        var = p.running_var[channel];
    }
    if (threadIdx.x == 0) {
        p.affine[channel] = real ? mean : 0.0f;
        p.affine[p.stride + channel] = real ? 1.0f / sqrtf(var + EPSILON) : 0.0f;
        p.affine[2 * p.stride + channel] = real ? p.gamma[channel] : 0.0f;
        p.affine[3 * p.stride + channel] = real ? p.beta[channel] : 0.0f;
    }
}

template <typename T> __device__ void batch_norm_forward(const BatchNormForward &p) {
    constexpr int N = VECTOR<T>;
    const Share share = share_of<T>(p.y_stride);
    if (!share.active) {
        return;
    }
    const T *x = static_cast<const T *>(p.x);
    T *y = static_cast<T *>(p.y);
    const Affine<N> affine(p.affine, p.map.stride, share.channel);
    const bool has_mask = p.mask != nullptr && share.channel <= p.map.channels && p.map.channels < share.channel + N;
    const unsigned first = blockIdx.x * p.span, end = min(first + p.span, stored_pixels(p.map));
    for (unsigned i = first + share.row; i < end; i += share.rows) {
        const Place place = place_of(p.map, i);
        Channels<T> values = {};
        if (place.inside && share.channel < p.map.stride) {
            values = load_channels(x + element(i, p.map.stride, share.channel));
#pragma unroll
            for (int j = 0; j < N; ++j) {
                values.v[j] = fmaxf(affine.normal(values.v[j], j), 0.0f);
            }
        }
        if (place.inside && has_mask) {
            const PatchBits bits = {p.mask, p.map.height, p.map.width, p.patch};
            const float mask = bits.at(place.sample, place.y, place.x);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                values.v[j] = share.channel + j == p.map.channels ? mask : values.v[j];
            }
        }
        store_channels(y + element(i, p.y_stride, share.channel), values);
    }
}
KERNELS(256, batch_norm_forward, BatchNormForward)

template <typename T> __device__ void batch_norm_sums(const BatchNormSums &p) {
    constexpr int N = VECTOR<T>;
    const Share share = share_of<T>(p.map.stride);
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    const unsigned first = blockIdx.x * p.span, end = min(first + p.span, inner_pixels(p.map));
    float gamma[N], beta[N]; // sums of dz·normal and dz, z the ReLU's input
#pragma unroll
    for (int j = 0; j < N; ++j) {
        gamma[j] = beta[j] = 0.0f;
    }
    if (share.active) {
        const Affine<N> affine(p.affine, p.map.stride, share.channel);
#pragma unroll 2
        for (unsigned i = first + share.row; i < end; i += share.rows) {
            const size_t at = element(stored_pixel(p.map, i), p.map.stride, share.channel);
            const Channels<T> values = load_channels(x + at), gradients = load_channels(dy + at);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float dz = affine.normal(values.v[j], j) > 0.0f ? gradients.v[j] : 0.0f;
                gamma[j] += dz * (values.v[j] - affine.mean[j]);
                beta[j] += dz;
            }
        }
#pragma unroll
        for (int j = 0; j < N; ++j) {
            gamma[j] *= p.affine[p.map.stride + share.channel + j]; // rstd
        }
    }
    const auto write = [&](unsigned part, unsigned lane, unsigned j, float sum) {
        const unsigned channel = (blockIdx.y * share.lanes + lane) * N + j;
        if (channel < p.map.channels) {
            p.partials[static_cast<size_t>(part * p.map.channels + channel) * gridDim.x + blockIdx.x] = sum;
        }
    };
    const SharedPtr<float> scratch = shared_memory<float>(0);
    sum_rows(share, gamma, scratch, [&](unsigned lane, unsigned j, float sum) { write(0, lane, j, sum); });
    sum_rows(share, beta, scratch, [&](unsigned lane, unsigned j, float sum) { write(1, lane, j, sum); });
}
KERNELS(256, batch_norm_sums, BatchNormSums)

// A block a sum.
KERNEL(256, batch_norm_parameters, BatchNormParameters) {
    const unsigned i = blockIdx.x;
    const float *partials = p.partials + static_cast<size_t>(i) * p.blocks;
    float sum = 0.0f;
    for (unsigned block = threadIdx.x; block < p.blocks; block += blockDim.x) {
        sum += partials[block];
    }
    sum = block_sum(sum, shared_memory<float>(0));
    if (threadIdx.x == 0) {
        (i < p.channels ? p.dgamma : p.dbeta - p.channels)[i] = sum;
    }
}

// dx = γ·rstd·(dz − mean(dz) − normal·mean(dz·normal)); without the means where running statistics normalized.
template <typename T> __device__ void batch_norm_backward(const BatchNormBackward &p) {
    constexpr int N = VECTOR<T>;
    const Share share = share_of<T>(p.map.stride);
    if (!share.active) {
        return;
    }
    const T *x = static_cast<const T *>(p.x);
    T *dy = static_cast<T *>(p.dy);
    const Affine<N> affine(p.affine, p.map.stride, share.channel);
    float mean[N], slope[N]; // mean(dz), rstd·mean(dz·normal)
#pragma unroll
    for (int j = 0; j < N; ++j) {
        const unsigned channel = share.channel + j;
        const bool real = channel < p.map.channels;
        mean[j] = real ? p.share * p.dbeta[channel] : 0.0f;
        slope[j] = real ? p.share * p.dgamma[channel] * p.affine[p.map.stride + channel] : 0.0f;
    }
    const unsigned first = blockIdx.x * p.span, end = min(first + p.span, stored_pixels(p.map));
    for (unsigned i = first + share.row; i < end; i += share.rows) {
        const size_t at = element(i, p.map.stride, share.channel);
        Channels<T> gradients = {};
        if (place_of(p.map, i).inside) {
            const Channels<T> values = load_channels(x + at);
            gradients = load_channels(dy + at);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float dz = affine.normal(values.v[j], j) > 0.0f ? gradients.v[j] : 0.0f;
                gradients.v[j] = affine.scale[j] * (dz - mean[j] - (values.v[j] - affine.mean[j]) * slope[j]);
            }
        }
        store_channels(dy + at, gradients);
    }
}
KERNELS(256, batch_norm_backward, BatchNormBackward)
