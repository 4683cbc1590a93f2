"""Gradients by finite differences: move one number, see how far the result moves.

Knows no list of operations; `gradcheck` is for any function of tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import autograd
from ..arrays import is_writable
from ..devices import move
from ..grad_mode import no_grad
from ..tensor import Tensor


class GradcheckError(RuntimeError):
    """A gradient that finite differences contradict; the message says which element and by what."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Whether backward through `func(*inputs)` agrees with central differences; as
    `torch.autograd.gradcheck`.

    For every element of every floating-point output and of every input that requires a gradient,
    backward's d output / d input must be within atol + rtol · |expected| of
    (f(x + eps) − f(x − eps)) / 2 eps.

    func: returns a tensor or several; the same for the same inputs (seed it inside if it drops).
    inputs: float64, or rounding is all that the differences show, and a warning says so.
    raise_exception: False returns False where GradcheckError would name the worst element.
    ValueError if no input requires a gradient, or the elements of one share memory.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    wanted = {i: x for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad}
    _check_inputs(wanted)
    analytical = _jacobians(func, inputs, list(wanted.values()))
    failures = []
    for column, (i, x) in enumerate(wanted.items()):
        for index, slopes in differences(lambda: _outputs(func, inputs), x, eps):
            for o, expected in enumerate(slopes):
                got = analytical[o][column][(..., *index)]
                excess = _excess(got, expected, atol, rtol)
                if (excess > 0).any():
                    j = np.unravel_index(excess.argmax(), excess.shape)
                    failures.append((excess[j], i, index, o, j, got[j], expected[j]))
    if failures and raise_exception:
        _, i, index, o, j, mine, true = max(failures, key=lambda failure: failure[0])
        elements = len({(i, index) for _, i, index, *_ in failures})
        raise GradcheckError(
            f"gradcheck: the gradient of output {o}{place(j)} with respect to input {i}"
            f"{place(index)} is {mine:.8g} by backward, expected {true:.8g} by finite differences; "
            f"allowed is a difference of {atol:g} + {rtol:g} · |expected|; "
            f"{elements} input element{' is' if elements == 1 else 's are'} wrong"
        )
    return not failures


def differences(
    function: Callable[[], list[np.ndarray]], x: Tensor, eps: float
) -> Iterator[tuple[tuple[int, ...], list[np.ndarray]]]:
    """For each index of x the slopes there: (f(x + eps) − f(x − eps)) / 2 eps for each result.

    `function` takes nothing and reads x, whose array is changed while it runs, and restored.
    """
    array = x.array
    for index in np.ndindex(array.shape):
        value = array[index].item()
        try:
            array[index] = value + eps
            high, above = array[index].item(), function()
            array[index] = value - eps
            low, below = array[index].item(), function()
        finally:
            array[index] = value
        with np.errstate(all="ignore"):
            yield index, [(a - b) / (high - low) for a, b in zip(above, below)]


def _check_inputs(wanted: dict[int, Tensor]) -> None:
    if not wanted:
        raise ValueError("gradcheck: no input requires a gradient; call x.requires_grad_() on one")
    for i, x in wanted.items():
        if not is_writable(x.array):
            raise ValueError(f"gradcheck: elements of input {i} share memory; pass x.clone()")
        if x.dtype != np.float64:
            warnings.warn(
                f"gradcheck: input {i} is {x.dtype}, too coarse for finite differences; "
                "pass x.double()",
                stacklevel=3,
            )


def _outputs(func: Callable[..., Any], inputs: Sequence[Any]) -> list[np.ndarray]:
    """The floating-point outputs of `func` as NumPy arrays of their own."""
    with no_grad():
        return [np.array(move(y.array, "cpu")) for y in floating(func(*inputs))]


def floating(outputs: Any) -> list[Tensor]:
    """The floating-point tensors among what a function returned."""
    outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    return [y for y in outputs if hasattr(y, "is_floating_point") and y.is_floating_point()]


def _jacobians(func: Callable[..., Any], inputs: Sequence[Any], wanted: list[Tensor]) -> list:
    """By backward: for each output and each input an array of the shape of the one followed by
    that of the other."""
    outputs = floating(func(*inputs))
    if not outputs:
        raise ValueError("gradcheck: the function returned no floating-point tensor")
    jacobians = []
    for y in outputs:
        blocks = [np.zeros(y.shape + x.shape) for x in wanted]
        for j in np.ndindex(y.shape) if y.requires_grad else ():
            start = np.zeros_like(y.array)  # 1 at this element of the output alone
            start[j] = 1
            options: Any = {"retain_graph": True, "allow_unused": True}
            found = autograd.grad(y, wanted, Tensor(start), **options)
            for block, gradient in zip(blocks, found):
                if gradient is not None:
                    block[j] = move(gradient.array, "cpu")
        jacobians.append(blocks)
    return jacobians


def _excess(got: np.ndarray, expected: np.ndarray, atol: float, rtol: float) -> np.ndarray:
    """By how much each element is beyond its tolerance; inf where one is not finite."""
    with np.errstate(invalid="ignore"):
        excess = np.abs(got - expected) - (atol + rtol * np.abs(expected))
    return np.where(np.isnan(excess), np.inf, excess)


def place(index: Sequence[Any]) -> str:
    """[1, 2]; nothing for a 0-d array."""
    return f"[{', '.join(str(int(i)) for i in index)}]" if len(index) else ""
