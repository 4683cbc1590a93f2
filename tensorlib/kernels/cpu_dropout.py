"""Dropout in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..devices import device_of

Array = Any


def dropout(
    x: Array, draw: Any, threshold: int, residual: Array | None = None
) -> tuple[Array, Array]:
    """Zero where the 16-bit integers of `draw` (a `random.Draw`) are below `threshold`; scale the
    rest to keep the mean. Then add `residual`, if there is one.

    residual: of x's shape, and of its dtype or a wider one, which y gets.
    Returns y and the mask of what was kept. Srivastava et al., Dropout (2014).
    """
    bits = draw.bits(x.size, device_of(x))
    keep = bits.reshape(x.shape) > threshold - 1  # CuPy compares with 16-bit numbers only
    y = dropout_backward(x, keep, threshold)
    if residual is None:
        return y, keep
    if y.dtype != residual.dtype:
        return residual + y, keep
    y += residual
    return y, keep


def dropout_backward(dy: Array, keep: Array, threshold: int, dtype: Any = None) -> Array:
    """dx, in `dtype` if x had another than y; the gradient of a residual is dy itself."""
    dx = dy * keep
    dx *= dropout_scale(threshold, dx.dtype)
    return dx if dtype is None else dx.astype(dtype, copy=False)


def dropout_scale(threshold: int, dtype: np.dtype) -> Any:
    return dtype.type(65536 / (65536 - threshold) if threshold < 65536 else 1)
