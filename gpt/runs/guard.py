"""The guard of the weights: which gradients may change them.

A single broken gradient (an overflow, a corrupt batch, a bit that flipped) would ruin weights and
moments for good. Skipping its step costs nothing: the next batch is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import tensorlib
from gpt.config import UserError
from tensorlib import Tensor

FAR = 100.0  # a norm so many times the usual one is out of range
LEAST = 1.0  # the usual norm counts as at least this: a norm up to 100 is in range always
WINDOW = 100  # steps; usual is the median of the window before the present one
IN_A_ROW = 10  # so many steps skipped one after the other: this run is not going to recover


class Guard:
    """Refuses gradients whose norm is not finite, or above `bound`: 100 times the median norm in
    the window of 100 steps before this one, and at least 100. In the first window all that is
    finite passes.

    A step never waits for a GPU: the norms stay there until the window is full, or someone asks.
    All it knows goes into the checkpoint.
    """

    def __init__(self) -> None:
        self.bound = float(np.finfo(np.float32).max)
        self.norms: list[Any] = []  # of the steps of this window, on the device
        self._before = (0, 0)  # `counts` when the window began
        self._limit: Any = None  # the bound, where the norms are

    def refuses(self, norm: Tensor) -> Tensor:
        """Whether a gradient of this norm () must not be used: a bool (), where the norm is."""
        self.make_room()
        self.norms.append(norm.array)
        if self._limit is None:
            self._limit = np.full_like(norm.array, self.bound)
        return Tensor(~(norm.array <= self._limit))  # nan is not below anything

    def make_room(self) -> None:
        """Begin the next window, if this one is full. Then it waits for a GPU."""
        if len(self.norms) < WINDOW:
            return
        usual = np.median([norm for norm in self._known() if norm <= self.bound] or [LEAST])
        bound = float(np.float32(FAR * max(usual, LEAST)))  # as a checkpoint keeps it
        self._before, self.bound, self.norms = self.counts(), bound, []
        self._limit[...] = bound  # the same array: a CUDA graph has its address

    def counts(self) -> tuple[int, int]:
        """How many steps were refused, in all and in the row that lasts. Waits for a GPU."""
        skipped, in_a_row = self._before
        for norm in self._known():
            refused = not norm <= self.bound
            skipped, in_a_row = skipped + refused, in_a_row + 1 if refused else 0
        return skipped, in_a_row

    def last_norm(self) -> float | None:
        """Of the last step's gradient, before it was clipped; None before the first."""
        return self.norms[-1].item() if self.norms else None

    def check(self, advice: Callable[[], str]) -> None:
        """UserError, with `advice()`, if ten steps in a row have been refused. Waits for a GPU."""
        if not self.norms or self.norms[-1] <= self.bound:
            return
        _, in_a_row = self.counts()
        if in_a_row >= IN_A_ROW:
            raise UserError(
                f"{in_a_row} steps in a row were skipped: the norm of their gradient was out of "
                f"range, the last {self.last_norm():.3g}; {advice()}"
            )

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""
        norms = {"guard.norms": tensorlib.tensor(self._known())} if self.norms else {}
        return norms | {"guard.state": tensorlib.tensor([self.bound, *map(float, self._before)])}

    def restore(self, tensors: Mapping[str, np.ndarray], device: str) -> None:
        """Go on where the guard of the checkpoint stood."""
        if "guard.state" in tensors:
            self.bound, skipped, in_a_row = tensors["guard.state"].tolist()
            self._before = int(skipped), int(in_a_row)
            norms = tensors.get("guard.norms", np.empty(0)).tolist()
            self.norms = [tensorlib.tensor(norm, device=device).array for norm in norms]
            self._limit = tensorlib.tensor(self.bound, device=device).array

    def _known(self) -> list[float]:
        """The norms of this window, on the host."""
        return Tensor(np.stack(self.norms)).tolist() if self.norms else []
