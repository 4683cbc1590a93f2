"""Attention in 16 bits on a GPU, with cuBLAS's products: what is not for flash attention.

The formulas are those of `cpu.attention`, on the whole (L, S) matrices at once. The scores stay in
float32 until softmax has made weights of them: those fit into 16 bits, and are all that is saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .cpu_dropout import dropout_backward
from .cpu_softmax import future, softmax, softmax_backward, softmax_of_masked
from .cublas import matmul

Array = Any


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    causal: bool,
    scale: float,
    bits: Array | None,
    threshold: int,
) -> tuple[Array, tuple]:
    """y = dropout(softmax(q kᵀ · scale + mask)) v, as `cpu.attention`; y has the dtype of q.

    Returns y, and for backward the weights before dropout and which of them were kept.
    """
    scores = matmul(q, k.swapaxes(-1, -2), dtype=np.float32)  # (…, L, S)
    scores *= np.float32(scale)
    if causal:
        scores += future(*scores.shape[-2:], scores.dtype, "cuda")
    if mask is None:
        weights = softmax(scores, -1)
    else:
        allowed = mask.dtype == bool
        scores = np.where(mask, scores, np.float32(-np.inf)) if allowed else scores + mask
        weights = softmax_of_masked(scores, -1)
    weights = weights.astype(q.dtype)
    keep = None if bits is None else bits > threshold - 1
    kept = weights if keep is None else dropout_backward(weights, keep, threshold)
    return matmul(kept, v), (weights, keep)


def attention_backward(
    dy: Array, q: Array, k: Array, v: Array, saved: tuple, scale: float, threshold: int
) -> tuple[Array, Array, Array, Array]:
    """The gradients of q, k, v and of a mask that was added, as `cpu.attention_backward`."""
    weights, keep = saved
    kept = weights if keep is None else dropout_backward(weights, keep, threshold)
    dv = matmul(kept.swapaxes(-1, -2), dy)
    dweights = matmul(dy, v.swapaxes(-1, -2), dtype=np.float32)
    if keep is not None:
        dweights = dropout_backward(dweights, keep, threshold)
    dscores = softmax_backward(dweights, weights.astype(np.float32), -1)
    narrow = (dscores * np.float32(scale)).astype(q.dtype)
    dq = matmul(narrow, k)
    dk = matmul(narrow.swapaxes(-1, -2), q)
    return dq, dk, dv, dscores
