"""`detect_anomaly`: which line made the first number that is none."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from .observer import Observer, Origin, name_of


class detect_anomaly(Observer):  # noqa: N801
    """Find where a NaN, or an infinity, comes from: `with autograd.detect_anomaly():`.

    Around forward and backward, as in PyTorch, but forward is watched as well: RuntimeError as
    soon as an operation, or its gradient function, makes one, with the operation's name, its
    place and its source line. An infinity that is given on purpose, as masks have it, may pass.
    An error of another kind in a backward also says where its forward ran. On leaving, a warning
    lists the parameters that got no gradient. Each number is looked at, so do not leave it on.
    """

    def __exit__(self, *exception: Any) -> None:
        super().__exit__()
        if exception[0] is None and (names := self.missing_gradients()):
            warnings.warn(f"parameters without a gradient: {', '.join(names)}", stacklevel=2)

    def ran(self, run: Any, inputs: list, outputs: tuple, origin: Origin, seconds: float) -> None:
        for output in outputs:
            if (found := _Odd.of(output)) is None:
                continue
            name, place = name_of(run), _where("at", origin)
            given = {i: odd for i, x in enumerate(inputs) if (odd := _Odd.of(x))}
            for i, odd in given.items():
                if odd.is_nan or _is_trained(inputs[i]):
                    owner = _parameter_name(inputs[i], origin) or f"its argument {i}"
                    raise RuntimeError(f"{name} was given {odd.within(owner)}{place}")
            if found.is_nan or not given:  # else it is the infinity of a mask
                raise RuntimeError(f"{name} made {found.within('its result')}{place}")

    def flowed(self, node: Any, edge: Any, arrived: list, gradient: Any) -> None:
        found = _Odd.of(gradient)
        if found and (found.is_nan or not any(map(_Odd.of, arrived))):
            i = next(i for i, other in enumerate(node.edges) if other is edge)
            which = found.within(f"the gradient of its argument {i}")
            where = _where("its forward ran at", node.origin)
            raise RuntimeError(f"the backward of {node.name} made {which}{where}")


class _Odd(NamedTuple):
    """The first NaN in an array, or else the first infinity."""

    value: float
    position: list[int]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, x: Any) -> _Odd | None:
        """What is found in a tensor, an array or a number; None in whatever is finite."""
        x = getattr(x, "array", x)
        if isinstance(x, float):
            x = np.asarray(x)
        if getattr(getattr(x, "dtype", None), "kind", "") not in "fV" or np.isfinite(x).all():
            return None
        is_nan = np.isnan(x)
        place = int(np.argmax(is_nan if is_nan.any() else np.isinf(x)))
        index = [int(i) for i in np.unravel_index(place, x.shape)]
        return cls(float(x[tuple(index)]), index, x.shape)

    @property
    def is_nan(self) -> bool:
        return math.isnan(self.value)

    def within(self, owner: str) -> str:
        """It, in words; `owner` is what has it."""
        if not self.shape:
            return f"{self.value}: {owner}"
        return f"{self.value}: {owner}, of shape {self.shape}, at {self.position}"


def _where(at: str, origin: Origin | None) -> str:
    if origin is None:
        return "\n  its forward was not watched: let it run under detect_anomaly, too"
    return f"\n  {at} {origin}:\n    {origin.code}"


def _is_trained(x: Any) -> bool:
    """Whether x is a leaf that wants a gradient: no mask."""
    return getattr(x, "is_leaf", False) and x.requires_grad


def _parameter_name(x: Any, origin: Origin) -> str | None:
    """The dotted name of a parameter of the modules around `origin`."""
    names = origin.calls[0].root.named_parameters() if origin.calls else ()
    return next((name for name, p in names if p is x), None)
