// What CuPy's own kernels need besides `cuda_on_cpu.h`: more of CUDA's functions. They are compiled
// with libstdc++'s headers where NVRTC takes NVIDIA's, and have no complex numbers.
#pragma once

// CuPy's scans count on what all GPUs do: a barrier does not wait for who has returned.
#define RETURNED_ARRIVE 1

#include <stddef.h>
#include <stdlib.h>

#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>

#include "cuda_on_cpu.h"

#define __CUDACC_VER_MAJOR__ 13
#undef assert
#define assert(x) ((x) ? (void)0 : cuda_on_cpu::fail("assert(%s)", #x))

template <class T> struct complex { T real, imag; };

typedef __half half;
struct __half_raw {
    unsigned short x;
    __half_raw() = default;
    explicit __half_raw(__half h) : x(h.bits) {}
    operator __half() const { return same_bits<__half>(x); }
};
static inline bool operator==(__nv_bfloat16 x, __nv_bfloat16 y) { return float(x) == float(y); }
static inline bool __hisnan(__nv_bfloat16 x) { return float(x) != float(x); }
static inline bool __hisinf(__nv_bfloat16 x) { return (x.bits & 0x7fff) == 0x7f80; }

static inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }

#define ATOMICS(T) \
    static inline T atomicAdd(T* address, T value) { \
        T before = *address; \
        *address += value; \
        return before; \
    } \
    static inline T atomicCAS(T* address, T expected, T value) { \
        T before = *address; \
        if (before == expected) *address = value; \
        return before; \
    }
ATOMICS(int)
ATOMICS(unsigned)
ATOMICS(unsigned long long)
ATOMICS(float)
ATOMICS(double)
