"""Arithmetic, functions of one number, and choices: each value with its gradients beside it.

`grad` is the gradient of the value; each lambda turns it into the gradient of one argument. The
tape sums it back where that argument was broadcast, and skips what nobody asked for.

Three things come from elsewhere: how operands meet in one type (`promote…`, in `arrays.py`), which
operations keep to float32 where others compute in 16 bits (`@in_float32`, in `autocast_mode.py`),
and `kernels(x)`, the fused functions of the machine on which x lives (`kernels/cpu.py`).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ..arrays import promote, promote_arrays, promote_to_float, promote_widening
from ..autocast_mode import in_float32
from ..autograd import operation
from ..kernels import kernels

elementwise = partial(operation, prepare=promote)  # operands meet in their common type
floating = partial(operation, prepare=promote_to_float)  # and integers become float32

# ----------------------------------------------------------------------------------- arithmetic


@operation(prepare=promote_widening)  # `promote`, but for one case on a GPU
def add(x, y):
    return x + y, (lambda grad: grad, lambda grad: grad)


@elementwise
def sub(x, y):
    return x - y, (lambda grad: grad, lambda grad: -grad)


@elementwise
def mul(x, y):
    return x * y, (lambda grad: grad * y, lambda grad: grad * x)


@floating
def div(x, y):
    return x / y, (lambda grad: grad / y, lambda grad: -grad * x / (y * y))


@elementwise
@in_float32
def pow(x, y):
    z = _power(x, y)

    def grad_x(grad):  # a zeroth power is constant, also at 0, where x ** -1 is not finite
        if isinstance(y, (int, float)):
            return grad * (y * _power(x, y - 1)) if y else np.zeros_like(grad)
        return grad * np.where(y == 0, 0, y * _power(x, y - 1))

    def grad_y(grad):  # a power of 0 is constant too, although log 0 is not finite
        return grad * np.where((x == 0) & (y >= 0), 0, z * np.log(x))

    return z, (grad_x, grad_y)


def _power(x, y):
    """x ** y; by simpler means where the general power takes a hundred times as long."""
    if isinstance(y, (int, float)) and y in (3, -0.5):
        return x * x * x if y == 3 else 1 / np.sqrt(x)
    if isinstance(y, int) and y < 0 and x.dtype.kind in "iu":  # 0 for CuPy
        raise ValueError("integers to a negative power are no integers; use x.float()")
    return x**y


@elementwise
def neg(x):
    return -x, (lambda grad: -grad,)


@elementwise
def abs(x):
    return np.abs(x), (lambda grad: np.where(x > 0, grad, np.where(x < 0, -grad, 0)),)


# ----------------------------------------------------------------------- functions of one number


@floating
@in_float32
def exp(x):
    y = np.exp(x)
    return y, (lambda grad: grad * y,)


@floating
@in_float32
def log(x):
    return np.log(x), (lambda grad: grad / x,)


@floating
def sqrt(x):
    y = np.sqrt(x)
    return y, (lambda grad: grad / (2 * y),)


@floating
@in_float32
def rsqrt(x):
    y = 1 / np.sqrt(x)
    return y, (lambda grad: -0.5 * grad * y * y * y,)


@floating
def sin(x):
    return np.sin(x), (lambda grad: grad * np.cos(x),)


@floating
def cos(x):
    return np.cos(x), (lambda grad: -grad * np.sin(x),)


@floating
def tanh(x):
    y = np.tanh(x)
    return y, (lambda grad: grad * (1 - y * y),)


@floating
def sigmoid(x):
    y = 1 / (1 + np.exp(-x))
    return y, (lambda grad: grad * y * (1 - y),)


@elementwise
def relu(x):
    y = kernels(x).relu(x)
    return y, (lambda grad: kernels(grad).relu_backward(grad, y),)


# --------------------------------------------------------------------------------------- choices


@elementwise
def maximum(x, y):
    return np.maximum(x, y), _to_the_chosen(x < y, x > y, x == y)


@elementwise
def minimum(x, y):
    return np.minimum(x, y), _to_the_chosen(x > y, x < y, x == y)


def _to_the_chosen(not_x, not_y, tie):
    """The gradients of two operands of which one was chosen; at a tie each gets half."""
    return (
        lambda grad: np.where(tie, grad / 2, np.where(not_x, 0, grad)),
        lambda grad: np.where(tie, grad / 2, np.where(not_y, 0, grad)),
    )


def clamp(input, min=None, max=None):
    """Values below `min` raised to it, values above `max` lowered to it; numbers, tensors or None.

    The gradient passes where the value did not change, and goes to the bound where it did.
    RuntimeError if both are None.
    """
    if min is None and max is None:
        raise RuntimeError("clamp: give min, max or both")
    if min is not None:
        input = _at_least(input, min)
    return input if max is None else _at_most(input, max)


@elementwise
def _at_least(x, low):
    return np.maximum(x, low), (
        lambda grad: np.where(x >= low, grad, 0),
        lambda grad: np.where(x < low, grad, 0),
    )


@elementwise
def _at_most(x, high):
    return np.minimum(x, high), (
        lambda grad: np.where(x <= high, grad, 0),
        lambda grad: np.where(x > high, grad, 0),
    )


def _with_choices(condition, *choices):
    if len(choices) != 2:
        raise TypeError("where: takes a condition and two choices, where(condition, x, y)")
    return condition, *promote_arrays(*choices)


@operation(prepare=_with_choices)
def where(condition, x, y):
    if not (condition is True or condition is False or condition.dtype == bool):
        raise RuntimeError(f"where: the condition must be bool, not {condition.dtype}")
    y = np.where(condition, x, y).astype(x.dtype, copy=False)  # CuPy's makes float32 of bfloat16
    return y, (
        None,
        lambda grad: np.where(condition, grad, 0),
        lambda grad: np.where(condition, 0, grad),
    )


@operation
def masked_fill(x, mask, value):
    if mask.dtype != bool:
        raise RuntimeError(f"masked_fill: the mask must be bool, not {mask.dtype}")
    if x.dtype.kind == "i" and not np.iinfo(x.dtype).min <= value <= np.iinfo(x.dtype).max:
        raise RuntimeError(f"masked_fill: {value} has no place in {x.dtype}")
    filled = np.where(mask, _as_number(value, x.dtype), x)
    return filled.astype(x.dtype, copy=False), (  # as in `where`
        lambda grad: np.where(mask, 0, grad),
        None,
        lambda grad: np.where(mask, grad, 0),
    )


def _as_number(value, dtype):
    """A number, or an array with one, in `dtype`."""
    return value.astype(dtype) if hasattr(value, "astype") else np.asarray(value).astype(dtype)[()]


# ---------------------------------------------------------------- comparisons: nothing flows back


@elementwise
def eq(x, y):
    return x == y, None


@elementwise
def ne(x, y):
    return x != y, None


@elementwise
def lt(x, y):
    return x < y, None


@elementwise
def le(x, y):
    return x <= y, None


@elementwise
def gt(x, y):
    return x > y, None


@elementwise
def ge(x, y):
    return x >= y, None


@elementwise
def logical_and(x, y):
    return np.logical_and(x, y), None


@elementwise
def logical_or(x, y):
    return np.logical_or(x, y), None


@operation
def logical_not(x):
    return np.logical_not(x), None


@elementwise
def bitwise_and(x, y):
    _no_floats("&", x, y)
    return x & y, None


@elementwise
def bitwise_or(x, y):
    _no_floats("|", x, y)
    return x | y, None


@operation
def bitwise_not(x):
    _no_floats("~", x)
    return ~x, None


def _no_floats(symbol, *operands):
    if any(
        isinstance(x, float) or getattr(x, "dtype", bool) not in (bool, "int32", "int64")
        for x in operands
    ):
        raise RuntimeError(
            f"{symbol} is for bools and integers: compare first, in brackets, as in (x > 0)"
        )
