// Sums down the columns of a matrix, in two steps and without atomics: always in the same order.
// A block is 32 columns wide and 8 rows high, so that a warp reads 32 neighbours of one row.
#include "common.cuh"

constexpr int WIDTH = 32, HEIGHT = 8;

// The sum over the 8 threads above one another; the upper one (threadIdx.y 0) gets it.
__device__ float sum_of_column(float x) {
    __shared__ float sums[HEIGHT][WIDTH];
    __syncthreads();  // what was here before may still be read
    sums[threadIdx.y][threadIdx.x] = x;
    __syncthreads();
    float total = 0;
    if (threadIdx.y == 0)
        for (int y = 0; y < HEIGHT; y++) total += sums[y][threadIdx.x];
    return total;
}

// First step: partial[0][b] (C,) = Σ x and, if two `sums` are asked for, partial[1][b] = Σ x · z,
// over the rows of block (·, b). x, z: (rows, C); partial: (sums, blocks, C).
extern "C" __global__ void column_sums(const scalar* x, const scalar* z, float* partial,
                                       int sums, int rows, int C) {
    int c = blockIdx.x * WIDTH + threadIdx.x;
    float sum = 0, product_sum = 0;
    if (c < C)
        for (int row = blockIdx.y * HEIGHT + threadIdx.y; row < rows; row += gridDim.y * HEIGHT) {
            int64 i = (int64)row * C + c;
            sum += float(x[i]);
            if (sums == 2) product_sum += float(x[i]) * float(z[i]);
        }
    sum = sum_of_column(sum);
    if (sums == 2) product_sum = sum_of_column(product_sum);
    if (threadIdx.y > 0 || c >= C) return;
    partial[(int64)blockIdx.y * C + c] = sum;
    if (sums == 2) partial[(int64)(gridDim.y + blockIdx.y) * C + c] = product_sum;
}

// Second step: total[s] (C,) = Σ partial[s][b] over the `blocks`. Block (·, s).
extern "C" __global__ void add_partial_sums(const float* partial, scalar* total, int blocks,
                                            int C) {
    int c = thread_number();
    if (c >= C) return;
    partial += (int64)blockIdx.y * blocks * C;
    float sum = 0;
    for (int b = 0; b < blocks; b++) sum += partial[(int64)b * C + c];
    total[(int64)blockIdx.y * C + c] = scalar(sum);
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
