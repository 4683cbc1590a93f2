// The step of Adam and AdamW, and the norm of the gradients, over all parameters in one array; and
// how the gradients come to be in one array.
#include "common.cuh"

// m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  p ← p − lr · m̂ / (√v̂ + eps)
// m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ), t = *step; log_beta = log β. The complements 1 − β come
// from outside, where they were taken in double precision. Where *skip, nothing happens.
extern "C" __global__ void adam(scalar* p, const scalar* g, scalar* m, scalar* v, const int* step,
                                const float* lr, const bool* skip, float beta1, float beta2,
                                float complement1, float complement2, float log_beta1,
                                float log_beta2, float eps, float weight_decay, int decoupled,
                                int64 n) {
    int64 i = thread_number();
    if (i >= n || *skip) return;
    float weight = float(p[i]), slope = float(g[i]);
    if (decoupled)
        weight *= 1 - *lr * weight_decay;  // not -=: the CPU's rounding, and PyTorch's
    else
        slope += weight_decay * weight;
    float mean = beta1 * float(m[i]) + complement1 * slope;
    float square = beta2 * float(v[i]) + complement2 * slope * slope;
    float correction1 = -expm1f(*step * log_beta1), correction2 = -expm1f(*step * log_beta2);
    m[i] = scalar(mean);
    v[i] = scalar(square);
    p[i] = scalar(weight - *lr / correction1 * mean / (sqrtf(square / correction2) + eps));
}

// Arrays, and where each ends in y. What a kernel is given must not be longer than 4096 bytes.
struct Parts {
    const scalar* at[250];
    int64 end[250];
};

// y (n,) = `count` arrays, one after the other.
extern "C" __global__ void join(Parts parts, int count, scalar* y, int64 n) {
    int64 i = thread_number();
    if (i >= n) return;
    int first = 0, last = count - 1;  // where the array of y[i] is among them: the first that ends
    while (first < last) {            // behind i
        int middle = (first + last) / 2;
        if (i < parts.end[middle])
            last = middle;
        else
            first = middle + 1;
    }
    y[i] = parts.at[first][i - (first ? parts.end[first - 1] : 0)];
}

// First step: partial[b] = Σ x² over the numbers of block b.
extern "C" __global__ void sum_of_squares(const scalar* x, float* partial, int64 n) {
    float sum = 0;
    for (int64 i = thread_number(); i < n; i += (int64)gridDim.x * blockDim.x)
        sum += float(x[i]) * float(x[i]);
    sum = team_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Second step, of a single block: *norm = √Σ partial.
extern "C" __global__ void root_of_sum(const float* partial, float* norm, int blocks) {
    float sum = 0;
    for (int b = threadIdx.x; b < blocks; b += blockDim.x) sum += partial[b];
    sum = team_sum(sum);
    if (threadIdx.x == 0) *norm = sqrtf(sum);
}

// x ← x · min(1, max_norm / (*norm + 1e-6)), where a NaN stays one
extern "C" __global__ void clip(scalar* x, const float* norm, float max_norm, int64 n) {
    int64 i = thread_number();
    if (i >= n) return;
    float factor = max_norm / (*norm + 1e-6f);
    x[i] = scalar(float(x[i]) * (factor > 1 ? 1 : factor));
}
