// One Adam update of all parameters: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − size·m / (√v / correction + ε), with
// g the gradient times the clipping factor plus decay·θ, size = rate / (1 − β₁ᵗ) and correction = √(1 − β₂ᵗ).
//
// chunks [gridDim.x]: the parameters cut into stretches of some thousand floats; the factors of their groups lie in device
// memory, since a captured update is replayed with others. A block owns a chunk, its threads 16-byte vectors of it (the last
// one to three elements singly), so that one launch updates a hundred tensors of any lengths. 28 bytes and about 13
// operations an element: memory bound.
#include "common.cuh"

__device__ inline void update(const AdamFactors &f, float factor, float &value, float gradient, float &first,
                              float &second) {
    const float g = gradient * factor + f.decay * value;
    first = f.beta1 * first + f.rest1 * g;
    second = f.beta2 * second + f.rest2 * g * g;
    value -= f.size * first / (sqrtf(second) / f.correction + f.eps);
}

KERNEL(256, adam, Adam) {
    const AdamChunk c = p.chunks[blockIdx.x];
    const AdamFactors f = p.factors[c.group];
    const float factor = p.state != nullptr ? p.state->factor : 1.0f;
    if (f.frozen != 0 || (p.state != nullptr && p.state->stopped != 0)) {
        return;
    }
    const unsigned len = static_cast<unsigned>(c.len);
    for (unsigned i = 4 * threadIdx.x; i + 3 < len; i += 4 * blockDim.x) {
        Pack<float, 4> value = load<4>(c.value + i), first = load<4>(c.first + i), second = load<4>(c.second + i);
        const Pack<float, 4> gradient = load<4>(c.gradient + i);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            update(f, factor, value.v[j], gradient.v[j], first.v[j], second.v[j]);
        }
        store(c.value + i, value);
        store(c.first + i, first);
        store(c.second + i, second);
    }
    if (threadIdx.x < len % 4) {
        const unsigned i = len - 1 - threadIdx.x;
        update(f, factor, c.value[i], c.gradient[i], c.first[i], c.second[i]);
    }
}
