// One thread to an element: activations, dropout, the rows of an embedding, Philox.
#include "common.cuh"
#include "philox.cuh"

// Φ(x), the normal distribution function, and its slope.
__device__ float normal_cdf(float x) { return 0.5f * (1 + erff(x * 0.70710678f)); }
__device__ float normal_slope(float x) { return expf(-0.5f * x * x) * 0.39894228f; }

// The approximation ½ (1 + tanh u) with u = √(2/π) (x + 0.044715 x³), and its slope.
__device__ float tanh_cdf(float x, float* slope) {
    const float a = 0.79788456f, b = 0.044715f;
    float t = tanhf(a * x * (1 + b * x * x));
    *slope = 0.5f * (1 - t * t) * a * (1 + 3 * b * x * x);
    return 0.5f * (1 + t);
}

// y = max(x, 0), where a NaN stays one
extern "C" __global__ void relu(const scalar* x, scalar* y, int64 n) {
    int64 i = thread_number();
    if (i >= n) return;
    y[i] = float(x[i]) <= 0 ? scalar(0.0f) : x[i];
}

// dx = dy where y > 0
extern "C" __global__ void relu_backward(const scalar* dy, const scalar* y, scalar* dx, int64 n) {
    int64 i = thread_number();
    if (i >= n) return;
    dx[i] = float(y[i]) <= 0 ? scalar(0.0f) : dy[i];
}

// y = x Φ(x)
extern "C" __global__ void gelu(const scalar* x, scalar* y, int approximate, int64 n) {
    int64 i = thread_number();
    if (i >= n) return;
    float v = float(x[i]), slope;
    y[i] = scalar(v * (approximate ? tanh_cdf(v, &slope) : normal_cdf(v)));
}

// dx = dy (Φ(x) + x Φ′(x))
extern "C" __global__ void gelu_backward(const scalar* dy, const scalar* x, scalar* dx,
                                         int approximate, int64 n) {
    int64 i = thread_number();
    if (i >= n) return;
    float v = float(x[i]), slope = normal_slope(v);
    float cdf = approximate ? tanh_cdf(v, &slope) : normal_cdf(v);
    dx[i] = scalar(float(dy[i]) * (cdf + v * slope));
}

// dx = keep ? dy · scale : 0, scale and `wide` as in dropout below
extern "C" __global__ void dropout_backward(const void* dy, const bool* keep, scalar* dx, int wide,
                                            float scale, int64 n) {
    int64 i = thread_number();
    if (i >= n) return;
    dx[i] = scalar(keep[i] ? load(dy, i, wide) * scale : 0.0f);
}

// y (n / C, C): row i is row index[i] of weight (V, C); NaN if there is no such row.
extern "C" __global__ void embedding(const int64* index, const scalar* weight, scalar* y,
                                     uint64* worst, int64 V, int C, int64 n) {
    int64 i = thread_number();
    if (i >= n) return;
    int64 row = index[i / C];
    y[i] = in_range(row, V, worst) ? weight[row * C + i % C] : scalar(__int_as_float(0x7fffffff));
}

// Four words of thread i are those of the counter (first + i, draw, *step, 0). words: (n,).
extern "C" __global__ void philox(uint64* words, uint64 seed, uint64 stream, const uint64* step,
                                  uint64 draw, int64 first, int64 n) {
    int64 i = thread_number();
    uint64 x[4] = {(uint64)(first + i), draw, *step, 0};
    philox_words(x, seed, stream);
    for (int j = 0; j < 4 && 4 * i + j < n; j++) words[4 * i + j] = x[j];
}

// keep = bits ≥ threshold; y = keep ? x · scale : 0, plus the residual if it is to be `added`. The
// residual stream may be of float while its branches are of scalar: then it is `wide`, and so is y.
// Element i has the 16 bits number first + i of the draw; a thread takes the 16 elements that have
// theirs from the same counter.
extern "C" __global__ void dropout(const scalar* x, const void* residual, void* y, bool* keep,
                                   int added, int wide, int threshold, float scale, uint64 seed,
                                   uint64 stream, const uint64* step, uint64 draw, int64 first,
                                   int64 n) {
    int64 counter = first / 16 + thread_number();
    uint64 words[4] = {(uint64)counter, draw, *step, 0};
    philox_words(words, seed, stream);
    for (int j = 0; j < 16; j++) {
        int64 i = 16 * counter + j - first;
        if (i < 0 || i >= n) continue;
        keep[i] = (int)(words[j / 4] >> 16 * (j % 4) & 0xffff) >= threshold;
        float kept = keep[i] ? float(x[i]) * scale : 0.0f;
        store(y, i, wide, added ? load(residual, i, wide) + kept : kept);
    }
}
