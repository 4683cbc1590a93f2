// What the kernels share: how the threads that work on one row put their results together.
//
// A kernel is compiled with -Dscalar=float, __half or __nv_bfloat16, the type of the numbers in
// memory; it computes in float. Rows are taken by teams: the blockDim.x threads that have the same
// threadIdx.y, a warp (32 threads, several teams to a block) or, where rows are long, a whole
// block. Sums are taken in a fixed order, so that the same numbers give the same bits.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long int64;
typedef unsigned long long uint64;

constexpr unsigned WARP = 0xffffffff;  // all 32 lanes take part

__device__ float infinity() { return __int_as_float(0x7f800000); }

struct Add {
    static __device__ float nothing() { return 0; }
    static __device__ float of(float a, float b) { return a + b; }
};
struct Larger {
    static __device__ float nothing() { return -infinity(); }
    static __device__ float of(float a, float b) { return fmaxf(a, b); }
};

// Element i of an array of float, if it is `wide`, or of scalar.
__device__ float load(const void* x, int64 i, int wide) {
    return wide ? ((const float*)x)[i] : float(((const scalar*)x)[i]);
}
__device__ void store(void* x, int64 i, int wide, float value) {
    if (wide)
        ((float*)x)[i] = value;
    else
        ((scalar*)x)[i] = scalar(value);
}

// Every lane gets the result over the whole warp: each exchange doubles what a lane knows of.
template <class How> __device__ float over_warp(float x) {
    for (int distance = 16; distance > 0; distance /= 2)
        x = How::of(x, __shfl_xor_sync(WARP, x, distance));
    return x;
}

// Every thread gets the result over its team.
template <class How> __device__ float over_team(float x) {
    x = over_warp<How>(x);
    if (blockDim.x == 32) return x;
    __shared__ float parts[32];  // one of each warp
    __syncthreads();             // what was here before may still be read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    return over_warp<How>(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32]
                                                             : How::nothing());
}

__device__ float team_sum(float x) { return over_team<Add>(x); }
__device__ float team_max(float x) { return over_team<Larger>(x); }

// Whether 0 ≤ index < n. If not, the host shall know of it when it next waits: see bounds.py. The
// largest of whole numbers is the same in any order; a negative one is here larger than all others.
__device__ bool in_range(int64 index, int64 n, uint64* worst) {
    if (0 <= index && index < n) return true;
    atomicMax(worst, (uint64)index);
    return false;
}

// The row that this thread's team works on. There may be more teams than rows.
__device__ int team_row() { return blockIdx.x * blockDim.y + threadIdx.y; }

// The number of this thread in the whole grid.
__device__ int64 thread_number() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }
