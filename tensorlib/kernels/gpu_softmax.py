"""Softmax in CUDA: what `cpu_softmax.py` specifies, along any axis, by the rows of `softmax.cu`."""

from __future__ import annotations

import math
from typing import Any

from ..devices import library
from .compiling import by_rows, contiguous, empty

Array = Any


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
    y = empty(rows.shape, x.dtype)
    count, columns = _matrix(rows)
    by_rows("softmax.softmax", x.dtype, count, columns, rows, seen, y, period)
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
    result = empty(rows[0].shape, x.dtype)
    by_rows(kernel, x.dtype, *_matrix(result), *rows, result)
    return _unrows(result, x, axis)


def _rows(x: Array, axis: int) -> Array:
    """x with `axis` as its last dimension, contiguous."""
    x = x.reshape(1) if x.ndim == 0 else library("cuda").moveaxis(x, axis, -1)
    return contiguous(x)[0]


def _unrows(y: Array, x: Array, axis: int) -> Array:
    """What `_rows` made of an array like x, back in its order."""
    if x.ndim == 0:
        return y.reshape(())
    return contiguous(library("cuda").moveaxis(y, -1, axis))[0]


def _matrix(x: Array) -> tuple[int, int]:
    return math.prod(x.shape[:-1]), x.shape[-1]
