// The CUDA language for the host's compiler: what the kernels of this folder's parent use of it, and no more.
//
// A block's threads are fibers that one host thread runs in turn; __syncthreads and the warp collectives switch between
// them. Every access to shared memory is checked: inside the block's allocation, written before it is read, and ordered by
// a barrier where another thread touched the same bytes. Device memory lies between guard pages. What a check finds is
// reported with kernel, block and thread, and ends the launch with an error.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "params.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline

namespace emulate {

struct Dim {
    unsigned x, y, z;
};

// Of the running thread.
Dim thread_index();
Dim block_index();
Dim block_size();
Dim grid_size();

using Entry = void (*)(const void *params);

// Adds a kernel to the table that launches look names up in.
struct Registration {
    Registration(const char *name, size_t params_size, unsigned max_threads, Entry entry);
};

// Ends the launch: the message gets kernel, block and thread in front.
[[noreturn]] void report(const char *format, ...) __attribute__((format(printf, 1, 2)));

void sync_threads();
// All lanes of the running thread's warp meet, bringing `size` bytes each; returns those of lane `i` at
// result + i·SLOT. `kind` names the collective.
constexpr size_t SLOT = 64;
const unsigned char *exchange(const char *kind, unsigned mask, const void *mine, size_t size);

void read_shared(unsigned offset, void *to, size_t size);
void write_shared(unsigned offset, const void *from, size_t size);
// Reads and writes in one step that no other thread's can come between.
void update_shared(unsigned offset, void *value, size_t size, void (*combine)(void *value, const void *operand),
                   const void *operand);

void async_copy(unsigned to, const void *from, unsigned bytes);
void async_commit();
void async_wait(int pending);

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void ldmatrix(uint32_t (&r)[4], unsigned row, bool transposed);

// Refuses an address that a vector access of the GPU would fault on.
void check_aligned(const void *address, size_t bytes);
// Counts bytes of device memory that kernels move through load() and store().
void count_bytes(size_t bytes);

template <typename To, typename From> To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// An element of shared memory.
template <typename T> struct SharedRef {
    using Value = std::remove_const_t<T>;
    unsigned offset;

    operator Value() const {
        Value value;
        read_shared(offset, &value, sizeof(value));
        return value;
    }
    const SharedRef &operator=(Value value) const {
        write_shared(offset, &value, sizeof(value));
        return *this;
    }
    const SharedRef &operator=(const SharedRef &other) const { return *this = static_cast<Value>(other); }
    const SharedRef &operator+=(Value value) const { return *this = static_cast<Value>(*this) + value; }
    const SharedRef &operator-=(Value value) const { return *this = static_cast<Value>(*this) - value; }
    const SharedRef &operator*=(Value value) const { return *this = static_cast<Value>(*this) * value; }
    SharedRef(const SharedRef &) = default;
    explicit SharedRef(unsigned offset) : offset(offset) {}
};

} // namespace emulate

// A pointer into the block's shared memory.
template <typename T> struct SharedPtr {
    unsigned offset; // bytes from the start

    explicit SharedPtr(unsigned offset) : offset(offset) {}
    template <typename U, typename = std::enable_if_t<std::is_same_v<const U, T>>>
    SharedPtr(SharedPtr<U> other) : offset(other.offset) {}

    emulate::SharedRef<T> operator[](ptrdiff_t i) const {
        return emulate::SharedRef<T>(offset + static_cast<unsigned>(i * static_cast<ptrdiff_t>(sizeof(T))));
    }
    SharedPtr operator+(ptrdiff_t i) const {
        return SharedPtr(offset + static_cast<unsigned>(i * static_cast<ptrdiff_t>(sizeof(T))));
    }
    SharedPtr &operator+=(ptrdiff_t i) { return *this = *this + i; }
};

template <typename T> SharedPtr<T> operator&(const emulate::SharedRef<T> &element) {
    return SharedPtr<T>(element.offset);
}

template <typename T> SharedPtr<T> shared_memory(unsigned offset) { return SharedPtr<T>(offset); }

#define threadIdx (emulate::thread_index())
#define blockIdx (emulate::block_index())
#define blockDim (emulate::block_size())
#define gridDim (emulate::grid_size())

#define KERNEL(threads, name, Params)                                                                                  \
    static void name(const Params &p);                                                                                 \
    static const emulate::Registration name##_registration(                                                            \
        #name, sizeof(Params), threads, [](const void *params) { name(*static_cast<const Params *>(params)); });       \
    static void name(const Params &p)
#define KERNEL_RESIDENT(threads, blocks, name, Params) KERNEL(threads, name, Params)

// ---- bf16 ----

struct bf16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return emulate::bits<float>(static_cast<uint32_t>(x.bits) << 16); }
template <typename T> T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bf16 from_float<bf16>(float x) {
    const uint32_t b = emulate::bits<uint32_t>(x);
    if (x != x) {
        return {0x7fff};
    }
    return {static_cast<uint16_t>((b + 0x7fff + (b >> 16 & 1)) >> 16)}; // to nearest, ties to even
}

// ---- vectors ----

template <typename T, int N> struct alignas(sizeof(T) * N) Pack;

template <int N, typename T> Pack<T, N> load(const T *from) {
    emulate::check_aligned(from, sizeof(T) * N);
    emulate::count_bytes(sizeof(T) * N);
    Pack<T, N> pack;
    std::memcpy(&pack, from, sizeof(pack));
    return pack;
}
template <int N, typename T> void store(T *to, const Pack<T, N> &pack) {
    emulate::check_aligned(to, sizeof(T) * N);
    emulate::count_bytes(sizeof(T) * N);
    std::memcpy(to, &pack, sizeof(pack));
}
template <int N, typename T> Pack<std::remove_const_t<T>, N> load(SharedPtr<T> from) {
    emulate::check_aligned(reinterpret_cast<const void *>(static_cast<uintptr_t>(from.offset)), sizeof(T) * N);
    Pack<std::remove_const_t<T>, N> pack;
    emulate::read_shared(from.offset, &pack, sizeof(pack));
    return pack;
}
template <int N, typename T> void store(SharedPtr<T> to, const Pack<T, N> &pack) {
    emulate::check_aligned(reinterpret_cast<const void *>(static_cast<uintptr_t>(to.offset)), sizeof(T) * N);
    emulate::write_shared(to.offset, &pack, sizeof(pack));
}

// ---- barriers and warp collectives ----

inline void __syncthreads() { emulate::sync_threads(); }

namespace emulate {
template <typename T> T from_lane(const unsigned char *slots, unsigned lane) {
    T value;
    std::memcpy(&value, slots + lane * SLOT, sizeof(value));
    return value;
}
} // namespace emulate

inline void __syncwarp() {
    const unsigned char nothing = 0;
    emulate::exchange("__syncwarp", 0xffffffffu, &nothing, sizeof(nothing));
}
template <typename T> T __shfl_sync(unsigned mask, T value, int lane) {
    const unsigned char *slots = emulate::exchange("__shfl_sync", mask, &value, sizeof(value));
    return emulate::from_lane<T>(slots, static_cast<unsigned>(lane) % 32);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    const unsigned char *slots = emulate::exchange("__shfl_xor_sync", mask, &value, sizeof(value));
    return emulate::from_lane<T>(slots, (threadIdx.x % 32) ^ static_cast<unsigned>(lanes));
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
    const unsigned char *slots = emulate::exchange("__shfl_up_sync", mask, &value, sizeof(value));
    const unsigned lane = threadIdx.x % 32;
    return emulate::from_lane<T>(slots, lane >= delta ? lane - delta : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const unsigned char *slots = emulate::exchange("__ballot_sync", mask, &predicate, sizeof(predicate));
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        ballot |= (emulate::from_lane<int>(slots, lane) != 0 ? 1u : 0u) << lane;
    }
    return ballot;
}

// ---- atomics ----

inline unsigned atomicAdd(unsigned *to, unsigned value) { return __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }
inline int atomicAdd(int *to, int value) { return __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }
inline unsigned long long atomicAdd(unsigned long long *to, unsigned long long value) {
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
// On shared memory; integers only, since the order of float sums would vary.
template <typename T> T atomicAdd(SharedPtr<T> to, std::common_type_t<T> value) {
    static_assert(std::is_integral_v<T>, "sums of floats depend on their order");
    T old;
    emulate::update_shared(
        to.offset, &old, sizeof(old),
        [](void *sum, const void *term) {
            T a, b;
            std::memcpy(&a, sum, sizeof(a));
            std::memcpy(&b, term, sizeof(b));
            a += b;
            std::memcpy(sum, &a, sizeof(a));
        },
        &value);
    return old;
}

// ---- arithmetic ----

inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b) >> 32);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline unsigned long long __brevll(unsigned long long x) {
    unsigned long long reversed = 0;
    for (int i = 0; i < 64; ++i) {
        reversed |= (x >> i & 1) << (63 - i);
    }
    return reversed;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float sinpif(float x) { return static_cast<float>(std::sin(3.14159265358979323846 * x)); }
inline float cospif(float x) { return static_cast<float>(std::cos(3.14159265358979323846 * x)); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
template <typename T> std::enable_if_t<std::is_integral_v<T>, T> min(T a, T b) { return a < b ? a : b; }
template <typename T> std::enable_if_t<std::is_integral_v<T>, T> max(T a, T b) { return a > b ? a : b; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
