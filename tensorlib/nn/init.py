"""Values to begin with, written into a tensor in place; PyTorch's, draw for draw."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from .. import random
from ..grad_mode import no_grad
from ..tensor import Tensor


class _Drawing(threading.local):
    """Whether random values are drawn; not inside `utils.skip_init`."""

    on = True


drawing = _Drawing()


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform between a and b."""
    return _drawn(tensor, random.uniform, a, b)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with the given mean and standard deviation."""
    return _drawn(tensor, random.normal, mean, std)


@no_grad()
def _drawn(tensor: Tensor, distribution: Callable, *parameters: float) -> Tensor:
    if drawing.on:
        numbers = distribution(*parameters, tensor.shape, tensor.dtype)
        tensor.copy_(Tensor(numbers))  # also onto a GPU
    return tensor


@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 1.0)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform within ±gain √(3 / fan), which keeps the variance through layers of leaky ReLU.

    a: the slope of the leaky ReLU; gain = √(2 / (1 + a²)), and √2 for "relu", 1 for "linear".
    He et al., Delving Deep into Rectifiers (2015).
    """
    fan_in, fan_out = _fans(tensor)
    gains = {"leaky_relu": math.sqrt(2 / (1 + a * a)), "relu": math.sqrt(2), "linear": 1.0}
    if nonlinearity not in gains or mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming_uniform_: unknown {nonlinearity=} or {mode=}")
    bound = gains[nonlinearity] * math.sqrt(3 / (fan_in if mode == "fan_in" else fan_out))
    return uniform_(tensor, -bound, bound)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform within ±gain √(6 / (fan_in + fan_out)). Glorot & Bengio (2010)."""
    bound = gain * math.sqrt(6 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound)


def _fans(tensor: Tensor) -> tuple[int, int]:
    """How many numbers go into an output, and out of an input: weight (out, in)."""
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need two dimensions, got shape {tensor.shape}")
    rest = math.prod(tensor.shape[2:])
    return tensor.shape[1] * rest, tensor.shape[0] * rest
