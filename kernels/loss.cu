// Segmentation losses of logits [B, H, W]: focal + Tversky or cross-entropy + √Dice, with pixel counts and gradient, and
// their sums over batches: nothing of it needs the host.
//
// Logits and gradient are float whatever the activations are; masks are patch bits (8 bytes of `target` and of `last`
// for 64 pixels), validity is one byte a patch. A thread owns vectors of four neighbouring pixels of one line,
// consecutive threads consecutive vectors; a vector lies in one patch, so its four bits are one nibble of one byte.
//
// loss_sums reads every pixel once: blocks (x, y) of 256 threads take `rounds` times 2048 pixels of sample y. Soft sums go
// through registers and a reduction in fixed order to one partial a block. Counts are integers: a histogram of p in shared
// memory, split by (burning in the last frame, burning in the target), added to the one in global memory at the end. A
// pixel takes slot ⌊1024 p⌋, plus one where it is predicted burning. Both grow with p, so the slots beyond the threshold's
// bin are the predicted ones, and all counts and histograms of the report follow. Most pixels of a trained network share a
// slot: an increment by one is ATOMS.POPC.INC, which counts the lanes of an address instead of serving them in turn; sums
// formed by hand would lose that.
// loss_finalize: block 0 sums the partials in double precision: terms, loss, and four factors a sample; the other blocks
// move the histogram on: it becomes that of the last batch, is added to the total, and is zero again for the next batch.
// loss_gradient recomputes what it needs from the logit: cheaper than to store it.
//
// Bytes a pixel: 4.3 in loss_sums, 8.3 in loss_gradient. Instructions a pixel, as disassembled for sm_86: 61 (cross-entropy
// 56) and 47 (34), of loss_sums 7 to clear and add up histograms at 8192 pixels a block, where an RTX A6000 issues 25 in the
// time of a byte, so 108 and 208: memory bound. (An H100 issues 8.6: loss_sums is bound by issue there.) For that, sigmoid
// and log are made of two special functions and a polynomial, each vector's place follows from the one before without a
// division, the kind of loss is a template's argument, and nothing branches between pixels.
#include "common.cuh"
#include "fast_math.cuh"
#include "reduce.cuh"

constexpr unsigned THREADS = 256;
constexpr unsigned VECTORS = 2; // of a thread and round; src/ops/loss/gpu.rs counts blocks by these two
constexpr unsigned SLOTS = LOSS_SLOTS, BINS = SLOTS - 1;

// Sums of a block or a sample. Point: (1 − p_t)^γ·cross-entropy, or cross-entropy, of burning pixels and of the others;
// hit, false alarm: p of burning pixels and of the others.
enum Sum {
    POINT_BURNING,
    POINT_OTHER,
    HIT,
    FALSE_ALARM,
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
    unsigned target, last; // the byte that holds its four bits
    unsigned shift;        // where they begin
    bool valid;            // false beyond the sample too

    __device__ unsigned burns() const { return target >> shift & 15u; }
    __device__ unsigned burned() const { return last >> shift & 15u; }
};

// Reads `count` vectors of a sample, THREADS apart, the first of which is `index`: all loads before any use. A vector
// beyond the sample reads the sample's first pixels. Offsets within a sample are less than 2^32.
template <unsigned count>
__device__ inline void read_vectors(const LossPixels &p, unsigned sample, unsigned index, Vector (&vectors)[count]) {
    const unsigned log_bytes = p.log_patch == 4 ? 5 : 3; // of a patch's bits
    const unsigned side_mask = (1u << p.log_patch) - 1;
    const unsigned long long patches = static_cast<unsigned long long>(sample) * p.patches;
    const unsigned char *valid = p.valid + patches;
    const unsigned char *target = p.target + (patches << log_bytes), *last = p.last + (patches << log_bytes);
    const float *logits = p.logits + 4 * (static_cast<unsigned long long>(sample) * p.vectors);
    const unsigned lines = THREADS / p.line, columns = THREADS % p.line * 4;
    unsigned y = index / p.line, x = index % p.line * 4;
#pragma unroll
    for (unsigned k = 0; k < count; ++k) {
        Vector &vector = vectors[k];
        const bool inside = index < p.vectors;
        const unsigned patch = inside ? (y >> p.log_patch) * p.cols + (x >> p.log_patch) : 0;
        const unsigned bit = ((y & side_mask) << p.log_patch) + (x & side_mask);
        const unsigned byte = (patch << log_bytes) + bit / 8;
        vector.z = load<4>(logits + (inside ? 4 * index : 0));
        vector.target = target[byte];
        vector.last = last[byte];
        vector.shift = bit & 4;
        vector.valid = valid[patch] != 0 && inside;
        index += THREADS;
        x += columns;
        y += lines;
        if (x >= 4 * p.line) {
            x -= 4 * p.line;
            ++y;
        }
    }
}

// Of one logit: p, and where `wrong` is the logit of the class that the pixel does not have: σ(wrong), 1 − σ(wrong) and
// log(1 + exp(wrong)), the cross-entropy.
struct Pixel {
    float p, missed, hit, cross_entropy;
};

__device__ inline Pixel pixel(float z, bool burns) {
    const float e = fast_exp2(fabsf(z) * -1.44269504f), large = fast_reciprocal(1.0f + e), small = e * large;
    const float wrong = burns ? -z : z;
    Pixel x;
    x.p = z > 0.0f ? large : small;
    x.missed = wrong > 0.0f ? large : small;
    x.hit = wrong > 0.0f ? small : large;
    // log(1 + e) / e on [0, 1] to 4e-7 of its value: the polynomial through the Chebyshev series of degree 7.
    float quotient = -0.00857467577f;
    quotient = fmaf(quotient, e, 0.0442141928f);
    quotient = fmaf(quotient, e, -0.107853681f);
    quotient = fmaf(quotient, e, 0.177570239f);
    quotient = fmaf(quotient, e, -0.244996116f);
    quotient = fmaf(quotient, e, 0.332761765f);
    quotient = fmaf(quotient, e, -0.499974489f);
    quotient = fmaf(quotient, e, 0.999999821f);
    x.cross_entropy = fmaf(quotient, e, fmaxf(wrong, 0.0f));
    return x;
}

// (1 − p_t)^γ, γ > 0
template <unsigned kind> __device__ inline float focus(float missed, float gamma) {
    return kind == LOSS_FOCAL_SQUARE ? missed * missed : fast_exp2(gamma * fast_log2(missed));
}

// Adds a round's pixels to the thread's sums and the block's histogram.
template <unsigned kind>
__device__ inline void add_pixels(const LossSums &p, const Vector (&vectors)[VECTORS], float (&sums)[PARTIALS],
                                  SharedPtr<unsigned> histogram) {
#pragma unroll
    for (unsigned k = 0; k < VECTORS; ++k) {
        // No branch around what does not count: the loads of all vectors would wait in it. Logits of −∞ where nothing burns
        // add zeros, and their counts go to slots that nobody reads.
        const Vector &vector = vectors[k];
        const unsigned burning = vector.valid ? vector.burns() : 0, burned = vector.valid ? vector.burned() : 0;
        const SharedPtr<unsigned> slots = histogram + (vector.valid ? 0 : 4 * SLOTS);
        sums[VALID] += vector.valid ? 4.0f : 0.0f;
        sums[BURNING] += static_cast<float>(__popc(burning));
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            const bool burns = (burning & 1u << i) != 0;
            const Pixel x = pixel(vector.valid ? vector.z.v[i] : -INFINITY, burns);
            const float point =
                kind == LOSS_CROSS_ENTROPY ? x.cross_entropy : focus<kind>(x.missed, p.gamma) * x.cross_entropy;
            unsigned slot = static_cast<unsigned>(fminf(x.p * BINS, BINS - 1));
            if (x.p > p.threshold) {
                slot += 1;
            }
            if (burns) {
                sums[POINT_BURNING] += point;
                sums[HIT] += x.p;
                slot += SLOTS;
            } else {
                sums[POINT_OTHER] += point;
                sums[FALSE_ALARM] += x.p;
            }
            if ((burned & 1u << i) != 0) {
                slot += 2 * SLOTS;
            }
            atomicAdd(&slots[slot], 1u);
        }
    }
}

template <unsigned kind>
__device__ inline void sum_pixels(const LossSums &p, float (&sums)[PARTIALS], SharedPtr<unsigned> histogram) {
    unsigned index = blockIdx.x * p.rounds * VECTORS * THREADS + threadIdx.x;
    for (unsigned round = 0; round < p.rounds; ++round) {
        Vector vectors[VECTORS];
        read_vectors(p.pixels, blockIdx.y, index, vectors);
        add_pixels<kind>(p, vectors, sums, histogram);
        index += VECTORS * THREADS;
    }
}

KERNEL_RESIDENT(256, 4, loss_sums, LossSums) {
    SharedPtr<unsigned> histogram = shared_memory<unsigned>(0);
    SharedPtr<float> scratch = shared_memory<float>(4 * (SLOTS + 1) * sizeof(unsigned)); // [PARTIALS, warps]
    const unsigned warps = THREADS / 32;
    for (unsigned i = threadIdx.x; i <= SLOTS; i += THREADS) {
        store(histogram + 4 * i, Pack<unsigned, 4>{});
    }
    __syncthreads();
    float sums[PARTIALS] = {};
    switch (p.kind) {
    case LOSS_CROSS_ENTROPY:
        sum_pixels<LOSS_CROSS_ENTROPY>(p, sums, histogram);
        break;
    case LOSS_FOCAL:
        sum_pixels<LOSS_FOCAL>(p, sums, histogram);
        break;
    default:
        sum_pixels<LOSS_FOCAL_SQUARE>(p, sums, histogram);
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
        const unsigned long long block = static_cast<unsigned long long>(blockIdx.y) * gridDim.x + blockIdx.x;
        p.partials[block * PARTIAL_STRIDE + threadIdx.x] = sum;
    }
    for (unsigned i = threadIdx.x; i < SLOTS; i += THREADS) {
        const Pack<unsigned, 4> counts = load<4>(histogram + 4 * i);
        if ((counts.v[0] | counts.v[1] | counts.v[2] | counts.v[3]) == 0) {
            continue;
        }
        for (unsigned j = 0; j < 4; ++j) {
            if (counts.v[j] != 0) {
                atomicAdd(p.histogram + 4 * i + j, static_cast<unsigned long long>(counts.v[j]));
            }
        }
    }
}

__device__ inline double tversky_denominator(const LossFinalize &p, const double *s) {
    return s[HIT] + p.tversky_alpha * s[FALSE_ALARM] + p.tversky_beta * (s[BURNING] - s[HIT]) + 1.0;
}

// 1 − Tversky index, or 1 − Dice, of a sample.
__device__ inline double region_term(const LossFinalize &p, const double *s) {
    if (p.focal != 0) {
        return 1.0 - (s[HIT] + 1.0) / tversky_denominator(p, s);
    }
    return s[BURNING] > 0.0 ? 1.0 - (2.0 * s[HIT] + 1.0) / (s[HIT] + s[FALSE_ALARM] + s[BURNING] + 1.0) : 0.0;
}

KERNEL(512, loss_finalize, LossFinalize) {
    if (blockIdx.x > 0) {
        const unsigned slot = (blockIdx.x - 1) * blockDim.x + threadIdx.x;
        if (slot < 4 * SLOTS) {
            const unsigned long long count = p.histogram[slot];
            p.last->histogram[slot] = count;
            p.totals->sums.histogram[slot] += count;
            p.histogram[slot] = 0;
        }
        return;
    }
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
        const double loss = p.point_weight * point + p.region_weight * region;
        const double terms[LOSS_TERMS] = {p.focal != 0 ? point : 0.0, p.focal != 0 ? region : 0.0,
                                          p.focal != 0 ? 0.0 : point, p.focal != 0 ? 0.0 : region, loss};
        LossTotals &totals = *p.totals;
#pragma unroll
        for (unsigned k = 0; k < LOSS_TERMS; ++k) {
            p.last->terms[k] = terms[k];
            totals.sums.terms[k] = __dadd_rn(totals.sums.terms[k], __dmul_rn(terms[k], p.batch)); // as the host adds
        }
        totals.samples += p.batch;
        totals.batches += 1;
        if (totals.first_bad == 0 && !(fabs(loss) <= 1.7976931348623157e308)) {
            totals.first_bad = totals.batches;
        }
    }
    // Factors of a pixel's term, and d region / d p, each of burning pixels and of the others.
    for (unsigned b = threadIdx.x; b < p.batch; b += blockDim.x) {
        const double *s = p.samples + SUMS * b;
        double slope_burning, slope_other;
        if (p.focal != 0) {
            const double numerator = s[HIT] + 1.0, denominator = tversky_denominator(p, s);
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

template <unsigned kind> __device__ inline void write_gradient(const LossGradient &p) {
    const unsigned sample = blockIdx.y;
    unsigned index = blockIdx.x * VECTORS * THREADS + threadIdx.x;
    Vector vectors[VECTORS];
    read_vectors(p.pixels, sample, index, vectors);
    const Pack<float, 4> factors = load<4>(p.factors + 4 * sample);
#pragma unroll
    for (unsigned k = 0; k < VECTORS; ++k, index += THREADS) {
        const Vector &vector = vectors[k];
        Pack<float, 4> gradient;
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {
            const bool burns = (vector.burns() & 1u << i) != 0;
            const Pixel x = pixel(vector.z.v[i], burns);
            // d/dz of s^γ·cross-entropy, s = 1 − p_t, is ± s^γ (γ p_t·cross-entropy + s).
            float slope = x.missed;
            if (kind != LOSS_CROSS_ENTROPY) {
                slope = focus<kind>(x.missed, p.gamma) * fmaf(p.gamma * x.hit, x.cross_entropy, x.missed);
            }
            const float along = burns ? -factors.v[0] : factors.v[1], region = burns ? factors.v[2] : factors.v[3];
            const float sum = fmaf(along, slope, region * (x.hit * x.missed)); // dp/dz = p (1 − p)
            gradient.v[i] = vector.valid ? sum : 0.0f;
        }
        if (index < p.pixels.vectors) {
            store(p.gradient + 4 * (static_cast<unsigned long long>(sample) * p.pixels.vectors + index), gradient);
        }
    }
}

KERNEL(256, loss_gradient, LossGradient) {
    switch (p.kind) {
    case LOSS_CROSS_ENTROPY:
        write_gradient<LOSS_CROSS_ENTROPY>(p);
        break;
    case LOSS_FOCAL:
        write_gradient<LOSS_FOCAL>(p);
        break;
    default:
        write_gradient<LOSS_FOCAL_SQUARE>(p);
    }
}
