"""A tensor as text, character for character as PyTorch prints one with the same values.

Three steps: fold a big array down to its edges, choose one format for all the numbers that are
left, and set them out in brackets. Knows arrays only: no tensors, no tape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

PREFIX = "tensor("
PRECISION = 4  # digits after the decimal point
THRESHOLD = 1000  # an array with more elements than this is folded …
EDGE = 3  # … to this many at either end of each axis
LINE_WIDTH = 80


def format_tensor(array: np.ndarray, *, suffix: str = "") -> str:
    """The text of a tensor that holds `array`, such as "tensor([1., 2.])".

    `suffix` is what only the tensor knows, as "requires_grad=True" or "device='cuda:0'"; where
    there are several, ", " separates them.
    """
    extras = suffix.split(", ") if suffix else []
    familiar = ("float32", "int64", "bool") if array.size else ("float32",)
    if array.dtype.name not in familiar:
        extras.insert(0, f"dtype=tensorlib.{array.dtype.name}")
    if array.size == 0 and array.ndim != 1:
        extras.insert(0, f"size={array.shape}")
    extras.sort(key=lambda extra: not extra.startswith("device="))  # the device comes first
    if array.size == 0:
        return _finish(PREFIX + "[]", extras)
    values = _fold(array)
    write, width = _choose_format(values)
    body = _brackets(values.tolist(), array.shape, len(PREFIX), write, width)
    return _finish(PREFIX + body, extras)


def _fold(array: np.ndarray) -> np.ndarray:
    """The elements to show: all of them or, if there are too many, the ends of every long axis."""
    if array.size > THRESHOLD:
        for axis, length in enumerate(array.shape):
            if length > 2 * EDGE:
                array = array.take([*range(EDGE), *range(-EDGE, 0)], axis)
    floating = array.dtype.kind in "fV"  # "V": bfloat16
    return array.astype(np.float64) if floating else array  # float64 holds them all exactly


def _choose_format(values: np.ndarray) -> tuple[Callable[[Any], str], int]:
    """The function that writes an element, and the column width that the elements need.

    Floats get an exponent if they are huge, tiny or far apart; else they are written "2." if all
    are whole, and with four decimals if not. Zeros, inf and nan have no say, even in the width.
    """
    write: Callable[[Any], str] = str
    if values.dtype.kind == "f":
        values = values[np.isfinite(values) & (values != 0)]
        sizes = np.abs(values).tolist() or [1.0]
        low, high = min(sizes), max(sizes)
        if high / low > 1e3 or high > 1e8 or low < 1e-4:
            write = f"{{:.{PRECISION}e}}".format
        elif all(map(float.is_integer, sizes)):
            write = _write_whole
        else:
            write = f"{{:.{PRECISION}f}}".format
    return write, max((len(write(value)) for value in values.ravel().tolist()), default=1)


def _write_whole(value: float) -> str:
    """A whole number with a point to mark it as a float: "2.", but "inf" and "nan"."""
    return f"{value:.0f}." if math.isfinite(value) else str(value)


def _brackets(
    values: Any, shape: tuple[int, ...], indent: int, write: Callable[[Any], str], width: int
) -> str:
    """The nested list `values` in brackets that open at column `indent`.

    `shape` is the shape before folding: a list shorter than it says has a gap, shown as "...".
    """
    if not shape:
        return write(values).rjust(width)
    parts = [_brackets(value, shape[1:], indent + 1, write, width) for value in values]
    innermost = len(shape) == 1
    if len(parts) < shape[0]:
        parts.insert(EDGE, " ..." if innermost else "...")
    if innermost:
        count = max(1, (LINE_WIDTH - indent) // (width + len(", ")))
        parts = [", ".join(parts[i : i + count]) for i in range(0, len(parts), count)]
    newlines = "\n" * max(1, len(shape) - 1)  # blank lines set matrices apart
    return "[" + ("," + newlines + " " * (indent + 1)).join(parts) + "]"


def _finish(text: str, extras: list[str]) -> str:
    """`text` with the extras and ")" after it; an extra that passes the line width wraps."""
    column = len(text.rpartition("\n")[2]) + 2  # PyTorch counts two too many here
    for extra in extras:
        length = len(extra.replace("tensorlib.", "torch."))  # to break lines where PyTorch does
        if column + len(", ") + length > LINE_WIDTH:
            text, column = f"{text},\n{' ' * len(PREFIX)}{extra}", len(PREFIX) + length
        else:
            text, column = f"{text}, {extra}", column + len(", ") + length
    return text + ")"
