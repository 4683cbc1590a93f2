"""The fused operations in CUDA: what `cpu.py` does, for CuPy's arrays.

The kernels are in `cuda/*.cu`; here they are compiled when first used, and launched. Functions take
float32, float16 and bfloat16; what a kernel adds up, it adds up in float32. Formulas and shapes
stand in `cpu.py`, which is the specification: a docstring here says what differs.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np

from ..bounds import Bounds
from ..devices import library
from .compiling import THREADS, by_rows, contiguous, each, empty, launch, on_device, place, team_of
from .cublas import product
from .gpu_attention import (  # noqa: F401  (kernels of this module, too)
    attention,
    attention_backward,
    attention_pairs,
)
from .gpu_softmax import (  # noqa: F401
    log_softmax,
    log_softmax_backward,
    masked_softmax,
    softmax,
    softmax_backward,
)

Array = Any

_FEW = 2**24  # comparisons of an index with a row, made once for each 32 columns
_PARTS = np.dtype([("at", np.uint64, 250), ("end", np.int64, 250)])  # as optimizer.cu has it

# -------------------------------------------------------------------------------------- activations


def relu(x: Array) -> Array:
    (x,) = contiguous(x)
    y = empty(x.shape, x.dtype)
    each("elementwise.relu", x.dtype, x.size, x, y)
    return y


def relu_backward(dy: Array, y: Array) -> Array:
    dy, y = contiguous(dy, y)
    dx = empty(y.shape, y.dtype)
    each("elementwise.relu_backward", y.dtype, y.size, dy, y, dx)
    return dx


def gelu(x: Array, approximate: bool) -> Array:
    (x,) = contiguous(x)
    y = empty(x.shape, x.dtype)
    each("elementwise.gelu", x.dtype, x.size, x, y, approximate)
    return y


def gelu_backward(dy: Array, x: Array, approximate: bool) -> Array:
    dy, x = contiguous(dy, x)
    dx = empty(x.shape, x.dtype)
    each("elementwise.gelu_backward", x.dtype, x.size, dy, x, dx, approximate)
    return dx


# ----------------------------------------------------------------------------- linear, embedding


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """The products of matrices are cuBLAS's; always of two dimensions, see the notes on CuPy."""
    y = product(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), weight.T)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


def linear_backward(
    dy: Array,
    x: Array,
    weight: Array,
    needed: list[bool],
    x_dtype: Any = None,
    weight_dtype: Any = None,
) -> tuple[Array | None, Array | None, Array | None]:
    rows = math.prod(x.shape[:-1])
    dy = dy.reshape(rows, dy.shape[-1])
    return (
        product(dy, weight, dtype=x_dtype).reshape(x.shape) if needed[0] else None,
        product(dy.T, x.reshape(rows, x.shape[-1]), dtype=weight_dtype) if needed[1] else None,
        _column_sums(dy, weight_dtype) if needed[2] else None,
    )


def embedding(index: Array, weight: Array) -> Array:
    """A row whose index is out of range is NaN, until the host waits and hears of it."""
    index, weight = contiguous(index.astype(np.int64, copy=False), weight)
    rows, columns = weight.shape
    y = empty((*index.shape, columns), weight.dtype)
    worst = Bounds("embedding: index", rows, "rows").worst(index)
    args = index, weight, y, worst, np.int64(rows), columns
    each("elementwise.embedding", y.dtype, y.size, *args)
    return y


def embedding_backward(dy: Array, index: Array, rows: int) -> Array:
    """No atomics: for each of few rows, all indices are looked through in order. Of many rows the
    positions are sorted by their index first, and each run is summed."""
    xp = library("cuda")
    index, columns = index.reshape(-1), dy.shape[-1]
    (dy,) = contiguous(dy)
    if rows * index.size <= _FEW:
        (index,) = contiguous(index.astype(np.int64, copy=False))
        dw = empty((rows, columns), dy.dtype)
        args = dy, index, dw, index.size, columns
        launch("columns.sum_where", dy.dtype, (rows, -(-columns // 32)), (32, 8), *args)
        return dw
    order = xp.argsort(index, kind="stable").astype(np.int64, copy=False)
    ends = xp.arange(rows + 1, dtype=index.dtype)
    starts = xp.searchsorted(index[order], ends).astype(np.int64, copy=False)
    dw = empty((rows, columns), dy.dtype)
    grid = rows, -(-columns // 32)
    launch("columns.sum_runs", dy.dtype, grid, (32, 8), dy, order, starts, dw, columns)
    return dw


# ---------------------------------------------------------------------------------- normalisation


def layer_norm(
    x: Array, weight: Array | None, bias: Array | None, eps: float, dtype: Any = None
) -> tuple[Array, Array, Array]:
    """1 / √(variance + eps) is float32, whatever the dtype of x."""
    return _normalised("norm.layer_norm", x, weight, bias, eps, dtype)


def layer_norm_backward(
    dy: Array, normed: Array, rstd: Array, weight: Array | None, needed: list[bool]
) -> tuple[Array | None, Array | None, Array | None]:
    return _norm_backward("norm.layer_norm_backward", dy, normed, rstd, weight, needed)


def rms_norm(
    x: Array, weight: Array | None, eps: float, dtype: Any = None
) -> tuple[Array, Array, Array]:
    """1 / √(mean(x²) + eps) is float32, whatever the dtype of x."""
    return _normalised("norm.rms_norm", x, weight, None, eps, dtype)


def rms_norm_backward(
    dy: Array, normed: Array, rstd: Array, weight: Array | None, needed: list[bool]
) -> tuple[Array | None, Array | None]:
    return _norm_backward("norm.rms_norm_backward", dy, normed, rstd, weight, [*needed, False])[:2]


def _normalised(
    kernel: str, x: Array, weight: Array | None, bias: Array | None, eps: float, dtype: Any
) -> tuple[Array, Array, Array]:
    (x,) = contiguous(x)
    y, normed = empty(x.shape, x.dtype if dtype is None else dtype), empty(x.shape, x.dtype)
    rstd = empty((len(x), 1), np.float32)
    affine = (weight is not None) + 2 * (bias is not None)
    weight, bias = (x if w is None else contiguous(w)[0] for w in (weight, bias))
    memory, wide = (x, weight, bias, y, normed, rstd), x.dtype == np.float32
    by_rows(kernel, y.dtype, *x.shape, *memory, float(eps), affine, wide)
    return y, normed, rstd


def _norm_backward(
    kernel: str, dy: Array, normed: Array, rstd: Array, weight: Array | None, needed: list[bool]
) -> tuple[Array | None, Array | None, Array | None]:
    """One launch for all: the first blocks sum columns, the others take rows."""
    dy, normed = contiguous(dy, normed)
    rows, C = dy.shape
    affine = weight is not None
    weight = contiguous(weight)[0] if affine else normed
    dx = empty(dy.shape, normed.dtype) if needed[0] else None
    sums = 2 if needed[1] else int(needed[2])
    strips, blocks = _strips(rows, C) if sums else (0, 0)
    partial, totals = empty((sums, blocks, C), np.float32), empty((sums, C), normed.dtype)
    team, teams = team_of(C)
    grid = (strips * blocks + (-(-rows // teams) if needed[0] else 0),)
    memory = dy, normed, rstd, weight, normed if dx is None else dx
    options = affine, normed.dtype == np.float32
    columns = partial, _counters(strips), totals, sums, blocks
    launch(kernel, dy.dtype, grid, (team, teams), *memory, *options, *columns, rows, C)
    return dx, totals[1] if needed[1] else None, totals[0] if needed[2] else None


def _column_sums(x: Array, dtype: Any = None) -> Array:
    """Σ x over the rows of x (N, C): (C,), in x's dtype (the default) or float32."""
    (x,) = contiguous(x)
    rows, columns = x.shape
    grid = strips, blocks = _strips(rows, columns)
    partial = empty((blocks, columns), np.float32)
    total = empty(columns, x.dtype if dtype is None else dtype)
    args = x, partial, _counters(strips), total, total.dtype == np.float32, rows, columns
    launch("columns.column_sums", x.dtype, grid, (32, 8), *args)
    return total


def _strips(rows: int, columns: int) -> tuple[int, int]:
    """Of how many strips of 32 columns a matrix is, and how many blocks sum those of a strip."""
    return -(-columns // 32), max(1, min(64, rows // 32))


@functools.cache
def _counters(n: int) -> Array:
    """Zeros for blocks to count themselves with; they leave zeros behind. All launches share them:
    on one stream, one follows the other."""
    return library("cuda").zeros(n, np.uint32)


# ------------------------------------------------------------------------------------------ dropout


def dropout(
    x: Array, draw: Any, threshold: int, residual: Array | None = None
) -> tuple[Array, Array]:
    """The kernel makes the integers of `draw` itself, whose step may be an array as in `philox`.
    A wider residual is float32; the sum is rounded once."""
    added = residual is not None
    x, residual = contiguous(x, residual if added else x)
    y, keep = empty(x.shape, residual.dtype), empty(x.shape, np.bool_)
    threads = -(-(draw[4] % 16 + x.size) // 16)  # a thread takes 16 integers, from first / 16 on
    memory = x, residual, y, keep, added, y.dtype == np.float32
    args = *memory, threshold, _keep_scale(threshold), *place(draw), np.int64(x.size)
    launch("elementwise.dropout", x.dtype, (-(-threads // THREADS),), (THREADS,), *args)
    return y, keep


def dropout_backward(dy: Array, keep: Array, threshold: int, dtype: Any = None) -> Array:
    dy, keep = contiguous(dy, keep)
    dx = empty(dy.shape, dy.dtype if dtype is None else dtype)
    args = dy, keep, dx, dy.dtype == np.float32, _keep_scale(threshold)
    each("elementwise.dropout_backward", dx.dtype, dx.size, *args)
    return dx


def _keep_scale(threshold: int) -> float:
    return 65536 / (65536 - threshold) if threshold < 65536 else 0.0


def philox(seed: int, stream: int, step: int | Array, draw: int, n: int, first: int = 0) -> Array:
    """The words of `random.philox`, made on the device: uint64 (n,).

    step may be an array of one uint64, so that a captured launch can be repeated with another.
    """
    block, skipped = divmod(first, 4)
    words = empty(skipped + n, np.uint64)
    args = words, *place((seed, stream, step, draw, block)), np.int64(words.size)
    grid, dtype = (-(-words.size // (4 * THREADS)),), np.dtype(np.float32)
    launch("elementwise.philox", dtype, grid, (THREADS,), *args)
    return words[skipped:]


# ------------------------------------------------------------------------------------ cross-entropy


def cross_entropy(
    logits: Array, targets: Array, ignored: Array, smoothing: float, dtype: Any = None
) -> tuple[Array, Array]:
    """A loss whose target is out of range is NaN, until the host waits and hears of it. In a row
    that is ignored, any target will do."""
    logits, ignored = contiguous(logits, ignored)
    (targets,) = contiguous(targets.astype(np.int64, copy=False))
    dtype = logits.dtype if dtype is None else np.dtype(dtype)
    losses, shares = empty(len(logits), dtype), empty(logits.shape, dtype)
    worst = Bounds("cross_entropy: target", logits.shape[1], "classes").worst(logits)
    args = logits, targets, ignored, losses, shares, worst, float(smoothing), dtype == np.float32
    by_rows("cross_entropy.cross_entropy", logits.dtype, *logits.shape, *args)
    return losses, shares


def cross_entropy_backward(
    dlosses: Array,
    shares: Array,
    targets: Array,
    ignored: Array,
    smoothing: float,
    dtype: Any = None,
) -> Array:
    all_alike = dlosses.strides == (0,)  # those of a mean: the kernel reads one
    dlosses, shares, ignored = contiguous(dlosses[:1] if all_alike else dlosses, shares, ignored)
    (targets,) = contiguous(targets.astype(np.int64, copy=False))
    dlogits = empty(shares.shape, shares.dtype if dtype is None else dtype)
    options = all_alike, float(smoothing), shares.dtype == np.float32
    args = dlosses, shares, targets, ignored, dlogits, *options
    by_rows("cross_entropy.cross_entropy_backward", dlogits.dtype, *shares.shape, *args)
    return dlogits


# ---------------------------------------------------------------------------------------- optimizer


def adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    step: int | Array,
    lr: float | Array,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    skip: Array | None = None,
) -> None:
    """p, m and v must be contiguous: they are written. step (int32), lr (float32) and skip (bool)
    may be arrays of one element, so that a captured launch can be repeated with others."""
    (g,) = contiguous(g)
    step, lr = on_device(step, np.int32), on_device(lr, np.float32)
    skip = on_device(False, np.bool_) if skip is None else skip.astype(np.bool_, copy=False)
    logarithms = [math.log(beta) if beta else -math.inf for beta in betas]
    settings = *betas, 1 - betas[0], 1 - betas[1], *logarithms, eps, weight_decay
    numbers = map(float, settings)
    each("optimizer.adam", p.dtype, p.size, p, g, m, v, step, lr, skip, *numbers, decoupled)


def join(arrays: list[Array], out: Array) -> None:
    """A launch for 250 arrays, which is as many pointers as a kernel takes."""
    arrays, most, start = contiguous(*arrays), _PARTS["at"].shape[0], 0
    for i in range(0, len(arrays), most):
        group = arrays[i : i + most]
        ends = list(itertools.accumulate(x.size for x in group))
        parts = np.zeros((), _PARTS)  # which CuPy passes by value
        parts["at"][: len(group)] = [x.data.ptr for x in group]
        parts["end"][: len(group)] = ends
        y = out[start : start + ends[-1]]
        each("optimizer.join", y.dtype, y.size, parts, len(group), y)
        start += y.size


def norm(x: Array) -> Array:
    """√Σ x² over all elements: float32 ()."""
    (x,) = contiguous(x)
    blocks = max(1, min(1024, x.size // (4 * THREADS)))
    partial, result = empty(blocks, np.float32), empty((), np.float32)
    args = x, partial, np.int64(x.size)
    launch("optimizer.sum_of_squares", x.dtype, (blocks,), (THREADS,), *args)
    launch("optimizer.root_of_sum", x.dtype, (1,), (THREADS,), partial, result, blocks)
    return result


def clip(x: Array, norm: Array, max_norm: float) -> None:
    (y,) = contiguous(x)
    norm = norm.astype(np.float32, copy=False)
    each("optimizer.clip", y.dtype, y.size, y, norm, float(max_norm))
    if y is not x:
        x[...] = y
