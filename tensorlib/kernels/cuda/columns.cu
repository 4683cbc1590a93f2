// Sums down the columns of a matrix: always in the same order, so no floats are added by atomics.
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

// totals[0] (C,) = Σ x and, if two `sums` are asked for, totals[1] = Σ x · z, over all rows.
// x, z: (rows, C); partial: (sums, blocks, C), memory to work in. totals: float if `wide`.
//
// Block (s, b) adds up some rows of the 32 columns of strip s; all those of a strip count themselves
// in finished[s], and the last one adds up what they have left in `partial`. It is another one each
// time, but the order in which it adds is always the same. finished: zeros, and zeros afterwards.
extern "C" __global__ void column_sums(const scalar* x, const scalar* z, float* partial,
                                       unsigned* finished, void* totals, int wide, int sums,
                                       int rows, int C) {
    int c = blockIdx.x * WIDTH + threadIdx.x, blocks = gridDim.y;
    float sum = 0, product_sum = 0;
    if (c < C)
        for (int row = blockIdx.y * HEIGHT + threadIdx.y; row < rows; row += blocks * HEIGHT) {
            int64 i = (int64)row * C + c;
            sum += float(x[i]);
            if (sums == 2) product_sum += float(x[i]) * float(z[i]);
        }
    sum = sum_of_column(sum);
    if (sums == 2) product_sum = sum_of_column(product_sum);
    if (threadIdx.y == 0 && c < C) {
        partial[(int64)blockIdx.y * C + c] = sum;
        if (sums == 2) partial[(int64)(blocks + blockIdx.y) * C + c] = product_sum;
    }

    __shared__ bool last;
    __threadfence();  // whoever sees this block counted shall see its sums
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0)  // counts to blocks − 1, then starts from 0 again
        last = atomicInc(finished + blockIdx.x, blocks - 1) == blocks - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int s = 0; s < sums; s++) {
        float total = 0;
        if (c < C)
            for (int b = threadIdx.y; b < blocks; b += HEIGHT)
                total += partial[(int64)(s * blocks + b) * C + c];
        total = sum_of_column(total);
        if (threadIdx.y == 0 && c < C) store(totals, s * C + c, wide, total);
    }
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
