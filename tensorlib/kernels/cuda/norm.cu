// LayerNorm and RMSNorm of the rows of x (rows, C). One team to a row; the gradients of the
// weights, sums over all rows, come from columns.cu. docs/cuda.md leads up to this file.
#include "common.cuh"

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

// dx = rstd (g − mean(g) − normed · mean(g · normed)) with g = dy · weight; RMSNorm lacks mean(g).
template <bool centred>
__device__ void normalise_backward(const scalar* dy, const scalar* normed, const float* rstd,
                                   const scalar* weight, scalar* dx, int affine, int rows, int C) {
    int64 row = team_row();
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
                                               int affine, int rows, int C) {
    normalise_backward<true>(dy, normed, rstd, weight, dx, affine, rows, C);
}

extern "C" __global__ void rms_norm_backward(const scalar* dy, const scalar* normed,
                                             const float* rstd, const scalar* weight, scalar* dx,
                                             int affine, int rows, int C) {
    normalise_backward<false>(dy, normed, rstd, weight, dx, affine, rows, C);
}
