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
from ..device import library
from .compiling import compiled, on_device, place
from .cublas import product
from .gpu_attention import (  # noqa: F401  (kernels of this module, too)
    attention,
    attention_backward,
    attention_pairs,
)

Array = Any

_SCALARS = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
_THREADS = 256  # of a block
_FEW = 2**24  # comparisons of an index with a row, made once for each 32 columns
_PARTS = np.dtype([("at", np.uint64, 250), ("end", np.int64, 250)])  # as optimizer.cu has it

# ------------------------------------------------------------------------- compiling and launching


@functools.cache
def _module(name: str, dtype: str) -> Any:
    """`cuda/<name>.cu`, compiled for arrays of this dtype."""
    if dtype not in _SCALARS:
        raise RuntimeError(f"the fused kernels compute in {', '.join(_SCALARS)}, not in {dtype}")
    return compiled(name, f"-Dscalar={_SCALARS[dtype]}")


@functools.cache
def _kernel(module: str, name: str, dtype: str) -> Any:
    return _module(module, dtype).get_function(name)


def _launch(kernel: str, dtype: np.dtype, grid: tuple, block: tuple, *args: Any) -> None:
    """Run "module.name". Python's integers become int32, its floats float32."""
    if 0 in grid:
        return  # there is nothing to compute
    wide = {int: np.int32, bool: np.int32, float: np.float32}
    args = tuple(wide[type(x)](x) if type(x) in wide else x for x in args)
    _kernel(*kernel.split("."), dtype.name)(grid, block, args)


def _each(kernel: str, dtype: np.dtype, n: int, *args: Any) -> None:
    """Run a kernel that takes one thread for each of n elements, and n as its last argument."""
    _launch(kernel, dtype, (-(-n // _THREADS),), (_THREADS,), *args, np.int64(n))


def _by_rows(kernel: str, dtype: np.dtype, rows: int, columns: int, *args: Any) -> None:
    """Run a kernel that takes a team of threads for each row: a warp, or a block if rows are long.

    Its last arguments are the numbers of rows and columns.
    """
    team = 32 if columns <= 1024 else _THREADS
    teams = _THREADS // team
    _launch(kernel, dtype, (-(-rows // teams),), (team, teams), *args, rows, columns)


def _empty(shape: Any, dtype: Any) -> Array:
    return library("cuda").empty(shape, dtype)


def _contiguous(*arrays: Array) -> list[Array]:
    """The arrays with their elements side by side, as kernels read them."""
    xp = library("cuda")
    return [x if x.flags.c_contiguous else xp.ascontiguousarray(x) for x in arrays]


# --------------------------------------------------------------------------------------- softmax


def softmax(x: Array, axis: int) -> Array:
    return _softmax(x, None, axis)


def masked_softmax(x: Array, mask: Array, axis: int) -> Array:
    return _softmax(x, mask, axis)


def _softmax(x: Array, mask: Array | None, axis: int) -> Array:
    rows = _rows(x, axis)
    seen, period = rows, 0  # without a mask it is not read
    if mask is not None:
        mask = mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)
        # Along leading dimensions in which the mask does not change, the kernel repeats it.
        fixed = next((i for i, n in enumerate(mask.shape) if n != 1), x.ndim)
        last = axis % max(x.ndim, 1)
        shape = (1,) * min(fixed, last) + x.shape[min(fixed, last) :]
        seen = _rows(library("cuda").broadcast_to(mask, shape), axis)
        period = math.prod(seen.shape[:-1])
    y = _empty(rows.shape, x.dtype)
    count, columns = _matrix(rows)
    _by_rows("softmax.softmax", x.dtype, count, columns, rows, seen, y, period)
    return _unrows(y, x, axis)


def softmax_backward(dy: Array, y: Array, axis: int) -> Array:
    return _along_rows("softmax.softmax_backward", axis, dy, y)


def log_softmax(x: Array, axis: int) -> Array:
    return _along_rows("softmax.log_softmax", axis, x)


def log_softmax_backward(dy: Array, y: Array, axis: int) -> Array:
    return _along_rows("softmax.log_softmax_backward", axis, dy, y)


def _along_rows(kernel: str, axis: int, *arrays: Array) -> Array:
    x = arrays[0]
    rows = [_rows(a, axis) for a in arrays]
    result = _empty(rows[0].shape, x.dtype)
    _by_rows(kernel, x.dtype, *_matrix(result), *rows, result)
    return _unrows(result, x, axis)


def _rows(x: Array, axis: int) -> Array:
    """x with `axis` as its last dimension, contiguous."""
    x = x.reshape(1) if x.ndim == 0 else library("cuda").moveaxis(x, axis, -1)
    return _contiguous(x)[0]


def _unrows(y: Array, x: Array, axis: int) -> Array:
    """What `_rows` made of an array like x, back in its order."""
    if x.ndim == 0:
        return y.reshape(())
    return _contiguous(library("cuda").moveaxis(y, -1, axis))[0]


def _matrix(x: Array) -> tuple[int, int]:
    return math.prod(x.shape[:-1]), x.shape[-1]


# -------------------------------------------------------------------------------------- activations


def relu(x: Array) -> Array:
    (x,) = _contiguous(x)
    y = _empty(x.shape, x.dtype)
    _each("elementwise.relu", x.dtype, x.size, x, y)
    return y


def relu_backward(dy: Array, y: Array) -> Array:
    dy, y = _contiguous(dy, y)
    dx = _empty(y.shape, y.dtype)
    _each("elementwise.relu_backward", y.dtype, y.size, dy, y, dx)
    return dx


def gelu(x: Array, approximate: bool) -> Array:
    (x,) = _contiguous(x)
    y = _empty(x.shape, x.dtype)
    _each("elementwise.gelu", x.dtype, x.size, x, y, approximate)
    return y


def gelu_backward(dy: Array, x: Array, approximate: bool) -> Array:
    dy, x = _contiguous(dy, x)
    dx = _empty(x.shape, x.dtype)
    _each("elementwise.gelu_backward", x.dtype, x.size, dy, x, dx, approximate)
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
        _column_sums(dy, dtype=weight_dtype)[0] if needed[2] else None,
    )


def embedding(index: Array, weight: Array) -> Array:
    """A row whose index is out of range is NaN, until the host waits and hears of it."""
    index, weight = _contiguous(index.astype(np.int64, copy=False), weight)
    rows, columns = weight.shape
    y = _empty((*index.shape, columns), weight.dtype)
    worst = Bounds("embedding: index", rows, "rows").worst(index)
    args = index, weight, y, worst, np.int64(rows), columns
    _each("elementwise.embedding", y.dtype, y.size, *args)
    return y


def embedding_backward(dy: Array, index: Array, rows: int) -> Array:
    """No atomics: for each of few rows, all indices are looked through in order. Of many rows the
    positions are sorted by their index first, and each run is summed."""
    xp = library("cuda")
    index, columns = index.reshape(-1), dy.shape[-1]
    (dy,) = _contiguous(dy)
    if rows * index.size <= _FEW:
        (index,) = _contiguous(index.astype(np.int64, copy=False))
        dw = _empty((rows, columns), dy.dtype)
        args = dy, index, dw, index.size, columns
        _launch("columns.sum_where", dy.dtype, (rows, -(-columns // 32)), (32, 8), *args)
        return dw
    order = xp.argsort(index, kind="stable").astype(np.int64, copy=False)
    ends = xp.arange(rows + 1, dtype=index.dtype)
    starts = xp.searchsorted(index[order], ends).astype(np.int64, copy=False)
    dw = _empty((rows, columns), dy.dtype)
    grid = rows, -(-columns // 32)
    _launch("columns.sum_runs", dy.dtype, grid, (32, 8), dy, order, starts, dw, columns)
    return dw


# ---------------------------------------------------------------------------------- normalisation


def layer_norm(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """1 / √(variance + eps) is float32, whatever the dtype of x."""
    return _normalised("norm.layer_norm", x, weight, bias, eps)


def layer_norm_backward(
    dy: Array, normed: Array, rstd: Array, weight: Array | None, needed: list[bool]
) -> tuple[Array | None, Array | None, Array | None]:
    return _norm_backward("norm.layer_norm_backward", dy, normed, rstd, weight, needed)


def rms_norm(x: Array, weight: Array | None, eps: float) -> tuple[Array, Array, Array]:
    """1 / √(mean(x²) + eps) is float32, whatever the dtype of x."""
    return _normalised("norm.rms_norm", x, weight, None, eps)


def rms_norm_backward(
    dy: Array, normed: Array, rstd: Array, weight: Array | None, needed: list[bool]
) -> tuple[Array | None, Array | None]:
    return _norm_backward("norm.rms_norm_backward", dy, normed, rstd, weight, [*needed, False])[:2]


def _normalised(
    kernel: str, x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    (x,) = _contiguous(x)
    y, normed = _empty(x.shape, x.dtype), _empty(x.shape, x.dtype)
    rstd = _empty((len(x), 1), np.float32)
    affine = (weight is not None) + 2 * (bias is not None)
    weight, bias = (x if w is None else _contiguous(w)[0] for w in (weight, bias))
    _by_rows(kernel, x.dtype, *x.shape, x, weight, bias, y, normed, rstd, float(eps), affine)
    return y, normed, rstd


def _norm_backward(
    kernel: str, dy: Array, normed: Array, rstd: Array, weight: Array | None, needed: list[bool]
) -> tuple[Array | None, Array | None, Array | None]:
    dy, normed = _contiguous(dy, normed)
    dx = dw = db = None
    if needed[0]:
        dx = _empty(dy.shape, dy.dtype)
        affine = weight is not None
        scale = _contiguous(weight)[0] if affine else dy
        _by_rows(kernel, dy.dtype, *dy.shape, dy, normed, rstd, scale, dx, affine)
    if needed[1]:
        db, dw = _column_sums(dy, normed)
    elif needed[2]:
        (db,) = _column_sums(dy)
    return dx, dw, db if needed[2] else None


def _column_sums(x: Array, z: Array | None = None, dtype: Any = None) -> list[Array]:
    """Σ x over the rows of x (N, C), and Σ x · z if there is a z: (C,) each, in x's dtype (the
    default) or float32."""
    sums = 1 if z is None else 2
    x, z = _contiguous(x, x if z is None else z)
    rows, columns = x.shape
    blocks, strips = max(1, min(64, rows // 32)), -(-columns // 32)
    partial = _empty((sums, blocks, columns), np.float32)
    totals = _empty((sums, columns), x.dtype if dtype is None else dtype)
    memory, wide = (x, z, partial, _counters(strips), totals), totals.dtype == np.float32
    grid, sizes = (strips, blocks), (sums, rows, columns)
    _launch("columns.column_sums", x.dtype, grid, (32, 8), *memory, wide, *sizes)
    return [totals[i] for i in range(sums)]


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
    x, residual = _contiguous(x, residual if added else x)
    y, keep = _empty(x.shape, residual.dtype), _empty(x.shape, np.bool_)
    threads = -(-(draw[4] % 16 + x.size) // 16)  # a thread takes 16 integers, from first / 16 on
    memory = x, residual, y, keep, added, y.dtype == np.float32
    args = *memory, threshold, _keep_scale(threshold), *place(draw), np.int64(x.size)
    _launch("elementwise.dropout", x.dtype, (-(-threads // _THREADS),), (_THREADS,), *args)
    return y, keep


def dropout_backward(dy: Array, keep: Array, threshold: int, dtype: Any = None) -> Array:
    dy, keep = _contiguous(dy, keep)
    dx = _empty(dy.shape, dy.dtype if dtype is None else dtype)
    args = dy, keep, dx, dy.dtype == np.float32, _keep_scale(threshold)
    _each("elementwise.dropout_backward", dx.dtype, dx.size, *args)
    return dx


def _keep_scale(threshold: int) -> float:
    return 65536 / (65536 - threshold) if threshold < 65536 else 0.0


def philox(seed: int, stream: int, step: int | Array, draw: int, n: int, first: int = 0) -> Array:
    """The words of `random.philox`, made on the device: uint64 (n,).

    step may be an array of one uint64, so that a captured launch can be repeated with another.
    """
    block, skipped = divmod(first, 4)
    words = _empty(skipped + n, np.uint64)
    args = words, *place((seed, stream, step, draw, block)), np.int64(words.size)
    grid, dtype = (-(-words.size // (4 * _THREADS)),), np.dtype(np.float32)
    _launch("elementwise.philox", dtype, grid, (_THREADS,), *args)
    return words[skipped:]


# ------------------------------------------------------------------------------------ cross-entropy


def cross_entropy(
    logits: Array, targets: Array, ignored: Array, smoothing: float
) -> tuple[Array, Array]:
    """A loss whose target is out of range is NaN, until the host waits and hears of it. In a row
    that is ignored, any target will do."""
    logits, ignored = _contiguous(logits, ignored)
    (targets,) = _contiguous(targets.astype(np.int64, copy=False))
    losses, shares = _empty(len(logits), logits.dtype), _empty(logits.shape, logits.dtype)
    worst = Bounds("cross_entropy: target", logits.shape[1], "classes").worst(logits)
    args = logits, targets, ignored, losses, shares, worst, float(smoothing)
    _by_rows("cross_entropy.cross_entropy", logits.dtype, *logits.shape, *args)
    return losses, shares


def cross_entropy_backward(
    dlosses: Array, shares: Array, targets: Array, ignored: Array, smoothing: float
) -> Array:
    dlosses, shares, ignored = _contiguous(dlosses, shares, ignored)
    (targets,) = _contiguous(targets.astype(np.int64, copy=False))
    dlogits = _empty(shares.shape, shares.dtype)
    args = dlosses, shares, targets, ignored, dlogits, float(smoothing)
    _by_rows("cross_entropy.cross_entropy_backward", shares.dtype, *shares.shape, *args)
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
    (g,) = _contiguous(g)
    step, lr = on_device(step, np.int32), on_device(lr, np.float32)
    skip = on_device(False, np.bool_) if skip is None else skip.astype(np.bool_, copy=False)
    logarithms = [math.log(beta) if beta else -math.inf for beta in betas]
    settings = *betas, 1 - betas[0], 1 - betas[1], *logarithms, eps, weight_decay
    numbers = map(float, settings)
    _each("optimizer.adam", p.dtype, p.size, p, g, m, v, step, lr, skip, *numbers, decoupled)


def join(arrays: list[Array], out: Array) -> None:
    """A launch for 250 arrays, which is as many pointers as a kernel takes."""
    arrays, most, start = _contiguous(*arrays), _PARTS["at"].shape[0], 0
    for i in range(0, len(arrays), most):
        group = arrays[i : i + most]
        ends = list(itertools.accumulate(x.size for x in group))
        parts = np.zeros((), _PARTS)  # which CuPy passes by value
        parts["at"][: len(group)] = [x.data.ptr for x in group]
        parts["end"][: len(group)] = ends
        y = out[start : start + ends[-1]]
        _each("optimizer.join", y.dtype, y.size, parts, len(group), y)
        start += y.size


def norm(x: Array) -> Array:
    """√Σ x² over all elements: float32 ()."""
    (x,) = _contiguous(x)
    blocks = max(1, min(1024, x.size // (4 * _THREADS)))
    partial, result = _empty(blocks, np.float32), _empty((), np.float32)
    args = x, partial, np.int64(x.size)
    _launch("optimizer.sum_of_squares", x.dtype, (blocks,), (_THREADS,), *args)
    _launch("optimizer.root_of_sum", x.dtype, (1,), (_THREADS,), partial, result, blocks)
    return result
