// Tensor-core products of bf16 with float sums, and the loads of their fragments from shared memory.
//
// Fragments of mma.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16"), with g = lane / 4 and t = lane % 4; each
// register holds two bf16, the lower column (of A) or row (of B) in its low half:
//   A 16×16: a[0] (g, 2t..), a[1] (g + 8, 2t..), a[2] (g, 2t + 8..), a[3] (g + 8, 2t + 8..)
//   B 16×8:  b[0] (2t.., g), b[1] (2t + 8.., g)
//   D 16×8:  d[0], d[1] (g, 2t..), d[2], d[3] (g + 8, 2t..)
#pragma once

#include "common.cuh"

#ifdef __CUDACC__
// d += a·b, all lanes of the warp together.
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8×8 matrices: lane l names the address of row l % 8 of matrix l / 8 (16 bytes, aligned); r[i] receives elements
// (l / 4, 2·(l % 4)..) of matrix i.
__device__ inline void ldmatrix4(uint32_t (&r)[4], SharedPtr<const bf16> row) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed: r[i] receives elements (2·(l % 4).., l / 4).
__device__ inline void ldmatrix4_transposed(uint32_t (&r)[4], SharedPtr<const bf16> row) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
#else
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { emulate::mma_bf16(d, a, b); }
inline void ldmatrix4(uint32_t (&r)[4], SharedPtr<const bf16> row) { emulate::ldmatrix(r, row.offset, false); }
inline void ldmatrix4_transposed(uint32_t (&r)[4], SharedPtr<const bf16> row) {
    emulate::ldmatrix(r, row.offset, true);
}
#endif
