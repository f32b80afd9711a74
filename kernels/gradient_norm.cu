// Sums of squares of gradients, a partial sum for each chunk (gradient_norm), and from them the norm and what becomes of it
// (gradient_clip). Without the second the host adds up the partial sums.
//
// chunks [gridDim.x]: the gradients cut into stretches of some thousand floats → partials [gridDim.x]. A block owns a chunk,
// its threads 16-byte vectors of it (the last one to three elements singly). 4 bytes and one operation an element: memory
// bound. gradient_clip is one block that adds up a few hundred partial sums in double precision.
#include "reduce.cuh"

KERNEL(256, gradient_norm, GradientNorm) {
    const GradientChunk c = p.chunks[blockIdx.x];
    const bool frozen = p.factors != nullptr && p.factors[c.group].frozen != 0;
    const unsigned len = frozen ? 0 : static_cast<unsigned>(c.len);
    float sum = 0.0f;
    for (unsigned i = 4 * threadIdx.x; i + 3 < len; i += 4 * blockDim.x) {
        const Pack<float, 4> g = load<4>(c.gradient + i);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            sum += g.v[j] * g.v[j];
        }
    }
    if (threadIdx.x < len % 4) {
        const float g = c.gradient[len - 1 - threadIdx.x];
        sum += g * g;
    }
    sum = block_sum(sum, shared_memory<float>(0));
    if (threadIdx.x == 0) {
        p.partials[blockIdx.x] = sum;
    }
}

// One warp.
KERNEL(32, gradient_clip, GradientClip) {
    double sum = 0.0;
    for (unsigned long long i = threadIdx.x; i < p.len; i += 32) {
        sum += p.partials[i];
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    if (threadIdx.x != 0) {
        return;
    }
    const double norm = sqrt(sum), limit = p.limit;
    const bool finite = norm < 1e300; // false for NaN too
    if (!finite && p.state->bad == 0) {
        p.state->bad = *p.batches;
    }
    if (!finite || *p.bad != 0) {
        p.state->stopped = 1;
    }
    p.state->norm = norm;
    p.state->factor = limit > 0.0 && norm > limit ? static_cast<float>(limit / norm) : 1.0f;
}
