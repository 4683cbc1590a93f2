"""Where an array lives, and which array library works on it.

"cpu" is NumPy, "cuda" (alias "gpu") is CuPy. The array itself decides where a computation runs; no
global switch exists. This is the only file that imports CuPy, and only when a GPU is asked for.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


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
    """`array` on `device`: the same object when it is there already, else a copy."""
    target = canonical(device)
    if device_of(array) == target:
        return array
    return _cupy().asarray(array) if target == "cuda" else array.get()


def _cupy() -> ModuleType:
    try:
        import cupy
    except ImportError:
        raise RuntimeError(
            "no GPU support: CuPy is not installed; "
            "run pip install -e '.[gpu]' (CUDA 13) or '.[gpu12]' (CUDA 12), or use device 'cpu'"
        ) from None
    if not cupy.cuda.is_available():
        raise RuntimeError(
            "no GPU found: CuPy is installed, but no CUDA driver or device answers; "
            "check nvidia-smi, or use device 'cpu'"
        )
    return cupy


def _is_available() -> bool:
    try:
        _cupy()
    except RuntimeError:
        return False
    return True


cuda = SimpleNamespace(is_available=_is_available)  # the `torch.cuda.is_available()` of the video
