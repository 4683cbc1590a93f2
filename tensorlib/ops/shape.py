"""The same elements in another arrangement: views, joins, splits, triangles, other types.

A view shares memory with its tensor. Its gradient is the gradient, arranged back.
"""

from __future__ import annotations

import itertools
import math
import operator

import numpy as np

from ..arrays import already_stacked, axis_of, is_floating, promote
from ..autograd import TensorBase, operation
from ..devices import device_of, move
from ..errors import takes_tensors


def sizes_of(sizes):
    """(2, 3) from either f(2, 3) or f((2, 3)); 0-d integer tensors count as numbers."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    try:
        return tuple(map(operator.index, sizes))
    except TypeError:
        raise TypeError(f"sizes are integers, not {sizes}; n // 2 is one, n / 2 is not") from None


# ----------------------------------------------------------------------------------------- views


@operation
def reshape(x, *sizes):
    shape = x.shape
    return _reshaped(x, sizes), (lambda grad: grad.reshape(shape),)


@operation
def view(x, *sizes):
    shape = x.shape
    y = _reshaped(x, sizes)
    if x.size and not x.flags.c_contiguous and not np.may_share_memory(x, y):
        raise RuntimeError(
            f"view: shape {shape} with these strides cannot be seen as {y.shape} without a copy; "
            "use reshape"
        )
    return y, (lambda grad: grad.reshape(shape),)


def _reshaped(x, sizes):
    sizes = sizes_of(sizes)
    try:
        y = x.reshape(sizes)
        if y.shape == sizes or -1 in sizes:  # NumPy takes any negative size for -1
            return y
    except ValueError:
        pass
    raise RuntimeError(f"shape {x.shape} with {x.size} elements cannot become {sizes}")


@operation
def flatten(x, start_dim=0, end_dim=-1):
    shape = x.shape
    first, last = axis_of(x, start_dim), axis_of(x, end_dim)
    if first > last:
        raise RuntimeError("flatten: start_dim comes after end_dim")
    joined = math.prod(shape[first : last + 1])
    y = x.reshape(*shape[:first], joined, *shape[last + 1 :])
    return y, (lambda grad: grad.reshape(shape),)


@operation
def transpose(x, dim0, dim1):
    a, b = axis_of(x, dim0), axis_of(x, dim1)
    if x.ndim == 0:
        return x.view(), (lambda grad: grad,)
    return x.swapaxes(a, b), (lambda grad: grad.swapaxes(a, b),)


@operation
def permute(x, *dims):
    order = tuple(axis_of(x, dim) for dim in sizes_of(dims))
    if sorted(order) != list(range(x.ndim)):
        raise RuntimeError(f"permute: {order} must name each dimension of shape {x.shape} once")
    return x.transpose(order), (lambda grad: grad.transpose(_inverse(order)),)


def _inverse(order):
    """The order of dimensions that undoes `order`."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


@operation
def expand(x, *sizes):
    sizes = sizes_of(sizes)
    added = len(sizes) - x.ndim
    shape = tuple(x.shape[i - added] if n == -1 and i >= added else n for i, n in enumerate(sizes))
    grown = zip(x.shape, shape[max(added, 0) :])
    if added < 0 or min(shape, default=0) < 0 or any(old not in (1, new) for old, new in grown):
        raise RuntimeError(
            f"expand: shape {x.shape} cannot become {sizes}: only a 1 can grow, -1 keeps a size, "
            "and new dimensions come first"
        )
    return np.broadcast_to(x, shape), (lambda grad: grad,)


@operation
def squeeze(x, dim=None):
    shape = x.shape
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    ones = tuple(a for a in {axis_of(x, d) for d in dims} if x.ndim and shape[a] == 1)
    return np.squeeze(x, axis=ones), (lambda grad: grad.reshape(shape),)


@operation
def unsqueeze(x, dim):
    shape = x.shape
    return np.expand_dims(x, axis_of(x, dim, extra=1)), (lambda grad: grad.reshape(shape),)


# ------------------------------------------------------------------------------ joins and splits


@operation
def split(tensor, split_size_or_sections, dim=0):
    """Views of consecutive pieces along `dim`: of one size (the last may be smaller), or of the
    sizes in a list, which must add up to the length."""
    axis = axis_of(tensor, dim)
    length = tensor.shape[axis]
    sizes = sizes_of((split_size_or_sections,))
    if not isinstance(split_size_or_sections, (tuple, list)):
        (size,) = sizes
        if size <= 0:
            raise RuntimeError(f"split: the size must be positive, not {size}")
        sizes = [min(size, length - a) for a in range(0, length, size)] or [0]
    elif sum(sizes) != length or min(sizes, default=0) < 0:
        raise RuntimeError(f"split: the sizes {sizes} do not add up to {length}")
    bounds, before = itertools.accumulate(sizes, initial=0), (slice(None),) * axis
    pieces = tuple(tensor[(*before, slice(a, b))] for a, b in itertools.pairwise(bounds))
    shapes = [piece.shape for piece in pieces]

    def grad_x(grads):  # one buffer for the gradients of all pieces
        return np.concatenate(_with_zeros(grads, shapes), axis=axis)

    return pieces, ((grad_x if len(pieces) > 1 else lambda grad: grad),)


def _with_zeros(grads, shapes):
    """Gradients of several outputs, with zeros for those that nothing was computed from."""
    some = next(grad for grad in grads if grad is not None)
    return [np.zeros_like(some, shape=s) if g is None else g for g, s in zip(grads, shapes)]


@takes_tensors
def chunk(input, chunks, dim=0):
    """At most `chunks` views of equal size along `dim`; the last may be smaller."""
    if chunks <= 0:
        raise RuntimeError(f"chunk: the number of chunks must be positive, not {chunks}")
    length = input.shape[axis_of(input.array, dim)]
    if length == 0:
        return split(input, [0] * chunks, dim)
    return split(input, -(-length // chunks), dim)


@takes_tensors
def unbind(input, dim=0):
    """A tuple of the slices along `dim`, without that dimension."""
    axis = axis_of(input.array, dim)
    if input.array.ndim == 0:
        raise IndexError("unbind: a 0-d tensor has no dimension to take apart")
    return _unbind(input, axis) if input.shape[axis] else ()


@operation
def _unbind(x, axis):
    shape, strides = x.shape, x.strides
    n, before = shape[axis], (slice(None),) * axis

    def grad_x(grads):
        parts = _with_zeros(grads if n > 1 else [grads], [shape[:axis] + shape[axis + 1 :]] * n)
        if (whole := already_stacked(parts)) is not None:
            return np.moveaxis(whole, 0, axis)
        # Laid out as x is: where x was transposed, going back then needs no copy.
        order = sorted(range(len(shape)), key=lambda i: -strides[i])
        total = np.empty_like(parts[0], shape=tuple(shape[i] for i in order))
        return np.stack(parts, axis=axis, out=total.transpose(_inverse(order)))

    return tuple([x[(*before, i, ...)] for i in range(n)]), (grad_x,)


@operation(prepare=promote)
def _cat(*arrays, dim):
    joined = np.concatenate(arrays, axis=dim)
    bounds = np.cumsum([x.shape[dim] for x in arrays])[:-1].tolist()
    return joined, (lambda grad, needed: np.split(grad, bounds, axis=dim))


@takes_tensors
def cat(tensors, dim=0):
    """Tensors one after the other along `dim`; their other dimensions must agree.

    1-D tensors of length 0 are passed over, as in PyTorch.
    """
    tensors = _tensors_only("cat", tensors)
    if not tensors:
        raise ValueError("cat: the list of tensors is empty")
    if any(x.ndim == 0 for x in tensors):
        raise RuntimeError("cat: a tensor without dimensions cannot be joined; use stack")
    filled = [x for x in tensors if x.array.shape != (0,)] or tensors
    return _cat(*filled, dim=axis_of(filled[0].array, dim))


@takes_tensors
def stack(tensors, dim=0):
    """Tensors of one shape beside each other along a new dimension."""
    tensors = _tensors_only("stack", tensors)
    if not tensors:
        raise RuntimeError("stack: the list of tensors is empty")
    if len({x.shape for x in tensors}) > 1:
        raise RuntimeError(f"stack: shapes differ: {', '.join(str(x.shape) for x in tensors)}")
    return _stack(*tensors, dim=axis_of(tensors[0].array, dim, extra=1))


def _tensors_only(name, tensors):
    if isinstance(tensors, TensorBase):
        raise TypeError(f"{name}: put the tensors in a list, as in {name}([x, y])")
    tensors = list(tensors)
    for x in tensors:
        if not isinstance(x, TensorBase):
            raise TypeError(f"{name}: expected tensors, got {type(x).__name__}")
    return tensors


@operation(prepare=promote)
def _stack(*arrays, dim):
    return np.stack(arrays, axis=dim), (lambda grad, needed: list(np.moveaxis(grad, dim, 0)))


@operation
def repeat(x, *sizes):
    sizes, shape = sizes_of(sizes), x.shape
    if len(sizes) < x.ndim:
        raise RuntimeError(f"repeat: {sizes} has fewer dimensions than shape {shape}")
    padded = (1,) * (len(sizes) - x.ndim) + shape
    # Element i of a dimension comes back at i, i + n, i + 2n, …: an axis of copies and one of n.
    unfolded = [n for pair in zip(sizes, padded, strict=True) for n in pair]

    def grad_x(grad):
        return grad.reshape(unfolded).sum(axis=tuple(range(0, len(unfolded), 2))).reshape(shape)

    return np.tile(x, sizes), (grad_x,)


# --------------------------------------------------------------------- triangles, copies, types


@operation
def tril(x, diagonal=0):
    _matrices_only("tril", x)
    return np.tril(x, diagonal), (lambda grad: np.tril(grad, diagonal),)


@operation
def triu(x, diagonal=0):
    _matrices_only("triu", x)
    return np.triu(x, diagonal), (lambda grad: np.triu(grad, diagonal),)


def _matrices_only(name, x):
    if x.ndim < 2:
        raise RuntimeError(f"{name}: needs at least two dimensions, got shape {x.shape}")


@operation
def clone(x):
    return x.astype(x.dtype, "C"), (lambda grad: grad,)  # a list has copy(), too


@operation
def contiguous(x):
    return x if x.flags.c_contiguous else x.copy(), (lambda grad: grad,)


@operation
def cast(x, dtype):
    return x.astype(dtype), ((lambda grad: grad,) if is_floating(np.dtype(dtype)) else None)


@operation
def to_device(x, device):
    source = device_of(x)
    return move(x, device), (lambda grad: move(grad, source),)
