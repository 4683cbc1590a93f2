// The loss −Σ t log softmax(logits) of each row of logits (rows, C), where t is 1 − smoothing at
// the target plus smoothing / C everywhere; and its gradient. One team to a row.
#include "common.cuh"

// Writes the losses (rows,) and the softmax (rows, C). A target that is no class gives NaN.
extern "C" __global__ void cross_entropy(const scalar* logits, const int64* targets,
                                         const bool* ignored, scalar* losses, scalar* shares,
                                         uint64* worst, float smoothing, int rows, int C) {
    int64 row = team_row();
    if (row >= rows) return;
    logits += row * C;
    shares += row * C;

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
        shares[c] = scalar(expf(float(logits[c]) - peak) / total);
    if (threadIdx.x == 0) {
        int64 target = targets[row];
        float loss = __int_as_float(0x7fffffff);
        if (!ignored[row] && in_range(target, C, worst))
            loss = logf(total) - (1 - smoothing) * (float(logits[target]) - peak);
        if (smoothing != 0) loss -= smoothing * shifted / C;
        losses[row] = scalar(ignored[row] ? 0.0f : loss);
    }
}

// dlogits = (softmax − t) dloss, 0 in a row that is ignored
extern "C" __global__ void cross_entropy_backward(const scalar* dlosses, const scalar* shares,
                                                  const int64* targets, const bool* ignored,
                                                  scalar* dlogits, float smoothing, int rows,
                                                  int C) {
    int64 row = team_row();
    if (row >= rows) return;
    shares += row * C;
    dlogits += row * C;

    float dloss = ignored[row] ? 0 : float(dlosses[row]);
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float t = smoothing / C + (c == targets[row] ? 1 - smoothing : 0);
        dlogits[c] = scalar((float(shares[c]) - t) * dloss);
    }
}
