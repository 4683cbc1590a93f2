"""Attention on the GPU: flash attention (`cuda/attention.cu`), the plain form where it cannot be.

Flash attention computes in 16 bits on tensor cores and never stores the (L, S) weights; float32,
older GPUs and what is rare (a mask, other head sizes) take the code of `cpu.py`, which for an array
of CuPy's runs on the GPU.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..devices import compute_capability, library
from . import cpu
from .compiling import compiled, place

Array = Any

_BLOCK = 64  # rows that a block of threads works on, as in attention.cu
_SHARED = {  # what it keeps in shared memory: rows of tiles, and integers of dropout
    "attention_forward": (2 * 2 * 64, _BLOCK * (64 + 8)),
    "attention_backward_queries": (3 * _BLOCK, _BLOCK * (32 + 8)),
    "attention_backward_keys": (2 * _BLOCK + 2 * 2 * 32, 4 * 32 * (16 + 8)),
}
_SCALARS = {"float16": "__half", "bfloat16": "__nv_bfloat16"}


class _Plain(NamedTuple):
    """What `cpu.attention` saved."""

    weights: Any


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    causal: bool,
    scale: float,
    draw: Any,
    threshold: int,
) -> tuple[Array, Any]:
    """y = dropout(softmax(q kᵀ · scale + mask)) v, as `cpu.attention`; y has the dtype of q.

    q, k and v may have any strides: they are not copied if a row of a head (the last dimension) is
    contiguous and begins at a multiple of 16 bytes. In memory, y has the heads of a position side
    by side, (…, L, heads, D), as the next layer wants it.
    The integers of `draw` are made in the kernels, whose step may be an array as in `gpu.philox`.
    Returns y, and for backward y, the logarithm of each row's sum of exponentials, and the draw.
    Dao, FlashAttention-2 (2023).
    """
    if mask is not None or not _flash(q, k, v, scale):
        y, weights = cpu.attention(q, k, v, mask, causal, scale, draw, threshold)
        return y, _Plain(weights)
    lead = q.shape[:-2]
    if not lead == k.shape[:-2] == v.shape[:-2]:
        lead = np.broadcast_shapes(lead, k.shape[:-2], v.shape[:-2])
    q, k, v = (_heads(x, lead) for x in (q, k, v))
    B, H, L, D = q.shape
    xp = library("cuda")
    y = xp.empty((B, L, H, D), q.dtype)
    lse = xp.empty((B * H, -(-L // _BLOCK) * _BLOCK), np.float32)
    inputs = [*_strided(q), *_strided(k), *_strided(v)]
    problem = _problem(q, k, causal, scale, draw, threshold, lse)
    _launch("attention_forward", q, L, (*inputs, y, lse, *problem))
    return y.swapaxes(1, 2).reshape(*lead, L, D), (y, lse, draw)


def attention_backward(
    dy: Array, q: Array, k: Array, v: Array, saved: Any, causal: bool, scale: float, threshold: int
) -> tuple[Array, Array, Array, Array | None]:
    """The gradients of q, k, v and of a mask that was added, as `cpu.attention_backward`.

    Where q, k and v have one shape, their gradients lie side by side as (…, L, 3, heads, D), as the
    layer that made all three in one product wants them.
    """
    if isinstance(saved, _Plain):
        return cpu.attention_backward(dy, q, k, v, saved.weights, causal, scale, threshold)
    lead = dy.shape[:-2]
    dy, q, k, v = (_heads(x, lead) for x in (dy, q, k, v))
    (B, H, L, D), S = q.shape, k.shape[2]
    y, lse, draw = saved
    xp = library("cuda")
    if L == S:
        together = xp.empty((B, L, 3, H, D), q.dtype)
        dq, dk, dv = (together[:, :, i] for i in range(3))
    else:
        dq, dk, dv = (xp.empty((B, n, H, D), q.dtype) for n in (L, S, S))
    position = np.int64(dq.strides[1] // dq.itemsize)  # from one to the next
    delta = xp.empty_like(lse)
    inputs = [*_strided(q), *_strided(k), *_strided(v), *_strided(dy)]
    problem = position, *_problem(q, k, causal, scale, draw, threshold, lse)
    # The first computes the delta of each query, too, which the second needs.
    _launch("attention_backward_queries", q, L, (*inputs, y, lse, delta, dq.data, *problem))
    _launch("attention_backward_keys", q, S, (*inputs, lse, delta, dk.data, dv.data, *problem))
    dq, dk, dv = (x.swapaxes(1, 2).reshape(*lead, x.shape[1], D) for x in (dq, dk, dv))
    return dq, dk, dv, None


def attention_pairs(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float
) -> int:
    """As `cpu.attention_pairs`: flash attention leaves out the blocks that causality masks."""
    L, S = q.shape[-2], k.shape[-2]
    if mask is not None or not _flash(q, k, v, scale):
        return cpu.attention_pairs(q, k, v, mask, causal, scale)
    if not causal:
        return L * S
    return sum(min(_BLOCK, L - i) * min(i + _BLOCK, S) for i in range(0, L, _BLOCK))


def _flash(q: Array, k: Array, v: Array, scale: float) -> bool:
    """Whether the kernels of attention.cu can do this."""
    size = q.shape[-1]
    return (
        q.dtype.name in _SCALARS
        and size == v.shape[-1]
        and size in range(16, 129, 16)
        and min(q.size, k.size) > 0
        and scale > 0
        and compute_capability() >= 80
    )


def _heads(x: Array, lead: tuple[int, ...]) -> Array:
    """x (…, n, D), broadcast, as (B, H, n, D) with strides that the kernels can read."""
    if x.shape[:-2] != lead:
        x = library("cuda").broadcast_to(x, (*lead, *x.shape[-2:]))
    if len(lead) != 2:
        heads = lead[-1] if lead else 1
        x = x.reshape(math.prod(lead) // heads, heads, *x.shape[-2:])
    *outer, last = x.strides
    if last != x.itemsize or any(stride % 16 for stride in outer) or x.data.ptr % 16:
        x = x.copy()
    return x


def _strided(x: Array) -> tuple:
    """x (B, H, n, D) as a kernel takes it: where it begins, and its strides in elements."""
    return x.data, *(np.int64(stride // x.itemsize) for stride in x.strides[:3])


def _problem(
    q: Array, k: Array, causal: bool, scale: float, draw: Any, threshold: int, lse: Array
) -> tuple:
    """What all three kernels take at the end: sizes, scale, dropout."""
    sizes = q.shape[1], q.shape[2], k.shape[2], causal
    if not threshold:
        draw = 0, 0, lse, 0, 0  # of which nothing is read
    keep_scale = 65536 / (65536 - threshold) if threshold < 65536 else 0
    dropout = np.int32(threshold), np.float32(keep_scale), *place(draw)
    return *map(np.int32, sizes), np.float32(scale), *dropout


def _launch(name: str, q: Array, rows: int, args: tuple) -> None:
    """Run a kernel with one block for each _BLOCK of the `rows` of every head."""
    kernel, shared = _kernel(name, q.dtype.name, q.shape[-1])
    blocks = q.shape[0] * q.shape[1] * -(-rows // _BLOCK)
    kernel((blocks,), (2 * _BLOCK,), args, shared_mem=shared)


@functools.cache
def _kernel(name: str, dtype: str, size: int) -> tuple[Any, int]:
    """A kernel for a dtype and head size, and the bytes of shared memory that it needs."""
    kernel = _module(dtype, size).get_function(name)
    rows, integers = _SHARED[name]
    shared = (rows * (size + 8) + integers) * 2
    kernel.max_dynamic_shared_size_bytes = shared
    return kernel, shared


@functools.cache
def _module(dtype: str, size: int) -> Any:
    return compiled("attention", f"-Dscalar={_SCALARS[dtype]}", f"-DHS={size}")
