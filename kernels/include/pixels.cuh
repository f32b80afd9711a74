// How kernels over maps share the work: a thread owns the channels of one 16-byte vector and walks over pixels, so that
// what belongs to the channels (scales, weights, sums) stays in its registers. The launches are made by `Split` in
// src/ops/map.rs.
//
// Vectors and pixels of a tensor are counted in 32 bits (2^32 vectors are 64 GiB), elements in 64.
#pragma once

#include "common.cuh"
#include "reduce.cuh"

// The channels of one vector.
template <typename T> struct Channels {
    float v[VECTOR<T>];
};

template <typename T> __device__ inline Channels<T> load_channels(const T *from) {
    const Pack<T, VECTOR<T>> pack = load<VECTOR<T>>(from);
    Channels<T> channels;
#pragma unroll
    for (int j = 0; j < VECTOR<T>; ++j) {
        channels.v[j] = to_float(pack.v[j]);
    }
    return channels;
}

template <typename T> __device__ inline void store_channels(T *to, const Channels<T> &channels) {
    Pack<T, VECTOR<T>> pack;
#pragma unroll
    for (int j = 0; j < VECTOR<T>; ++j) {
        pack.v[j] = from_float<T>(channels.v[j]);
    }
    store(to, pack);
}

// A thread's place in a block that covers `rows` pixels at a time, `lanes` vectors of each; blocks along y share the
// vectors of a pixel among them.
struct Share {
    unsigned lanes, rows;
    unsigned lane, row;
    unsigned channel; // the first of the thread's
    bool active;      // a few threads have no vector
};

template <typename T> __device__ inline Share share_of(unsigned stride) {
    const unsigned vectors = stride / VECTOR<T>;
    Share share;
    share.lanes = ceil_div(vectors, gridDim.y);
    share.rows = blockDim.x / share.lanes;
    share.lane = threadIdx.x % share.lanes;
    share.row = threadIdx.x / share.lanes;
    const unsigned vector = blockIdx.y * share.lanes + share.lane;
    share.channel = vector * VECTOR<T>;
    share.active = share.row < share.rows && vector < vectors;
    return share;
}

// Pixels without and with the border.
__device__ inline unsigned inner_pixels(const Map &map) { return map.batch * map.height * map.width; }
__device__ inline unsigned stored_pixels(const Map &map) {
    return map.batch * (map.height + 2 * map.halo) * (map.width + 2 * map.halo);
}

// The number, among stored pixels, of pixel `inner`.
__device__ inline unsigned stored_pixel(const Map &map, unsigned inner) {
    if (map.halo == 0) {
        return inner;
    }
    const unsigned line = inner / map.width, sample = line / map.height;
    return (line + (2 * sample + 1) * map.halo) * (map.width + 2 * map.halo) + inner - line * map.width + map.halo;
}

// Where the stored pixel of this number lies.
struct Place {
    unsigned sample, y, x;
    bool inside; // not of the border: then y and x count without it
};

__device__ inline Place place_of(const Map &map, unsigned stored) {
    const unsigned width = map.width + 2 * map.halo, height = map.height + 2 * map.halo;
    const unsigned line = stored / width;
    Place place;
    place.sample = line / height;
    place.y = line - place.sample * height - map.halo; // wraps round where it is above the first line
    place.x = stored - line * width - map.halo;
    place.inside = place.y < map.height && place.x < map.width;
    return place;
}

// The number, among pixels without the border, of a place inside.
__device__ inline unsigned inner_pixel(const Map &map, const Place &place) {
    return (place.sample * map.height + place.y) * map.width + place.x;
}

__device__ inline size_t element(unsigned pixel, unsigned stride, unsigned channel) {
    return static_cast<size_t>(pixel) * stride + channel;
}

// Sums the M values that each thread brings over the block's rows and calls write(lane, j, sum of value j) once for each
// lane and value. `scratch` holds M floats a thread; it may be reused after the call.
template <int M, typename F>
__device__ inline void sum_rows(const Share &share, const float (&values)[M], SharedPtr<float> scratch, F write) {
#pragma unroll
    for (int j = 0; j < M; ++j) {
        scratch[j * blockDim.x + threadIdx.x] = values[j];
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < share.lanes * M; i += blockDim.x) {
        const unsigned j = i / share.lanes, lane = i % share.lanes;
        float sum = 0.0f;
        for (unsigned row = 0; row < share.rows; ++row) {
            sum += scratch[j * blockDim.x + row * share.lanes + lane];
        }
        write(lane, j, sum);
    }
    __syncthreads();
}

// The second stage of a sum over blocks: a warp adds up what `blocks` blocks have written; every lane gets the sum.
__device__ inline float sum_partials(const float *partials, unsigned blocks) {
    float sum = 0.0f;
    for (unsigned i = threadIdx.x % 32; i < blocks; i += 32) {
        sum += partials[i];
    }
    return warp_sum(sum);
}
