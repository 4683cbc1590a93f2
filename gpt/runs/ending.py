"""When a run ends before max_iters: its time is up, it gets no better, or it has diverged."""

from __future__ import annotations

import sys
import time

from gpt.config import TrainConfig
from gpt.runs.run import Run
from gpt.runs.saving import say


class Ending:
    """Asked before every step and after every evaluation whether the run ends here; where that is
    not its regular end, it says so on standard error."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.deadline = time.monotonic() + config.max_seconds

    def before(self, step: int) -> bool:
        """Whether to evaluate and save once more, and stop."""
        if step < self.config.max_iters and time.monotonic() >= self.deadline:
            say(
                f"stopped at step {step}, after {self.config.max_time}; --resume goes on",
                sys.stderr,
            )
            return True
        return step >= self.config.max_iters

    def after(self, step: int, run: Run) -> bool:
        """Whether the last evaluations were all in vain. Counted in the run's reports, so that a
        resumed run counts on."""
        if not (n := self.config.early_stop):
            return False
        losses = [report["val_loss"] for report in run.reports() if "val_loss" in report]
        if len(losses) <= n:
            return False
        best = losses.index(min(losses))
        if len(losses) - 1 - best < n:
            return False
        say(
            f"stopped at step {step}: {n} evaluations without a better validation loss than "
            f"{losses[best]:.4f}; to go on, --resume with another --early-stop",
            sys.stderr,
        )
        return True


def after_divergence(config: TrainConfig, run: Run) -> str:
    """What to do when training has diverged."""
    rate = config.learning_rate / 10
    flags = f"--learning-rate {rate:g}"
    flags += f" --min-lr {rate:g}" if config.min_lr > rate else ""
    flags += "" if config.grad_clip else " --grad-clip 1"
    if run.last.exists():
        return f"--resume --out {run} {flags} goes on from the last checkpoint before"
    return f"begin anew with {flags}"
