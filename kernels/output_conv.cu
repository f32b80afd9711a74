// The last 1×1 convolution: a dot product a pixel, y = x·w + b.
//
// x: map [B, H + 2, W + 2, S], C of its S stored channels real; w, dw [C], b, db [1]; y, dy [B, H, W], float whatever the
// activations are: they are what the loss reads and writes. dx: map of the C' ≤ C channels that get a gradient.
//
// A thread owns one vector of channels (pixels.cuh) with their weights in registers, a block a span of pixels. Forward: the
// partial products of PIXELS pixels a thread meet in shared memory, so that both the reads of x and the writes of y are
// whole lines. dw and db: sums over a block's pixels (sums), then over blocks in a fixed order (parameters). Bytes a pixel:
// forward and sums S·s + 4, input S'·s + 4 (s = sizeof(T)); 2 operations an element: memory bound.
#include "pixels.cuh"

// Pixels of a thread in the forward; the launch's span is as many times the block's rows.
constexpr unsigned PIXELS = 8;

template <typename T> __device__ inline Channels<T> weights_of(const float *weight, unsigned channels, unsigned channel) {
    Channels<T> weights;
#pragma unroll
    for (int j = 0; j < VECTOR<T>; ++j) {
        weights.v[j] = channel + j < channels ? weight[channel + j] : 0.0f;
    }
    return weights;
}

// Blocks do not share pixels: gridDim.y is 1, and a thread takes several vectors where a pixel has more than lanes.
template <typename T> __device__ void output_conv_forward(const OutputConvForward &p) {
    constexpr int N = VECTOR<T>;
    const unsigned vectors = p.map.stride / N, lanes = min(vectors, 32u), rows = blockDim.x / lanes;
    const unsigned lane = threadIdx.x % lanes, row = threadIdx.x / lanes;
    const unsigned pitch = lanes | 1; // odd, so that neighbouring pixels lie in different banks
    const unsigned first = blockIdx.x * p.span, end = min(first + p.span, inner_pixels(p.map));
    const T *x = static_cast<const T *>(p.x);
    float sums[PIXELS];
#pragma unroll
    for (unsigned k = 0; k < PIXELS; ++k) {
        sums[k] = 0.0f;
    }
    for (unsigned vector = lane; vector < vectors && row < rows; vector += lanes) {
        const Channels<T> weights = weights_of<T>(p.weight, p.map.channels, vector * N);
#pragma unroll
        for (unsigned k = 0; k < PIXELS; ++k) {
            const unsigned pixel = first + k * rows + row;
            if (pixel < end) {
                const Channels<T> values = load_channels(x + element(stored_pixel(p.map, pixel), p.map.stride, vector * N));
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    sums[k] = fmaf(values.v[j], weights.v[j], sums[k]);
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
        for (unsigned part = 0; part < lanes; ++part) {
            sum += scratch[i * pitch + part];
        }
        p.y[first + i] = sum;
    }
}
KERNELS(256, output_conv_forward, OutputConvForward)

template <typename T> __device__ void output_conv_input(const OutputConvInput &p) {
    constexpr int N = VECTOR<T>;
    const Share share = share_of<T>(p.map.stride);
    if (!share.active) {
        return;
    }
    T *dx = static_cast<T *>(p.dx);
    const Channels<T> weights = weights_of<T>(p.weight, p.map.channels, share.channel);
    const unsigned first = blockIdx.x * p.span, end = min(first + p.span, stored_pixels(p.map));
    for (unsigned i = first + share.row; i < end; i += share.rows) {
        const Place place = place_of(p.map, i);
        const float dy = place.inside ? p.dy[inner_pixel(p.map, place)] : 0.0f;
        Channels<T> gradients;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            gradients.v[j] = weights.v[j] * dy;
        }
        store_channels(dx + element(i, p.map.stride, share.channel), gradients);
    }
}
KERNELS(256, output_conv_input, OutputConvInput)

template <typename T> __device__ void output_conv_sums(const OutputConvSums &p) {
    constexpr int N = VECTOR<T>;
    const Share share = share_of<T>(p.map.stride);
    const T *x = static_cast<const T *>(p.x);
    const unsigned first = blockIdx.x * p.span, end = min(first + p.span, inner_pixels(p.map));
    float weight[N], bias[1] = {0.0f};
#pragma unroll
    for (int j = 0; j < N; ++j) {
        weight[j] = 0.0f;
    }
    if (share.active) {
#pragma unroll 4
        for (unsigned i = first + share.row; i < end; i += share.rows) {
            const Channels<T> values = load_channels(x + element(stored_pixel(p.map, i), p.map.stride, share.channel));
            const float dy = p.dy[i];
            bias[0] += dy;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                weight[j] = fmaf(values.v[j], dy, weight[j]);
            }
        }
    }
    const SharedPtr<float> scratch = shared_memory<float>(0);
    sum_rows(share, weight, scratch, [&](unsigned lane, unsigned j, float sum) {
        const unsigned channel = (blockIdx.y * share.lanes + lane) * N + j;
        if (channel < p.map.channels) {
            p.partials[static_cast<size_t>(channel) * gridDim.x + blockIdx.x] = sum;
        }
    });
    sum_rows(share, bias, scratch, [&](unsigned lane, unsigned, float sum) {
        if (lane == 0 && blockIdx.y == 0) {
            p.partials[static_cast<size_t>(p.map.channels) * gridDim.x + blockIdx.x] = sum;
        }
    });
}
KERNELS(256, output_conv_sums, OutputConvSums)

// A warp a sum.
KERNEL(256, output_conv_parameters, OutputConvParameters) {
    const unsigned i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (i > p.channels) {
        return;
    }
    const float sum = sum_partials(p.partials + static_cast<size_t>(i) * p.blocks, p.blocks);
    if (threadIdx.x % 32 == 0) {
        *(i < p.channels ? p.dweight + i : p.dbias) = sum;
    }
}
