// Sums down the columns of a matrix: over all its rows, or over those of one index.
#include "common.cuh"
#include "columns.cuh"

// totals (C,) = Σ x over all rows. Block (s, b) is block b of strip s.
extern "C" __global__ void column_sums(const scalar* x, float* partial, unsigned* finished,
                                       void* totals, int wide, int rows, int C) {
    sum_columns(blockIdx.x, blockIdx.y, gridDim.y, x, x, partial, finished, totals, wide, 1, rows,
                C);
}

// dw[v] (C,) = Σ dy[order[i]] for i from starts[v] to starts[v + 1]: the rows whose index is v.
// Block (v, ·).
extern "C" __global__ void sum_runs(const scalar* dy, const int64* order, const int64* starts,
                                    scalar* dw, int C) {
    int64 v = blockIdx.x;
    int c = blockIdx.y * WIDTH + threadIdx.x;
    float sum = 0;
    if (c < C)
        for (int64 i = starts[v] + threadIdx.y; i < starts[v + 1]; i += HEIGHT)
            sum += float(dy[order[i] * C + c]);
    sum = sum_of_column(sum);
    if (threadIdx.y == 0 && c < C) dw[v * C + c] = scalar(sum);
}

// dw[v] (C,) = Σ dy[i] for all i < n with index[i] = v. Block (v, ·). A warp looks at 32 indices at
// once: `found` has a bit for each lane whose index is v, and their rows are added in order.
extern "C" __global__ void sum_where(const scalar* dy, const int64* index, scalar* dw, int n,
                                     int C) {
    int64 v = blockIdx.x;
    int c = blockIdx.y * WIDTH + threadIdx.x;
    float sum = 0;
    for (int i = threadIdx.y * WIDTH; i < n; i += HEIGHT * WIDTH) {
        int mine = i + threadIdx.x;
        unsigned found = __ballot_sync(WARP, mine < n && index[mine] == v);
        for (; found; found &= found - 1) {  // without its lowest bit
            int64 row = i + __ffs(found) - 1;
            if (c < C) sum += float(dy[row * C + c]);
        }
    }
    sum = sum_of_column(sum);
    if (threadIdx.y == 0 && c < C) dw[v * C + c] = scalar(sum);
}
