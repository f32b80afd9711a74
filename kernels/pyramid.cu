// The decode head's pyramid on grids [B, H, W, C], C a multiple of 8: average pooling on the way down, bilinear resizing
// and summing on the way up.
//
// average_pool: y [B, ⌊H/f⌋, ⌊W/f⌋, C] is the mean of windows of f×f; dx is zero where a partial window was dropped.
// resize_sum: y [B, H, W, C] = Σ over levels x [B, h, w, C] of their bilinear resizing with half-pixel centers; the
// backward makes the gradient of one level. Output i lies at input coordinate (i + ½)·h/H − ½, clamped to [0, h − 1], and
// input r weighs max(0, 1 − |coordinate − r|) in it. Coordinates are whole numbers of 1 / (2H): exact in integers.
//
// A thread owns one 16-byte vector of what is written and gathers everything that it depends on, so nothing is added
// atomically. Bytes: average_pool reads and writes each element once. resize_sum's forward writes each element of y once and
// reads up to 4 of each level, neighbours' from the caches; its backward reads about (2H/h)·(2W/w) elements of dy for one of
// dx, four times dy in all, one from memory and three from the caches. Memory and L2 bound.
#include "pixels.cuh"

// The thread's vector in a grid of `height`×`width` pixels.
struct GridPlace {
    unsigned sample, y, x, channel;
    bool active;
};

template <typename T>
__device__ inline GridPlace grid_place(unsigned batch, unsigned height, unsigned width, unsigned stride) {
    const unsigned vectors = stride / VECTOR<T>, i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned pixel = i / vectors, line = pixel / width;
    return {line / height, line % height, pixel % width, i % vectors * VECTOR<T>, line < batch * height};
}

template <typename T> __device__ inline Channels<T> zero_channels() {
    Channels<T> channels;
#pragma unroll
    for (int j = 0; j < VECTOR<T>; ++j) {
        channels.v[j] = 0.0f;
    }
    return channels;
}

// sum += weight·term
template <typename T>
__device__ inline void add_weighted(Channels<T> &sum, const Channels<T> &term, float weight) {
#pragma unroll
    for (int j = 0; j < VECTOR<T>; ++j) {
        sum.v[j] = fmaf(weight, term.v[j], sum.v[j]);
    }
}

template <typename T> __device__ void average_pool_forward(const AveragePoolForward &p) {
    const unsigned height = p.map.height / p.factor, width = p.map.width / p.factor, stride = p.map.stride;
    const GridPlace place = grid_place<T>(p.map.batch, height, width, stride);
    if (!place.active) {
        return;
    }
    const T *x = static_cast<const T *>(p.x);
    const unsigned corner = (place.sample * p.map.height + place.y * p.factor) * p.map.width + place.x * p.factor;
    const float share = 1.0f / static_cast<float>(p.factor * p.factor);
    Channels<T> sum = zero_channels<T>();
    for (unsigned dy = 0; dy < p.factor; ++dy) {
#pragma unroll 4
        for (unsigned dx = 0; dx < p.factor; ++dx) {
            add_weighted(sum, load_channels(x + element(corner + dy * p.map.width + dx, stride, place.channel)), share);
        }
    }
    T *y = static_cast<T *>(p.y);
    store_channels(y + element((place.sample * height + place.y) * width + place.x, stride, place.channel), sum);
}
KERNELS_RESIDENT(256, 4, average_pool_forward, AveragePoolForward)

template <typename T> __device__ void average_pool_backward(const AveragePoolBackward &p) {
    const unsigned height = p.map.height / p.factor, width = p.map.width / p.factor, stride = p.map.stride;
    const GridPlace place = grid_place<T>(p.map.batch, p.map.height, p.map.width, stride);
    if (!place.active) {
        return;
    }
    const T *dy = static_cast<const T *>(p.dy);
    const unsigned row = place.y / p.factor, column = place.x / p.factor;
    Channels<T> gradients = zero_channels<T>();
    if (row < height && column < width) {
        const unsigned window = (place.sample * height + row) * width + column;
        const float share = 1.0f / static_cast<float>(p.factor * p.factor);
        add_weighted(gradients, load_channels(dy + element(window, stride, place.channel)), share);
    }
    const unsigned pixel = (place.sample * p.map.height + place.y) * p.map.width + place.x;
    store_channels(static_cast<T *>(p.dx) + element(pixel, stride, place.channel), gradients);
}
KERNELS(256, average_pool_backward, AveragePoolBackward)

// The coordinate of output i of `to` among `from` inputs, in units of 1 / (2·to).
__device__ inline int coordinate(unsigned i, unsigned from, unsigned to) {
    const int at = static_cast<int>((2 * i + 1) * from) - static_cast<int>(to);
    return min(max(at, 0), static_cast<int>((from - 1) * 2 * to));
}

// The two inputs that output i lies between, and the weight of the second.
struct Taps {
    unsigned low, high;
    float weight;
};

__device__ inline Taps taps_of(unsigned i, unsigned from, unsigned to) {
    const unsigned at = static_cast<unsigned>(coordinate(i, from, to)), low = at / (2 * to);
    return {low, min(low + 1, from - 1), static_cast<float>(at - low * 2 * to) / static_cast<float>(2 * to)};
}

template <typename T> __device__ void resize_sum_forward(const ResizeSumForward &p) {
    constexpr int N = VECTOR<T>;
    const unsigned stride = p.map.stride;
    const GridPlace place = grid_place<T>(p.map.batch, p.map.height, p.map.width, stride);
    if (!place.active) {
        return;
    }
    const unsigned pixel = (place.sample * p.map.height + place.y) * p.map.width + place.x;
    Channels<T> sum = zero_channels<T>();
    for (unsigned l = 0; l < p.count; ++l) {
        const unsigned height = p.levels[l].height, width = p.levels[l].width;
        const T *x = static_cast<const T *>(p.levels[l].x);
        if (height == p.map.height && width == p.map.width) {
            add_weighted(sum, load_channels(x + element(pixel, stride, place.channel)), 1.0f);
            continue;
        }
        const Taps rows = taps_of(place.y, height, p.map.height), columns = taps_of(place.x, width, p.map.width);
        const unsigned top = (place.sample * height + rows.low) * width;
        const unsigned bottom = (place.sample * height + rows.high) * width;
        const Channels<T> a = load_channels(x + element(top + columns.low, stride, place.channel));
        const Channels<T> b = load_channels(x + element(top + columns.high, stride, place.channel));
        const Channels<T> c = load_channels(x + element(bottom + columns.low, stride, place.channel));
        const Channels<T> d = load_channels(x + element(bottom + columns.high, stride, place.channel));
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float upper = a.v[j] + (b.v[j] - a.v[j]) * columns.weight;
            const float lower = c.v[j] + (d.v[j] - c.v[j]) * columns.weight;
            sum.v[j] += upper + (lower - upper) * rows.weight;
        }
    }
    store_channels(static_cast<T *>(p.y) + element(pixel, stride, place.channel), sum);
}
KERNELS(256, resize_sum_forward, ResizeSumForward)

// The outputs `first`..`end` that input r has a weight in: those with 2·to·(r − 1) < (2i + 1)·from − to < 2·to·(r + 1), and
// beyond either side those that are clamped.
struct Outputs {
    unsigned first, end;
};

__device__ inline Outputs outputs_of(unsigned r, unsigned from, unsigned to) {
    const int below = static_cast<int>(2 * to * r) - static_cast<int>(to + from);
    const int above = static_cast<int>(2 * to * r + 3 * to) - static_cast<int>(from);
    const int steps = static_cast<int>(2 * from);
    return {r == 0 || below < 0 ? 0 : static_cast<unsigned>(below / steps + 1),
            r + 1 == from ? to : static_cast<unsigned>(min(max((above + steps - 1) / steps, 0), static_cast<int>(to)))};
}

// 2·to times the weight of input r in one of its outputs.
__device__ inline float weight_of(unsigned i, unsigned r, unsigned from, unsigned to) {
    const int distance = coordinate(i, from, to) - static_cast<int>(2 * to * r);
    return static_cast<float>(static_cast<int>(2 * to) - max(distance, -distance));
}

template <typename T> __device__ void resize_sum_backward(const ResizeSumBackward &p) {
    const unsigned stride = p.map.stride;
    const GridPlace place = grid_place<T>(p.map.batch, p.height, p.width, stride);
    if (!place.active) {
        return;
    }
    const T *dy = static_cast<const T *>(p.dy);
    const Outputs rows = outputs_of(place.y, p.height, p.map.height), columns = outputs_of(place.x, p.width, p.map.width);
    const float unit = 1.0f / (4.0f * static_cast<float>(p.map.height) * static_cast<float>(p.map.width));
    Channels<T> sum = zero_channels<T>();
    for (unsigned i = rows.first; i < rows.end; ++i) {
        const float down = unit * weight_of(i, place.y, p.height, p.map.height);
        const unsigned line = (place.sample * p.map.height + i) * p.map.width;
#pragma unroll 4
        for (unsigned k = columns.first; k < columns.end; ++k) {
            const float weight = down * weight_of(k, place.x, p.width, p.map.width);
            add_weighted(sum, load_channels(dy + element(line + k, stride, place.channel)), weight);
        }
    }
    const unsigned pixel = (place.sample * p.height + place.y) * p.width + place.x;
    store_channels(static_cast<T *>(p.dx) + element(pixel, stride, place.channel), sum);
}
KERNELS(256, resize_sum_backward, ResizeSumBackward)
