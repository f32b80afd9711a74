// The second stage of sums over the rows of a matrix: partials of a first kernel's blocks, summed in a fixed order.
//
// partials [blocks, columns] float → first [split], second [columns − split] float. A block owns 32 columns; each of its
// eight warps takes every eighth partial, and the first warp adds their sums in order. 4 bytes and one addition an element;
// a few hundred KB at most, which the first kernel left in the cache.
#include "common.cuh"

KERNEL(256, column_sums, ColumnSums) {
    SharedPtr<float> sums = shared_memory<float>(0); // [8][32]
    const unsigned column = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = 0.0f;
    if (column < p.columns) {
#pragma unroll 4
        for (unsigned i = threadIdx.x / 32; i < p.blocks; i += 8) {
            sum += p.partials[static_cast<unsigned long long>(i) * p.columns + column];
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < 32 && column < p.columns) {
        float total = 0.0f;
        for (unsigned warp = 0; warp < 8; ++warp) {
            total += sums[32 * warp + threadIdx.x];
        }
        if (column < p.split) {
            p.first[column] = total;
        } else {
            p.second[column - p.split] = total;
        }
    }
}
