// Dropout masks from Philox4x32-10 (J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// The counter is (element / 8, site, step's low and high word), the key is the seed. Its four words are eight halves of 16
// bits: element e takes half e mod 8, the low half of word 0 first.
#pragma once

#include "common.cuh"

struct Philox {
    unsigned words[4];

    // The 16 bits of element `half` (0..7) of this counter.
    __device__ unsigned half_word(unsigned half) const { return words[half / 2] >> (16 * (half % 2)) & 0xffffu; }
};

__device__ inline Philox philox(const Dropout &dropout, unsigned counter) {
    unsigned c0 = counter, c1 = dropout.site, c2 = dropout.step[0], c3 = dropout.step[1];
    unsigned k0 = dropout.seed[0], k1 = dropout.seed[1];
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
        const unsigned high1 = __umulhi(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// What element `element` is multiplied with: 0 or 1 / (1 − p).
__device__ inline float dropout_factor(const Dropout &dropout, unsigned long long element) {
    if (dropout.threshold == 0) {
        return 1.0f;
    }
    const Philox drawn = philox(dropout, static_cast<unsigned>(element / 8));
    return drawn.half_word(element % 8) < dropout.threshold ? 0.0f : dropout.scale;
}

// Multiplies the eight elements from `first` on, a multiple of 8, by their factors.
__device__ inline void dropout_apply8(const Dropout &dropout, unsigned long long first, float (&x)[8]) {
    if (dropout.threshold == 0) {
        return;
    }
    const Philox drawn = philox(dropout, static_cast<unsigned>(first / 8));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        x[i] *= drawn.half_word(i) < dropout.threshold ? 0.0f : dropout.scale;
    }
}
