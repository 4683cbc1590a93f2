"""Attention in NumPy: whole matrices of weights, or where they are large, pieces that fit a cache.

A piece is a *part* of the batch and in it a *block* of rows. `attention` and `attention_backward`
go through the parts; `_attention` and `_attention_backward` do one, block by block.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arrays import peak
from ..devices import device_of
from . import half_attention
from .cpu_dropout import dropout_scale
from .cpu_softmax import future, softmax_backward, softmax_of_masked
from .cublas import product

Array = Any

_ROWS = 64  # of a block of attention weights
_WEIGHTS = 2**18  # in all blocks computed at once: 1 MB of float32, for a level-2 cache


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
    """y = dropout(softmax(q kᵀ · scale + mask)) v.

    q (…, L, E), k (…, S, E), v (…, S, D); y (…, L, D). mask: bool (True: may be attended to) or
    added, broadcast to (…, L, S). causal: position i sees the positions up to i. draw: with a
    threshold, the `random.Draw` of 16-bit integers (…, L, S) for dropout, else None. A position
    that may see nothing yields 0.
    Returns y, and for backward of each part, of each block of rows, the attention weights before
    dropout and which of them were kept. In 16 bits on a GPU it is `half_attention`.
    Vaswani et al., Attention Is All You Need (2017).
    """
    lead, bits = q.shape[:-2], None
    if not lead == k.shape[:-2] == v.shape[:-2]:
        lead = np.broadcast_shapes(lead, k.shape[:-2], v.shape[:-2])
    if threshold:
        shape = (*lead, q.shape[-2], k.shape[-2])
        bits = draw.bits(math.prod(shape), device_of(q)).reshape(shape)
    if q.dtype.itemsize == 2 and device_of(q) != "cpu":
        return half_attention.attention(q, k, v, mask, causal, scale, bits, threshold)
    y = _laid_out_as(q, (*lead, q.shape[-2], v.shape[-1]))
    saved = []
    for i in _parts(q, k, v, mask):
        keep = None if bits is None else bits[i] > threshold - 1
        saved.append(_attention(q[i], k[i], v[i], mask, causal, scale, keep, y[i]))
    if threshold:
        y *= dropout_scale(threshold, y.dtype)  # here, where there are fewer numbers than weights
    return y, saved


def _attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    causal: bool,
    scale: float,
    keep: Array | None,
    y: Array,
) -> list:
    """Write to y what `attention` yields, without the factor of dropout; return what it saves."""
    saved = []
    keys = k.swapaxes(-1, -2)  # (…, E, S)
    if q.shape[-2] > 1:  # copied, since products of small matrices take longer with transposed ones
        keys = np.multiply(keys, q.dtype.type(scale), out=np.empty_like(keys, order="C"))
    else:
        q = q * q.dtype.type(scale)
    for rows, seen in _blocks(q.shape[-2], k.shape[-2], causal, device_of(q)):
        scores = product(q[..., rows, :], keys[..., seen])
        if causal:
            later = scores[..., rows.start :]
            later += future(*later.shape[-2:], q.dtype, device_of(q))
        if mask is None:
            scores -= peak(scores, -1)
            weights = np.exp(scores, out=scores)
            weights /= np.einsum("...s->...", weights)[..., None]
        else:
            allowed = mask.dtype == bool
            scores = np.where(mask, scores, -np.inf).astype(q.dtype) if allowed else scores + mask
            weights = softmax_of_masked(scores, -1)
        keep_here = None if keep is None else keep[..., rows, seen]
        kept = weights if keep_here is None else weights * keep_here
        product(kept, v[..., seen, :], out=y[..., rows, :])
        saved.append((weights, keep_here))
    return saved


def attention_backward(
    dy: Array, q: Array, k: Array, v: Array, saved: Any, causal: bool, scale: float, threshold: int
) -> tuple[Array, Array, Array, Array | None]:
    """The gradients of q, k, v and of a mask that was added (of the scores, if there was a mask).

    With kept = dropout(weights): dv = keptᵀ dy, dkept = dy vᵀ; through dropout and softmax to
    dscores; dq = dscores k · scale, dk = dscoresᵀ q · scale.
    """
    if q.dtype.itemsize == 2 and device_of(q) != "cpu":
        return half_attention.attention_backward(dy, q, k, v, saved, scale, threshold)
    if threshold:
        dy = dy * dropout_scale(threshold, dy.dtype)
    lead = dy.shape[:-2]
    dq, dk, dv = (_laid_out_as(x, lead + x.shape[-2:]) for x in (q, k, v))
    dscores = None
    parts = [...] if len(saved) == 1 else _parts(q, k, v, None)
    for i, saved_here in zip(parts, saved, strict=True):
        gradients = dq[i], dk[i], dv[i]
        dscores = _attention_backward(dy[i], q[i], k[i], v[i], saved_here, causal, gradients)
    dq *= q.dtype.type(scale)
    dk *= q.dtype.type(scale)
    return dq, dk, dv, dscores


def _attention_backward(
    dy: Array, q: Array, k: Array, v: Array, saved: list, causal: bool, gradients: tuple
) -> Array:
    """Write the gradients (dq and dk without the factor `scale`); return dscores of a block."""
    dq, dk, dv = gradients
    values = v.swapaxes(-1, -2).copy()  # (…, D, S)
    blocks = list(zip(_blocks(q.shape[-2], k.shape[-2], causal, device_of(q)), saved))
    for (rows, seen), (weights, keep) in reversed(blocks):  # the last block sees most
        dy_here = dy[..., rows, :]
        kept = weights if keep is None else weights * keep
        dv_here = product(kept.swapaxes(-1, -2), dy_here)
        dweights = product(dy_here, values[..., seen])
        if keep is not None:
            dweights *= keep
        dscores = softmax_backward(dweights, weights, -1)
        product(dscores, k[..., seen, :], out=dq[..., rows, :])
        dk_here = product(dscores.swapaxes(-1, -2), q[..., rows, :])
        for total, here in ((dk, dk_here), (dv, dv_here)):
            if rows.stop < q.shape[-2]:
                total[..., seen, :] += here
            else:
                total[..., seen, :], total[..., seen.stop :, :] = here, 0
    return dscores


def attention_pairs(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float
) -> int:
    """How many attention weights a matrix (L, S) has that are computed, also if masked after."""
    blocks = _blocks(q.shape[-2], k.shape[-2], causal, device_of(q))
    return sum((rows.stop - rows.start) * seen.stop for rows, seen in blocks)


def _laid_out_as(x: Array, shape: tuple[int, ...]) -> Array:
    """A new array of `shape`, its dimensions in the order that those of x have in memory: so heads
    that were taken apart without a copy are put together again without one."""
    return np.empty_like(x, shape=shape, order="K" if type(x) is np.ndarray else "C")


def _parts(q: Array, k: Array, v: Array, mask: Array | None) -> list[Any]:
    """Slices of the first dimension that are attended to one after the other: as many matrices at
    once as stay in the cache. All at once where broadcasting or a mask ties them together."""
    if len(q) == 1 or q.ndim < 3 or mask is not None or device_of(q) != "cpu":
        return [...]
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return [...]
    weights = math.prod(q.shape[1:-2]) * min(q.shape[-2], _ROWS) * k.shape[-2]
    n = max(_WEIGHTS // max(weights, 1), 1)
    return [slice(i, i + n) for i in range(0, len(q), n)]


def _blocks(length: int, positions: int, causal: bool, device: str) -> list[tuple[slice, slice]]:
    """Blocks of rows of the attention weights, each with the positions that it may see.

    All at once, unless what a row may not see is half of a large matrix: then the blocks leave out
    most of it. On a GPU it is the number of operations that counts.
    """
    if not causal or length <= 2 * _ROWS or device != "cpu":
        return [(slice(0, length), slice(0, positions))]
    starts = range(0, length, _ROWS)
    return [(slice(i, min(i + _ROWS, length)), slice(0, min(i + _ROWS, positions))) for i in starts]
