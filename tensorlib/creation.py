"""Tensors made from nothing, from data, or from the random stream; as in PyTorch.

Sizes are given as `zeros(2, 3)` or `zeros((2, 3))`. Common to all: `dtype` (float32, unless the
values say otherwise), `device` ("cpu" or "cuda") and `requires_grad`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import random
from .arrays import DEFAULT_FLOAT
from .devices import device_of, library, move
from .errors import takes_tensors
from .ops.shape import sizes_of
from .tensor import Tensor

Sizes = Any  # 2, 3 or (2, 3)


def _shape(sizes: tuple) -> tuple[int, ...]:
    shape = sizes_of(sizes)
    if min(shape, default=0) < 0:
        raise RuntimeError(f"a size cannot be negative: {shape}")
    return shape


def _wrap(array: Any, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    return Tensor(move(array, device)).requires_grad_(requires_grad)


# ------------------------------------------------------------------------------------ from data


def tensor(
    data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor with a copy of `data`: a number, nested lists, a NumPy array or a tensor.

    Python floats become float32, integers int64; an array keeps its dtype, and unless `device`
    names another, its device. ValueError for lists of unequal lengths.
    """
    if isinstance(data, Tensor):
        data = data.array
    elif isinstance(data, (list, tuple)):
        data = _without_tensors(data)
    try:
        array = data.copy() if device_of(data) == "cuda" else np.array(data)
    except ValueError:
        raise ValueError("tensor: lists beside each other differ in length or depth") from None
    if array.dtype.kind not in "biufV":
        raise TypeError(f"a tensor holds numbers, not {type(data).__name__} of {array.dtype}")
    if dtype is None and not hasattr(data, "dtype") and array.dtype == np.float64:
        dtype = DEFAULT_FLOAT
    array = array if dtype is None else array.astype(dtype)
    return _wrap(array, device or device_of(array), requires_grad)


def _without_tensors(data: Any) -> Any:
    if isinstance(data, (list, tuple)):
        return [_without_tensors(item) for item in data]
    return data.tolist() if isinstance(data, Tensor) else data


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of a NumPy array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    if array.dtype.kind not in "biufV":
        raise TypeError(f"from_numpy: a tensor holds numbers, not {array.dtype}")
    return Tensor(array)


# ------------------------------------------------------------------------------------- constant


def full(
    size: Any, fill_value: Any, *, dtype: Any = None, device: str = "cpu", requires_grad=False
) -> Tensor:
    """A tensor filled with one number, of that number's type unless `dtype` says otherwise."""
    if dtype is None:
        dtype = tensor(fill_value).dtype
    return _wrap(library(device).full(_shape((size,)), fill_value, dtype), device, requires_grad)


def zeros(*size: Sizes, dtype: Any = DEFAULT_FLOAT, device="cpu", requires_grad=False) -> Tensor:
    return _wrap(library(device).zeros(_shape(size), dtype), device, requires_grad)


def ones(*size: Sizes, dtype: Any = DEFAULT_FLOAT, device="cpu", requires_grad=False) -> Tensor:
    return _wrap(library(device).ones(_shape(size), dtype), device, requires_grad)


def empty(*size: Sizes, dtype: Any = DEFAULT_FLOAT, device="cpu", requires_grad=False) -> Tensor:
    """Memory as it is found: whatever values it holds."""
    return _wrap(library(device).empty(_shape(size), dtype), device, requires_grad)


@takes_tensors
def zeros_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    return _wrap(np.zeros_like(input.array, dtype), input.device, requires_grad)


@takes_tensors
def ones_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    return _wrap(np.ones_like(input.array, dtype), input.device, requires_grad)


@takes_tensors
def empty_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    return _wrap(np.empty_like(input.array, dtype), input.device, requires_grad)


@takes_tensors
def full_like(
    input: Tensor, fill_value: Any, *, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    return _wrap(np.full_like(input.array, fill_value, dtype), input.device, requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = DEFAULT_FLOAT, device="cpu") -> Tensor:
    """Ones on the diagonal, zeros elsewhere: (n, m), or (n, n)."""
    return _wrap(library(device).eye(n, m, dtype=dtype), device)


# ------------------------------------------------------------------------------------ sequences


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device="cpu"
) -> Tensor:
    """start, start + step, … below `end`; `arange(n)` counts from 0. Integers give int64."""
    start, end = (0, start) if end is None else (start, end)
    start, end, step = (x.item() if isinstance(x, Tensor) else x for x in (start, end, step))
    if step == 0 or (end - start) / step < 0:
        raise RuntimeError(f"arange: no steps of {step} lead from {start} to {end}")
    whole = all(isinstance(x, (int, np.integer)) for x in (start, end, step))
    if dtype is None:
        dtype = np.int64 if whole else DEFAULT_FLOAT
    if whole:
        numbers = library(device).arange(start, end, step, np.int64)
    else:
        count = int(np.ceil((end - start) / step))
        numbers = start + step * library(device).arange(count, dtype=np.float64)
    return Tensor(numbers.astype(dtype, copy=False))


def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = DEFAULT_FLOAT, device="cpu"
) -> Tensor:
    """`steps` numbers at equal distances from `start` to `end`, both included."""
    if steps < 0:
        raise RuntimeError(f"linspace: the number of steps cannot be negative: {steps}")
    return _wrap(np.linspace(start, end, steps).astype(dtype), device)


# --------------------------------------------------------------------------------------- random


def rand(
    *size: Sizes, dtype=DEFAULT_FLOAT, device="cpu", requires_grad=False, generator=None
) -> Tensor:
    """Uniform in [0, 1); PyTorch's numbers for the same seed."""
    return _wrap(random.rand(_shape(size), dtype, generator=generator), device, requires_grad)


def randn(
    *size: Sizes, dtype=DEFAULT_FLOAT, device="cpu", requires_grad=False, generator=None
) -> Tensor:
    """Normal with mean 0 and variance 1; PyTorch's numbers for the same seed."""
    return _wrap(random.randn(_shape(size), dtype, generator=generator), device, requires_grad)


def randint(
    low: int, high: Any = None, size: Any = None, *, dtype=np.int64, device="cpu", generator=None
) -> Tensor:
    """Integers from `low` to `high` - 1; `randint(high, size)` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    if size is None:
        raise TypeError("randint: how many are wanted? randint(high, size) or (low, high, size)")
    return _wrap(random.randint(low, high, _shape((size,)), dtype, generator=generator), device)


def randperm(n: int, *, device: str = "cpu", generator=None) -> Tensor:
    """The integers 0 … n - 1 in random order."""
    return _wrap(random.randperm(n, generator=generator), device)


@takes_tensors
def rand_like(input: Tensor) -> Tensor:
    return rand(input.shape, dtype=input.dtype, device=input.device)


@takes_tensors
def randn_like(input: Tensor) -> Tensor:
    return randn(input.shape, dtype=input.dtype, device=input.device)


@takes_tensors
def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator=None
) -> Tensor:
    """Indices drawn with the probabilities (or weights) in each row of `input`.

    input: (classes,) or (rows, classes). Returns int64 of shape (num_samples,) or
    (rows, num_samples).
    """
    weights = input.cpu().array
    drawn = random.multinomial(weights, num_samples, replacement, generator=generator)
    return _wrap(drawn, input.device)


# --------------------------------------------------------------------------- comparing, counting


@takes_tensors
def allclose(input: Tensor, other: Tensor, rtol=1e-05, atol=1e-08, equal_nan=False) -> bool:
    """Whether |input - other| <= atol + rtol · |other| everywhere."""
    return bool(np.allclose(input.array, other.array, rtol, atol, equal_nan))


@takes_tensors
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and the same values."""
    return bool(np.array_equal(input.array, other.array))


@takes_tensors
def bincount(input: Tensor, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, 2, … occurs in a 1-D tensor of integers."""
    if input.ndim != 1 or input.dtype.kind != "i" or (input.numel() and input.array.min() < 0):
        raise RuntimeError("bincount: needs a 1-D tensor of integers, none of them negative")
    return Tensor(np.bincount(input.array, minlength=minlength).astype(np.int64))
