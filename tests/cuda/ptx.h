// PTX, NVIDIA's machine language for GPUs, played on a CPU: what the C++ calls that `ptx.py` makes
// of it. `op_mul_hi<s32>(x, y)` is the instruction `mul.hi.s32`, as NVIDIA's manual ("PTX ISA") has
// it. Threads, barriers and warps are those of `cuda_on_cpu.h`.
#pragma once
#include <fenv.h>
#include <float.h>

#include "cuda_on_cpu.h"

namespace ptx {

typedef uint8_t u8, b8;
typedef uint16_t u16, b16;
typedef uint32_t u32, b32;
typedef uint64_t u64, b64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef bool pred;
typedef __half f16;
typedef __nv_bfloat16 bf16;
typedef float f32;
typedef double f64;

template <class T> constexpr bool is_float = false;
template <> constexpr bool is_float<f16> = true;
template <> constexpr bool is_float<bf16> = true;
template <> constexpr bool is_float<f32> = true;
template <> constexpr bool is_float<f64> = true;
template <class T> constexpr bool is_signed = T(-1) < T(0);

// -------------------------------------------------------------------------------------- registers
// A register has a size, but no type: the instruction says what is in it.

template <int bytes> struct Bits;
template <> struct Bits<1> { typedef u8 type; };
template <> struct Bits<2> { typedef u16 type; };
template <> struct Bits<4> { typedef u32 type; };
template <> struct Bits<8> { typedef u64 type; };

template <class T, class Register> static inline T get(Register from) {
    if constexpr (is_float<T>)
        return same_bits<T>((typename Bits<sizeof(T)>::type)from);
    else
        return (T)from;
}
template <class Register, class T> static inline void put(Register& to, T value) {
    if constexpr (is_float<T>)
        to = same_bits<typename Bits<sizeof(T)>::type>(value);
    else
        to = (Register)value;  // in a wider one the sign is repeated
}

// ----------------------------------------------------------------------------------------- memory
// Addresses are those of the host, but in shared memory: there a module's own variables begin at 0,
// what a launch adds at DYNAMIC.

static const u64 DYNAMIC = 1 << 20;
static char* declared();  // where the module's own are

static inline char* shared_place(u64 address) {
    return address < DYNAMIC ? declared() + address
                             : cuda_on_cpu::dynamic_shared + (address - DYNAMIC);
}
static inline u64 shared_address(u64 place) {
    u64 own = place - (u64)declared();
    return own < DYNAMIC ? own : place - (u64)cuda_on_cpu::dynamic_shared + DYNAMIC;
}
static inline char* aligned(char* place, int bytes) {
    if ((u64)place % bytes) cuda_on_cpu::fail("%d bytes at %p: misaligned", bytes, place);
    return place;
}
template <class T> static inline T load(const char* place) {
    T value;
    memcpy(&value, place, sizeof value);
    return value;
}
template <class T> static inline void store(char* place, T value) {
    memcpy(place, &value, sizeof value);
}

// -------------------------------------------------------------------------------------- arithmetic
// 16-bit floats are computed with as float; whole numbers wrap around.

static inline f32 number(f16 x) { return f32(x); }
static inline f32 number(bf16 x) { return f32(x); }
template <class T> static inline T number(T x) { return x; }

#define ARITHMETIC(name, sign) \
    template <class T> static inline T op_##name(T x, T y) { \
        if constexpr (is_float<T>) return T(number(x) sign number(y)); \
        else return T((u64)x sign (u64)y); \
    }
ARITHMETIC(add, +)
ARITHMETIC(sub, -)
ARITHMETIC(mul, *)
#define op_mul_lo op_mul

template <class T> static inline T op_div(T x, T y) {
    if constexpr (is_float<T>) return x / y;
    else if (!y) return T(-1);
    else return is_signed<T> && y == T(-1) ? op_sub(T(0), x) : T(x / y);
}
template <class T> static inline T op_rem(T x, T y) {
    return !y ? x : is_signed<T> && y == T(-1) ? T(0) : T(x % y);
}
template <class T> static inline T op_neg(T x) {
    if constexpr (is_float<T>) return T(-number(x));
    else return op_sub(T(0), x);
}
template <class T> static inline T op_abs(T x) {
    if constexpr (is_float<T>) return T(number(x) < 0 || 1 / number(x) < 0 ? -number(x) : number(x));
    else return x < 0 ? op_neg(x) : x;
}
template <class T> static inline T op_min(T x, T y) {
    if constexpr (is_float<T>) return T(fmin(number(x), number(y)));  // not the NaN
    else return x < y ? x : y;
}
template <class T> static inline T op_max(T x, T y) {
    if constexpr (is_float<T>) return T(fmax(number(x), number(y)));
    else return x > y ? x : y;
}
template <class T> static inline T op_copysign(T sign, T x) { return copysign(x, sign); }

template <class T> static inline T op_fma(T x, T y, T z) {
    if constexpr (sizeof(T) == 8) return fma(x, y, z);
    else return T(fmaf(number(x), number(y), number(z)));
}
template <class T> static inline T op_fma_rm(T x, T y, T z) {  // rounded down
    volatile T a = x, b = y, c = z;
    fesetround(FE_DOWNWARD);
    volatile T result = op_fma<T>(a, b, c);
    fesetround(FE_TONEAREST);
    return result;
}
template <class T> static inline T op_add_rz(T x, T y) {  // rounded towards zero
    volatile T a = x, b = y;
    fesetround(FE_TOWARDZERO);
    volatile T result = a + b;
    fesetround(FE_TONEAREST);
    return result;
}

// What a GPU only approximates is here rounded correctly, but for the first guess of a division.
template <class T> static inline T op_sqrt(T x) { return sqrt(x); }
template <class T> static inline T op_ex2_approx(T x) { return exp2(x); }
static inline f64 upper_half(f64 x) { return same_bits<f64>(same_bits<u64>(x) >> 32 << 32); }
static inline f32 upper_half(f32 x) { return x; }
template <class T> static inline T op_rcp(T x) { return 1 / x; }
template <class T> static inline T op_rcp_approx(T x) { return upper_half(1 / x); }

static inline f32 flushed(f32 x) { return fabsf(x) < FLT_MIN ? copysignf(0, x) : x; }
template <class T> static inline T flushed(T x) { return x; }
template <class T> static inline T saturated(T x) { return x > 0 ? x < 1 ? x : T(1) : T(0); }

// --------------------------------------------------------------------------------- whole numbers

template <class T> constexpr int width = 8 * sizeof(T);
template <class T> struct Wide;
template <> struct Wide<u16> { typedef u32 type; };
template <> struct Wide<s16> { typedef s32 type; };
template <> struct Wide<u32> { typedef u64 type; };
template <> struct Wide<s32> { typedef s64 type; };
template <> struct Wide<u64> { typedef unsigned __int128 type; };
template <> struct Wide<s64> { typedef __int128 type; };
template <class T> using wide = typename Wide<T>::type;

template <class T> static inline wide<T> op_mul_wide(T x, T y) { return (wide<T>)x * y; }
template <class T> static inline T op_mul_hi(T x, T y) { return op_mul_wide(x, y) >> width<T>; }
template <class T> static inline T op_mad_lo(T x, T y, T z) { return op_add(op_mul(x, y), z); }
template <class T> static inline wide<T> op_mad_wide(T x, T y, wide<T> z) {
    return op_add(op_mul_wide(x, y), z);
}

// x + y + carry, and what is carried on.
template <class T> static inline T op_add_cc(T x, T y, bool& carry, bool before = false) {
    wide<T> sum = (wide<T>)x + y + before;
    return carry = sum >> width<T>, T(sum);
}
template <class T> static inline T op_sub_cc(T x, T y, bool& carry, bool before = false) {
    wide<T> difference = (wide<T>)x - y - before;
    return carry = difference >> width<T> & 1, T(difference);
}
#define WITH_CARRY(name, ...) \
    template <class T> static inline T op_##name(T x, T y, T z, bool& carry) { \
        bool before = carry, on; \
        return __VA_ARGS__; \
    }
WITH_CARRY(mad_lo_cc, op_add_cc(op_mul(x, y), z, carry))
WITH_CARRY(madc_lo_cc, op_add_cc(op_mul(x, y), z, carry, before))
WITH_CARRY(madc_hi_cc, op_add_cc(op_mul_hi(x, y), z, carry, before))
WITH_CARRY(madc_hi, op_add_cc(op_mul_hi(x, y), z, on, before))
#undef WITH_CARRY
template <class T> static inline T op_addc_cc(T x, T y, bool& c) { return op_add_cc(x, y, c, c); }
template <class T> static inline T op_subc_cc(T x, T y, bool& c) { return op_sub_cc(x, y, c, c); }
template <class T> static inline T op_addc(T x, T y, bool c) { return op_add_cc(x, y, c, c); }
template <class T> static inline T op_subc(T x, T y, bool c) { return op_sub_cc(x, y, c, c); }

template <class T> static inline T op_and(T x, T y) { return x & y; }
template <class T> static inline T op_or(T x, T y) { return x | y; }
template <class T> static inline T op_xor(T x, T y) { return x ^ y; }
template <class T> static inline T op_not(T x) { return x ^ (T)~0ull; }
template <class T> static inline T op_shl(T x, u32 n) { return n < width<T> ? T(x << n) : T(0); }
template <class T> static inline T op_shr(T x, u32 n) {
    return n < width<T> ? T(x >> n) : is_signed<T> && x < T(0) ? T(-1) : T(0);
}
template <class T> static inline u32 op_popc(T x) { return __builtin_popcountll(x); }
template <class T> static inline u32 op_clz(T x) {
    return x ? __builtin_clzll((u64)x) - (64 - width<T>) : width<T>;
}
template <class T> static inline T op_brev(T x) {
    T y = 0;
    for (int i = 0; i < width<T>; i++) y |= (x >> i & 1) << (width<T> - 1 - i);
    return y;
}
template <class T> static inline u32 op_bfind_shiftamt(T x) { return x ? op_clz(x) : ~0u; }
template <class T> static inline T op_bfi(T field, T into, u32 at, u32 length) {
    at &= 255, length &= 255;
    T mask = op_shl<T>(op_sub<T>(op_shl<T>(1, length), 1), at);
    return (op_shl<T>(field, at) & mask) | (into & ~mask);
}
// ---------------------------------------------------------------------- comparisons, conversions

template <class T> static inline bool unordered(T x, T y) {
    if constexpr (is_float<T>) return isnan(number(x)) || isnan(number(y));
    else return false;
}
#define COMPARISON(name, sign) \
    template <class T> static inline pred op_setp_##name(T x, T y) { \
        return !unordered(x, y) && number(x) sign number(y); \
    } \
    template <class T> static inline pred op_setp_##name##u(T x, T y) { \
        return unordered(x, y) || number(x) sign number(y); \
    }
COMPARISON(eq, ==)
COMPARISON(ne, !=)
COMPARISON(lt, <)
COMPARISON(le, <=)
COMPARISON(gt, >)
COMPARISON(ge, >=)
template <class T> static inline pred op_setp_nan(T x, T y) { return unordered(x, y); }
template <class T> static inline T op_set(pred x) { return T(f32(x)); }
template <class T> static inline T op_selp(T x, T y, pred first) { return first ? x : y; }
template <class T> static inline T op_mov(T x) { return x; }

// `rounding`: to a whole number, as the letter says: n, z, m or p; or 0.
template <class To, class From> static inline To op_cvt(From from, char rounding) {
    if constexpr (!is_float<From>) {
        if constexpr (sizeof(To) == 2 && is_float<To>) return To(f32(from));
        else return To(from);
    } else {
        f64 x = number(from);
        x = rounding == 'n'   ? rint(x)
            : rounding == 'z' ? trunc(x)
            : rounding == 'm' ? floor(x)
            : rounding == 'p' ? ceil(x)
                              : x;
        if constexpr (is_float<To>) {
            if constexpr (sizeof(To) == 2) return To(f32(x));
            else return x;
        } else {
            const To least = is_signed<To> ? To(1ull << (width<To> - 1)) : To(0), most = ~least;
            if (isnan(x)) return sizeof(To) == 8 || sizeof(From) == 8 ? 1ull << (width<To> - 1) : 0;
            return x <= f64(least) ? least : x >= f64(most) ? most : To(x);
        }
    }
}
template <class T> static inline u32 op_cvt_x2(f32 high, f32 low) {  // cvt.rn.bf16x2.f32
    return (u32)same_bits<u16>(T(high)) << 16 | same_bits<u16>(T(low));
}

// ------------------------------------------------------------------------------------ together
// One thread runs at a time: nobody comes between an atomic operation's reading and writing.

#define ATOMIC(name, ...) \
    template <class T> static inline T op_atom_##name(char* place, T y) { \
        T x = load<T>(place); \
        store<T>(place, __VA_ARGS__); \
        return x; \
    }
ATOMIC(add, op_add(x, y))
ATOMIC(max, op_max(x, y))
ATOMIC(inc, x >= y ? 0 : x + 1)

// The lane that `from` and `limits` lead to, and whether there is one.
static inline u32 op_shfl(char how, int line, u32 x, u32 from, u32 limits, u32 mask, bool& found) {
    int lane = cuda_on_cpu::lane(), segment = limits >> 8 & 31, n = from & 31;
    int first = lane & segment, last = first | (limits & 31 & ~segment);
    int other = how == 'u' ? lane - n : how == 'd' ? lane + n : how == 'b' ? lane ^ n
                                                              : first | (n & ~segment);
    found = how == 'u' ? other >= last : other <= last;
    return cuda_on_cpu::shuffle("shfl.sync", line, mask, x, found ? other : lane);
}

template <class T>
static inline void op_mma(u32& d0, u32& d1, u32& d2, u32& d3, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                          u32 b1, u32 c0, u32 c1, u32 c2, u32 c3) {
    u32 a[] = {a0, a1, a2, a3}, b[] = {b0, b1};
    f32 c[] = {get<f32>(c0), get<f32>(c1), get<f32>(c2), get<f32>(c3)};
    ::mma<T>(c, a, b);
    put(d0, c[0]), put(d1, c[1]), put(d2, c[2]), put(d3, c[3]);
}
static inline void op_ldmatrix(bool transposed, char* row, u32& r0, u32& r1, u32& r2, u32& r3) {
    u32 r[4];
    cuda_on_cpu::load_matrices(r, row, transposed);
    r0 = r[0], r1 = r[1], r2 = r[2], r3 = r[3];
}

}  // namespace ptx
