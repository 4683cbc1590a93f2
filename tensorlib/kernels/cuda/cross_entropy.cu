// The loss −Σ t log softmax(logits) of each row of logits (rows, C), where t is 1 − smoothing at
// the target plus smoothing / C everywhere; and its gradient. One team to a row. Logits and their
// gradient are of scalar; all else is so, too, or, if it is `wide`, of float.
#include "common.cuh"

// Writes the losses (rows,) and the softmax (rows, C). A target that is no class gives NaN.
extern "C" __global__ void cross_entropy(const scalar* logits, const int64* targets,
                                         const bool* ignored, void* losses, void* shares,
                                         uint64* worst, float smoothing, int wide, int rows,
                                         int C) {
    int row = team_row();
    if (row >= rows) return;
    int64 start = (int64)row * C;
    logits += start;

    float peak = -infinity();
    for (int c = threadIdx.x; c < C; c += blockDim.x) peak = fmaxf(peak, float(logits[c]));
    peak = team_max(peak);

    float total = 0, shifted = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        shifted += float(logits[c]) - peak;
        total += expf(float(logits[c]) - peak);
    }
    total = team_sum(total);
    shifted = smoothing != 0 ? team_sum(shifted) : 0;

    for (int c = threadIdx.x; c < C; c += blockDim.x)
        store(shares, start + c, wide, expf(float(logits[c]) - peak) / total);
    if (threadIdx.x == 0) {
        int64 target = targets[row];
        float loss = __int_as_float(0x7fffffff);
        if (!ignored[row] && in_range(target, C, worst))
            loss = logf(total) - (1 - smoothing) * (float(logits[target]) - peak);
        if (smoothing != 0) loss -= smoothing * shifted / C;
        store(losses, row, wide, ignored[row] ? 0 : loss);
    }
}

// dlogits = (softmax − t) dloss, 0 in a row that is ignored. dlosses: (rows,), or one for all rows.
extern "C" __global__ void cross_entropy_backward(const void* dlosses, const void* shares,
                                                  const int64* targets, const bool* ignored,
                                                  scalar* dlogits, int all_alike, float smoothing,
                                                  int wide, int rows, int C) {
    int row = team_row();
    if (row >= rows) return;
    int64 start = (int64)row * C;

    float dloss = ignored[row] ? 0 : load(dlosses, all_alike ? 0 : row, wide);
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float t = smoothing / C + (c == targets[row] ? 1 - smoothing : 0);
        dlogits[start + c] = scalar((load(shares, start + c, wide) - t) * dloss);
    }
}
