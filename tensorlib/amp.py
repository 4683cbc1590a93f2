"""Mixed precision, as in `torch.amp`: `autocast`, and the scaling of the loss that float16 needs.

In float16 a gradient below 6e-8 is 0. So the loss is multiplied by a large number before backward,
and the gradients are divided by it before the optimizer sees them:

    scaler = GradScaler()
    with autocast("cuda", dtype=float16):
        loss = …
    scaler.scale(loss).backward()
    scaler.step(optimizer)     # divides; does nothing if a gradient is inf or nan
    scaler.update()            # the scale: smaller if one was, larger after 2000 good steps
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from .autocast_mode import autocast as autocast
from .clock import mark_written
from .devices import canonical
from .optim import Optimizer
from .tensor import Tensor

Outputs = TypeVar("Outputs", Tensor, list, tuple)


class GradScaler:
    """A scale for losses, as large as the gradients bear it in float16.

    device: for PyTorch's sake; gradients are divided where they are.
    init_scale: the scale of the first step. growth_factor, growth_interval: it grows by this factor
    after so many steps in a row without inf or nan. backoff_factor: by which a step with one
    shrinks it. enabled: False makes every method do nothing, and `step` call the optimizer.

    Whether there was an inf or nan, the host learns once per step, in `step`, as in PyTorch. So the
    scale is a number on the host, and `scale` and `unscale_` do not wait for the device.
    Micikevicius et al., Mixed Precision Training (2018).
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        canonical(device)
        if not backoff_factor < 1 < growth_factor:
            raise ValueError(
                f"GradScaler: growth_factor {growth_factor} must be above 1, and backoff_factor "
                f"{backoff_factor} below"
            )
        self._enabled = enabled
        self._scale = float(init_scale)
        self._growth_factor = growth_factor
        self._backoff_factor = backoff_factor
        self._growth_interval = growth_interval
        self._good_steps = 0  # in a row
        # since the last update(), by the optimizer's id
        self._overflows: dict[int, Any] = {}  # whether a gradient is inf or nan, on the device
        self._skipped: dict[int, bool] = {}  # the same on the host, once step() has asked

    def scale(self, outputs: Outputs) -> Outputs:
        """A tensor, or each of several, multiplied by the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        return type(outputs)(self.scale(x) for x in outputs)

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, in place.

        `step` does so by itself; call it before, to clip them. RuntimeError the second time.
        """
        if not self._enabled:
            return
        if id(optimizer) in self._overflows:
            raise RuntimeError("unscale_() was called for this optimizer since the last update()")
        grads = [
            p.grad.array
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        if not grads:
            raise RuntimeError("GradScaler: no parameter of the optimizer has a gradient")
        if any(grad.dtype == np.float16 for grad in grads):
            raise ValueError("GradScaler: gradients in float16; parameters must be float32")
        overflows = ~np.isfinite(grads[0]).all()
        for grad in grads[1:]:
            overflows = overflows | ~np.isfinite(grad).all()
        for grad in grads:
            grad *= grad.dtype.type(1 / self._scale)
            mark_written(grad)
        self._overflows[id(optimizer)] = overflows

    def step(self, optimizer: Optimizer) -> None:
        """optimizer.step(), unless a gradient is inf or nan; unscales them if that is to be done.

        RuntimeError the second time since the last `update`.
        """
        if not self._enabled:
            optimizer.step()
            return
        key = id(optimizer)
        if key in self._skipped:
            raise RuntimeError("step() was called for this optimizer since the last update()")
        if key not in self._overflows:
            self.unscale_(optimizer)
        self._skipped[key] = bool(self._overflows[key])  # here the host waits
        if not self._skipped[key]:
            optimizer.step()

    def update(self, new_scale: float | None = None) -> None:
        """The scale for the next step: smaller after an inf or nan, larger after many steps without
        one, or `new_scale`. RuntimeError if no gradient has been looked at since the last time."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        elif not self._overflows:
            raise RuntimeError("update() without a step() or unscale_() since the last update()")
        elif any(self._skipped.get(key, x) for key, x in self._overflows.items()):
            self._scale *= self._backoff_factor
            self._good_steps = 0
        else:
            self._good_steps += 1
            if self._good_steps == self._growth_interval:
                grown = self._scale * self._growth_factor
                self._scale = grown if grown <= np.finfo(np.float32).max else self._scale
                self._good_steps = 0
        self._overflows, self._skipped = {}, {}

    def get_scale(self) -> float:
        """The scale now; 1 if not enabled."""
        return self._scale if self._enabled else 1.0

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs, by PyTorch's names; nothing if not enabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._good_steps,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another scaler stood. RuntimeError if that one was not enabled."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("GradScaler: the state is empty, that of a scaler not enabled")
        self._scale = state_dict["scale"]
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._good_steps = state_dict["_growth_tracker"]
