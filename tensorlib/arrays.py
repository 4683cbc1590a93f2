"""Rules that plain arrays lack: PyTorch's type promotion, accurate sums, un-broadcasting, ….

Knows arrays only: no tensors, no tape.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .devices import device_of, library

DEFAULT_FLOAT = np.dtype("float32")
_CATEGORY = {"b": 0, "i": 1, "u": 1, "f": 2, "V": 2}  # bool < integer < floating ("V": bfloat16)
_SCALARS = {bool: np.dtype("bool"), int: np.dtype("int64"), float: DEFAULT_FLOAT}


def is_floating(dtype: np.dtype) -> bool:
    """Whether a dtype is one of the floating-point types, bfloat16 included."""
    return _CATEGORY[dtype.kind] == 2


def require_floating(name: str, *arrays: Any) -> None:
    """RuntimeError that names the operation unless all arrays have one floating-point dtype."""
    for x in arrays:
        if x is not None and x.dtype is not DEFAULT_FLOAT:
            break
    else:
        return  # the usual case, decided quickly
    dtypes = dict.fromkeys(x.dtype for x in arrays if x is not None)
    if len(dtypes) > 1 or not all(is_floating(dtype) for dtype in dtypes):
        found = " and ".join(map(str, dtypes))
        raise RuntimeError(f"{name}: needs one floating-point dtype, got {found}")


def as_array(data: Any) -> Any:
    """What a tensor wraps: an array as it is, NumPy's scalar as 0-d, a list as float32."""
    if isinstance(data, np.generic):  # which NumPy makes of a 0-d result
        return np.asarray(data)
    if isinstance(data, (list, tuple)):
        return np.array(data, DEFAULT_FLOAT)
    if not hasattr(data, "strides"):
        kind = type(data).__name__
        raise TypeError(f"a tensor wraps an array or a list, not {kind}: use tensor(…)")
    return data


def axis_of(x: Any, dim: int, extra: int = 0) -> int:
    """`dim` counted from 0, where x has `extra` dimensions more. IndexError if it is out of range,
    TypeError if it is no integer.

    A 0-d tensor has the dimensions 0 and -1, as in PyTorch.
    """
    rank = x.ndim + extra or 1
    try:
        if -rank <= dim < rank:
            return dim % rank
    except TypeError:
        raise TypeError(f"dim must be an integer, not {type(dim).__name__}") from None
    raise IndexError(f"dim {dim} is out of range for shape {x.shape}: use {-rank}…{rank - 1}")


# ------------------------------------------------------------------------------- type promotion


def promote_types(a: np.dtype, b: np.dtype) -> np.dtype:
    """The type that two arrays of types `a` and `b` meet in, as `torch.promote_types`.

    NumPy differs where categories mix: int64 with float32 is float64 there, float32 here.
    """
    if higher := _CATEGORY[a.kind] - _CATEGORY[b.kind]:
        return a if higher > 0 else b
    if a != b and a.itemsize == b.itemsize == 2:
        return DEFAULT_FLOAT  # float16 with bfloat16: neither holds the other
    return np.promote_types(a, b)


def result_type(*operands: Any) -> np.dtype:
    """The type of an elementwise result over arrays and Python numbers, as `torch.result_type`.

    Arrays with dimensions decide; a 0-d array, and after it a Python number, has a say only when
    its category (bool, integer, floating) is higher than theirs.
    """
    ranks: list[Any] = [None, None, None]  # with dimensions, 0-d, Python numbers
    for x in operands:
        if (scalar := _SCALARS.get(type(x))) is not None:
            rank, dtype = 2, scalar
        else:
            rank, dtype = (0 if x.ndim else 1), x.dtype
        known = ranks[rank]
        ranks[rank] = dtype if known is None else promote_types(known, dtype)
    result: Any = None
    for dtype in ranks:
        if dtype and (result is None or _CATEGORY[dtype.kind] > _CATEGORY[result.kind]):
            result = dtype
    return result


def promote(*operands: Any) -> Sequence[Any]:
    """The operands with every array in their common type; Python numbers stay what they are."""
    for x in operands:
        if type(x) is not float and getattr(x, "dtype", None) is not DEFAULT_FLOAT:
            break
    else:
        return operands  # the usual case, decided quickly: nothing but float32
    numbers = [x.item() if isinstance(x, np.generic) else x for x in operands]
    dtype = result_type(*numbers)
    return [x.astype(dtype, copy=False) if hasattr(x, "dtype") else x for x in numbers]


def promote_widening(x: Any, y: Any) -> Sequence[Any]:
    """`promote` for an addition: 16-bit numbers on a GPU beside float32, as in a residual stream,
    stay as they are, since CuPy's kernel widens them as it reads them."""
    if type(x) is np.ndarray or type(y) is np.ndarray:  # the usual case, decided quickly
        return promote(x, y)
    if device_of(x) == device_of(y) == "cuda" and x.ndim and y.ndim:
        wide, narrow = (x.dtype, y.dtype) if x.dtype == DEFAULT_FLOAT else (y.dtype, x.dtype)
        if wide == DEFAULT_FLOAT and is_floating(narrow) and narrow.itemsize == 2:
            return x, y
    return promote(x, y)


def promote_arrays(*operands: Any) -> list[Any]:
    """`promote` where numbers, too, shall become (NumPy's) scalars of the common type."""
    dtype = result_type(*operands)
    return [dtype.type(x) if type(x) in _SCALARS else x.astype(dtype) for x in operands]


def promote_to_float(*operands: Any) -> list[Any]:
    """`promote` for functions whose result is never an integer (exp, mean, …)."""
    return [
        x.astype(DEFAULT_FLOAT) if hasattr(x, "dtype") and not is_floating(x.dtype) else x
        for x in promote(*operands)
    ]


# ------------------------------------------------------------------- where CuPy and NumPy differ


def is_writable(x: Any) -> bool:
    """Whether every element of an array has memory of its own.

    NumPy marks a broadcast view as read-only. CuPy does not: there a stride of 0 gives it away.
    """
    return x.flags.writeable if type(x) is np.ndarray else x.base is None or 0 not in x.strides


def already_stacked(arrays: Sequence[Any]) -> Any:
    """What stacking the arrays along a new first dimension gives, without a copy, if they lie in
    one array on a GPU at equal distances; else None."""
    first = arrays[0]
    if device_of(first) == "cpu" or first.base is None:
        return None
    kinds = {(id(x.base), x.shape, x.strides, x.dtype) for x in arrays}
    distances = {y.data.ptr - x.data.ptr for x, y in itertools.pairwise(arrays)}
    if len(kinds) > 1 or len(distances) != 1:
        return None
    as_strided = library("cuda").lib.stride_tricks.as_strided
    return as_strided(first, (len(arrays), *first.shape), (*distances, *first.strides))


def peak(x: Any, axes: int | tuple[int, ...]) -> Any:
    """The largest element along some axes, kept with length 1; −∞ where there is nothing."""
    if type(x) is np.ndarray:
        return x.max(axis=axes, keepdims=True, initial=-np.inf)
    axes = axes if isinstance(axes, tuple) else (axes % x.ndim,)
    if all(x.shape[axis] for axis in axes):
        return x.max(axis=axes, keepdims=True)
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    return np.full_like(x, -np.inf, shape=kept)


def vecdot(x: Any, y: Any, axis: int = -1) -> Any:
    """Σ x y along an axis."""
    if type(x) is np.ndarray:
        return np.vecdot(x, y, axis=axis)  # type: ignore[call-overload]
    return (x * y).sum(axis=axis)


# ------------------------------------------------------------------------------------------ sums


def accurate_sum(x: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
    """Sum over `axes`, with an error that does not grow with the length of a column.

    NumPy adds a contiguous row pairwise, but a column one element after the other: over 16,384
    float32 rows that loses three digits. So long float32 columns are summed by `sum_rows`, or in
    float64 where the layout is another; 16-bit floats are always summed in float32.
    """
    if is_floating(x.dtype) and x.dtype.itemsize == 2:
        return accurate_sum(x.astype(DEFAULT_FLOAT), axes, keepdims).astype(x.dtype)
    length = math.prod(x.shape[axis] for axis in axes)
    if x.dtype != DEFAULT_FLOAT or length < 256 or x.ndim - 1 in axes or device_of(x) != "cpu":
        return x.sum(axis=axes, keepdims=keepdims)
    if sorted(axes) != list(range(len(axes))):
        return x.sum(axis=axes, keepdims=keepdims, dtype=np.float64).astype(x.dtype)
    kept = x.shape[len(axes) :]
    total = sum_rows(x.reshape(length, math.prod(kept)))
    return total.reshape((1,) * len(axes) + kept if keepdims else kept)


def sum_rows(x: Any) -> Any:
    """The sum of the rows of a matrix (N, C): (C,).

    As a product with ones, which is the fastest; in blocks, so that the error does not grow with N.
    CuPy's own sum is a tree, fast and exact enough; that of 16 bits is kept in float32.
    """
    if device_of(x) != "cpu":
        return x.sum(axis=0, dtype=DEFAULT_FLOAT if x.dtype.itemsize == 2 else None)
    n, block = len(x), 512
    ones = _ones(min(n, block), x.dtype)
    if n <= block:
        return ones @ x
    whole = n // block * block
    total = np.matmul(ones, x[:whole].reshape(-1, block, x.shape[1])).sum(axis=0)
    return total + ones[: n - whole] @ x[whole:] if whole < n else total


@functools.lru_cache(maxsize=16)
def _ones(n: int, dtype: np.dtype) -> np.ndarray:
    return np.ones(n, dtype)


def unbroadcast(gradient: Any, shape: tuple[int, ...]) -> Any:
    """Sum `gradient` back to the `shape` of an operand that was broadcast in the forward pass.

    Broadcasting copies an element to many places; its gradient is the sum over all of them.
    ValueError if an operand of `shape` cannot be broadcast to the gradient's shape.
    """
    added = gradient.ndim - len(shape)
    stretched = tuple(i for i, n in enumerate(gradient.shape) if i < added or shape[i - added] != n)
    if added < 0 or any(shape[i - added] != 1 for i in stretched if i >= added):
        raise ValueError(f"a gradient of shape {gradient.shape} for an operand of shape {shape}")
    return accurate_sum(gradient, stretched).reshape(shape)
