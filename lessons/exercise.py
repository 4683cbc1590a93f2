"""What the exercises share: settings from the command line, a training loop, the loss on a split.

The loop of `common.py` is the video's; the exercises also change the learning rate from step to
step, clip gradients, and train on other things than random places of one text.
"""

from __future__ import annotations

import importlib
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import tensorlib as torch
from gpt.commands import cli
from gpt.config import UserError
from gpt.fast import machine
from gpt.model import GPT
from lessons import common
from tensorlib import Tensor, nn
from tensorlib.optim.lr_scheduler import LambdaLR


@dataclass
class Exercise(common.Options):
    """The flags that every exercise has."""

    def __post_init__(self) -> None:
        """UserError for values with which nothing can be trained."""
        for name, value in vars(self).items():
            if type(value) is int and value < (name != "seed"):
                raise UserError(f"{name} is {value}, but must be at least {int(name != 'seed')}")
            if value == ():
                raise UserError(f"{name} is empty, but needs one at least")


Settings = TypeVar("Settings", bound=Exercise)


def check_flags(path: Path) -> None:
    """See to it that a mistake, or --help, is told before the exercise at `path` prints its text:
    read the flags of this process as its settings."""
    found = vars(importlib.import_module(f"lessons.{path.stem}")).values()
    (cls,) = (x for x in found if isinstance(x, type) and Exercise in x.__bases__)
    cli.parse(cls)


def settings(cls: type[Settings]) -> Settings:
    """The flags of this process as a `cls`; in a notebook, which has none, the defaults.

    What they say of the text and of --quick holds for `common` as well. A process that will train
    is made ready for it, with one thread: these models are too small to share a product.
    """
    given = cls(**vars(common.options))
    if "ipykernel" not in sys.modules:
        given = cli.parse(cls, default=given)
        if not given.quick:
            machine.prepare(threads=1)
    for field in fields(common.Options):
        setattr(common.options, field.name, getattr(given, field.name))
    return given


def constant(step: int) -> float:
    """The schedule of the video: the learning rate stays."""
    return 1.0


def fit(
    model: nn.Module,
    batch_loss: Callable[[], Tensor],
    max_iters: int,
    learning_rate: float,
    schedule: Callable[[int], float] = constant,
    weight_decay: float = 0.01,
    beta2: float = 0.999,
    grad_clip: float | None = None,
) -> Iterable[int]:
    """Train with AdamW; yields the number of each step when it is done.

    batch_loss: the loss on a new batch. schedule: the factor of the learning rate at a step.
    The other defaults are the video's.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, beta2), weight_decay=weight_decay
    )
    scheduler = LambdaLR(optimizer, schedule)
    for step in range(1, common.steps(max_iters) + 1):
        loss = batch_loss()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        optimizer.step()
        scheduler.step()
        yield step


@torch.no_grad()
def whole_loss(model: GPT, data: Tensor, batch_size: int = 64) -> float:
    """The mean loss over all of `data` (tokens,), cut into pieces of the model's block size: unlike
    an estimate from random batches it is the same number for everybody."""
    T = model.config.block_size
    rows = (len(data) - 1) // T
    x, y = (data[i : i + rows * T].view(rows, T) for i in (0, 1))
    if common.options.quick:
        rows = min(rows, batch_size)
    total = 0.0
    for i in range(0, rows, batch_size):
        here = slice(i, min(i + batch_size, rows))
        _, loss = model(x[here], y[here])
        total += loss.item() * (here.stop - here.start)
    return total / rows


def spread(values: Sequence[float]) -> str:
    """The mean of several runs, and how far from it they lie (the standard deviation)."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
