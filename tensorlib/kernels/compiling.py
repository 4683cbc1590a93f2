"""What the modules that launch CUDA kernels share: their sources, and numbers on the device."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..device import library

Array = Any

_SOURCES = Path(__file__).with_name("cuda")


def compiled(name: str, *options: str) -> Any:
    """`cuda/<name>.cu` as a CuPy module, compiled with these options when it is first used.

    CuPy keeps what it has compiled and knows it by its source, of which an include is no part: so
    our own are put in here.
    """
    code = re.sub(
        r'#include "(\w+\.cuh)"',
        lambda include: (_SOURCES / include[1]).read_text(),
        (_SOURCES / f"{name}.cu").read_text(),
    )
    return library("cuda").RawModule(code=code, options=("--std=c++17", *options))


def on_device(number: Any, dtype: Any) -> Array:
    """A number as an array of one element; one that is on the device as it is."""
    return _scalar(number, dtype) if isinstance(number, int | float) else number


@functools.lru_cache(maxsize=8)  # a step's numbers are the same for all who ask
def _scalar(number: float, dtype: Any) -> Array:
    return library("cuda").full(1, number, dtype)


def place(draw: Any) -> tuple:
    """The counters of a `random.Draw` as kernels take them: seed, stream, where the step is, draw,
    and the number of the first integer."""
    seed, stream, step, number, first = draw
    words = np.uint64(seed), np.uint64(stream), on_device(step, np.uint64), np.uint64(number)
    return *words, np.int64(first)
