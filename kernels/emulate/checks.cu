// Kernels that are wrong on purpose, each in one way, and kernels whose results are known: tests/gpu/device.rs runs them to
// see that the emulated device reports the former and computes the latter as the PTX manual says.
#include "async.cuh"
#include "common.cuh"
#include "mma.cuh"
#include "reduce.cuh"

KERNEL(64, check_divergent_barrier, Check) {
    if (threadIdx.x != 37) {
        __syncthreads();
    }
    p.out[threadIdx.x] = 1.0f;
}

KERNEL(64, check_unwritten_shared, Check) {
    SharedPtr<float> s = shared_memory<float>(0);
    if (threadIdx.x != 20) {
        s[threadIdx.x] = 1.0f;
    }
    __syncthreads();
    p.out[threadIdx.x] = s[threadIdx.x];
}

KERNEL(64, check_outside_shared, Check) {
    SharedPtr<float> s = shared_memory<float>(0);
    s[threadIdx.x + 1] = 1.0f;
    p.out[threadIdx.x] = 1.0f;
}

KERNEL(64, check_missing_barrier, Check) {
    SharedPtr<float> s = shared_memory<float>(0);
    s[threadIdx.x] = 1.0f;
    p.out[threadIdx.x] = s[(threadIdx.x + 32) % 64];
}

KERNEL(64, check_overwritten_early, Check) {
    SharedPtr<float> s = shared_memory<float>(0);
    s[threadIdx.x] = 1.0f;
    __syncthreads();
    const float x = s[(threadIdx.x + 1) % 64];
    s[threadIdx.x] = x + 1.0f;
    p.out[threadIdx.x] = x;
}

KERNEL(64, check_read_beyond, Check) { p.out[threadIdx.x] = p.in[threadIdx.x + p.len]; }

KERNEL(64, check_write_beyond, Check) { p.out[threadIdx.x + p.len] = 1.0f; }

KERNEL(64, check_misaligned, Check) { p.out[threadIdx.x] = load<4>(p.in + 1).v[0]; }

KERNEL(64, check_lonely_shuffle, Check) {
    if (threadIdx.x % 32 < 16) {
        p.out[threadIdx.x] = warp_sum(1.0f);
    }
}

KERNEL(64, check_unwaited_copy, Check) {
    SharedPtr<float> s = shared_memory<float>(0);
    if (threadIdx.x < 16) {
        async_copy16(s + 4 * threadIdx.x, p.in + 4 * threadIdx.x);
    }
    async_commit();
    __syncthreads();
    p.out[threadIdx.x] = s[threadIdx.x];
}

// out[i] = in[i + 4] for i < len, 0 beyond, by way of asynchronous copies in two groups.
KERNEL(64, check_copies, Check) {
    SharedPtr<float> s = shared_memory<float>(0);
    for (unsigned half = 0; half < 2; ++half) {
        const unsigned i = threadIdx.x / 2 * 4 + half * 128;
        if (threadIdx.x % 2 == 0) {
            async_copy16(s + i, p.in + i + 4, i < p.len);
        }
        async_commit();
    }
    async_wait<1>();
    __syncthreads();
    p.out[threadIdx.x] = s[threadIdx.x];
    p.out[threadIdx.x + 64] = s[threadIdx.x + 64];
    async_wait<0>();
    __syncthreads();
    p.out[threadIdx.x + 128] = s[threadIdx.x + 128];
    p.out[threadIdx.x + 192] = s[threadIdx.x + 192];
}

// out[0..64]: sum over the warp of in; out[64..128]: the block's sum; out[128..192]: in of the lane before; out[192..256]:
// the warp's ballot of in > 0.
KERNEL(64, check_collectives, Check) {
    const unsigned i = threadIdx.x;
    const float x = p.in[i];
    p.out[i] = warp_sum(x);
    p.out[64 + i] = block_sum(x, shared_memory<float>(0));
    p.out[128 + i] = __shfl_up_sync(0xffffffffu, x, 1);
    p.out[192 + i] = static_cast<float>(__ballot_sync(0xffffffffu, x > 0.0f));
}

// out [16, 8] = A [16, 16]·B [16, 8], both bf16 in `halves`, row-major: A from rows by ldmatrix, B by ldmatrix transposed.
// With len 1, B lies transposed [8, 16] and is loaded as it is.
KERNEL(32, check_mma, Check) {
    const bf16 *from = static_cast<const bf16 *>(p.halves);
    SharedPtr<bf16> s = shared_memory<bf16>(0);
    for (unsigned i = threadIdx.x; i < 16 * 16 + 16 * 8; i += 32) {
        s[i] = from[i];
    }
    __syncthreads();
    const unsigned lane = threadIdx.x;
    uint32_t a[4], b[4];
    ldmatrix4(a, s + (lane % 16) * 16 + lane / 16 * 8);
    SharedPtr<bf16> second = s + 256;
    if (p.len == 1) {
        ldmatrix4(b, second + (lane % 8) * 16 + lane / 8 % 2 * 8);
    } else {
        ldmatrix4_transposed(b, second + (lane % 16) * 8);
    }
    float d[4] = {};
    const uint32_t pair[2] = {b[0], b[1]};
    mma_bf16(d, a, pair);
    for (unsigned i = 0; i < 4; ++i) {
        p.out[(lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + i % 2] = d[i];
    }
}
