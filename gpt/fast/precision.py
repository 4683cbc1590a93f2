"""In which numbers a training step computes: float32, or 16 bits where that loses nothing.

Weights, moments, gradients and checkpoints are float32 in any case; see `tensorlib.autocast`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import tensorlib
from gpt.config import DType, UserError
from tensorlib.amp import GradScaler
from tensorlib.devices import compute_capability


class Precision:
    """What `--dtype` means on a device.

    dtype: float32, tf32, bfloat16 or float16.
    scaler: of the loss; does something for float16 only.
    """

    def __init__(self, dtype: DType, device: str) -> None:
        """UserError if the device does not have it."""
        self.dtype = _found(dtype, device)
        self.scaler = GradScaler(enabled=self.dtype == "float16")

    def autocast(self) -> tensorlib.autocast:
        """The context in which the model computes."""
        if self.dtype in ("float32", "tf32"):
            return tensorlib.autocast("cuda", enabled=False)
        dtype = getattr(tensorlib, self.dtype)  # of a GPT's norms, linear layers are the readers
        return tensorlib.autocast("cuda", dtype=dtype, lower_norms=True)

    def tensors(self, optimizer: Any) -> dict[str, Any]:
        """What a checkpoint must keep of the scaler, and how many steps it did not skip."""
        if not self.scaler.is_enabled():
            return {}
        state, moments = self.scaler.state_dict(), optimizer.state_dict()["state"]
        numbers = {"scaler.scale": state["scale"], "scaler.good_steps": state["_growth_tracker"]}
        if moments:
            numbers["optimizer.step"] = moments[0]["step"].item()
        return {name: tensorlib.tensor([float(x)]) for name, x in numbers.items()}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Put the scaler where it stood, if the checkpoint is of a run with one."""
        if "scaler.scale" in tensors and self.scaler.is_enabled():
            scale, good_steps = (tensors[f"scaler.{x}"].item() for x in ("scale", "good_steps"))
            state = {"scale": scale, "_growth_tracker": int(good_steps)}
            self.scaler.load_state_dict(self.scaler.state_dict() | state)


def _found(dtype: DType, device: str) -> str:
    if device == "cpu":
        if dtype not in ("auto", "float32"):
            raise UserError(
                f"--dtype {dtype} is for a GPU, this computes on the CPU: --dtype float32"
            )
        return "float32"
    if dtype == "auto":
        dtype = "bfloat16" if compute_capability() >= 80 else "float16"
    elif dtype in ("bfloat16", "tf32") and compute_capability() < 80:
        raise UserError(f"--dtype {dtype} needs a GPU from 2020 on (Ampere): --dtype float16")
    if dtype == "bfloat16" and not hasattr(tensorlib, "bfloat16"):
        raise UserError("--dtype bfloat16 needs a package more: pip install ml_dtypes")
    return dtype
