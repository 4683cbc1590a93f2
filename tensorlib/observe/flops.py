"""How many floating-point operations an operation takes: a formula for each that multiplies
matrices, and what the machine can do at best.

As is usual for models (Kaplan et al., Scaling Laws for Neural Language Models, 2020; and PyTorch's
FlopCounterMode), a multiplication with its addition counts two, and all else nothing: additions,
exponentials and norms are limited by memory, not by arithmetic.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..devices import library
from ..kernels import kernels

# A formula takes the value of the operation and its arguments, as arrays. It returns the count of
# the forward pass and those of the gradients: a list with one for each argument, or where they are
# computed together, one for all.
Counts = tuple[int, "list[int] | int"]


def matmul(z: Any, x: Any, *_others: Any) -> Counts:
    """Z = X Y, (…, n, k) (…, k, m): 2 n k m for each matrix; dX = dZ Yᵀ and dY = Xᵀ dZ alike.

    y = x Wᵀ + b, a linear layer, is one, too.
    """
    product = 2 * z.size * x.shape[-1]
    return product, [product, product]


def attention(
    y: Any, q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, threshold: int
) -> Counts:
    """q kᵀ over E channels and weights v over D, for each pair of positions that is computed;
    backward twice as many products of the same sizes: dv and dweights, dq and dk."""
    matrices = math.prod(y.shape[:-2])
    pairs = kernels(q).attention_pairs(q, k, v, mask, causal, scale)
    products = 2 * matrices * pairs * (q.shape[-1] + v.shape[-1])
    return products, 2 * products


# By where an operation is defined, since others may have its name.
FORMULAS: dict[str, Callable[..., Counts]] = {
    "tensorlib.ops.linalg.matmul": matmul,
    "tensorlib.nn.functional.linear": matmul,
    "tensorlib.nn.functional._attention": attention,
}


def count(operation: Any, value: Any, arguments: list[Any]) -> Counts:
    """The counts of an operation, which made `value` of `arguments`; 0 without a formula."""
    formula = FORMULAS.get(f"{operation.__module__}.{operation.__name__}")
    return formula(value, *arguments) if formula else (0, 0)


@functools.cache
def peak(device: str, dtype: np.dtype) -> float:
    """The most operations per second that this machine has shown, in products of two square
    matrices; measured the first time it is asked for, in less than a second."""
    xp, sizes = library(device), (512, 1024) if device == "cpu" else (4096, 8192)
    return max(_rate(xp, xp.ones((n, n), dtype)) for n in sizes for _ in range(10))


def _rate(xp: Any, x: Any) -> float:
    start = time.perf_counter()
    y = xp.matmul(x, x)
    float(y[0, 0])  # waits for a GPU
    return 2 * len(x) ** 3 / (time.perf_counter() - start)
