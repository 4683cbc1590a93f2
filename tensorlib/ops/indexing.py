"""Picking elements: x[...] in all its forms, and `gather`."""

from __future__ import annotations

import numpy as np

from ..arrays import axis_of
from ..autograd import TensorBase, operation
from ..bounds import Bounds
from ..devices import device_of, library, move


def getitem(x, index):
    """x[index]: numbers, slices, None, ..., masks, lists and tensors of integers.

    A view where only numbers, slices, None and ... are used; IndexError out of range.
    """
    for step in plain_index(index, x.device):
        x = _getitem(x, step)
    return x


def plain_index(index, device):
    """What stands between [ and ] as NumPy takes it: one or two indices, to be applied in turn.

    Numbers come first and on their own where arrays are among the parts: x[0, :, [1, 2]] is first
    x[0, :] and then [:, [1, 2]] of that: (T, 2) as in PyTorch; NumPy in one step gives (2, T).
    """
    parts = [_plain(part, device) for part in (index if isinstance(index, tuple) else (index,))]
    if all(part is not Ellipsis for part in parts):
        parts.append(Ellipsis)  # which makes x[1, 2] a view, as in PyTorch, and no scalar
    is_array = [hasattr(part, "strides") for part in parts]
    if not any(is_array) or not any(type(part) is int for part in parts):
        return [tuple(parts)]
    first = []
    for part, array in zip(parts, is_array, strict=True):
        dims = part.ndim if array and part.dtype == bool else 1
        first += [slice(None)] * dims if array else [part]
    rest = [part for part in parts if type(part) is not int]
    keep = [p is Ellipsis or hasattr(p, "strides") for p in rest]
    return [tuple(first), tuple(p if k else slice(None) for p, k in zip(rest, keep, strict=True))]


def _plain(part, device):
    """One part of an index as NumPy takes it; integer arrays as int64, on the device."""
    if isinstance(part, TensorBase):
        part = part.array
        if part.ndim == 0 and part.dtype.kind == "i":
            return int(move(part, "cpu"))
    elif isinstance(part, np.integer):
        return int(part)
    elif isinstance(part, (list, range)):
        part = np.array([_plain(p, "cpu") for p in part] or np.zeros(0, np.int64))
    elif isinstance(part, slice) and part.step is not None and part.step <= 0:
        raise ValueError(f"slice step must be positive, not {part.step}")
    kind = getattr(part, "dtype", type(part))
    if kind is float or getattr(kind, "kind", "b") in "fV":
        raise IndexError(f"an index must be of integers or bools, not {kind}")
    if not hasattr(part, "strides"):
        return part
    if device == "cpu" and device_of(part) != "cpu":
        raise RuntimeError("an index on the GPU for a tensor on the CPU: use index.cpu()")
    part = move(part, device)
    return part.astype(np.int64) if part.dtype == np.int32 else part


def check_index(x, index):
    """Have a GPU check the integers of an index with which x[index] has just gone well: CuPy wraps
    what is out of range; NumPy has raised an error."""
    if device_of(x) == "cpu":
        return
    dim = 0
    for i, part in enumerate(index):
        if part is Ellipsis:
            dim = x.ndim - sum(map(_dims, index[i + 1 :]))
            continue
        if getattr(part, "dtype", None) == np.int64:
            n = x.shape[dim]
            Bounds("index", n, f"elements along dim {dim}", low=-n).check(part)
        dim += _dims(part)


def _dims(part):
    """How many dimensions of an array one part of an index is for."""
    if getattr(part, "dtype", None) == np.bool_:
        return part.ndim
    return int(part is not None)


@operation
def _getitem(x, index):
    shape, dtype = x.shape, x.dtype
    may_repeat = any(getattr(part, "dtype", None) == np.int64 for part in index)

    def grad_x(grad):
        total = np.zeros_like(grad, dtype, shape=shape)
        if may_repeat:
            _add_at(total, index, grad)  # an element picked twice gets both gradients
        else:
            total[index] = grad
        return total

    try:
        y = x[index]
    except ValueError as error:  # CuPy's name for NumPy's IndexError: index tensors of two shapes
        raise IndexError(str(error)) from None
    check_index(x, index)
    return y, (grad_x,)


def _add_at(total, index, grad):
    library(device_of(total)).add.at(total, index, grad)  # np.add.at hands no tuple on to CuPy


@operation
def gather(x, dim, index):
    """y[i][j] = x[index[i][j]][j] for dim 0, and so on; index has the rank of x.

    RuntimeError for an index out of range, or larger than x along another dimension.
    """
    shape, dtype = x.shape, x.dtype
    if index.dtype.kind != "i":
        raise RuntimeError(f"gather: the index must be of integers, not {index.dtype}")
    if index.ndim != x.ndim:
        raise RuntimeError(f"gather: index of shape {index.shape} for an input of shape {shape}")
    axis = axis_of(x, dim)
    if any(n > m for i, (n, m) in enumerate(zip(index.shape, shape, strict=True)) if i != axis):
        raise RuntimeError(f"gather: index of shape {index.shape} exceeds the input's {shape}")
    length = shape[axis] if shape else 1
    Bounds("gather: index", length, f"elements along dim {axis}", kind=RuntimeError).check(index)
    if x.ndim == 0:
        return x.copy(), (lambda grad: grad,)
    dims = range(x.ndim)
    where = tuple(
        index if i == axis else np.arange(n, like=x).reshape([-1 if j == i else 1 for j in dims])
        for i, n in enumerate(index.shape)
    )

    def grad_x(grad):
        total = np.zeros_like(grad, dtype, shape=shape)
        _add_at(total, where, grad)
        return total

    return x[where], (grad_x,)
