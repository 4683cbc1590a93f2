"""Which operations compute in 16 bits, and which in float32: `autocast`, in this thread.

The lists are PyTorch's. Products of matrices (`linear`, `matmul`, `scaled_dot_product_attention`)
cast what they get to 16 bits, where a GPU multiplies many times as fast. What adds up much or has a
wide range (norms, softmax, losses, sums, powers, exponentials) casts 16 bits to float32. All other
operations take what comes. An operation casts inside, so that its gradients leave it in the dtype
of what it was given: those of a float32 weight in float32.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any

import numpy as np

from .clock import last_written, owner_of
from .devices import canonical

_FLOAT32 = np.dtype("float32")


class _Mode(threading.local):
    dtype: Any = None  # the 16-bit type of the innermost autocast, None where there is none
    norms = False  # whether norms return that type, too
    # of the weights that were cast in it, by id and dtype: the array, when it was last written
    # before, and what came of it
    cast: dict[tuple[int, Any], tuple[Any, int, Any]] | None = None


_mode = _Mode()


class autocast(ContextDecorator):  # noqa: N801
    """`with autocast("cuda", dtype=bfloat16):`, or the same as a decorator; PyTorch's.

    dtype: bfloat16 or float16 (the default, as in PyTorch); float16 wants a `GradScaler`, too.
    enabled: False computes inside as if there was no autocast around it.
    lower_norms: not PyTorch's: layer_norm and rms_norm compute in float32 and return the 16-bit
        type. Where only products read them, as in a GPT, that is what these would cast them to, and
        spares a pass over memory.
    Only arrays on the GPU are concerned. RuntimeError for the CPU, or for another dtype.
    """

    def __init__(
        self,
        device_type: str,
        dtype: Any = None,
        enabled: bool = True,
        *,
        lower_norms: bool = False,
    ) -> None:
        dtype = np.dtype(np.float16 if dtype is None else dtype)
        if enabled and canonical(device_type) == "cpu":
            raise RuntimeError(
                "autocast is for a GPU: in 16 bits NumPy computes slower than in float32, not "
                "faster; leave it out on the CPU, or say enabled=False"
            )
        if enabled and dtype.name not in ("float16", "bfloat16"):
            raise RuntimeError(f"autocast computes in bfloat16 or float16, not in {dtype}")
        self._dtype = dtype if enabled else None
        self._norms = lower_norms
        self._before: list[Any] = []

    def __enter__(self) -> None:
        self._before.append((_mode.dtype, _mode.norms, _mode.cast))
        _mode.dtype, _mode.norms = self._dtype, self._norms
        _mode.cast = {} if _mode.cast is None else _mode.cast  # the outermost one keeps the weights

    def __exit__(self, *_exception: Any) -> None:
        _mode.dtype, _mode.norms, _mode.cast = self._before.pop()


def is_autocast_enabled() -> bool:
    """Whether an `autocast` is active in this thread."""
    return _mode.dtype is not None


def current_autocast() -> autocast:
    """What is active in this thread now, none perhaps, to be entered again later."""
    return autocast("cuda", _mode.dtype, is_autocast_enabled(), lower_norms=_mode.norms)


def lowered(*arrays: Any) -> tuple[Any, ...]:
    """The arrays in autocast's 16-bit type, if one is active: for products of matrices."""
    if _mode.dtype is None:
        return arrays
    return tuple(x.astype(_mode.dtype, copy=False) if _concerns(x) else x for x in arrays)


def lowered_weights(*weights: Any) -> tuple[Any, ...]:
    """As `lowered`, for arrays that are used again and again: they are cast once in an autocast, as
    in PyTorch, and those that are parts of one vector (`vector_to_parameters`) all at once."""
    if _mode.dtype is None:
        return weights
    return tuple(_cast_once(w) if _concerns(w) else w for w in weights)


def _cast_once(weight: Any) -> Any:
    whole = owner_of(weight)
    if whole.ndim != 1 or whole.dtype != weight.dtype or not weight.flags.c_contiguous:
        whole = weight
    assert _mode.cast is not None
    key, moment = (id(whole), _mode.dtype), last_written(whole)
    found = _mode.cast.get(key)
    if found is None or found[1] != moment:
        found = _mode.cast[key] = whole, moment, whole.astype(_mode.dtype, copy=False)
    if whole is weight:
        return found[2]
    start = (weight.data.ptr - whole.data.ptr) // weight.itemsize
    return found[2][start : start + weight.size].reshape(weight.shape)


def norm_dtype(x: Any) -> Any:
    """The dtype in which a norm of x, computed in float32, leaves it."""
    return _mode.dtype if _mode.norms and _mode.dtype is not None and _concerns(x) else x.dtype


def loss_dtype(x: Any) -> Any:
    """The dtype of the losses of x."""
    return _FLOAT32 if _mode.dtype is not None and _concerns(x) else x.dtype


def in_float32(function: Callable) -> Callable:
    """Have a function get float32 where it is given 16 bits, while an autocast is active."""

    @functools.wraps(function)
    def run(*inputs: Any, **options: Any) -> Any:
        if _mode.dtype is not None:
            inputs = tuple(x.astype(_FLOAT32, copy=False) if _concerns(x) else x for x in inputs)
        return function(*inputs, **options)

    return run


def _concerns(x: Any) -> bool:
    """Whether x is an array on the GPU, of float32 or 16-bit floats."""
    dtype = None if isinstance(x, (np.ndarray, np.generic)) else getattr(x, "dtype", None)
    return dtype is not None and dtype.name in ("float32", "float16", "bfloat16")
