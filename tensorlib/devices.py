"""Where an array lives, and which array library works on it.

"cpu" is NumPy, "cuda" (alias "gpu") is CuPy. The array itself decides where a computation runs; no
global switch exists. This is the only file that imports CuPy, and only when a GPU is asked for.
"""

from __future__ import annotations

import functools
import re
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from .bounds import raise_kept


def library(device: str) -> ModuleType:
    """The array library of a device name. RuntimeError, naming the remedy, if it cannot be used."""
    return np if canonical(device) == "cpu" else _cupy()


def canonical(device: str) -> str:
    """One spelling per device: "cpu", or "cuda" for "cuda", "cuda:0" and "gpu"."""
    name = str(device)
    if name == "cpu":
        return "cpu"
    if name in ("cuda", "cuda:0", "gpu"):
        return "cuda"
    raise RuntimeError(f"unknown device {name!r}: use 'cpu' or 'cuda' ('gpu' means the same)")


def device_of(array: Any) -> str:
    """The device name of an array: "cuda" for CuPy's, "cpu" for any other value."""
    return "cuda" if type(array).__module__.startswith("cupy") else "cpu"


def move(array: Any, device: str) -> Any:
    """`array` on `device`: the same object when it is there already, else a copy.

    Whoever moves an array from a GPU waits for it, and hears of an index that was out of range.
    """
    target = canonical(device)
    if device_of(array) == target:
        return array
    if target == "cuda":
        return _cupy().asarray(array)
    array = array.get()
    raise_kept()
    return array


_INSTALL = "pip install -e '.[gpu]' (CUDA 13) or '.[gpu12]' (CUDA 12)"


@functools.cache  # which keeps no failure
def _cupy() -> ModuleType:
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise CuPyError(error) from None
        raise RuntimeError(
            f"no GPU support: CuPy is not installed; run {_INSTALL}, or use device 'cpu'"
        ) from None
    except (ImportError, OSError, RuntimeError) as error:
        raise CuPyError(error) from None
    if not cupy.cuda.is_available():
        raise RuntimeError(
            "no GPU found: CuPy is installed, but no CUDA driver or device answers; "
            "check nvidia-smi, or use device 'cpu'"
        )
    return cupy


class CuPyError(RuntimeError):
    """CuPy is there, but cannot be imported or cannot compute; says what helps."""

    def __init__(self, error: Exception) -> None:
        reason = " ".join(str(error).split())
        remedy = (
            "it must be made for the CUDA version that nvidia-smi shows: uninstall it, "
            f"then {_INSTALL}"
        )
        if isinstance(error, OSError) and error.filename:  # where it would keep what it compiles
            remedy = "set CUPY_CACHE_DIR to a folder that can be written to"
        super().__init__(
            f"CuPy is installed, but does not work ({reason:.200}); {remedy}, or use device 'cpu'"
        )


def check(device: str) -> None:
    """RuntimeError, in one line that names the remedy, unless `device` can compute.

    A CuPy that was made for another version of CUDA may well find the GPU: it is the first kernel,
    or the first product of matrices, that fails.
    """
    xp = library(device)
    try:
        x = xp.ones((2, 2), np.float32)
        float((x @ x + x).sum())
    except MemoryError:
        raise
    except Exception as error:  # whatever CUDA, cuBLAS or the compiler has to say
        raise CuPyError(error) from None


@functools.cache
def compute_capability() -> int:
    """The generation of the GPU: 75 for Turing, 80 for Ampere, 90 for Hopper."""
    return int(_cupy().cuda.Device().compute_capability)


class GPUMemoryError(MemoryError):
    """There is not enough memory on the GPU, which another library than CuPy asked for."""


def out_of_memory(error: MemoryError) -> str:
    """What is to be said of a MemoryError: on a GPU how much was asked for, how much is free."""
    if not isinstance(error, GPUMemoryError) and not type(error).__module__.startswith("cupy"):
        return "out of memory"
    asked = re.search(r"\d[\d,]*", str(error))  # "Out of memory allocating 1,024 bytes (…)"
    size = f"{int(asked[0].replace(',', '')) / 1e9:.2f} GB more" if asked else "more"
    free, total = (n / 1e9 for n in _cupy().cuda.Device().mem_info)
    return f"out of GPU memory: {size} asked for, {free:.2f} of {total:.2f} GB free"


def _is_available() -> bool:
    try:
        _cupy()
    except RuntimeError:
        return False
    return True


def _synchronize() -> None:
    _cupy().cuda.Device().synchronize()
    raise_kept()


def _mem_get_info() -> tuple[int, int]:
    return _cupy().cuda.Device().mem_info


# `torch.cuda`: what the video asks; waiting until the GPU has done all that it was asked to; and
# its memory, (free, total) in bytes
cuda = SimpleNamespace(
    is_available=_is_available, mem_get_info=_mem_get_info, synchronize=_synchronize
)
