// Segmentation losses of logits [B, H, W]: focal + Tversky or cross-entropy + √Dice, with pixel counts and gradient.
//
// Logits and gradient are float whatever the activations are; masks are patch bits (8 bytes of `target` and of `last`
// for 64 pixels), validity is one byte a patch. A thread owns vectors of four neighbouring pixels of one line,
// consecutive threads consecutive vectors; a vector lies in one patch, so its four bits are one nibble of one word.
//
// loss_sums reads every pixel once: blocks (x, y) of 256 threads and four vectors each take 4096 pixels of sample y.
// Soft sums go through registers and a reduction in fixed order to one partial a block. Counts are integers: a
// histogram of p in shared memory, split by (burning in the last frame, burning in the target), added to the one in
// global memory at the end. A pixel takes slot ⌊1024 p⌋, plus one where it is predicted burning. Both grow with p, so
// the slots beyond the threshold's bin are the predicted ones, and all counts and histograms of the report follow.
// loss_finalize, a single block, sums the partials in double precision: terms, loss, and four factors a sample.
// loss_gradient recomputes what it needs from the logit: cheaper than to store it.
//
// Bytes a pixel: 4.3 in loss_sums, 8.3 in loss_gradient; about 60 operations each, three of them on the special
// function unit: near the balance of memory and arithmetic.
#include "common.cuh"
#include "reduce.cuh"

constexpr unsigned THREADS = 256;
constexpr unsigned VECTORS = 4; // of a thread of loss_sums; src/ops/loss/gpu.rs counts its blocks by it
constexpr unsigned BINS = 1024;
constexpr unsigned SLOTS = BINS + 1;

// Sums of a block or a sample. Point: (1 − p_t)^γ·cross-entropy, or cross-entropy, of burning pixels and of the others;
// hit, false alarm: p of burning pixels and of the others; missed: 1 − p of burning ones.
enum Sum {
    POINT_BURNING,
    POINT_OTHER,
    HIT,
    FALSE_ALARM,
    MISSED,
    VALID,
    BURNING,
    PARTIALS, // so many of a block; of a sample besides:
    REGION = PARTIALS,
    WITH_FIRE,
    SUMS
};
constexpr unsigned PARTIAL_STRIDE = 8;

struct Vector {
    Pack<float, 4> z;
    unsigned target, last; // four bits
    bool valid;            // false beyond the sample too
};

__device__ inline Vector read_vector(const LossPixels &p, unsigned sample, unsigned index) {
    Vector vector = {};
    if (index >= p.vectors) {
        return vector;
    }
    const unsigned y = index / p.line, x = index % p.line * 4;
    const unsigned side = 1u << p.log_patch;
    const unsigned long long patch =
        static_cast<unsigned long long>(sample) * p.patches + (y >> p.log_patch) * p.cols + (x >> p.log_patch);
    vector.valid = p.valid[patch] != 0;
    if (vector.valid) {
        const unsigned bit = (y % side) * side + x % side;
        const unsigned long long word = patch * (side == 16 ? 4 : 1) + bit / 64;
        vector.target = static_cast<unsigned>(p.target[word] >> (bit % 64)) & 15u;
        vector.last = static_cast<unsigned>(p.last[word] >> (bit % 64)) & 15u;
        vector.z = load<4>(p.logits + 4 * (static_cast<unsigned long long>(sample) * p.vectors + index));
    }
    return vector;
}

// Of one logit: p, 1 − p, and the cross-entropy with the pixel's class; exact for |z| beyond 1e4.
struct Pixel {
    float p, q, cross_entropy;
};

__device__ inline Pixel pixel(float z, bool burns) {
    const float e = expf(-fabsf(z)), large = 1.0f / (1.0f + e), small = e * large;
    return {z < 0.0f ? small : large, z < 0.0f ? large : small, fmaxf(burns ? -z : z, 0.0f) + log1pf(e)};
}

// (1 − p_t)^γ
__device__ inline float focus(float missed, float gamma) {
    return gamma == 2.0f ? missed * missed : powf(missed, gamma);
}

KERNEL(256, loss_sums, LossSums) {
    SharedPtr<unsigned> histogram = shared_memory<unsigned>(0);
    SharedPtr<float> scratch = shared_memory<float>(4 * SLOTS * sizeof(unsigned)); // [PARTIALS, warps]
    const unsigned sample = blockIdx.y, warps = THREADS / 32;
    Vector vectors[VECTORS];
#pragma unroll
    for (unsigned k = 0; k < VECTORS; ++k) {
        vectors[k] = read_vector(p.pixels, sample, (blockIdx.x * VECTORS + k) * THREADS + threadIdx.x);
    }
    for (unsigned i = threadIdx.x; i < 4 * SLOTS; i += THREADS) {
        histogram[i] = 0;
    }
    __syncthreads();

    float sums[PARTIALS] = {};
#pragma unroll
    for (unsigned k = 0; k < VECTORS; ++k) {
        const Vector &vector = vectors[k];
        if (!vector.valid) {
            continue;
        }
        sums[VALID] += 4.0f;
        sums[BURNING] += static_cast<float>(__popc(vector.target));
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            const bool burns = (vector.target >> i & 1u) != 0;
            const Pixel x = pixel(vector.z.v[i], burns);
            const float missed = burns ? x.q : x.p;
            const float point = p.focal != 0 ? focus(missed, p.gamma) * x.cross_entropy : x.cross_entropy;
            sums[POINT_BURNING] += burns ? point : 0.0f;
            sums[POINT_OTHER] += burns ? 0.0f : point;
            sums[HIT] += burns ? x.p : 0.0f;
            sums[FALSE_ALARM] += burns ? 0.0f : x.p;
            sums[MISSED] += burns ? x.q : 0.0f;
            const unsigned bin = static_cast<unsigned>(fminf(x.p * BINS, BINS - 1));
            const unsigned group = (vector.last >> i & 1u) * 2 + (burns ? 1 : 0);
            atomicAdd(&histogram[group * SLOTS + bin + (x.p > p.threshold ? 1 : 0)], 1u);
        }
    }
#pragma unroll
    for (unsigned k = 0; k < PARTIALS; ++k) {
        const float sum = warp_sum(sums[k]);
        if (threadIdx.x % 32 == 0) {
            scratch[k * warps + threadIdx.x / 32] = sum;
        }
    }
    __syncthreads();
    if (threadIdx.x < PARTIAL_STRIDE) {
        float sum = 0.0f;
        if (threadIdx.x < PARTIALS) {
            for (unsigned warp = 0; warp < warps; ++warp) {
                sum += scratch[threadIdx.x * warps + warp];
            }
        }
        const unsigned long long block = static_cast<unsigned long long>(sample) * gridDim.x + blockIdx.x;
        p.partials[block * PARTIAL_STRIDE + threadIdx.x] = sum;
    }
    for (unsigned i = threadIdx.x; i < 4 * SLOTS; i += THREADS) {
        const unsigned count = histogram[i];
        if (count != 0) {
            atomicAdd(p.histogram + i, static_cast<unsigned long long>(count));
        }
    }
}

// 1 − Tversky index, or 1 − Dice, of a sample.
__device__ inline double region_term(const LossFinalize &p, const double (&s)[PARTIALS]) {
    if (p.focal != 0) {
        return 1.0 - (s[HIT] + 1.0) / (s[HIT] + p.tversky_alpha * s[FALSE_ALARM] + p.tversky_beta * s[MISSED] + 1.0);
    }
    return s[BURNING] > 0.0 ? 1.0 - (2.0 * s[HIT] + 1.0) / (s[HIT] + s[FALSE_ALARM] + s[BURNING] + 1.0) : 0.0;
}

KERNEL(512, loss_finalize, LossFinalize) {
    const unsigned lane = threadIdx.x % 32;
    for (unsigned b = threadIdx.x / 32; b < p.batch; b += blockDim.x / 32) {
        double sums[PARTIALS] = {};
        for (unsigned i = lane; i < p.blocks; i += 32) {
            const float *partial = p.partials + (static_cast<unsigned long long>(b) * p.blocks + i) * PARTIAL_STRIDE;
#pragma unroll
            for (unsigned k = 0; k < PARTIALS; ++k) {
                sums[k] += partial[k];
            }
        }
#pragma unroll
        for (unsigned k = 0; k < PARTIALS; ++k) {
            for (int offset = 16; offset > 0; offset /= 2) {
                sums[k] += __shfl_xor_sync(0xffffffffu, sums[k], offset);
            }
        }
        if (lane == 0) {
            double *sample = p.samples + SUMS * b;
#pragma unroll
            for (unsigned k = 0; k < PARTIALS; ++k) {
                sample[k] = sums[k];
            }
            sample[REGION] = region_term(p, sums);
            sample[WITH_FIRE] = sums[BURNING] > 0.0 ? 1.0 : 0.0;
        }
    }
    __syncthreads();
    SharedPtr<double> batch = shared_memory<double>(0); // [SUMS]
    if (threadIdx.x < SUMS) {
        double sum = 0.0;
        for (unsigned b = 0; b < p.batch; ++b) {
            sum += p.samples[SUMS * b + threadIdx.x];
        }
        batch[threadIdx.x] = sum;
    }
    __syncthreads();

    const double valid = fmax(batch[VALID], 1.0), burning = batch[BURNING];
    const double pos_weight =
        p.auto_weight != 0 ? fmax(batch[VALID] - burning, 1.0) / fmax(burning, 1.0) : p.pos_weight;
    // Weights of the two classes in the sum over pixels, and what the regions' terms are averaged over.
    const double weight_burning = p.focal != 0 ? p.focal_alpha : pos_weight;
    const double weight_other = p.focal != 0 ? 1.0 - p.focal_alpha : 1.0;
    const double samples = p.focal != 0 ? p.batch : fmax(batch[WITH_FIRE], 1.0);
    const double point = (weight_burning * batch[POINT_BURNING] + weight_other * batch[POINT_OTHER]) / valid;
    const double mean = batch[REGION] / samples;
    const double root = sqrt(mean + 1e-7);
    if (threadIdx.x == 0) {
        const double region = p.focal != 0 ? mean : batch[WITH_FIRE] > 0.0 ? root : 0.0;
        p.terms[0] = p.focal != 0 ? point : 0.0;
        p.terms[1] = p.focal != 0 ? region : 0.0;
        p.terms[2] = p.focal != 0 ? 0.0 : point;
        p.terms[3] = p.focal != 0 ? 0.0 : region;
        p.terms[4] = p.point_weight * point + p.region_weight * region;
    }
    // Factors of a pixel's term, and d region / d p, each of burning pixels and of the others.
    for (unsigned b = threadIdx.x; b < p.batch; b += blockDim.x) {
        const double *s = p.samples + SUMS * b;
        double slope_burning, slope_other;
        if (p.focal != 0) {
            const double numerator = s[HIT] + 1.0;
            const double denominator = numerator + p.tversky_alpha * s[FALSE_ALARM] + p.tversky_beta * s[MISSED];
            const double scale = p.region_weight / samples / (denominator * denominator);
            slope_burning = scale * (numerator * (1.0 - p.tversky_beta) - denominator);
            slope_other = scale * numerator * p.tversky_alpha;
        } else {
            const double numerator = 2.0 * s[HIT] + 1.0;
            const double denominator = s[HIT] + s[FALSE_ALARM] + s[BURNING] + 1.0;
            const double scale =
                s[BURNING] > 0.0 ? p.region_weight / (2.0 * root * samples * denominator * denominator) : 0.0;
            slope_burning = scale * (numerator - 2.0 * denominator);
            slope_other = scale * numerator;
        }
        Pack<float, 4> factors;
        factors.v[0] = static_cast<float>(p.point_weight * weight_burning / valid);
        factors.v[1] = static_cast<float>(p.point_weight * weight_other / valid);
        factors.v[2] = static_cast<float>(slope_burning);
        factors.v[3] = static_cast<float>(slope_other);
        store(p.factors + 4 * b, factors);
    }
}

KERNEL(256, loss_gradient, LossGradient) {
    const unsigned sample = blockIdx.y, index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= p.pixels.vectors) {
        return;
    }
    const Vector vector = read_vector(p.pixels, sample, index);
    const Pack<float, 4> factors = load<4>(p.factors + 4 * sample);
    Pack<float, 4> gradient = {};
    if (vector.valid) {
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            const bool burns = (vector.target >> i & 1u) != 0;
            const Pixel x = pixel(vector.z.v[i], burns);
            const float missed = burns ? x.q : x.p, hit = burns ? x.p : x.q;
            // d/dz of s^γ·cross-entropy, s = 1 − p_t, is ± s^γ (γ p_t·cross-entropy + s).
            const float slope =
                p.focal != 0 ? focus(missed, p.gamma) * (p.gamma * hit * x.cross_entropy + missed) : missed;
            const float point = factors.v[burns ? 0 : 1] * slope;
            gradient.v[i] = (burns ? -point : point) + factors.v[burns ? 2 : 3] * hit * missed;
        }
    }
    store(p.gradient + 4 * (static_cast<unsigned long long>(sample) * p.pixels.vectors + index), gradient);
}
