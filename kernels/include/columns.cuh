// Matrices walked by columns: a thread keeps to V neighbouring columns and takes every so many rows, so that what belongs
// to a column (its bias, its sum) stays in registers while neighbouring threads touch neighbouring memory.
//
// A block covers `tile` groups of V columns and `lanes` = blockDim.x / tile rows at a time; grid y counts the tiles, grid x
// shares out the rows. src/ops/columns.rs makes such launches.
#pragma once

#include "common.cuh"

template <int V> struct Columns {
    unsigned tile;
    unsigned lanes;
    unsigned lane;   // this thread's row among the block's
    unsigned column; // its first column
    bool active;     // false for threads left over

    __device__ explicit Columns(unsigned columns) {
        tile = ceil_div(columns / V, gridDim.y);
        lanes = blockDim.x / tile;
        lane = threadIdx.x / tile;
        column = V * (blockIdx.y * tile + threadIdx.x % tile);
        active = lane < lanes && column < columns;
    }

    // Calls f(row) for the rows that this thread takes.
    template <typename F> __device__ void for_rows(unsigned long long rows, F f) const {
        if (!active) {
            return;
        }
        const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * lanes;
        for (unsigned long long row = static_cast<unsigned long long>(blockIdx.x) * lanes + lane; row < rows;
             row += stride) {
            f(row);
        }
    }

    // partials[blockIdx.x][column] = the sum over the block's threads, lane after lane. All threads of the block call it,
    // with V floats of shared memory each.
    __device__ void store_partials(const float (&sum)[V], float *partials, unsigned columns) const {
        SharedPtr<float> sums = shared_memory<float>(0); // [lanes][tile·V]
        if (active) {
#pragma unroll
            for (int i = 0; i < V; ++i) {
                sums[threadIdx.x * V + i] = sum[i];
            }
        }
        __syncthreads();
        const unsigned first = blockIdx.y * tile * V, n = min(tile * V, columns - first);
        for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
            float total = 0.0f;
            for (unsigned l = 0; l < lanes; ++l) {
                total += sums[l * tile * V + i];
            }
            partials[static_cast<unsigned long long>(blockIdx.x) * columns + first + i] = total;
        }
    }
};
