"""Learning rates that change from step to step; as in `torch.optim.lr_scheduler`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .optimizer import Optimizer


class LambdaLR:
    """The learning rate of each group is its initial one times `lr_lambda(step)`.

    Call `step()` after each `optimizer.step()`. The schedule is a pure function of the step, so
    that a run can be taken up anywhere: `load_state_dict({"last_epoch": n})`.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]) -> None:
        self.optimizer, self.lr_lambda = optimizer, lr_lambda
        self.base_lrs = [g.setdefault("initial_lr", g["lr"]) for g in optimizer.param_groups]
        self.last_epoch = 0
        self._set()

    def step(self) -> None:
        self.last_epoch += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "base_lrs": self.base_lrs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]
        self.base_lrs = state_dict.get("base_lrs", self.base_lrs)
        self._set()

    def _set(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * self.lr_lambda(self.last_epoch)


class StepLR(LambdaLR):
    """The learning rate times `gamma` after every `step_size` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer, lambda step: gamma ** (step // step_size))


def warmup_cosine(
    warmup_steps: int, total_steps: int, final: float = 0.0
) -> Callable[[int], float]:
    """A factor for `LambdaLR`: up in a line over `warmup_steps`, then down a half cosine from 1 to
    `final` at `total_steps`, and constant from there.

    Loshchilov & Hutter, SGDR (2017), without the restarts; nanoGPT's schedule.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    return factor
