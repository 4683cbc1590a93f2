// LayerNorm and RMSNorm of the rows of x (rows, C): one team to a row. The gradients of the weights
// are sums over all rows, see columns.cuh. docs/cuda.md leads up to this file.
#include "common.cuh"
#include "columns.cuh"

// normed = (x − mean) / √(variance + eps), y = normed · weight + bias. Without `centred` the mean
// is left alone: RMSNorm. With affine 1 there is a weight, with 2 a bias too, with 0 neither is read.
template <bool centred>
__device__ void normalise(const scalar* x, const scalar* weight, const scalar* bias, scalar* y,
                          scalar* normed, float* rstd, float eps, int affine, int rows, int C) {
    int64 row = team_row();
    if (row >= rows) return;
    x += row * C;
    y += row * C;
    normed += row * C;

    float mean = 0, variance = 0;
    if (centred) {
        for (int c = threadIdx.x; c < C; c += blockDim.x) mean += float(x[c]);
        mean = team_sum(mean) / C;
    }
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float difference = float(x[c]) - mean;
        variance += difference * difference;
    }
    variance = team_sum(variance) / C;

    float scale = 1 / sqrtf(variance + eps);
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float n = (float(x[c]) - mean) * scale;
        normed[c] = scalar(n);
        y[c] = scalar(n * (affine & 1 ? float(weight[c]) : 1) + (affine & 2 ? float(bias[c]) : 0));
    }
    if (threadIdx.x == 0) rstd[row] = scale;
}

// What a backward kernel needs for the gradients of the weights: the arguments of `sum_columns`, of
// which totals[0] is Σ dy and totals[1] Σ dy · normed.
struct Columns {
    float* partial;
    unsigned* finished;
    scalar* totals;
    int sums, blocks;
};

// dx = rstd (g − mean(g) − normed · mean(g · normed)) with g = dy · weight; RMSNorm lacks mean(g).
//
// Both jobs read the same arrays and neither needs the other's result, so one launch does both: its
// first blocks sum columns, `blocks` to a strip, and each team of the others takes a row.
template <bool centred>
__device__ void normalise_backward(const scalar* dy, const scalar* normed, const float* rstd,
                                   const scalar* weight, scalar* dx, int affine, Columns columns,
                                   int rows, int C) {
    int strips = (C + WIDTH - 1) / WIDTH, block = blockIdx.x;
    if (block < strips * columns.blocks) {
        sum_columns(block % strips, block / strips, columns.blocks, dy, normed, columns.partial,
                    columns.finished, columns.totals, 0, columns.sums, rows, C);
        return;
    }
    block -= strips * columns.blocks;
    int64 row = (int64)block * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    dy += row * C;
    normed += row * C;
    dx += row * C;

    float mean = 0, slope = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float g = float(dy[c]) * (affine & 1 ? float(weight[c]) : 1);
        mean += g;
        slope += g * float(normed[c]);
    }
    mean = centred ? team_sum(mean) / C : 0;
    slope = team_sum(slope) / C;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float g = float(dy[c]) * (affine & 1 ? float(weight[c]) : 1);
        dx[c] = scalar((g - mean - float(normed[c]) * slope) * rstd[row]);
    }
}

extern "C" __global__ void layer_norm(const scalar* x, const scalar* weight, const scalar* bias,
                                      scalar* y, scalar* normed, float* rstd, float eps, int affine,
                                      int rows, int C) {
    normalise<true>(x, weight, bias, y, normed, rstd, eps, affine, rows, C);
}

extern "C" __global__ void rms_norm(const scalar* x, const scalar* weight, const scalar* bias,
                                    scalar* y, scalar* normed, float* rstd, float eps, int affine,
                                    int rows, int C) {
    normalise<false>(x, weight, bias, y, normed, rstd, eps, affine, rows, C);
}

extern "C" __global__ void layer_norm_backward(const scalar* dy, const scalar* normed,
                                               const float* rstd, const scalar* weight, scalar* dx,
                                               int affine, float* partial, unsigned* finished,
                                               scalar* totals, int sums, int blocks, int rows,
                                               int C) {
    normalise_backward<true>(dy, normed, rstd, weight, dx, affine,
                             {partial, finished, totals, sums, blocks}, rows, C);
}

extern "C" __global__ void rms_norm_backward(const scalar* dy, const scalar* normed,
                                             const float* rstd, const scalar* weight, scalar* dx,
                                             int affine, float* partial, unsigned* finished,
                                             scalar* totals, int sums, int blocks, int rows,
                                             int C) {
    normalise_backward<false>(dy, normed, rstd, weight, dx, affine,
                              {partial, finished, totals, sums, blocks}, rows, C);
}
