// A GPU that is none: what CuPy calls of CUDA's runtime and driver and of cuBLAS, in the memory of
// the host. `cupy_on_cpu.py` builds it and puts it in the place of NVIDIA's.
//
// Whatever is put on a stream is done at once, in the order in which it comes; in a capture it is
// kept, and done when the graph is launched. What a GPU would refuse is refused: a copy whose
// direction does not fit its addresses, a launch beyond the limits, in a capture whatever waits.
// Memory that was just allocated holds NaN.
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

using std::string;
using std::vector;
typedef std::function<void()> Work;

enum Error {  // cudaError_t and CUresult, which agree
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_IMAGE = 200,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_IMPLICIT = 906,
};

static string failure;  // the last one, in words

static Error fail(Error error, string reason) {
    failure = reason;
    return error;
}

extern "C" int on_cpu_has_no(const char* name) {  // what all functions do that are not here
    fprintf(stderr, "driver_on_cpu.cpp has no %s\n", name);
    return strncmp(name, "cublas", 6) ? fail(NOT_SUPPORTED, name) : 15;  // …_STATUS_NOT_SUPPORTED
}

// ---------------------------------------------------------------------------------------- counts

static std::map<string, long long> launches;
static std::mutex counting;

static void count(const string& name) {
    std::lock_guard<std::mutex> lock(counting);
    launches[name]++;
}

extern "C" {
long long on_cpu_waits = 0, on_cpu_uploads = 0;  // how often the host waited, or copied to the GPU
unsigned long long on_cpu_free = 64ull << 30;    // bytes that can be had, while nothing is used

const char* on_cpu_launches() {  // "name\tcount\n"…
    static string text;
    std::lock_guard<std::mutex> lock(counting);
    text.clear();
    for (auto& l : launches) text += l.first + "\t" + std::to_string(l.second) + "\n";
    return text.c_str();
}
void on_cpu_count(const char* name) { count(name); }
void on_cpu_forget() {
    std::lock_guard<std::mutex> lock(counting);
    launches.clear();
    on_cpu_waits = on_cpu_uploads = 0;
}
}

// ------------------------------------------------------------------------------ streams and graphs

struct Stream { bool blocking; };
struct Graph { vector<Work> works; };

static Stream* capturing;  // the stream that is captured, if any
static bool relaxed;       // its mode
static bool invalid;       // something was refused meanwhile
static vector<Work> captured;
static std::mutex turn;  // one thing at a time, as the emulator's threads are those of one launch

static Stream* own(void* stream) { return (uintptr_t)stream <= 2 ? nullptr : (Stream*)stream; }

static Error refuse(Error error, string reason) {
    invalid = true;
    return fail(error, reason);
}

static Error submit(void* stream, Work work) {
    if (capturing && own(stream) == capturing) {
        if (invalid) return fail(CAPTURE_INVALIDATED, "something was refused in this capture");
        captured.push_back(work);
        return SUCCESS;
    }
    if (capturing && !own(stream) && capturing->blocking)
        return refuse(CAPTURE_IMPLICIT, "the default stream waits for the one that is captured");
    std::lock_guard<std::mutex> lock(turn);
    failure.clear();
    work();
    return failure.empty() ? SUCCESS : LAUNCH_FAILED;
}

static Error wait(const char* what, void* stream) {
    if (capturing && (!relaxed || own(stream) == capturing || !stream))
        return refuse(CAPTURE_UNSUPPORTED, string(what) + " while a graph is captured");
    on_cpu_waits++;
    return SUCCESS;
}

extern "C" {
Error cudaStreamCreateWithFlags(void** stream, unsigned flags) {
    *stream = new Stream{!(flags & 1)};  // cudaStreamNonBlocking
    return SUCCESS;
}
Error cudaStreamCreateWithPriority(void** stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}
Error cudaStreamCreate(void** stream) { return cudaStreamCreateWithFlags(stream, 0); }
Error cudaStreamDestroy(void* stream) { return delete (Stream*)stream, SUCCESS; }
Error cudaStreamSynchronize(void* stream) { return wait("a stream's synchronize()", stream); }
Error cudaDeviceSynchronize() { return wait("a device's synchronize()", nullptr); }
Error cudaStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
Error cudaStreamQuery(void*) { return SUCCESS; }

Error cudaStreamBeginCapture(void* stream, int mode) {
    if (!own(stream)) return fail(CAPTURE_UNSUPPORTED, "the default stream cannot be captured");
    if (capturing) return fail(ILLEGAL_STATE, "a stream is being captured already");
    capturing = own(stream);
    relaxed = mode == 2;  // cudaStreamCaptureModeRelaxed
    captured.clear();
    invalid = false;
    return SUCCESS;
}
Error cudaStreamEndCapture(void* stream, void** graph) {
    if (!capturing || own(stream) != capturing) return fail(ILLEGAL_STATE, "nothing is captured");
    capturing = nullptr;
    *graph = nullptr;
    if (invalid) return fail(CAPTURE_INVALIDATED, "something was refused in this capture");
    *graph = new Graph{captured};
    return SUCCESS;
}
Error cudaStreamIsCapturing(void* stream, int* status) {
    if (capturing && capturing->blocking && !own(stream))
        return fail(CAPTURE_IMPLICIT, "the default stream waits for the one that is captured");
    *status = capturing && own(stream) == capturing;
    return SUCCESS;
}
Error cudaGraphInstantiate(void** executable, void* graph, unsigned long long) {
    *executable = new Graph(*(Graph*)graph);
    return SUCCESS;
}
Error cudaGraphLaunch(void* executable, void* stream) {
    count("graph");
    return submit(stream, [=] { for (auto& work : ((Graph*)executable)->works) work(); });
}
Error cudaGraphUpload(void*, void*) { return SUCCESS; }
Error cudaGraphDestroy(void* graph) { return delete (Graph*)graph, SUCCESS; }
Error cudaGraphExecDestroy(void* executable) { return delete (Graph*)executable, SUCCESS; }

Error cudaEventCreateWithFlags(void** event, unsigned) { return *event = new char, SUCCESS; }
Error cudaEventCreate(void** event) { return cudaEventCreateWithFlags(event, 0); }
Error cudaEventDestroy(void* event) { return delete (char*)event, SUCCESS; }
Error cudaEventRecord(void*, void*) { return SUCCESS; }
Error cudaEventQuery(void*) { return SUCCESS; }
Error cudaEventSynchronize(void*) { return wait("an event's synchronize()", nullptr); }
Error cudaEventElapsedTime(float* milliseconds, void*, void*) { return *milliseconds = 1, SUCCESS; }
}

// ---------------------------------------------------------------------------------------- memory

static std::map<char*, size_t> blocks;  // what cudaMalloc gave
static std::mutex heap;
static size_t used;
static const size_t MEMORY = 64ull << 30;

static bool on_device(const void* address, size_t bytes) {
    std::lock_guard<std::mutex> lock(heap);
    auto block = blocks.upper_bound((char*)address);
    return block != blocks.begin() && (--block, true) &&
           (char*)address + bytes <= block->first + block->second;
}

static Error copy(void* to, const void* from, size_t bytes, int kind, void* stream) {
    const int UP = 1, DOWN = 2, ACROSS = 3, DEFAULT = 4;  // cudaMemcpyKind
    if (!bytes) return SUCCESS;
    if (kind == DEFAULT) kind = on_device(to, bytes) + 2 * on_device(from, bytes);
    if (on_device(to, bytes) != (kind == UP || kind == ACROSS) ||
        on_device(from, bytes) != (kind == DOWN || kind == ACROSS))
        return fail(INVALID_VALUE, "a copy whose direction does not fit its addresses");
    if (kind == UP) on_cpu_uploads++;
    if (kind == DOWN)
        if (Error error = wait("a copy to the host", stream)) return error;
    if (kind == ACROSS) count("copy");
    return submit(stream, [=] { memmove(to, from, bytes); });
}

extern "C" {
Error cudaMalloc(void** address, size_t bytes) {
    if (capturing && !relaxed) return refuse(CAPTURE_UNSUPPORTED, "cudaMalloc in a capture");
    std::lock_guard<std::mutex> lock(heap);
    *address = nullptr;
    if (!bytes) return SUCCESS;
    if (used + bytes > on_cpu_free) return OUT_OF_MEMORY;
    *address = aligned_alloc(512, (bytes + 511) / 512 * 512);
    if (!*address) return OUT_OF_MEMORY;
    memset(*address, 0xff, bytes);
    blocks[(char*)*address] = bytes;
    used += bytes;
    return SUCCESS;
}
Error cudaFree(void* address) {
    std::lock_guard<std::mutex> lock(heap);
    auto block = blocks.find((char*)address);
    if (block == blocks.end()) return address ? INVALID_VALUE : SUCCESS;
    used -= block->second;
    blocks.erase(block);
    free(address);
    return SUCCESS;
}
Error cudaHostAlloc(void** address, size_t bytes, unsigned) {
    return *address = malloc(bytes), *address ? SUCCESS : OUT_OF_MEMORY;
}
Error cudaFreeHost(void* address) { return free(address), SUCCESS; }
Error cudaMemGetInfo(size_t* available, size_t* total) {
    return *available = on_cpu_free - used, *total = MEMORY, SUCCESS;
}
Error cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
    return copy(to, from, bytes, kind, stream);
}
Error cudaMemcpy(void* to, const void* from, size_t bytes, int kind) {
    return copy(to, from, bytes, kind, nullptr);
}
Error cudaMemsetAsync(void* address, int value, size_t bytes, void* stream) {
    count("memset");
    return submit(stream, [=] { memset(address, value, bytes); });
}
Error cudaMemset(void* address, int value, size_t bytes) {
    return cudaMemsetAsync(address, value, bytes, nullptr);
}
struct Pointer { int type, device; void *on_device, *on_host; };  // cudaPointerAttributes
Error cudaPointerGetAttributes(Pointer* attributes, void* address) {
    bool there = on_device(address, 1);
    *attributes = {there ? 2 : 0, 0, there ? address : nullptr, there ? nullptr : address};
    return SUCCESS;
}
}

// ------------------------------------------------------------------------------------- the device

struct Properties {  // the beginning of cudaDeviceProp
    char name[256], uuid[16], luid[8];
    unsigned luid_mask;
    size_t memory, shared_memory;
    int registers, warp_size;
    size_t pitch;
    int threads, block[3], grid[3];
    size_t constant_memory;
    int major, minor;
};

extern "C" {
Error cudaGetDeviceProperties(Properties* of, int) {
    Properties ours = {"a CPU that plays a GPU"};
    ours.memory = MEMORY, ours.shared_memory = 48 << 10, ours.warp_size = 32;
    ours.threads = 1024, ours.major = 9;
    return *of = ours, SUCCESS;
}
Error cudaDeviceGetAttribute(int* value, int attribute, int) {
    const std::map<int, int> known = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64},             // threads of a block
        {5, 0x7fffffff}, {6, 65535}, {7, 65535},              // blocks of a grid
        {8, 48 << 10}, {10, 32}, {16, 132}, {97, 227 << 10},  // shared memory, warp, processors
        {75, 9}, {76, 0},                                     // compute capability
    };
    auto found = known.find(attribute);
    return *value = found == known.end() ? 0 : found->second, SUCCESS;
}
Error cudaDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
Error cudaRuntimeGetVersion(int* version) { return *version = 13000, SUCCESS; }
Error cudaGetDevice(int* device) { return *device = 0, SUCCESS; }
Error cudaGetDeviceCount(int* count) { return *count = 1, SUCCESS; }
Error cudaSetDevice(int) { return SUCCESS; }
Error cudaGetLastError() { return SUCCESS; }

const char* cudaGetErrorName(Error error) {
    static char text[32];
    if (error == OUT_OF_MEMORY) return "cudaErrorMemoryAllocation";
    return snprintf(text, sizeof text, "error %d", error), text;
}
const char* cudaGetErrorString(Error) { return failure.c_str(); }
Error cuGetErrorName(Error error, const char** name) {
    return *name = cudaGetErrorName(error), SUCCESS;
}
Error cuGetErrorString(Error, const char** text) { return *text = failure.c_str(), SUCCESS; }
Error cuCtxGetCurrent(void** context) { return *context = &failure, SUCCESS; }
Error cuCtxSetCurrent(void*) { return SUCCESS; }
Error cuCtxGetDevice(int* device) { return *device = 0, SUCCESS; }
Error cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
}

// --------------------------------------------------------------------------------------- kernels

struct Kernel {
    string name;
    const char* (*launch)(const unsigned*, int, void**, unsigned long long);
    vector<int> sizes;  // of its parameters, in bytes
    int max_shared;
};

extern "C" {
const char* (*on_cpu_assemble)(const char* ptx);  // the path of a library with the same functions

Error cuModuleLoadData(void** module, const char* ptx) {
    const char* path = on_cpu_assemble(ptx);
    if (!path) return INVALID_IMAGE;
    *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return *module ? SUCCESS : fail(INVALID_IMAGE, dlerror());
}
Error cuModuleUnload(void*) { return SUCCESS; }
Error cuModuleGetFunction(Kernel** kernel, void* module, const char* name) {
    auto launch = dlsym(module, (string("launch_") + name).c_str());
    auto signature = (const char* (*)())dlsym(module, (string("signature_") + name).c_str());
    if (!launch) return fail(NOT_FOUND, string("no kernel is called ") + name);
    *kernel = new Kernel{name, (decltype(Kernel::launch))launch, {}, 48 << 10};
    for (const char* type = signature(); *type; type = strchr(type, ' ') + 1)
        (*kernel)->sizes.push_back(*type == 'P' ? 8 : atoi(type + 1));  // "P i4 f4 V24 "
    return SUCCESS;
}
Error cuFuncGetAttribute(int* value, int attribute, Kernel* kernel) {
    return *value = attribute == 0 ? 1024 : attribute == 8 ? kernel->max_shared : 0, SUCCESS;
}
Error cuFuncSetAttribute(Kernel* kernel, int attribute, int value) {
    if (attribute != 8) return SUCCESS;
    if (value > 227 << 10) return fail(INVALID_VALUE, "a block has at most 227 KB to share");
    return kernel->max_shared = value, SUCCESS;
}
Error cuLaunchKernel(Kernel* kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x,
                     unsigned y, unsigned z, unsigned shared, void* stream, void** parameters,
                     void** extra) {
    if (!grid_x || !grid_y || !grid_z || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535 ||
        !x || !y || !z || z > 64 || x * y * z > 1024 || (int)shared > kernel->max_shared || extra)
        return fail(INVALID_VALUE, kernel->name + ": grid, block or shared memory out of range");
    count(kernel->name);
    auto values = std::make_shared<vector<vector<char>>>();
    for (size_t i = 0; i < kernel->sizes.size(); i++)
        values->emplace_back((char*)parameters[i], (char*)parameters[i] + kernel->sizes[i]);
    return submit(stream, [=] {
        vector<void*> places;
        for (auto& value : *values) places.push_back(value.data());
        unsigned dims[] = {grid_x, grid_y, grid_z, x, y, z};
        if (const char* error = kernel->launch(dims, shared, places.data(), 0))
            failure = kernel->name + ": " + error;
    });
}
}

// ---------------------------------------------------------------------------------------- cuBLAS

enum Status { OK = 0, INVALID = 7, EXECUTION_FAILED = 13 };  // cublasStatus_t
enum Type { F32 = 0, F64 = 1, F16 = 2, BF16 = 14 };          // cudaDataType
struct Handle { void* stream; int mode; };
struct Matrix { const void* at; int type; int64_t ld, step; bool transposed; };

static double read(const void* p, int type, int64_t i) {
    if (type == F64) return ((const double*)p)[i];
    if (type == F32) return ((const float*)p)[i];
    if (type == F16) return ((const _Float16*)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t*)p)[i] << 16;
    float x;
    return memcpy(&x, &bits, 4), x;
}

static void write(void* p, int type, int64_t i, double value) {
    float x = value;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (type == F64) ((double*)p)[i] = value;
    else if (type == F32) ((float*)p)[i] = x;
    else if (type == F16) ((_Float16*)p)[i] = (_Float16)x;
    else ((uint16_t*)p)[i] = x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// C = alpha A B + beta C, column by column, added up in `Sum`.
template <class Sum>
static void multiply(int m, int n, int k, Sum alpha, Matrix A, Matrix B, Sum beta, void* C,
                     int type, int64_t ld) {
    vector<Sum> a((size_t)m * k), sums(m);
    for (int l = 0; l < k; l++)
        for (int i = 0; i < m; i++)
            a[(size_t)l * m + i] = read(A.at, A.type, A.transposed ? l + i * A.ld : i + l * A.ld);
    for (int j = 0; j < n; j++) {
        std::fill(sums.begin(), sums.end(), Sum(0));
        for (int l = 0; l < k; l++) {
            Sum b = read(B.at, B.type, B.transposed ? j + l * B.ld : l + j * B.ld);
            for (int i = 0; i < m; i++) sums[i] += a[(size_t)l * m + i] * b;
        }
        for (int i = 0; i < m; i++) {
            Sum before = beta == 0 ? Sum(0) : beta * (Sum)read(C, type, i + j * ld);
            write(C, type, i + j * ld, alpha * sums[i] + before);
        }
    }
}

static void* moved(const void* p, int type, int64_t elements) {
    return (char*)p + elements * (type == F64 ? 8 : type == F32 ? 4 : 2);
}

template <class Sum>
static Status products(Handle* handle, int m, int n, int k, Sum alpha, Matrix A, Matrix B, Sum beta,
                       void* C, int type, int64_t ld, int64_t step, int number) {
    if (!m || !n) return OK;
    if (A.ld < (A.transposed ? k : m) || B.ld < (B.transposed ? n : k) || ld < m) return INVALID;
    count("gemm");
    Error error = submit(handle->stream, [=] {
        for (int i = 0; i < number; i++) {
            Matrix a = A, b = B;
            a.at = moved(A.at, A.type, i * A.step), b.at = moved(B.at, B.type, i * B.step);
            multiply<Sum>(m, n, k, alpha, a, b, beta, moved(C, type, i * step), type, ld);
        }
    });
    return error ? EXECUTION_FAILED : OK;
}

extern "C" {
Status cublasCreate_v2(Handle** handle) { return *handle = new Handle{}, OK; }
Status cublasDestroy_v2(Handle* handle) { return delete handle, OK; }
Status cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, OK; }
Status cublasGetStream_v2(Handle* handle, void** stream) { return *stream = handle->stream, OK; }
Status cublasSetWorkspace_v2(Handle*, void*, size_t) { return OK; }
Status cublasSetMathMode(Handle*, int) { return OK; }
Status cublasGetMathMode(Handle*, int* mode) { return *mode = 0, OK; }
Status cublasSetPointerMode_v2(Handle* handle, int mode) { return handle->mode = mode, OK; }
Status cublasGetPointerMode_v2(Handle* handle, int* mode) { return *mode = handle->mode, OK; }

#define PRODUCTS_OF(T, LETTER, TYPE)                                                              \
    Status cublas##LETTER##gemmStridedBatched(                                                    \
        Handle* h, int ta, int tb, int m, int n, int k, T* alpha, void* a, int lda, long long sa, \
        void* b, int ldb, long long sb, T* beta, void* c, int ldc, long long sc, int number) {    \
        return products<T>(h, m, n, k, *alpha, {a, TYPE, lda, sa, ta != 0},                       \
                           {b, TYPE, ldb, sb, tb != 0}, *beta, c, TYPE, ldc, sc, number);         \
    }                                                                                             \
    Status cublas##LETTER##gemm_v2(Handle* h, int ta, int tb, int m, int n, int k, T* alpha,      \
                                   void* a, int lda, void* b, int ldb, T* beta, void* c,          \
                                   int ldc) {                                                     \
        return cublas##LETTER##gemmStridedBatched(h, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb,   \
                                                  0, beta, c, ldc, 0, 1);                         \
    }                                                                                             \
    Status cublas##LETTER##gemmBatched(Handle* h, int ta, int tb, int m, int n, int k, T* alpha,  \
                                       void** a, int lda, void** b, int ldb, T* beta, void** c,   \
                                       int ldc, int number) {                                     \
        count("gemm");                                                                            \
        T x = *alpha, y = *beta;                                                                  \
        Error error = submit(h->stream, [=] {                                                     \
            for (int i = 0; i < number; i++)                                                      \
                multiply<T>(m, n, k, x, {a[i], TYPE, lda, 0, ta != 0},                            \
                            {b[i], TYPE, ldb, 0, tb != 0}, y, c[i], TYPE, ldc);                   \
        });                                                                                       \
        return error ? EXECUTION_FAILED : OK;                                                     \
    }                                                                                             \
    Status cublas##LETTER##dot_v2(Handle* h, int n, T* x, int step_x, T* y, int step_y, T* sum) { \
        count("dot");                                                                             \
        Error error = submit(h->stream, [=] {                                                     \
            T total = 0;                                                                          \
            for (int64_t i = 0; i < n; i++) total += x[i * step_x] * y[i * step_y];               \
            *sum = total;                                                                         \
        });                                                                                       \
        return error ? EXECUTION_FAILED : OK;                                                     \
    }
PRODUCTS_OF(float, S, F32)
PRODUCTS_OF(double, D, F64)

Status cublasGemmStridedBatchedEx(Handle* h, int ta, int tb, int m, int n, int k, void* alpha,
                                  void* a, int a_type, int lda, long long sa, void* b, int b_type,
                                  int ldb, long long sb, void* beta, void* c, int c_type, int ldc,
                                  long long sc, int number, int how, int) {
    Matrix A = {a, a_type, lda, sa, ta != 0}, B = {b, b_type, ldb, sb, tb != 0};
    if (how == 70)  // CUBLAS_COMPUTE_64F
        return products(h, m, n, k, *(double*)alpha, A, B, *(double*)beta, c, c_type, ldc, sc,
                        number);
    return products(h, m, n, k, *(float*)alpha, A, B, *(float*)beta, c, c_type, ldc, sc, number);
}
Status cublasGemmEx(Handle* h, int ta, int tb, int m, int n, int k, void* alpha, void* a,
                    int a_type, int lda, void* b, int b_type, int ldb, void* beta, void* c,
                    int c_type, int ldc, int how, int algorithm) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb,
                                      0, beta, c, c_type, ldc, 0, 1, how, algorithm);
}
}
