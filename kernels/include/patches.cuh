// Masks of pixels as bits of patches: see src/patch.rs.
#pragma once

#include "common.cuh"

// One window of height × width pixels a sample.
struct PatchBits {
    const unsigned long long *words;
    unsigned height, width;
    unsigned patch; // pixels along a patch's side: a power of two

    // The pixel's value, 0 or 1.
    __device__ float at(unsigned sample, unsigned y, unsigned x) const {
        const unsigned shift = __ffs(static_cast<int>(patch)) - 1, columns = width >> shift;
        const unsigned number = (y >> shift) * columns + (x >> shift);
        const unsigned bit = ((y & (patch - 1)) << shift) + (x & (patch - 1));
        const size_t patches = static_cast<size_t>(sample) * (height >> shift) * columns + number;
        return static_cast<float>(words[patches * ceil_div(patch * patch, 64) + bit / 64] >> bit % 64 & 1);
    }
};
