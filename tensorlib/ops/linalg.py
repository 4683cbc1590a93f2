"""Products of matrices and vectors."""

from __future__ import annotations

import math

from ..autocast_mode import lowered
from ..autograd import operation
from ..errors import takes_tensors
from ..kernels.cublas import product
from .elementwise import mul
from .shape import unsqueeze


@operation
def matmul(x, y):
    """x @ y for every rank: the last two dimensions are matrices, those before are batches and
    broadcast; a 1-D operand is a row on the left and a column on the right.

    For Z = X Y the gradients are dX = dZ Yᵀ and dY = Xᵀ dZ.
    RuntimeError if the inner sizes or the types differ, or an operand is 0-d.
    """
    x, y = lowered(x, y)
    _check(x, y)
    row, column, shape = x.ndim == 1, y.ndim == 1, x.shape
    X = x[None, :] if row else x  # (…, n, k)
    Y = y[:, None] if column else y  # (…, k, m)
    rows = X.shape[:-1]
    one_product = X.ndim > 2 and Y.ndim == 2  # (B, T, k) @ (k, m) is (B·T, k) @ (k, m)
    if one_product:
        X = X.reshape(math.prod(rows), X.shape[-1])
    Z = product(X, Y)  # (…, n, m)
    matrices = Z.shape
    z = Z.reshape(rows + Y.shape[-1:]) if one_product else Z
    if row:
        z = z[..., 0, :]  # (…, m)
    if column:
        z = z[..., 0]

    def grad_x(grad):
        dX = product(grad.reshape(matrices), Y.swapaxes(-1, -2))
        return dX.reshape(shape) if one_product else dX[..., 0, :] if row else dX

    def grad_y(grad):
        dY = product(X.swapaxes(-1, -2), grad.reshape(matrices))
        return dY[..., 0] if column else dY

    return z, (grad_x, grad_y)


def _check(x, y):
    if not (hasattr(x, "ndim") and hasattr(y, "ndim")):
        raise TypeError("matmul: both operands must be tensors; use * for a number")
    if x.ndim == 0 or y.ndim == 0:
        raise RuntimeError("matmul: both operands need a dimension; use * for a number")
    if x.dtype != y.dtype:
        raise RuntimeError(f"matmul: the types differ: {x.dtype} and {y.dtype}")
    if x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise RuntimeError(f"matmul: the inner sizes of {x.shape} and {y.shape} differ")


@takes_tensors
def outer(input, vec2):
    """The products of every element of one vector with every element of another: (n, m)."""
    if input.ndim != 1 or vec2.ndim != 1:
        raise RuntimeError(f"outer: needs two vectors, got shapes {input.shape} and {vec2.shape}")
    return mul(unsqueeze(input, 1), vec2)
