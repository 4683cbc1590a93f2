"""The fused operations, written once per machine: `kernels(array)` is the module for that array.

Every module has the same functions with the same signatures. They take and return plain arrays,
know no tape, and give the same bits for the same inputs.
"""

from types import ModuleType
from typing import Any

from ..device import device_of
from . import cpu


def kernels(array: Any) -> ModuleType:
    """The kernels for the machine on which `array` lives."""
    if device_of(array) == "cpu":
        return cpu
    raise RuntimeError("there are no GPU kernels yet: use device 'cpu'")
