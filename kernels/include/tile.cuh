// Tiles of bf16 rows in shared memory, and the fragments that tensor-core products read from them.
//
// A tile holds rows of COLUMNS elements (16, 32, or a multiple of 64) from byte `base` of the block's shared memory on;
// `base` is a multiple of 128. Rows are swizzled in units of 16 bytes, so that the eight rows of an 8×8 matrix, which
// ldmatrix reads at a time, fall on different banks, and so do the eight 4-byte rows of an accumulator's fragment.
//
// Four loads serve d += a·b whichever way the operands lie; all name the first row and column *of the tile* and are called
// by all lanes of a warp, with the same arguments, multiples of 8 (columns) and of 8 (rows):
//
//     operand                        tile                   load
//     A, 16 of m × 16 of k           rows m, columns k      load_a(tile, m, k, a)
//     A, 16 of m × 16 of k           rows k, columns m      load_a_transposed(tile, k, m, a)
//     B, 16 of k × two times 8 of n  rows n, columns k      load_b(tile, n, k, b)        weights [out, in]: x·Wᵀ
//     B, 16 of k × two times 8 of n  rows k, columns n      load_b_transposed(tile, k, n, b)            dy·W
//
// The sums of a product are themselves the A operand of the next one: `fragment` rounds those of two neighbouring 16×8 tiles
// to the 16×16 fragment of A.
#pragma once

#include "async.cuh"
#include "common.cuh"
#include "mma.cuh"

// Byte of 16-byte unit `unit` of row `row`, rows of UNITS units.
template <int UNITS> __device__ inline unsigned swizzled(unsigned row, unsigned unit) {
    static_assert(UNITS == 2 || UNITS == 4 || UNITS % 8 == 0, "rows of 32, 64 or multiples of 128 bytes");
    const unsigned turn = UNITS == 2 ? row / 4 % 2 : UNITS == 4 ? row / 2 % 4 : row % 8;
    return (row * UNITS + (unit ^ turn)) * 16;
}

template <int COLUMNS> struct Tile {
    static constexpr int UNITS = COLUMNS / 8;
    static constexpr unsigned ROW_BYTES = 2 * COLUMNS;
    unsigned base; // bytes from the start of shared memory

    // The eight elements of unit `unit` of a row: what 16-byte accesses and ldmatrix take.
    __device__ SharedPtr<bf16> unit(unsigned row, unsigned unit) const {
        return shared_memory<bf16>(base + swizzled<UNITS>(row, unit));
    }
    // An element and its neighbours up to the end of its unit.
    __device__ SharedPtr<bf16> at(unsigned row, unsigned column) const { return unit(row, column / 8) + column % 8; }
};

// Starts copies of rows 0..rows of a matrix whose rows are `stride` elements apart (`from` and stride·2 bytes multiples of
// 16) to the tile's first rows; rows from `valid` on become zeros and are not read. All threads of the block call it; the
// data is there after async_commit(), async_wait() and a barrier.
template <int COLUMNS>
__device__ inline void fill_tile(const Tile<COLUMNS> &tile, const bf16 *from, size_t stride, unsigned rows,
                                 unsigned valid) {
    constexpr unsigned UNITS = Tile<COLUMNS>::UNITS;
    for (unsigned i = threadIdx.x; i < rows * UNITS; i += blockDim.x) {
        const unsigned row = i / UNITS, unit = i % UNITS;
        const bool inside = row < valid;
        async_copy16(tile.unit(row, unit), inside ? from + row * stride + 8 * unit : from, inside);
    }
}

template <int COLUMNS>
__device__ inline void load_a(const Tile<COLUMNS> &tile, unsigned m, unsigned k, uint32_t (&a)[4]) {
    const unsigned lane = threadIdx.x % 32;
    ldmatrix4(a, tile.unit(m + lane % 16, k / 8 + lane / 16));
}

template <int COLUMNS>
__device__ inline void load_a_transposed(const Tile<COLUMNS> &tile, unsigned k, unsigned m, uint32_t (&a)[4]) {
    const unsigned lane = threadIdx.x % 32;
    ldmatrix4_transposed(a, tile.unit(k + lane % 8 + lane / 16 * 8, m / 8 + lane / 8 % 2));
}

// b[0] is the fragment of columns n.., b[1] that of n + 8..
template <int COLUMNS>
__device__ inline void load_b(const Tile<COLUMNS> &tile, unsigned n, unsigned k, uint32_t (&b)[2][2]) {
    const unsigned lane = threadIdx.x % 32;
    uint32_t r[4];
    ldmatrix4(r, tile.unit(n + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

template <int COLUMNS>
__device__ inline void load_b_transposed(const Tile<COLUMNS> &tile, unsigned k, unsigned n, uint32_t (&b)[2][2]) {
    const unsigned lane = threadIdx.x % 32;
    uint32_t r[4];
    ldmatrix4_transposed(r, tile.unit(k + lane % 16, n / 8 + lane / 16));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// Two floats rounded to the halves of a register, the first in the low one.
#ifdef __CUDACC__
__device__ inline uint32_t pack_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}
#else
inline uint32_t pack_bf16(float low, float high) {
    return from_float<bf16>(low).bits | static_cast<uint32_t>(from_float<bf16>(high).bits) << 16;
}
#endif

// The halves of a register as floats.
#ifdef __CUDACC__
__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
#else
inline float low_bf16(uint32_t pair) { return emulate::bits<float>(pair << 16); }
inline float high_bf16(uint32_t pair) { return emulate::bits<float>(pair & 0xffff0000u); }
#endif

// The fragment of A whose columns k.. and k + 8.. are these two 16×8 tiles of sums.
__device__ inline void fragment(const float (&left)[4], const float (&right)[4], uint32_t (&a)[4]) {
    a[0] = pack_bf16(left[0], left[1]);
    a[1] = pack_bf16(left[2], left[3]);
    a[2] = pack_bf16(right[0], right[1]);
    a[3] = pack_bf16(right[2], right[3]);
}
