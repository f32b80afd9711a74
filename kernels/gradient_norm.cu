// Sums of squares of gradients, a partial sum for each chunk; the host adds those up in double precision.
//
// chunks [gridDim.x]: the gradients cut into stretches of some thousand floats → partials [gridDim.x]. A block owns a chunk,
// its threads 16-byte vectors of it (the last one to three elements singly). 4 bytes and one operation an element: memory
// bound.
#include "reduce.cuh"

KERNEL(256, gradient_norm, GradientNorm) {
    const GradientChunk c = p.chunks[blockIdx.x];
    const unsigned len = static_cast<unsigned>(c.len);
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
