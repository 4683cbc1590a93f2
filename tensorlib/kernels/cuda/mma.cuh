// Tensor cores: a warp multiplies small matrices whose elements lie spread over its 32 lanes.
//
//     C (16 × 8, float)  +=  A (16 × 16) · B (16 × 8)        `mma.sync.m16n8k16` (PTX manual)
//
// Such a matrix is called a fragment: every lane holds a few of its elements in registers. Lane
// 4 g + t (g = 0 … 7, t = 0 … 3) holds, two 16-bit numbers to a register, the lower column of A and
// the lower row of B in the lower half:
//
//     A: a[0] = A[g    ][2t, 2t + 1]    a[2] = A[g    ][2t + 8, 2t + 9]
//        a[1] = A[g + 8][2t, 2t + 1]    a[3] = A[g + 8][2t + 8, 2t + 9]
//     B: b[0] = B[2t, 2t + 1][g]        b[1] = B[2t + 8, 2t + 9][g]
//     C: c[0], c[1] = C[g][2t, 2t + 1]  c[2], c[3] = C[g + 8][2t, 2t + 1]
//
// Two fragments C side by side are, rounded to 16 bits, a fragment A: so the result of one product
// enters the next without leaving its lane's registers.
//
// The functions below are all that the kernels know of this hardware (compute capability 8.0 on).
// Every lane of the warp has to call them together.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// c += a · b.
template <class T> __device__ void mma(float* c, const unsigned* a, const unsigned* b);

// Four matrices of 8 × 8 numbers of 16 bits from shared memory. Lane l gives the address of one row
// of 16 bytes, aligned to 16: row l % 8 of matrix l / 8. Lane 4 g + t gets in r[i] the elements
// [g][2t, 2t + 1] of matrix i; of its transpose with load_matrices_transposed.
__device__ void load_matrices(unsigned* r, const void* row);
__device__ void load_matrices_transposed(unsigned* r, const void* row);

// Start to copy 16 bytes from global to shared memory, or zeros if not `valid`; then the source is
// not read. await_copies waits for this thread's copies; others see them after a __syncthreads.
__device__ void start_copy(void* shared, const void* global, bool valid);
__device__ void await_copies();

// Two floats rounded to two numbers of type T in one register, the first in the lower half; back.
template <class T> __device__ unsigned pack(float low, float high);
template <class T> __device__ float2 unpack(unsigned pair);

#ifdef __CUDACC__  // else whoever compiles this plays the hardware

template <> inline __device__ void mma<__half>(float* c, const unsigned* a, const unsigned* b) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
inline __device__ void mma<__nv_bfloat16>(float* c, const unsigned* a, const unsigned* b) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

inline __device__ unsigned shared_address(const void* pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

inline __device__ void load_matrices(unsigned* r, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)) : "memory");
}

inline __device__ void load_matrices_transposed(unsigned* r, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)) : "memory");
}

inline __device__ void start_copy(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)),
                    "r"(valid ? 16 : 0) : "memory");
}

inline __device__ void await_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

template <> inline __device__ unsigned pack<__half>(float low, float high) {
    __half2 pair = __floats2half2_rn(low, high);
    return *(unsigned*)&pair;
}

template <> inline __device__ unsigned pack<__nv_bfloat16>(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(unsigned*)&pair;
}

template <> inline __device__ float2 unpack<__half>(unsigned pair) {
    return __half22float2(*(__half2*)&pair);
}

template <> inline __device__ float2 unpack<__nv_bfloat16>(unsigned pair) {
    return __bfloat1622float2(*(__nv_bfloat162*)&pair);
}

#endif
