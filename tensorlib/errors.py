"""What is said of arguments that Python, NumPy or CuPy can do nothing with: PyTorch's errors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from .devices import device_of

_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}  # PyTorch takes both names
P = ParamSpec("P")
R = TypeVar("R")


def takes_tensors(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function that computes with tensors say which of its arguments is none, where Python
    says what attribute that lacks, or that it is dim=, not axis=. (An operation does so anyway.)"""

    @functools.wraps(function)
    def run(*inputs: P.args, **options: P.kwargs) -> R:
        try:
            return function(*inputs, **options)
        except (AttributeError, TypeError) as error:
            if reason := explained(error, function, inputs, options):
                raise reason from error
            raise

    return run


def explained(
    error: Exception, function: Callable, inputs: Sequence[Any], options: Mapping[str, Any]
) -> Exception | None:
    """Python's complaint about an argument that is no tensor, CuPy's about an array elsewhere, or
    NumPy's about shapes, as the exception that PyTorch raises; None for any other error."""
    name = function.__name__.strip("_")
    if isinstance(error, AttributeError):
        given = [*zip(inspect.signature(function).parameters, inputs), *options.items()]
        argument = next((argument for argument, x in given if x is error.obj), None)
        reason = f"must be a tensor, not {type(error.obj).__name__}: use tensor(…)"
        return TypeError(f"{name}: argument {argument!r} {reason}") if argument else None
    if isinstance(error, TypeError) and (numpys := _NUMPY_NAMES.keys() & options):
        renamed = ", ".join(f"{_NUMPY_NAMES[x]}=, not {x}=" for x in sorted(numpys))
        return TypeError(f"{name}: it is {renamed}")
    arrays = [x for x in inputs if hasattr(x, "shape") and not isinstance(x, np.generic)]
    devices = sorted({device_of(x) for x in arrays})
    if len(devices) > 1:
        return RuntimeError(
            f"{name}: a tensor is on device {devices[0]!r} and another on {devices[1]!r}; "
            "move one with .to(device)"
        )
    if not isinstance(error, ValueError):
        return None
    shapes = ", ".join(str(tuple(x.shape)) for x in arrays)
    reason = str(error)
    if reason.startswith("operands could not be broadcast"):
        reason = "sizes must be equal, or one of them 1, counted from the last"
    kind = IndexError if isinstance(error, IndexError) else RuntimeError
    return kind(f"{name} of shapes {shapes}: {reason}")
