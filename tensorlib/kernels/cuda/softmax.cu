// Softmax and its logarithm along the rows of x (rows, C). One team to a row.
#include "common.cuh"

// y = eˣ / Σ eˣ over the positions that may be seen; 0 elsewhere, and in a row without any.
// mask (mask_rows, C): row r has the mask of row r % mask_rows. With mask_rows 0 there is none.
extern "C" __global__ void softmax(const scalar* x, const bool* mask, scalar* y, int mask_rows,
                                   int rows, int C) {
    int row = team_row();
    if (row >= rows) return;
    x += (int64)row * C;
    y += (int64)row * C;
    mask += mask_rows ? (int64)(row % mask_rows) * C : 0;

    float peak = -infinity();
    for (int c = threadIdx.x; c < C; c += blockDim.x)
        if (!mask_rows || mask[c]) peak = fmaxf(peak, float(x[c]));
    peak = team_max(peak);
    if (mask_rows && peak == -infinity()) peak = 0;

    float total = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x)
        if (!mask_rows || mask[c]) total += expf(float(x[c]) - peak);
    total = team_sum(total);
    if (mask_rows && total == 0) total = 1;

    for (int c = threadIdx.x; c < C; c += blockDim.x)
        y[c] = scalar(!mask_rows || mask[c] ? expf(float(x[c]) - peak) / total : 0.0f);
}

// dx = y (dy − Σ y dy)
extern "C" __global__ void softmax_backward(const scalar* dy, const scalar* y, scalar* dx, int rows,
                                            int C) {
    int64 row = team_row();
    if (row >= rows) return;
    dy += row * C;
    y += row * C;
    dx += row * C;

    float dot = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x) dot += float(y[c]) * float(dy[c]);
    dot = team_sum(dot);
    for (int c = threadIdx.x; c < C; c += blockDim.x)
        dx[c] = scalar(float(y[c]) * (float(dy[c]) - dot));
}

// y = x − log Σ eˣ
extern "C" __global__ void log_softmax(const scalar* x, scalar* y, int rows, int C) {
    int64 row = team_row();
    if (row >= rows) return;
    x += row * C;
    y += row * C;

    float peak = -infinity(), total = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x) peak = fmaxf(peak, float(x[c]));
    peak = team_max(peak);
    for (int c = threadIdx.x; c < C; c += blockDim.x) total += expf(float(x[c]) - peak);
    float log_total = logf(team_sum(total));
    for (int c = threadIdx.x; c < C; c += blockDim.x)
        y[c] = scalar(float(x[c]) - peak - log_total);
}

// dx = dy − eʸ Σ dy
extern "C" __global__ void log_softmax_backward(const scalar* dy, const scalar* y, scalar* dx,
                                                int rows, int C) {
    int64 row = team_row();
    if (row >= rows) return;
    dy += row * C;
    y += row * C;
    dx += row * C;

    float total = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x) total += float(dy[c]);
    total = team_sum(total);
    for (int c = threadIdx.x; c < C; c += blockDim.x)
        dx[c] = scalar(float(dy[c]) - expf(float(y[c])) * total);
}
