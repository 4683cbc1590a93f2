"""Softmax in NumPy: of all positions, of those that a mask allows, and its logarithm."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..arrays import peak, vecdot
from ..devices import library

Array = Any


def softmax(x: Array, axis: int) -> Array:
    """y = eˣ / Σ eˣ along `axis`; the peak is subtracted first, so that exp cannot overflow."""
    y = np.subtract(x, peak(x, axis), out=np.empty_like(x))
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def softmax_backward(dy: Array, y: Array, axis: int) -> Array:
    """dx = y (dy − Σ y dy)."""
    if y.ndim == 0:
        return np.zeros_like(y)  # the softmax of a single number is 1, whatever the number
    dx = dy - np.expand_dims(vecdot(y, dy, axis), axis)
    dx *= y
    return dx


def log_softmax(x: Array, axis: int) -> Array:
    """y = x − log Σ eˣ along `axis`."""
    y = np.subtract(x, peak(x, axis), out=np.empty_like(x))
    y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
    return y


def log_softmax_backward(dy: Array, y: Array, axis: int) -> Array:
    """dx = dy − eʸ Σ dy."""
    return dy - np.exp(y) * dy.sum(axis=axis, keepdims=True)


def masked_softmax(x: Array, mask: Array, axis: int) -> Array:
    """Softmax over the positions where `mask` (bool, broadcast to x) is True; 0 elsewhere, and in
    a row that has no such position."""
    return softmax_of_masked(np.where(mask, x, x.dtype.type(-np.inf)), axis)


def softmax_of_masked(x: Array, axis: int) -> Array:
    """Softmax, in place, of numbers that may be −∞, a whole row of them too: that becomes 0."""
    highest = peak(x, axis)
    x -= np.where(highest == -np.inf, 0, highest)
    np.exp(x, out=x)
    total = x.sum(axis=axis, keepdims=True)
    x /= np.where(total == 0, 1, total)
    return x


@functools.lru_cache(maxsize=16)
def future(rows: int, positions: int, dtype: np.dtype, device: str) -> Array:
    """What is added to the scores of attention for causality: −∞ where a row would look at a later
    position than its own, else 0."""
    return np.triu(library(device).full((rows, positions), -np.inf, dtype), k=1)
