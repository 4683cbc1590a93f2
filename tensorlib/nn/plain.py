"""What the fused functions compute, written out with primitives, as the video types it.

Each is the specification of the function of the same name in `functional.py`: the tests hold both
equal, gradients included. Slower and hungrier for memory, and the place to read.
"""

from __future__ import annotations

import math

from ..creation import arange, ones
from ..ops.shape import tril
from ..tensor import Tensor


def softmax(x: Tensor, dim: int) -> Tensor:
    e = (x - x.amax(dim, keepdim=True).detach()).exp()  # the shift cancels, and exp cannot overflow
    return e / e.sum(dim, keepdim=True)


def log_softmax(x: Tensor, dim: int) -> Tensor:
    return x - x.logsumexp(dim, keepdim=True)


def masked_softmax(x: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    y = softmax(x.masked_fill(~mask, -1e30), dim)
    return y.masked_fill(~mask, 0.0)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (N, C), targets (N,); the mean over N."""
    rows = arange(len(targets), device=logits.device)
    return -log_softmax(logits, 1)[rows, targets].mean()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = x @ weight.T  # (…, in) @ (in, out)
    return y if bias is None else y + bias


def embedding(index: Tensor, weight: Tensor) -> Tensor:
    return weight[index]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * ((x * x).mean(-1, keepdim=True) + eps).rsqrt() * weight


def gelu(x: Tensor) -> Tensor:
    """The form with tanh; the exact one needs erf, which no primitive computes."""
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + u.tanh())


def silu(x: Tensor) -> Tensor:
    return x * x.sigmoid()


def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """q (…, T, E), k (…, T, E), v (…, T, D); the result is (…, T, D)."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    weights = q @ k.transpose(-2, -1) * scale  # (…, T, T)
    if is_causal:
        allowed = tril(ones(q.shape[-2], k.shape[-2], device=q.device))
        weights = weights.masked_fill(allowed == 0, float("-inf"))
    return softmax(weights, -1) @ v
