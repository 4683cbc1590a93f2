// Flash attention: y = dropout(softmax(q kᵀ · scale)) v, and its gradients, without the matrix of
// attention weights ever reaching memory. Dao, FlashAttention-2 (2023); docs/flash-attention.md
// derives the formulas.
//
// A block of 4 warps works on one head of one element of the batch: each warp on 16 rows (queries;
// in attention_backward_keys, keys), while the rows of the other side pass by in tiles in shared
// memory. There are two buffers for them: one is worked on while the next tile is copied to the
// other. A grid has B · H · ⌈rows / BLOCK⌉ blocks.
//
// Compiled with -Dscalar=__half or __nv_bfloat16, and -DHS=…, the head size: a multiple of 16.
//
// q, dy: (B, H, L, HS), k, v: (B, H, S, HS), with any strides (in elements) but 1 for the last; so
//     that 16 bytes can be read at once, all other strides and the start are multiples of 8.
// y: (B, L, H, HS), contiguous: the heads of a position side by side.
// dq: (B, L, H, HS), dk, dv: (B, S, H, HS), the same, but from one position to the next it is
//     d_position elements, since there may be something else between.
// lse, delta: float (B H, L rounded up to whole blocks).
// threshold, keep_scale, seed, stream, step, draw, drawn: of dropout, see `Dropout`; with threshold 0
//     there is none, and step is not read.
#include "mma.cuh"
#include "philox.cuh"

constexpr int WARPS = 4, THREADS = 32 * WARPS, BLOCK = 16 * WARPS;
constexpr int KEYS = 64;       // in a tile that passes by, forward
constexpr int STEP = 32;       // the same backward, where a thread has more to hold in registers
constexpr int RESIDENT = HS <= 64 ? 3 : 2;  // blocks at a time on a multiprocessor: 168 or 255
                                            // registers for a thread
constexpr int PITCH = HS + 8;  // of a row in a tile: with the 8 numbers more, 16 bytes of each of 8
                               // rows lie in different banks, and are read in one go
constexpr float LOG2_E = 1.44269504f;

__device__ float minus_infinity() { return __int_as_float(0xff800000); }
__device__ int lane() { return threadIdx.x % 32; }
__device__ int warp_row() { return threadIdx.x / 32 * 16; }  // the first of this warp's rows

// Element e of C[j], in a row of fragments C, is in row `row_of(e)` and column `column_of(j, e)`.
__device__ int row_of(int e) { return lane() / 4 + e / 2 * 8; }
__device__ int column_of(int j, int e) { return 8 * j + lane() % 4 * 2 + e % 2; }

// Start to copy the rows from `first` on of a matrix of `count` rows to a tile of ROWS rows; beyond
// the end of the matrix, zeros.
template <int ROWS>
__device__ void load(scalar* tile, const scalar* matrix, int64 stride, int first, int count) {
    for (int i = threadIdx.x; i < ROWS * (HS / 8); i += THREADS) {  // 16 bytes each
        int row = i / (HS / 8), column = i % (HS / 8) * 8;
        bool valid = first + row < count;
        const scalar* source = matrix + (valid ? first + row : 0) * stride + column;
        start_copy(tile + row * PITCH + column, source, valid);
    }
}

// The fragment A of 16 × 16 numbers whose first is at `tile`.
__device__ void load_a(unsigned* a, const scalar* tile) {
    load_matrices(a, tile + lane() % 16 * PITCH + lane() / 16 * 8);
}

// c (16 × N) += a (16 × 16) · xᵀ, where x is the first 16 columns of a tile of N rows.
template <int N>
__device__ void multiply_transposed(float (*c)[4], const unsigned* a, const scalar* tile) {
#pragma unroll
    for (int n = 0; n < N; n += 16) {
        unsigned b[4];  // two fragments B; in shared memory, x has the layout that B's columns need
        load_matrices(b, tile + (n + lane() / 16 * 8 + lane() % 8) * PITCH + lane() / 8 % 2 * 8);
        mma<scalar>(c[n / 8], a, b);
        mma<scalar>(c[n / 8 + 1], a, b + 2);
    }
}

// c (16 × HS) += w (16 × N) · x, where x is a tile of N rows, and w is rounded to 16 bits.
template <int N>
__device__ void multiply(float (*c)[4], const float (*w)[4], const scalar* tile) {
#pragma unroll
    for (int n = 0; n < N; n += 16) {
        const float *left = w[n / 8], *right = w[n / 8 + 1];
        unsigned a[4] = {pack<scalar>(left[0], left[1]), pack<scalar>(left[2], left[3]),
                         pack<scalar>(right[0], right[1]), pack<scalar>(right[2], right[3])};
#pragma unroll
        for (int i = 0; i < HS; i += 16) {
            unsigned b[4];
            load_matrices_transposed(b, tile + (n + lane() % 16) * PITCH + i + lane() / 16 * 8);
            mma<scalar>(c[i / 8], a, b);
            mma<scalar>(c[i / 8 + 1], a, b + 2);
        }
    }
}

// Write this warp's rows c (16 × HS), row g times factor[0] and row g + 8 times factor[1], to rows
// `first` … of a matrix of `count` rows. They go by way of the warp's rows of a tile that is no
// longer in use, so that then every lane writes 16 bytes at once.
__device__ void store(scalar* matrix, int64 stride, int first, int count, scalar* tile,
                      const float (*c)[4], const float* factor) {
    tile += warp_row() * PITCH;
    first += warp_row();
#pragma unroll
    for (int j = 0; j < HS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e += 2)
            *(unsigned*)(tile + row_of(e) * PITCH + column_of(j, e)) =
                pack<scalar>(c[j][e] * factor[e / 2], c[j][e + 1] * factor[e / 2]);
    __syncwarp();
    for (int i = lane(); i < 16 * (HS / 8); i += 32) {
        int row = i / (HS / 8), column = i % (HS / 8) * 8;
        if (first + row < count)
            *(uint4*)(matrix + (first + row) * stride + column) =
                *(const uint4*)(tile + row * PITCH + column);
    }
}

// The sum and the maximum over the 4 lanes that hold the same rows of a fragment C.
__device__ float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

__device__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}

// Which weights of a head are hidden: the key is behind the last one or, in causal attention, in the
// future of the query.
struct Mask {
    int positions;  // S
    bool causal;

    __device__ bool hidden(int query, int key) const {
        return key >= positions || (causal && key > query);
    }
};

// Dropout's 16-bit integers: they are drawn where they are needed, once in each of the kernels.
// Weight (query, key) of a head is dropped if integer number first + query · S + key of the draw is
// below the threshold. Sixteen come from one counter.
struct Dropout {
    int threshold;
    uint64 seed, stream, step, draw;
    int64 first;
    int positions;  // S

    // Write those of ROWS queries from `query` on and of COLUMNS keys from `key` on to a tile of this
    // warp's own. A row of it has 8 numbers more, as other tiles have.
    template <int ROWS, int COLUMNS>
    __device__ void draw_tile(unsigned short* tile, int query, int key) const {
        bool aligned = first % 16 == 0 && positions % 16 == 0;  // key is a multiple of 16 anyway
        int counters = COLUMNS / 16 + !aligned;                 // that a row needs
        __syncwarp();                                           // the tile before has been read
        for (int i = lane(); i < ROWS * counters; i += 32) {
            int row = i / counters;
            int64 start = first + (int64)(query + row) * positions + key;  // the number of its first
            int64 counter = start / 16 + i % counters;
            uint64 words[4] = {(uint64)counter, draw, step, 0};
            philox_words(words, seed, stream);
#pragma unroll
            for (int j = 0; j < 16; j++) {
                int64 column = 16 * counter + j - start;
                if (0 <= column && column < COLUMNS)
                    tile[row * (COLUMNS + 8) + column] = words[j / 4] >> 16 * (j % 4);
            }
        }
        __syncwarp();
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) attention_forward(
    const scalar* q, int64 q_batch, int64 q_head, int64 q_row,
    const scalar* k, int64 k_batch, int64 k_head, int64 k_row,
    const scalar* v, int64 v_batch, int64 v_head, int64 v_row,
    scalar* y, float* lse, int heads, int length, int positions, int causal, float scale,
    int threshold, float keep_scale, uint64 seed, uint64 stream, const uint64* step, uint64 draw,
    int64 drawn)
{
    extern __shared__ uint4 memory[];
    scalar* tiles = (scalar*)memory;
    constexpr int SIZE = KEYS * PITCH, BUFFER = 2 * SIZE;  // a buffer: keys, then values
    constexpr int DRAWN = KEYS + 8;                         // the length of a row of dropout's tile
    unsigned short* bits = (unsigned short*)(tiles + 2 * BUFFER) + warp_row() * DRAWN;

    // The last rows have most to do in causal attention: they come first.
    int blocks = (length + BLOCK - 1) / BLOCK, head = blockIdx.x / blocks;
    int first_row = (blocks - 1 - blockIdx.x % blocks) * BLOCK, b = head / heads, h = head % heads;
    q += b * q_batch + h * q_head;
    k += b * k_batch + h * k_head;
    v += b * v_batch + h * v_head;
    Mask mask = {positions, causal != 0};
    drawn += (int64)head * length * positions;
    Dropout dropout = {threshold, seed, stream, threshold ? *step : 0, draw, drawn, positions};
    int row = first_row + warp_row(), end = causal ? min(positions, first_row + BLOCK) : positions;

    load<BLOCK>(tiles + BUFFER, q, q_row, first_row, length);
    load<KEYS>(tiles, k, k_row, 0, positions);
    load<KEYS>(tiles + SIZE, v, v_row, 0, positions);
    await_copies();
    __syncthreads();
    unsigned queries[HS / 16][4];
#pragma unroll
    for (int i = 0; i < HS / 16; i++)
        load_a(queries[i], tiles + BUFFER + warp_row() * PITCH + 16 * i);

    // Of rows g and g + 8: the output so far, Σ exp(s − peak) v, the peak and Σ exp(s − peak).
    float output[HS / 8][4] = {}, total[2] = {};
    float peak[2] = {minus_infinity(), minus_infinity()};
    float scale2 = scale * LOG2_E;  // exp(s · scale) = 2^(s · scale2), which the hardware computes

    for (int first = 0, buffer = 0; first < end; first += KEYS, buffer ^= 1) {
        await_copies();
        __syncthreads();  // this tile is there, and nobody needs the one before any more
        const scalar* tile = tiles + buffer * BUFFER;
        if (first + KEYS < end) {
            scalar* next = tiles + (buffer ^ 1) * BUFFER;
            load<KEYS>(next, k, k_row, first + KEYS, positions);
            load<KEYS>(next + SIZE, v, v_row, first + KEYS, positions);
        }

        float s[KEYS / 8][4] = {};
#pragma unroll
        for (int i = 0; i < HS / 16; i++) multiply_transposed<KEYS>(s, queries[i], tile + 16 * i);
        if (mask.hidden(row, first + KEYS - 1)) {  // else all of these keys are seen by all rows
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (mask.hidden(row + row_of(e), first + column_of(j, e)))
                        s[j][e] = minus_infinity();
        }

#pragma unroll
        for (int r = 0; r < 2; r++) {  // the online softmax of rows g and g + 8
            float top = peak[r];
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
                top = fmaxf(top, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
            top = row_max(top);
            float shrink = exp2f((peak[r] - top) * scale2);  // the sums so far knew a lower peak
            peak[r] = top;
            total[r] *= shrink;
#pragma unroll
            for (int j = 0; j < HS / 8; j++) {
                output[j][2 * r] *= shrink;
                output[j][2 * r + 1] *= shrink;
            }
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; e++) {
                    s[j][e] = exp2f(s[j][e] * scale2 - top * scale2);
                    total[r] += s[j][e];  // of this lane's columns
                }
        }
        if (threshold) {
            dropout.draw_tile<16, KEYS>(bits, row, first);
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (bits[row_of(e) * DRAWN + column_of(j, e)] < threshold) s[j][e] = 0;
        }
        multiply<KEYS>(output, s, tile + SIZE);
    }

    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = row_sum(total[r]);
        factor[r] = keep_scale / sum;
        if (lane() % 4 == 0)  // its logarithm has base 2, as attention_backward wants it
            lse[(int64)head * blocks * BLOCK + row + row_of(2 * r)] = peak[r] * scale2 + log2f(sum);
    }
    __syncthreads();
    y += ((int64)b * length * heads + h) * HS;
    store(y, (int64)heads * HS, first_row, length, tiles, output, factor);
}

// The gradient of q; and, for attention_backward_keys, delta = Σ dy y of every query.
//
// With the weights w = exp(s · scale − lse), the mask m of dropout (0 or keep_scale) and
// dw = m dy vᵀ: ds = w (dw − Σ w dw), and Σ w dw = Σ dy y, since y = Σ w m v; dq = ds k · scale.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) attention_backward_queries(
    const scalar* q, int64 q_batch, int64 q_head, int64 q_row,
    const scalar* k, int64 k_batch, int64 k_head, int64 k_row,
    const scalar* v, int64 v_batch, int64 v_head, int64 v_row,
    const scalar* dy, int64 dy_batch, int64 dy_head, int64 dy_row,
    const scalar* y, const float* lse, float* delta, scalar* dq, int64 d_position,
    int heads, int length, int positions, int causal, float scale,
    int threshold, float keep_scale, uint64 seed, uint64 stream, const uint64* step, uint64 draw,
    int64 drawn)
{
    extern __shared__ uint4 memory[];
    scalar* tiles = (scalar*)memory;
    constexpr int SIZE = STEP * PITCH, BUFFER = 2 * SIZE;  // a buffer: keys, then values
    constexpr int WHOLE = BLOCK * PITCH, DRAWN = STEP + 8;
    unsigned short* bits = (unsigned short*)(tiles + 3 * WHOLE) + warp_row() * DRAWN;

    int blocks = (length + BLOCK - 1) / BLOCK, head = blockIdx.x / blocks;
    int first_row = (blocks - 1 - blockIdx.x % blocks) * BLOCK, b = head / heads, h = head % heads;
    q += b * q_batch + h * q_head;
    k += b * k_batch + h * k_head;
    v += b * v_batch + h * v_head;
    dy += b * dy_batch + h * dy_head;
    int64 y_start = ((int64)b * length * heads + h) * HS, y_row = (int64)heads * HS;
    Mask mask = {positions, causal != 0};
    drawn += (int64)head * length * positions;
    Dropout dropout = {threshold, seed, stream, threshold ? *step : 0, draw, drawn, positions};
    int row = first_row + warp_row(), end = causal ? min(positions, first_row + BLOCK) : positions;

    load<BLOCK>(tiles, y + y_start, y_row, first_row, length);
    load<BLOCK>(tiles + WHOLE, q, q_row, first_row, length);
    load<BLOCK>(tiles + 2 * WHOLE, dy, dy_row, first_row, length);
    await_copies();
    __syncthreads();
    unsigned queries[HS / 16][4], gradients[HS / 16][4];
    float row_delta[2] = {}, row_lse[2];  // of rows g and g + 8
#pragma unroll
    for (int i = 0; i < HS / 16; i++) {
        const scalar* here = tiles + warp_row() * PITCH + 16 * i;
        unsigned outputs[4];
        load_a(outputs, here);
        load_a(queries[i], here + WHOLE);
        load_a(gradients[i], here + 2 * WHOLE);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float2 y2 = unpack<scalar>(outputs[e]), dy2 = unpack<scalar>(gradients[i][e]);
            row_delta[e % 2] += y2.x * dy2.x + y2.y * dy2.y;
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int64 i = (int64)head * blocks * BLOCK + row + row_of(2 * r);
        row_delta[r] = row_sum(row_delta[r]);
        row_lse[r] = lse[i];
        if (lane() % 4 == 0) delta[i] = row_delta[r];
    }
    __syncthreads();
    load<STEP>(tiles, k, k_row, 0, positions);
    load<STEP>(tiles + SIZE, v, v_row, 0, positions);

    float gradient[HS / 8][4] = {}, scale2 = scale * LOG2_E;
    for (int first = 0, buffer = 0; first < end; first += STEP, buffer ^= 1) {
        await_copies();
        __syncthreads();  // this tile is there, and nobody needs the one before any more
        const scalar* tile = tiles + buffer * BUFFER;
        if (first + STEP < end) {
            scalar* next = tiles + (buffer ^ 1) * BUFFER;
            load<STEP>(next, k, k_row, first + STEP, positions);
            load<STEP>(next + SIZE, v, v_row, first + STEP, positions);
        }
        if (causal && first > row) continue;  // all of these keys are in the future of this warp

        float s[STEP / 8][4] = {}, dw[STEP / 8][4] = {};
#pragma unroll
        for (int i = 0; i < HS / 16; i++) {
            multiply_transposed<STEP>(s, queries[i], tile + 16 * i);
            multiply_transposed<STEP>(dw, gradients[i], tile + SIZE + 16 * i);
        }
        bool some_hidden = mask.hidden(row, first + STEP - 1);
        if (threshold) dropout.draw_tile<16, STEP>(bits, row, first);
#pragma unroll
        for (int j = 0; j < STEP / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int query = row + row_of(e), key = first + column_of(j, e);
                float w = exp2f(s[j][e] * scale2 - row_lse[e / 2]);
                bool dropped = threshold && bits[row_of(e) * DRAWN + column_of(j, e)] < threshold;
                float m = dropped ? 0 : keep_scale;
                s[j][e] = w * (m * dw[j][e] - row_delta[e / 2]);
                if (some_hidden && mask.hidden(query, key)) s[j][e] = 0;
            }
        multiply<STEP>(gradient, s, tile);
    }

    float factor[2] = {scale, scale};
    __syncthreads();
    dq += b * length * d_position + h * HS;
    store(dq, d_position, first_row, length, tiles, gradient, factor);
}

// The gradients of k and v, with the weights transposed: a row is a key, a column a query.
//
// dv = (w m)ᵀ dy, dk = dsᵀ q · scale.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) attention_backward_keys(
    const scalar* q, int64 q_batch, int64 q_head, int64 q_row,
    const scalar* k, int64 k_batch, int64 k_head, int64 k_row,
    const scalar* v, int64 v_batch, int64 v_head, int64 v_row,
    const scalar* dy, int64 dy_batch, int64 dy_head, int64 dy_row,
    const float* lse, const float* delta, scalar* dk, scalar* dv, int64 d_position,
    int heads, int length, int positions, int causal, float scale,
    int threshold, float keep_scale, uint64 seed, uint64 stream, const uint64* step, uint64 draw,
    int64 drawn)
{
    extern __shared__ uint4 memory[];
    constexpr int SIZE = STEP * PITCH, BUFFER = 2 * SIZE;  // a buffer: queries, then gradients
    scalar *keys = (scalar*)memory, *values = keys + BLOCK * PITCH, *tiles = values + BLOCK * PITCH;
    constexpr int DRAWN = 16 + 8;
    unsigned short* bits = (unsigned short*)(tiles + 2 * BUFFER) + threadIdx.x / 32 * STEP * DRAWN;

    int blocks = (positions + BLOCK - 1) / BLOCK, head = blockIdx.x / blocks;
    int first_row = blockIdx.x % blocks * BLOCK, b = head / heads, h = head % heads;
    q += b * q_batch + h * q_head;
    k += b * k_batch + h * k_head;
    v += b * v_batch + h * v_head;
    dy += b * dy_batch + h * dy_head;
    int64 statistics = (int64)head * ((length + BLOCK - 1) / BLOCK * BLOCK);
    lse += statistics;
    delta += statistics;
    Mask mask = {positions, causal != 0};
    drawn += (int64)head * length * positions;
    Dropout dropout = {threshold, seed, stream, threshold ? *step : 0, draw, drawn, positions};
    int row = first_row + warp_row(), start = causal ? first_row : 0;

    load<BLOCK>(keys, k, k_row, first_row, positions);
    load<BLOCK>(values, v, v_row, first_row, positions);
    if (start < length) {
        load<STEP>(tiles, q, q_row, start, length);
        load<STEP>(tiles + SIZE, dy, dy_row, start, length);
    }
    float gradient_k[HS / 8][4] = {}, gradient_v[HS / 8][4] = {}, scale2 = scale * LOG2_E;
    for (int first = start, buffer = 0; first < length; first += STEP, buffer ^= 1) {
        await_copies();
        __syncthreads();  // this tile is there, and nobody needs the one before any more
        const scalar* tile = tiles + buffer * BUFFER;
        if (first + STEP < length) {
            scalar* next = tiles + (buffer ^ 1) * BUFFER;
            load<STEP>(next, q, q_row, first + STEP, length);
            load<STEP>(next + SIZE, dy, dy_row, first + STEP, length);
        }
        if (causal && first + STEP <= row) continue;  // none of these queries sees this warp's keys

        float s[STEP / 8][4] = {}, dw[STEP / 8][4] = {};
#pragma unroll
        for (int i = 0; i < HS / 16; i++) {
            unsigned a[4];
            load_a(a, keys + warp_row() * PITCH + 16 * i);
            multiply_transposed<STEP>(s, a, tile + 16 * i);
            load_a(a, values + warp_row() * PITCH + 16 * i);
            multiply_transposed<STEP>(dw, a, tile + SIZE + 16 * i);
        }
        bool some_hidden = causal && first < row + 15;  // the last key from the first query
        if (threshold) dropout.draw_tile<STEP, 16>(bits, first, row);
#pragma unroll
        for (int j = 0; j < STEP / 8; j++) {
            float2 lses = *(const float2*)(lse + first + column_of(j, 0));  // of two queries
            float2 deltas = *(const float2*)(delta + first + column_of(j, 0));
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int query = first + column_of(j, e), key = row + row_of(e);
                float w = exp2f(s[j][e] * scale2 - (e % 2 ? lses.y : lses.x));
                if (some_hidden && key > query) w = 0;
                bool dropped = threshold && bits[column_of(j, e) * DRAWN + row_of(e)] < threshold;
                float m = dropped ? 0 : keep_scale;
                s[j][e] = w * m;
                dw[j][e] = w * (m * dw[j][e] - (e % 2 ? deltas.y : deltas.x));
            }
        }
        multiply<STEP>(gradient_v, s, tile + SIZE);
        multiply<STEP>(gradient_k, dw, tile);
    }

    float one[2] = {1, 1}, factor[2] = {scale, scale};
    int64 start_d = b * positions * d_position + h * HS;
    await_copies();  // where no query sees these keys, the loop has not waited
    __syncthreads();
    store(dk + start_d, d_position, first_row, positions, keys, gradient_k, factor);
    store(dv + start_d, d_position, first_row, positions, values, gradient_v, one);
}
