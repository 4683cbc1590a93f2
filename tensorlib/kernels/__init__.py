"""The fused operations, written once per machine: `kernels(array)` is the module for that array.

Every module has the same functions with the same signatures. They take and return plain arrays,
know no tape, and give the same bits for the same inputs.
"""

import importlib
from types import ModuleType
from typing import Any

from ..devices import device_of
from . import cpu

_FUSED = ("float32", "float16", "bfloat16")
_gpu: ModuleType = cpu  # its array code runs on a GPU as well, by NumPy's protocols


def kernels(array: Any) -> ModuleType:
    """The kernels for the machine on which `array` lives; fused ones compute in 32 and 16 bits."""
    if _gpu is cpu or device_of(array) == "cpu" or array.dtype.name not in _FUSED:
        return cpu
    return _gpu


def gpu_kernels() -> ModuleType:
    """The kernels for arrays on a GPU."""
    return _gpu


def use_fused(on: bool = True) -> None:
    """Whether arrays on a GPU get the fused kernels in CUDA C++ (`gpu.py`) instead of plain array
    operations."""
    global _gpu
    _gpu = importlib.import_module(".gpu", __package__) if on else cpu
