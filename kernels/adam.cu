// One Adam update of all parameters: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − size·m / (√v / correction + ε), with
// g the gradient plus decay·θ, size = rate / (1 − β₁ᵗ) and correction = √(1 − β₂ᵗ).
//
// chunks [gridDim.x]: the parameters cut into stretches of some thousand floats, each with the factors of its group. A block
// owns a chunk, its threads 16-byte vectors of it (the last one to three elements singly), so that one launch updates a
// hundred tensors of any lengths. 28 bytes and about 12 operations an element: memory bound.
#include "common.cuh"

__device__ inline void update(const AdamChunk &c, float &value, float gradient, float &first, float &second) {
    const float g = gradient + c.decay * value;
    first = c.beta1 * first + c.rest1 * g;
    second = c.beta2 * second + c.rest2 * g * g;
    value -= c.size * first / (sqrtf(second) / c.correction + c.eps);
}

KERNEL(256, adam, Adam) {
    const AdamChunk c = p.chunks[blockIdx.x];
    const unsigned len = static_cast<unsigned>(c.len);
    for (unsigned i = 4 * threadIdx.x; i + 3 < len; i += 4 * blockDim.x) {
        Pack<float, 4> value = load<4>(c.value + i), first = load<4>(c.first + i), second = load<4>(c.second + i);
        const Pack<float, 4> gradient = load<4>(c.gradient + i);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            update(c, value.v[j], gradient.v[j], first.v[j], second.v[j]);
        }
        store(c.value + i, value);
        store(c.first + i, first);
        store(c.second + i, second);
    }
    if (threadIdx.x < len % 4) {
        const unsigned i = len - 1 - threadIdx.x;
        update(c, c.value[i], c.gradient[i], c.first[i], c.second[i]);
    }
}
