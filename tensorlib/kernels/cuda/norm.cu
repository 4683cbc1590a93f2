// LayerNorm and RMSNorm of the rows of x (rows, C): one team to a row. The gradients of the weights
// are sums over all rows, see columns.cuh. docs/cuda.md leads up to this file.
//
// y and its gradient are of scalar. All else is so, too, or, if it is `wide`, of float: in mixed
// precision y is what a product of 16-bit matrices reads.
#include "common.cuh"
#include "columns.cuh"

// normed = (x − mean) / √(variance + eps), y = normed · weight + bias. Without `centred` the mean
// is left alone: RMSNorm. With affine 1 there is a weight, with 2 a bias too, with 0 neither is read.
template <bool centred>
__device__ void normalise(const void* x, const void* weight, const void* bias, scalar* y,
                          void* normed, float* rstd, float eps, int affine, int wide, int rows,
                          int C) {
    int row = team_row();
    if (row >= rows) return;
    int64 start = (int64)row * C;

    float mean = 0, variance = 0;
    if (centred) {
        for (int c = threadIdx.x; c < C; c += blockDim.x) mean += load(x, start + c, wide);
        mean = team_sum(mean) / C;
    }
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float difference = load(x, start + c, wide) - mean;
        variance += difference * difference;
    }
    variance = team_sum(variance) / C;

    float scale = 1 / sqrtf(variance + eps);
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float n = (load(x, start + c, wide) - mean) * scale;
        store(normed, start + c, wide, n);
        if (affine & 1) n *= load(weight, c, wide);
        if (affine & 2) n += load(bias, c, wide);
        y[start + c] = scalar(n);
    }
    if (threadIdx.x == 0) rstd[row] = scale;
}

// What a backward kernel needs for the gradients of the weights: the arguments of `sum_columns`, of
// which totals[0] is Σ dy and totals[1] Σ dy · normed.
struct Columns {
    float* partial;
    unsigned* finished;
    void* totals;
    int sums, blocks;
};

// dx = rstd (g − mean(g) − normed · mean(g · normed)) with g = dy · weight; RMSNorm lacks mean(g).
//
// Both jobs read the same arrays and neither needs the other's result, so one launch does both: its
// first blocks sum columns, `blocks` to a strip, and each team of the others takes a row.
template <bool centred>
__device__ void normalise_backward(const scalar* dy, const void* normed, const float* rstd,
                                   const void* weight, void* dx, int affine, int wide,
                                   Columns columns, int rows, int C) {
    int strips = (C + WIDTH - 1) / WIDTH, block = blockIdx.x;
    if (block < strips * columns.blocks) {
        sum_columns(block % strips, block / strips, columns.blocks, dy, normed, columns.partial,
                    columns.finished, columns.totals, wide, columns.sums, rows, C);
        return;
    }
    block -= strips * columns.blocks;
    int row = block * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    int64 start = (int64)row * C;

    float mean = 0, slope = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float g = float(dy[start + c]) * (affine & 1 ? load(weight, c, wide) : 1);
        mean += g;
        slope += g * load(normed, start + c, wide);
    }
    mean = centred ? team_sum(mean) / C : 0;
    slope = team_sum(slope) / C;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float g = float(dy[start + c]) * (affine & 1 ? load(weight, c, wide) : 1);
        float n = load(normed, start + c, wide);
        store(dx, start + c, wide, (g - mean - n * slope) * rstd[row]);
    }
}

extern "C" __global__ void layer_norm(const void* x, const void* weight, const void* bias,
                                      scalar* y, void* normed, float* rstd, float eps, int affine,
                                      int wide, int rows, int C) {
    normalise<true>(x, weight, bias, y, normed, rstd, eps, affine, wide, rows, C);
}

extern "C" __global__ void rms_norm(const void* x, const void* weight, const void* bias, scalar* y,
                                    void* normed, float* rstd, float eps, int affine, int wide,
                                    int rows, int C) {
    normalise<false>(x, weight, bias, y, normed, rstd, eps, affine, wide, rows, C);
}

extern "C" __global__ void layer_norm_backward(const scalar* dy, const void* normed,
                                               const float* rstd, const void* weight, void* dx,
                                               int affine, int wide, float* partial,
                                               unsigned* finished, void* totals, int sums,
                                               int blocks, int rows, int C) {
    normalise_backward<true>(dy, normed, rstd, weight, dx, affine, wide,
                             {partial, finished, totals, sums, blocks}, rows, C);
}

extern "C" __global__ void rms_norm_backward(const scalar* dy, const void* normed,
                                             const float* rstd, const void* weight, void* dx,
                                             int affine, int wide, float* partial,
                                             unsigned* finished, void* totals, int sums,
                                             int blocks, int rows, int C) {
    normalise_backward<false>(dy, normed, rstd, weight, dx, affine, wide,
                              {partial, finished, totals, sums, blocks}, rows, C);
}
