"""What the modules that launch CUDA kernels share: compiling, launching, numbers on the device."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..devices import library

Array = Any

_SOURCES = Path(__file__).with_name("cuda")
_SCALARS = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
THREADS = 256  # of a block


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


@functools.cache
def _module(name: str, dtype: str) -> Any:
    """`cuda/<name>.cu`, compiled for arrays of this dtype."""
    if dtype not in _SCALARS:
        raise RuntimeError(f"the fused kernels compute in {', '.join(_SCALARS)}, not in {dtype}")
    return compiled(name, f"-Dscalar={_SCALARS[dtype]}")


@functools.cache
def _kernel(module: str, name: str, dtype: str) -> Any:
    return _module(module, dtype).get_function(name)


def launch(kernel: str, dtype: np.dtype, grid: tuple, block: tuple, *args: Any) -> None:
    """Run "module.name". Python's integers become int32, its floats float32."""
    if 0 in grid:
        return  # there is nothing to compute
    wide = {int: np.int32, bool: np.int32, float: np.float32}
    args = tuple(wide[type(x)](x) if type(x) in wide else x for x in args)
    _kernel(*kernel.split("."), dtype.name)(grid, block, args)


def each(kernel: str, dtype: np.dtype, n: int, *args: Any) -> None:
    """Run a kernel that takes one thread for each of n elements, and n as its last argument."""
    launch(kernel, dtype, (-(-n // THREADS),), (THREADS,), *args, np.int64(n))


def by_rows(kernel: str, dtype: np.dtype, rows: int, columns: int, *args: Any) -> None:
    """Run a kernel that takes a team of threads for each row; its last arguments are the numbers of
    rows and columns."""
    team, teams = team_of(columns)
    launch(kernel, dtype, (-(-rows // teams),), (team, teams), *args, rows, columns)


def team_of(columns: int) -> tuple[int, int]:
    """How many threads share a row (a warp, or a block if rows are long), and how many rows share a
    block."""
    team = 32 if columns <= 1024 else THREADS
    return team, THREADS // team


def empty(shape: Any, dtype: Any) -> Array:
    return library("cuda").empty(shape, dtype)


def contiguous(*arrays: Array) -> list[Array]:
    """The arrays with their elements side by side, as kernels read them."""
    xp = library("cuda")
    return [x if x.flags.c_contiguous else xp.ascontiguousarray(x) for x in arrays]


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
