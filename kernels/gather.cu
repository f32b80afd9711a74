// A batch taken from the data set as bits, each sample under its own symmetry of the square.
//
// The data set (in device memory as a whole, or the part of it that one batch needs): frames [F, N, words], isochrones
// [F', N, words], wind [W, 2], statics [S, N, Cs], aspects [A, N, aspect bands], valid_patches [N]. samples [B] names each
// sample's rows there. The batch: frames [B, T, N, words], histories at the end, zeros before; last and target
// [B, N, words]; wind [B·T, 2] and statics [B·N, Cs] in the activations' type; valid_steps and ages [B, T];
// valid_patches [B, N].
//
// Nothing is computed here, so that the batch is bit for bit the one that the host would make: directions come turned
// (wind and aspects have a row for each symmetry). A symmetry moves whole patches, and within a patch its bits: reversals
// and transpositions of 4×4, 8×8 or 16×16 bits in registers.
//
// A thread owns a patch (1 or 4 words) of a plane: a step, or after the last step the target with what belongs to the patch
// but to no step. blockIdx: x 256 patches, y the plane, z the sample. Threads go by the batch's patches, so that writes are
// coalesced; under a transposition a warp reads words of 32 rows, whose sectors its neighbors find in the L2 cache. 16·words
// bytes a patch and step, about 10 operations, or 40 where bits move: memory bound. Batch 16, 20 steps of 400×400 pixels:
// 14 MB, 18 µs at 768 GB/s.
#include "common.cuh"

namespace {

using Word = unsigned long long;

// A symmetry by its number: bit 0 mirrors left to right, then bit 1 turns by a half and bit 2 by a quarter (clockwise). Seen
// from where a value goes: rows and columns exchanged or not, then counted from the other end or not.
struct Symmetry {
    bool exchanged, from_bottom, from_right;

    __device__ explicit Symmetry(unsigned number)
        : exchanged((number >> 2 & 1) != 0), from_bottom((number >> 1 & 1) != (number >> 2 & 1)),
          from_right((number & 1) != (number >> 1 & 1)) {}

    // The patch whose values go to (y, x).
    __device__ unsigned source(unsigned y, unsigned x, unsigned rows, unsigned cols) const {
        const unsigned row = exchanged ? x : y, col = exchanged ? y : x;
        return (from_bottom ? rows - 1 - row : row) * cols + (from_right ? cols - 1 - col : col);
    }
};

// Exchanges the bits of `mask` with those `distance` places above them.
__device__ inline Word exchange(Word x, int distance, Word mask) {
    const Word difference = (x ^ (x >> distance)) & mask;
    return x ^ difference ^ (difference << distance);
}

// The bits of a patch under a symmetry: rows and columns reversed, then transposed.
template <int P> struct Bits;

template <> struct Bits<4> {
    __device__ static void move(Word (&w)[1], const Symmetry &s) {
        Word x = w[0] & 0xffff;
        if (s.from_right) {
            x = __brevll(x) >> 48; // rows and columns
        }
        if (s.from_right != s.from_bottom) { // rows
            x = exchange(x, 4, 0x0f0f);
            x = exchange(x, 8, 0x00ff);
        }
        if (s.exchanged) { // bits, then blocks of 2×2
            x = exchange(x, 3, 0x0a0a);
            x = exchange(x, 6, 0x00cc);
        }
        w[0] = x;
    }
};

template <> struct Bits<8> {
    __device__ static void move(Word (&w)[1], const Symmetry &s) {
        Word x = w[0];
        if (s.from_right) {
            x = __brevll(x);
        }
        if (s.from_right != s.from_bottom) {
            x = exchange(x, 8, 0x00ff00ff00ff00ff);
            x = exchange(x, 16, 0x0000ffff0000ffff);
            x = exchange(x, 32, 0x00000000ffffffff);
        }
        if (s.exchanged) {
            x = exchange(x, 7, 0x00aa00aa00aa00aa);
            x = exchange(x, 14, 0x0000cccc0000cccc);
            x = exchange(x, 28, 0x00000000f0f0f0f0);
        }
        w[0] = x;
    }
};

template <> struct Bits<16> { // four rows a word
    __device__ static void swap_if(bool wanted, Word &a, Word &b) {
        const Word first = wanted ? b : a;
        b = wanted ? a : b;
        a = first;
    }
    // Exchanges the bits of `mask` in `upper` with those `distance` columns to the right in `lower`, rows below.
    __device__ static void exchange_words(Word &upper, Word &lower, int distance, Word mask) {
        const Word difference = ((upper >> distance) ^ lower) & mask;
        lower ^= difference;
        upper ^= difference << distance;
    }
    __device__ static void move(Word (&w)[4], const Symmetry &s) {
        swap_if(s.from_bottom, w[0], w[3]);
        swap_if(s.from_bottom, w[1], w[2]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (s.from_right) {
                w[i] = __brevll(w[i]);
            }
            if (s.from_right != s.from_bottom) {
                w[i] = exchange(w[i], 16, 0x0000ffff0000ffff);
                w[i] = exchange(w[i], 32, 0x00000000ffffffff);
            }
        }
        if (s.exchanged) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                w[i] = exchange(w[i], 15, 0x0000aaaa0000aaaa);
                w[i] = exchange(w[i], 30, 0x00000000cccccccc);
            }
            exchange_words(w[0], w[1], 4, 0x0f0f0f0f0f0f0f0f);
            exchange_words(w[2], w[3], 4, 0x0f0f0f0f0f0f0f0f);
            exchange_words(w[0], w[2], 8, 0x00ff00ff00ff00ff);
            exchange_words(w[1], w[3], 8, 0x00ff00ff00ff00ff);
        }
    }
};

template <int WORDS> __device__ inline void load_patch(const Word *from, Word (&w)[WORDS]) {
    if constexpr (WORDS == 1) {
        w[0] = from[0];
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i += 2) {
            const Pack<Word, 2> pack = load<2>(from + i);
            w[i] = pack.v[0];
            w[i + 1] = pack.v[1];
        }
    }
}

template <int WORDS> __device__ inline void store_patch(Word *to, const Word (&w)[WORDS]) {
    if constexpr (WORDS == 1) {
        to[0] = w[0];
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i += 2) {
            store(to + i, Pack<Word, 2>{{w[i], w[i + 1]}});
        }
    }
}

// What a sample has of each step beside its frame.
template <typename T> __device__ inline void step(const Gather &p, const GatherSample &sample, unsigned b, unsigned t) {
    const unsigned padding = p.history - sample.history;
    const size_t at = static_cast<size_t>(b) * p.history + t;
    const bool real = t >= padding;
    const unsigned age = real ? t - padding : 0;
    p.valid_steps[at] = real ? 1 : 0;
    p.ages[at] = age;
    const float *wind = p.set.wind + 2 * (static_cast<size_t>(sample.wind) + age);
    T *to = static_cast<T *>(p.wind) + 2 * at;
    to[0] = from_float<T>(real ? wind[0] : 0.0f);
    to[1] = from_float<T>(real ? wind[1] : 0.0f);
}

// What a sample has of each patch beside its bits: `from` is the data set's patch, `to` the batch's, [B·N].
template <typename T>
__device__ inline void patch_values(const Gather &p, const GatherSample &sample, unsigned from, size_t to) {
    p.valid_patches[to] = p.set.valid_patches[from];
    const size_t patches = static_cast<size_t>(p.rows) * p.cols;
    const float *statics = p.set.statics + (sample.statics * patches + from) * p.channels;
    const float *aspects = p.set.aspects + (sample.aspects * patches + from) * p.aspect_bands;
    T *values = static_cast<T *>(p.statics) + to * p.channels;
    for (unsigned c = 0; c < p.channels; ++c) {
        const int aspect = p.set.aspect_of[c];
        values[c] = from_float<T>(aspect < 0 ? statics[c] : aspects[aspect]);
    }
}

template <typename T, int P> __device__ inline void gather_patches(const Gather &p) {
    constexpr int WORDS = P == 16 ? 4 : 1;
    const unsigned patches = p.rows * p.cols, patch = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned y = patch / p.cols, x = patch % p.cols, plane = blockIdx.y;
    if (patch >= patches) {
        return;
    }
    for (unsigned b = blockIdx.z; b < p.batch; b += gridDim.z) {
        const GatherSample sample = p.samples[b];
        const Symmetry symmetry(sample.symmetry);
        const unsigned from = symmetry.source(y, x, p.rows, p.cols);
        const bool target = plane == p.history;
        const unsigned padding = p.history - sample.history;
        Word w[WORDS] = {};
        if (target || plane >= padding) {
            const size_t row = target ? sample.isochrone : static_cast<size_t>(sample.frame) + plane - padding;
            const Word *images = target ? p.set.isochrones : p.set.frames;
            load_patch(images + (row * patches + from) * WORDS, w);
            if (sample.symmetry != 0) {
                Bits<P>::move(w, symmetry);
            }
        }
        const size_t to = static_cast<size_t>(b) * patches + patch;
        if (target) {
            store_patch(p.target + to * WORDS, w);
            patch_values<T>(p, sample, from, to);
            continue;
        }
        const size_t frame = static_cast<size_t>(b) * p.history + plane;
        store_patch(p.frames + (frame * patches + patch) * WORDS, w);
        if (plane + 1 == p.history) {
            store_patch(p.last + to * WORDS, w);
        }
        if (patch == 0) {
            step<T>(p, sample, b, plane);
        }
    }
}

} // namespace

template <typename T> __device__ void gather(const Gather &p) {
    switch (p.patch) {
    case 4: return gather_patches<T, 4>(p);
    case 8: return gather_patches<T, 8>(p);
    default: return gather_patches<T, 16>(p);
    }
}
KERNELS(256, gather, Gather)
