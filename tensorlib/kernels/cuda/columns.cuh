// Sums down the columns of a matrix: always in the same order, so no floats are added by atomics.
// 256 threads are 32 columns wide and 8 rows high, so that a warp reads 32 neighbours of one row.
#pragma once

constexpr int WIDTH = 32, HEIGHT = 8;

// A thread's column and row among the 256, whatever the shape of its block.
__device__ int thread_in_block() { return threadIdx.y * blockDim.x + threadIdx.x; }
__device__ int column_in_block() { return thread_in_block() % WIDTH; }
__device__ int row_in_block() { return thread_in_block() / WIDTH; }

// The sum over the 8 threads above one another; the upper one (row 0) gets it.
__device__ float sum_of_column(float x) {
    __shared__ float sums[HEIGHT][WIDTH];
    int column = column_in_block(), row = row_in_block();
    __syncthreads();  // what was here before may still be read
    sums[row][column] = x;
    __syncthreads();
    float total = 0;
    if (row == 0)
        for (int y = 0; y < HEIGHT; y++) total += sums[y][column];
    return total;
}

// totals[0] (C,) = Σ x and, if two `sums` are asked for, totals[1] = Σ x · z, over all rows.
// x, z: (rows, C); partial: (sums, blocks, C), memory to work in. z, totals: float if `wide`.
//
// Block b of strip s adds up some rows of its 32 columns; all those of a strip count themselves in
// finished[s], and the last one adds up what they have left in `partial`. It is another one each
// time, but the order in which it adds is always the same. finished: zeros, and zeros afterwards.
__device__ void sum_columns(int strip, int block, int blocks, const scalar* x, const void* z,
                            float* partial, unsigned* finished, void* totals, int wide, int sums,
                            int rows, int C) {
    int c = strip * WIDTH + column_in_block();
    bool writes = row_in_block() == 0 && c < C;
    float sum = 0, product_sum = 0;
    if (c < C)
        for (int row = block * HEIGHT + row_in_block(); row < rows; row += blocks * HEIGHT) {
            int64 i = (int64)row * C + c;
            sum += float(x[i]);
            if (sums == 2) product_sum += float(x[i]) * load(z, i, wide);
        }
    sum = sum_of_column(sum);
    if (sums == 2) product_sum = sum_of_column(product_sum);
    if (writes) {
        partial[(int64)block * C + c] = sum;
        if (sums == 2) partial[(int64)(blocks + block) * C + c] = product_sum;
    }

    __shared__ bool last;
    __threadfence();  // whoever sees this block counted shall see its sums
    __syncthreads();
    if (thread_in_block() == 0)  // counts to blocks − 1, then starts from 0 again
        last = atomicInc(finished + strip, blocks - 1) == blocks - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int s = 0; s < sums; s++) {
        float total = 0;
        if (c < C)
            for (int b = row_in_block(); b < blocks; b += HEIGHT)
                total += partial[(int64)(s * blocks + b) * C + c];
        total = sum_of_column(total);
        if (writes) store(totals, s * C + c, wide, total);
    }
}
