// CUDA, played on a CPU: what a kernel needs to be compiled by g++ and run by `emulator.py`.
//
// Each thread of a block is a fibre: a stack of its own, and a place where it paused. One fibre
// runs at a time, until it has to wait for others, so a run is deterministic and can be stepped
// through in gdb. Blocks run one after another, the warps of a block in turns (see `run_block`).
//
// What would be silently wrong on a GPU ends the launch here with one line: a barrier that not all
// threads reach, a lane that a shuffle waits for in vain, an index beyond an array, a misaligned
// vector access, an address outside of every buffer. Shared memory begins as NaN in each block.
#pragma once

#include <link.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

// ----------------------------------------------------------------------- the words of the language

#define __global__
#define __device__
#define __host__
#define __forceinline__
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static
#define __shared__ static __thread  // one copy, as blocks take turns; `shared_memory` finds them
#define __CUDA_ARCH__ 900

struct uint3 { unsigned x, y, z; };
typedef uint3 dim3;
static uint3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

#define VECTOR2(T, name) \
    struct __align__(2 * sizeof(T)) name { T x, y; }; \
    static inline name make_##name(T x, T y) { return {x, y}; }
#define VECTOR4(T, name) \
    struct __align__(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name { T x, y, z, w; }; \
    static inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR2(float, float2)
VECTOR4(float, float4)
VECTOR2(int, int2)
VECTOR4(int, int4)
VECTOR2(unsigned, uint2)
VECTOR4(unsigned, uint4)
VECTOR2(unsigned short, ushort2)
VECTOR4(unsigned short, ushort4)
VECTOR2(double, double2)
VECTOR2(unsigned long long, ulonglong2)

// ------------------------------------------------------------------------------------------ fibres

namespace cuda_on_cpu {

static const int MAX_THREADS = 1024, MAX_SHARED = 227 * 1024, MAX_COPIES = 256;
static const int STACK = 256 * 1024, PAGE = 4096, ZONE = 256;
#ifndef RETURNED_ARRIVE  // Whether a barrier waits for threads that have returned is not documented.
#define RETURNED_ARRIVE 0
#endif

enum State { READY, AT_BARRIER, IN_WARP, DONE };

struct Copy { void* to; const void* from; };  // 16 bytes by cp.async, or zeros, under way

struct Fibre {
    ucontext_t start;  // how to begin
    jmp_buf here;      // where it paused
    bool begun;
    State state;
    const char* call;  // of the warp function or barrier in which it waits
    int line;
    unsigned mask;
    void* operand;
    Copy copies[MAX_COPIES];
    int n_copies;
};

static Fibre fibres[MAX_THREADS];
static char* stacks;
static jmp_buf scheduler, launched;
static int self, n_threads, n_warps;
static void (*run_kernel)(void** args);
static void** kernel_args;
static char* dynamic_shared;
static char message[512];
static unsigned long long random_state;  // 0: threads take turns in order

static unsigned random_below(unsigned n) {  // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (unsigned)((random_state * 2685821657736338717ull) >> 33) % n;
}

static uint3 place(int thread) {
    unsigned t = thread;
    return {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
}

// Ends the launch: from the scheduler, a fibre or a signal handler.
__attribute__((noinline, noreturn, format(printf, 1, 2)))
static void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    int n = 0;
    if (self >= 0)
        n = snprintf(message, sizeof message, "thread (%u, %u, %u) of block (%u, %u, %u): ",
                     threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
    vsnprintf(message + n, sizeof message - n, format, values);
    va_end(values);
    _longjmp(launched, 1);
}

__attribute__((noinline)) static void pause_fibre() {
    if (!_setjmp(fibres[self].here)) _longjmp(scheduler, 1);
}

static void fibre_main() {
    for (;;) {  // a fibre plays the thread of its number in one block after another
        run_kernel(kernel_args);
        fibres[self].state = DONE;
        pause_fibre();
    }
}

static void resume(int thread) {
    Fibre& f = fibres[thread];
    self = thread;
    threadIdx = place(thread);
    if (_setjmp(scheduler) == 0) {
        if (f.begun) _longjmp(f.here, 1);
        if (!stacks)
            stacks = (char*)mmap(0, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        f.begun = true;
        getcontext(&f.start);
        f.start.uc_stack.ss_sp = stacks + (size_t)thread * STACK;
        f.start.uc_stack.ss_size = STACK;
        makecontext(&f.start, fibre_main, 0);
        setcontext(&f.start);
    }
    self = -1;
}

// Every thread of a warp that can run runs until it waits. False if there was none.
static bool run_warp(int warp) {
    int first = warp * 32, n = n_threads - first < 32 ? n_threads - first : 32, order[32];
    bool any = false;
    for (int i = 0; i < n; i++) {
        int j = random_state ? random_below(i + 1) : i;
        order[i] = order[j];
        order[j] = first + i;
    }
    for (int i = 0; i < n; i++)
        if (fibres[order[i]].state == READY) {
            resume(order[i]);
            any = true;
        }
    return any;
}

static void stuck() {
    int done = 0, example = -1;
    for (int t = 0; t < n_threads; t++) {
        State state = fibres[t].state;
        done += state == DONE;
        if (state == IN_WARP || (example < 0 && state == AT_BARRIER)) example = t;
    }
    Fibre& f = fibres[example];
    uint3 b = blockIdx;
    for (int t = 0; t < n_threads; t++) {
        Fibre& g = fibres[t];
        if (g.state != DONE && (g.call != f.call || g.line != f.line))
            fail("deadlock in block (%u, %u, %u): thread %d waits in %s (line %d), thread %d in %s "
                 "(line %d)", b.x, b.y, b.z, example, f.call, f.line, t, g.call, g.line);
    }
    fail("deadlock in block (%u, %u, %u): thread %d waits in %s (line %d), where %d of %d threads "
         "never come: they have returned", b.x, b.y, b.z, example, f.call, f.line, done, n_threads);
}

// One warp runs until all its threads wait at a barrier, then the next: that is how far warps can
// drift apart. Shuffled, they take turns of random length, and so do the lanes in a warp.
static void run_block() {
    for (int t = 0; t < n_threads; t++) {
        fibres[t].state = READY;
        fibres[t].n_copies = 0;
    }
    for (;;) {
        int waiting[MAX_THREADS / 32], n = n_warps;
        for (int w = 0; w < n; w++) waiting[w] = w;
        while (n) {
            int i = random_state ? random_below(n) : 0;
            int turns = random_state ? 1 << random_below(6) : 1;
            while (turns && run_warp(waiting[i])) turns--;
            if (turns) {  // nothing left to run in this warp
                n--;
                for (int w = i; w < n; w++) waiting[w] = waiting[w + 1];
            }
        }
        int done = 0, same = 0, line = 0;
        for (int t = 0; t < n_threads; t++) {
            Fibre& f = fibres[t];
            done += f.state == DONE;
            if (f.state != AT_BARRIER) continue;
            if (!same) line = f.line;
            same += f.line == line;
        }
        if (done == n_threads) return;
        if (same + RETURNED_ARRIVE * done < n_threads) stuck();
        for (int t = 0; t < n_threads; t++)
            if (fibres[t].state == AT_BARRIER) fibres[t].state = READY;
    }
}

// What a warp does together: the last lane of `mask` to arrive does it for all.
template <class Operand, class Action>
static void together(const char* call, int line, unsigned mask, Operand& operand, Action action) {
    Fibre& f = fibres[self];
    Fibre* warp = fibres + self / 32 * 32;
    int lanes = n_threads - self / 32 * 32;
    if (!(mask >> self % 32 & 1)) fail("%s (line %d): not in its own mask %08x", call, line, mask);
    f.state = IN_WARP;
    f.call = call, f.line = line, f.mask = mask, f.operand = &operand;
    for (int lane = lanes < 32 ? lanes : 32; lane-- > 0;)
        if (mask >> lane & 1 && warp[lane].state == READY) return pause_fibre();  // not the last
    bool all = true;
    Operand* operands[32] = {};
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        Fibre& g = warp[lane];
        if (lane >= lanes || g.state == DONE)
            fail("%s (line %d): the mask %08x names lane %d, which %s", call, line, mask, lane,
                 lane < lanes ? "has returned" : "does not exist");
        all = all && g.state == IN_WARP && g.line == line && g.mask == mask;
        operands[lane] = (Operand*)g.operand;
    }
    if (!all) return pause_fibre();
    action(operands);
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) warp[lane].state = READY;
}

template <class T>
static T shuffle(const char* call, int line, unsigned mask, T value, int source) {
    struct Operand { T value, result; int source; } mine = {value, value, source};
    together(call, line, mask, mine, [=](Operand** lanes) {
        for (int lane = 0; lane < 32; lane++) {
            if (!lanes[lane]) continue;
            int from = lanes[lane]->source;
            if (!lanes[from])
                fail("%s (line %d): lane %d reads lane %d, which is not in the mask %08x", call,
                     line, lane, from, mask);
            lanes[lane]->result = lanes[from]->value;
        }
    });
    return mine.result;
}

static void barrier(const char* call, int line) {
    Fibre& f = fibres[self];
    f.state = AT_BARRIER;
    f.call = call, f.line = line;
    pause_fibre();
}

static int lane() { return self % 32; }

// ------------------------------------------------------------------------------------------ launch

static void on_bad_address(int, siginfo_t* info, void*) {
    fail("touches address %p, outside of every buffer", info->si_addr);
}

static struct sigaction old_segv, old_bus;

static void watch_addresses(bool on) {
    if (on) {
        struct sigaction ours = {};
        ours.sa_sigaction = on_bad_address;
        ours.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &ours, &old_segv);
        sigaction(SIGBUS, &ours, &old_bus);
    } else {
        sigaction(SIGSEGV, &old_segv, 0);
        sigaction(SIGBUS, &old_bus, 0);
    }
}

// Dynamic shared memory ends where a page begins that nobody may touch; before it and in the few
// bytes that are left is a zone that nobody may change.
static void place_dynamic_shared(int bytes) {
    static char* region;
    const int room = (MAX_SHARED / PAGE + 2) * PAGE;
    if (!region) {
        region = (char*)mmap(0, room + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(region, room, PROT_READ | PROT_WRITE);
    }
    dynamic_shared = region + room - (bytes + 15) / 16 * 16;
    memset(dynamic_shared - ZONE, 0x41, ZONE + (bytes + 15) / 16 * 16);
    memset(dynamic_shared, 0xff, bytes);
}

static void check_dynamic_shared(int bytes) {
    for (int i = -ZONE; i < (bytes + 15) / 16 * 16; i = i == -1 ? bytes : i + 1)
        if (dynamic_shared[i] != 0x41)
            fail("block (%u, %u, %u) wrote to byte %d of %d of dynamic shared memory", blockIdx.x,
                 blockIdx.y, blockIdx.z, i, bytes);
}

// Where __shared__ variables lie: nothing else is thread-local in a module, so the loader knows.
struct Bytes { char* begin; size_t size; };
__shared__ char one_of_them;

static int thread_local_bytes(dl_phdr_info* module, size_t, void* found) {
    char* begin = (char*)module->dlpi_tls_data;
    for (int i = 0; i < module->dlpi_phnum; i++) {
        const auto& part = module->dlpi_phdr[i];
        if (part.p_type == PT_TLS && begin <= &one_of_them && &one_of_them < begin + part.p_memsz)
            *(Bytes*)found = {begin, part.p_memsz};
    }
    return 0;
}
static Bytes shared_memory() {
    one_of_them = 0;  // memory is there from the first use on
    Bytes found = {};
    dl_iterate_phdr(thread_local_bytes, &found);
    return found;
}

static const char* launch(void (*run)(void**), const unsigned* dims, int shared, void** args,
                          unsigned long long seed) {
    run_kernel = run, kernel_args = args, random_state = seed;
    gridDim = {dims[0], dims[1], dims[2]};
    blockDim = {dims[3], dims[4], dims[5]};
    n_threads = dims[3] * dims[4] * dims[5];
    n_warps = (n_threads + 31) / 32;
    self = -1;
    Bytes shared_variables = shared_memory();
    if (!shared_variables.begin) return "the loader does not know where shared memory is";
    watch_addresses(true);
    const char* result = 0;
    if (_setjmp(launched) == 0) {
        unsigned blocks = dims[0] * dims[1] * dims[2];
        unsigned start = seed ? random_below(blocks) : 0;
        for (unsigned i = 0; i < blocks; i++) {  // shuffled: from another block on, and backwards
            unsigned b = seed ? (start + blocks - i) % blocks : i;
            blockIdx = {b % dims[0], b / dims[0] % dims[1], b / dims[0] / dims[1]};
            place_dynamic_shared(shared);
            memset(shared_variables.begin, 0xff, shared_variables.size);
            run_block();
            check_dynamic_shared(shared);
        }
    } else {
        for (Fibre& f : fibres) f.begun = false;  // they stopped midway
        result = message;
    }
    watch_addresses(false);
    return result;
}

// A parameter's type as NumPy writes it, so that the caller can be held to it; "P" is a pointer.
template <class T> struct Code {  // a struct: its size
    static const char* text() {
        static char name[16];
        snprintf(name, sizeof name, "V%d", (int)sizeof(T));
        return name;
    }
};
template <class T> struct Code<T*> { static const char* text() { return "P"; } };
template <> struct Code<float> { static const char* text() { return "f4"; } };
template <> struct Code<double> { static const char* text() { return "f8"; } };
template <> struct Code<int> { static const char* text() { return "i4"; } };
template <> struct Code<unsigned> { static const char* text() { return "u4"; } };
template <> struct Code<long> { static const char* text() { return "i8"; } };
template <> struct Code<long long> { static const char* text() { return "i8"; } };
template <> struct Code<unsigned long> { static const char* text() { return "u8"; } };
template <> struct Code<unsigned long long> { static const char* text() { return "u8"; } };

template <int... I> struct Indices {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Indices<I...> type; };

template <class... P, int... I>
static void call(void (*kernel)(P...), void** args, Indices<I...>) {
    kernel(*(P*)args[I]...);
}

template <class... P>
static void call(void (*kernel)(P...), void** args) {
    call(kernel, args, typename Count<sizeof...(P)>::type());
}

template <class... P>
static const char* signature(void (*)(P...)) {
    static_assert((sizeof(P) + ... + 0) <= 4096, "more parameters than a kernel takes");
    static char text[16 * sizeof...(P) + 1];
    text[0] = 0;
    const char* codes[] = {Code<P>::text()..., ""};
    for (const char* code : codes) strcat(strcat(text, code), " ");
    return text;
}

}  // namespace cuda_on_cpu

// `emulator.py` writes one line of these per kernel below the code.
#define CUDA_ON_CPU_KERNEL(name) \
    extern "C" const char* launch_##name(const unsigned* dims, int shared, void** args, \
                                         unsigned long long seed) { \
        return cuda_on_cpu::launch([](void** a) { cuda_on_cpu::call(name, a); }, dims, shared, \
                                   args, seed); \
    } \
    extern "C" const char* signature_##name() { return cuda_on_cpu::signature(name); }

// What g++'s checks (-fsanitize=bounds,alignment) call when they find something.
struct FoundAt { const char* file; unsigned line, column; };
extern "C" void __ubsan_handle_out_of_bounds(FoundAt* at, unsigned long index) {
    cuda_on_cpu::fail("line %u: index %ld is beyond the array", at->line, (long)index);
}
extern "C" void __ubsan_handle_type_mismatch_v1(FoundAt* at, unsigned long address) {
    cuda_on_cpu::fail("line %u: address %#lx is misaligned for its type", at->line, address);
}

// ------------------------------------------------------------------------------- barriers and warps

#define HERE int line = __builtin_LINE()

static inline void __syncthreads(HERE) { cuda_on_cpu::barrier("__syncthreads", line); }
static inline void __threadfence() {}

// One thread runs at a time: nobody comes between.
static inline unsigned atomicInc(unsigned* address, unsigned last) {
    unsigned before = *address;
    *address = before >= last ? 0 : before + 1;
    return before;
}
static inline unsigned long long atomicMax(unsigned long long* address, unsigned long long value) {
    unsigned long long before = *address;
    *address = before > value ? before : value;
    return before;
}

static inline void __syncwarp(unsigned mask = 0xffffffff, HERE) {
    int nothing = 0;
    cuda_on_cpu::together("__syncwarp", line, mask, nothing, [](int**) {});
}

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, HERE) {
    int start = cuda_on_cpu::lane() & -width;
    return cuda_on_cpu::shuffle("__shfl_sync", line, mask, value, start + (source & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, HERE) {
    int lane = cuda_on_cpu::lane(), other = lane ^ bits, last = (lane & -width) + width - 1;
    return cuda_on_cpu::shuffle("__shfl_xor_sync", line, mask, value, other > last ? lane : other);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, HERE) {
    int lane = cuda_on_cpu::lane(), other = lane + by, last = (lane & -width) + width - 1;
    return cuda_on_cpu::shuffle("__shfl_down_sync", line, mask, value, other > last ? lane : other);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, HERE) {
    int lane = cuda_on_cpu::lane(), other = lane - (int)by;
    other = other < (lane & -width) ? lane : other;
    return cuda_on_cpu::shuffle("__shfl_up_sync", line, mask, value, other);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, HERE) {
    struct Operand { int predicate; unsigned result; } mine = {predicate, 0};
    cuda_on_cpu::together("__ballot_sync", line, mask, mine, [](Operand** lanes) {
        unsigned votes = 0;
        for (int i = 0; i < 32; i++)
            if (lanes[i] && lanes[i]->predicate) votes |= 1u << i;
        for (int i = 0; i < 32; i++)
            if (lanes[i]) lanes[i]->result = votes;
    });
    return mine.result;
}
static inline int __any_sync(unsigned mask, int predicate, HERE) {
    return __ballot_sync(mask, predicate, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, HERE) {
    return __ballot_sync(mask, predicate, line) == mask;
}

// -------------------------------------------------------------------------------------- arithmetic

template <class To, class From> static inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static inline float __int_as_float(int x) { return same_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return same_bits<int>(x); }
static inline unsigned __umulhi(unsigned x, unsigned y) { return (uint64_t)x * y >> 32; }
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned __int128)x * y >> 64;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
#define __expf(x) expf(x)  // macros, because these names are the C library's own as well
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fadd_rn(float x, float y) { return x + y; }
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T min(T x, T y) { return y < x ? y : x; }
template <class T> T max(T x, T y) { return x < y ? y : x; }

// 16-bit floats: storage only, and every conversion is written out, as the kernels do anyway.

namespace cuda_on_cpu {

// The nearest float with `mantissa` bits behind the point and exponents from `lowest` on, to even.
static inline unsigned short round_float(float x, int mantissa, int exponent_bits) {
    unsigned bits = same_bits<unsigned>(x), sign = bits >> 31 << 15;
    double size = fabs((double)x);
    int bias = (1 << (exponent_bits - 1)) - 1, lowest = 1 - bias;
    if (x != x) return 0x7fff;
    if (isinf(x)) return sign | ((1u << exponent_bits) - 1) << mantissa;
    int exponent;
    frexp(size, &exponent);
    exponent = size == 0 || exponent - 1 < lowest ? lowest : exponent - 1;
    double steps = rint(ldexp(size, mantissa - exponent));  // rounds half to even
    unsigned code = (unsigned)steps + ((unsigned)(exponent - lowest) << mantissa);
    unsigned infinity = ((1u << exponent_bits) - 1) << mantissa;
    return sign | (code > infinity ? infinity : code);
}

static inline float half_value(unsigned short bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float size = exponent == 31  ? (mantissa ? NAN : INFINITY)
                 : exponent == 0 ? ldexpf(mantissa, -24)
                                 : ldexpf(mantissa + 1024, exponent - 25);
    return bits >> 15 ? -size : size;
}

}  // namespace cuda_on_cpu

struct __align__(2) __half {
    unsigned short bits;
    __half() = default;
    explicit __half(float x) : bits(cuda_on_cpu::round_float(x, 10, 5)) {}
    explicit operator float() const { return cuda_on_cpu::half_value(bits); }
};
struct __align__(2) __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float x) {
        unsigned b = same_bits<unsigned>(x);
        bits = x != x ? 0x7fff : (b + 0x7fff + (b >> 16 & 1)) >> 16;
    }
    explicit operator float() const { return same_bits<float>((unsigned)bits << 16); }
};
struct __align__(4) __half2 { __half x, y; };
struct __align__(4) __nv_bfloat162 { __nv_bfloat16 x, y; };

static inline float __half2float(__half x) { return float(x); }
static inline __half __float2half(float x) { return __half(x); }
static inline __half __float2half_rn(float x) { return __half(x); }
static inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
static inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline float2 __half22float2(__half2 v) { return {float(v.x), float(v.y)}; }
static inline unsigned short __half_as_ushort(__half x) { return x.bits; }
static inline __half __ushort_as_half(unsigned short x) { return same_bits<__half>(x); }

static inline float __bfloat162float(__nv_bfloat16 x) { return float(x); }
static inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__nv_bfloat16(x), __nv_bfloat16(y)};
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 v) {
    return {__nv_bfloat16(v.x), __nv_bfloat16(v.y)};
}
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {float(v.x), float(v.y)}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) {
    return same_bits<__nv_bfloat16>(x);
}

// ------------------------------------------------------------------------------------ tensor cores
// The functions that mma.cuh declares, and describes.

template <class T> void mma(float* c, const unsigned* a, const unsigned* b) {
    struct Operand { float* c; const unsigned *a, *b; } mine = {c, a, b};
    cuda_on_cpu::together("mma", __LINE__, 0xffffffff, mine, [](Operand** lanes) {
        float A[16][16], B[16][8];
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 2; i++) {  // the lower and the upper half of a register
                int g = lane / 4, t = lane % 4 * 2 + i;
                auto number = [i](unsigned pair) {
                    return float(same_bits<T>((unsigned short)(pair >> 16 * i)));
                };
                Operand& own = *lanes[lane];
                for (int r = 0; r < 4; r++) A[g + r % 2 * 8][t + r / 2 * 8] = number(own.a[r]);
                for (int r = 0; r < 2; r++) B[t + r * 8][g] = number(own.b[r]);
            }
        for (int lane = 0; lane < 32; lane++)
            for (int r = 0; r < 4; r++) {
                int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
                float sum = 0;
                for (int k = 0; k < 16; k++) sum += A[row][k] * B[k][column];
                lanes[lane]->c[r] += sum;
            }
    });
}

namespace cuda_on_cpu {

static void load_matrices(unsigned* r, const void* row, bool transposed) {
    struct Operand { unsigned* r; const unsigned short* row; };
    Operand mine = {r, (const unsigned short*)row};
    if ((uintptr_t)row % 16) fail("ldmatrix: the row at %p is not aligned to 16 bytes", row);
    together(transposed ? "ldmatrix.trans" : "ldmatrix", transposed, 0xffffffff, mine,
             [transposed](Operand** lanes) {
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                Operand** rows = lanes + 8 * i;
                int g = lane / 4, t = lane % 4 * 2;
                unsigned low = transposed ? rows[t]->row[g] : rows[g]->row[t];
                unsigned high = transposed ? rows[t + 1]->row[g] : rows[g]->row[t + 1];
                lanes[lane]->r[i] = low | high << 16;
            }
    });
}

}  // namespace cuda_on_cpu

void load_matrices(unsigned* r, const void* row) { cuda_on_cpu::load_matrices(r, row, false); }
void load_matrices_transposed(unsigned* r, const void* row) {
    cuda_on_cpu::load_matrices(r, row, true);
}

// Nothing arrives before somebody waits for it, which is the worst that may happen.
void start_copy(void* shared, const void* global, bool valid) {
    cuda_on_cpu::Fibre& f = cuda_on_cpu::fibres[cuda_on_cpu::self];
    if (((uintptr_t)shared | (valid ? (uintptr_t)global : 0)) % 16)
        cuda_on_cpu::fail("cp.async: from %p to %p: not aligned to 16 bytes", global, shared);
    if (f.n_copies == cuda_on_cpu::MAX_COPIES)
        cuda_on_cpu::fail("cp.async: more than %d copies are under way", cuda_on_cpu::MAX_COPIES);
    f.copies[f.n_copies++] = {shared, valid ? global : 0};
}

void await_copies() {
    cuda_on_cpu::Fibre& f = cuda_on_cpu::fibres[cuda_on_cpu::self];
    for (int i = 0; i < f.n_copies; i++)
        if (f.copies[i].from) memcpy(f.copies[i].to, f.copies[i].from, 16);
        else memset(f.copies[i].to, 0, 16);
    f.n_copies = 0;
}

template <class T> unsigned pack(float low, float high) {
    return same_bits<unsigned short>(T(low)) | same_bits<unsigned short>(T(high)) << 16;
}

template <class T> float2 unpack(unsigned pair) {
    unsigned short low = pair, high = pair >> 16;
    return {float(same_bits<T>(low)), float(same_bits<T>(high))};
}
