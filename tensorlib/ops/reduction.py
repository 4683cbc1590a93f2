"""Sums, means, extremes and what is built from them, over one dimension, several, or all."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..arrays import accurate_sum, axis_of, is_floating, peak, promote_to_float, require_floating
from ..autocast_mode import in_float32
from ..autograd import TensorBase, operation
from ..errors import takes_tensors
from ..kernels import kernels
from .elementwise import maximum, minimum
from .indexing import gather
from .shape import squeeze


def _axes(x, dim):
    """The axes that `dim` names, from 0 up: None (all), a number or several. IndexError if one
    is out of range, RuntimeError if one comes twice."""
    if dim is None or dim == ():
        return tuple(range(x.ndim))
    axes = tuple(axis_of(x, d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"dim {dim} names a dimension twice")
    return axes if x.ndim else ()  # NumPy takes no (0,) for a 0-d array


def _kept(shape, axes):
    """`shape` as it is when the reduced axes stay, with length 1."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


# -------------------------------------------------------------------------------------- averages


@operation
@in_float32
def sum(x, dim=None, keepdim=False):
    axes, shape = _axes(x, dim), x.shape
    x = x if is_floating(x.dtype) else x.astype(np.int64)
    return accurate_sum(x, axes, keepdim), (  # each element counts once: all get the same gradient
        lambda grad: np.broadcast_to(grad.reshape(_kept(shape, axes)), shape),
    )


@operation
def mean(x, dim=None, keepdim=False):
    require_floating("mean", x)
    axes, shape = _axes(x, dim), x.shape
    count = math.prod(shape[a] for a in axes)
    total = accurate_sum(x, axes, keepdim)
    return _divide(total, count), (
        lambda grad: np.broadcast_to(grad.reshape(_kept(shape, axes)) / count, shape),
    )


@operation
def _var(x, dim, correction, keepdim, root):
    name = "std" if root else "var"
    require_floating(name, x)
    axes = _axes(x, dim)
    kept = _kept(x.shape, axes)
    count = math.prod(x.shape[a] for a in axes)
    freedom = count - correction if count > correction else 0
    centred = x - _divide(accurate_sum(x, axes, True), count)
    y = _divide(accurate_sum(centred * centred, axes, True), freedom)
    y = np.sqrt(y) if root else y

    def grad_x(grad):
        slope = 2 * grad.reshape(kept)
        if root:  # d√v = dv / 2√v, taken to be 0 where nothing varies
            slope = np.where(y == 0, 0, slope / (2 * y))
        return slope * _divide(centred, freedom)

    return y if keepdim else np.squeeze(y, axes), (grad_x,)


def var(input, dim=None, unbiased=True, keepdim=False, *, correction=None):
    """The mean squared distance from the mean, Σ(x − mean)² / (N − correction).

    correction: 1 (Bessel's) by default, 0 with `unbiased=False`.
    """
    return _var(input, dim, int(unbiased) if correction is None else correction, keepdim, False)


def std(input, dim=None, unbiased=True, keepdim=False, *, correction=None):
    """The square root of `var`."""
    return _var(input, dim, int(unbiased) if correction is None else correction, keepdim, True)


def _divide(x, count):
    """x / count in x's type, with x / 0 = nan or inf: a Python division would raise."""
    return x / x.dtype.type(count)


# -------------------------------------------------------------------------------------- extremes


class ValuesAndIndices(NamedTuple):
    """What `max`, `min` and `topk` along a dimension return."""

    values: object
    indices: object


def _extreme(name, function, nan_is_extreme=False):
    """Elements that share the extreme share its gradient equally.

    nan_is_extreme: whether a nan, which is its result, gets it: of max and min, not of amax and
        amin, as in PyTorch.
    """

    def extreme(x, dim=None, keepdim=False):
        axes = _axes(x, dim)
        if 0 in (x.shape[a] for a in axes):
            raise IndexError(f"{name}: nothing to choose from in shape {x.shape}, dim {dim}")
        y = function(x, axis=axes, keepdims=keepdim)
        kept = _kept(x.shape, axes)

        def grad_x(grad):
            extremes = np.reshape(y, kept)
            chosen = x == extremes
            if nan_is_extreme:
                chosen |= (x != x) & (extremes != extremes)
            return chosen * (grad.reshape(kept) / chosen.sum(axis=axes, keepdims=True))

        return y, (grad_x,)

    extreme.__name__ = name
    return operation(extreme)


amax = _extreme("amax", np.max)
amin = _extreme("amin", np.min)
_largest = _extreme("max", np.max, nan_is_extreme=True)
_smallest = _extreme("min", np.min, nan_is_extreme=True)


@operation
def argmax(x, dim=None, keepdim=False):
    return _arg(np.argmax, x, dim, keepdim), None


@operation
def argmin(x, dim=None, keepdim=False):
    return _arg(np.argmin, x, dim, keepdim), None


def _arg(function, x, dim, keepdim):
    axis = None if dim is None else axis_of(x, dim)
    if _length(x, axis) == 0:
        raise IndexError(f"{function.__name__}: nothing to choose from in shape {x.shape}")
    if x.ndim == 0:
        return np.zeros_like(x, np.int64)
    return function(x, axis=axis, keepdims=keepdim).astype(np.int64, copy=False)


def _length(x, axis):
    """How many elements there are along `axis`, or in all; a 0-d array counts as (1,)."""
    return x.shape[axis] if x.ndim and axis is not None else x.size


@takes_tensors
def max(input, dim=None, keepdim=False):
    """The largest element; along a `dim` (values, indices); with a tensor for `dim`, `maximum`.

    Along a dimension the gradient goes to the element at the index alone, also at a tie.
    """
    if isinstance(dim, TensorBase):
        return maximum(input, dim)
    return _largest(input) if dim is None else _along(argmax, input, dim, keepdim)


@takes_tensors
def min(input, dim=None, keepdim=False):
    """The smallest element; otherwise as `max`."""
    if isinstance(dim, TensorBase):
        return minimum(input, dim)
    return _smallest(input) if dim is None else _along(argmin, input, dim, keepdim)


def _along(arg, input, dim, keepdim):
    indices = arg(input, dim, True)
    values = gather(input, dim, indices)
    if not keepdim:
        values, indices = squeeze(values, dim), squeeze(indices, dim)
    return ValuesAndIndices(values, indices)


@operation
def _topk_indices(x, k, dim, largest):
    axis = axis_of(x, dim)
    if not 0 <= k <= _length(x, axis):
        raise RuntimeError(f"topk: k = {k} is out of range for shape {x.shape}, dim {dim}")
    if x.ndim == 0:
        return np.zeros_like(x, np.int64), None
    order = np.argsort(-x if largest else x, axis=axis, kind="stable")
    return order[(slice(None),) * axis + (slice(k),)], None


def topk(input, k, dim=-1, largest=True):
    """The k largest (or smallest) elements along `dim`, the best first: (values, indices)."""
    indices = _topk_indices(input, k, dim, largest)
    return ValuesAndIndices(gather(input, dim, indices), indices)


@operation
def all(x, dim=None, keepdim=False):
    return np.all(x, axis=_axes(x, dim), keepdims=keepdim), None


@operation
def any(x, dim=None, keepdim=False):
    return np.any(x, axis=_axes(x, dim), keepdims=keepdim), None


# ------------------------------------------------------------------------- exponentials, running


@operation
@in_float32
def softmax(x, dim):
    """eˣ / Σ eˣ along `dim`. With y the value, the gradient is y · (dy − Σ y dy)."""
    axis = _axis_of_softmax("softmax", x, dim)
    y = kernels(x).softmax(x, axis)
    return y, (lambda grad: kernels(y).softmax_backward(grad, y, axis),)


@operation
@in_float32
def log_softmax(x, dim):
    """x − log Σ eˣ along `dim`, without overflow. The gradient is dy − softmax(x) Σ dy."""
    axis = _axis_of_softmax("log_softmax", x, dim)
    y = kernels(x).log_softmax(x, axis)
    return y, (lambda grad: kernels(y).log_softmax_backward(grad, y, axis),)


def _axis_of_softmax(name, x, dim):
    require_floating(name, x)
    if dim is None:
        raise TypeError(f"{name}: say along which dimension, dim=-1 for the last")
    axis = axis_of(x, dim)
    return axis if x.ndim else ()  # CuPy takes no 0 for a 0-d array


@operation(prepare=lambda x, *rest: (*promote_to_float(x), *rest))
@in_float32
def logsumexp(x, dim, keepdim=False):
    axes = _axes(x, dim)
    kept = _kept(x.shape, axes)
    shift = peak(x, axes)  # subtracting the peak keeps exp within range
    shift = np.where(np.isfinite(shift), shift, 0)
    y = np.log(accurate_sum(np.exp(x - shift), axes, True)) + shift
    return y.reshape(kept) if keepdim else np.squeeze(y, axis=axes), (
        lambda grad: grad.reshape(kept) * np.exp(x - y),
    )


@operation
@in_float32
def cumsum(x, dim):
    axis = axis_of(x, dim)
    if x.ndim == 0:
        return x.copy(), (lambda grad: grad,)
    y = np.cumsum(x if is_floating(x.dtype) else x.astype(np.int64), axis=axis)
    return y, (lambda grad: np.flip(np.cumsum(np.flip(grad, axis), axis=axis), axis),)
