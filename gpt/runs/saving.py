"""Saving a run where it can go wrong: a full disk, a network drive that is gone, a closed terminal.

None of these ends a training run: it is told in one line, the older file stays, and the next time
is the next try.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt.checkpoint import Checkpoint
from gpt.config import UserError
from gpt.runs.signals import uninterrupted

MINUTES = 10  # between saves, however far apart the evaluations are


def say(message: str = "", file: Any = None, end: str = "\n") -> None:
    """Print, on standard output or on `file`, if there is someone to read it: a terminal that was
    closed and a log on a full disk are no reason to stop; a reader who left is."""
    try:
        print(message, file=file, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


def answer(text: str = "", end: str = "\n") -> None:
    """Print on standard output what a command is run for. UserError if it cannot be written."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"cannot write to standard output: {error.strerror}") from None


@contextlib.contextmanager
def dispensable(path: Path) -> Iterator[None]:
    """Inside, a file is written that the run can do without; if that fails, it is told."""
    try:
        yield
    except OSError as error:
        say(f"cannot write {path}: {error.strerror or error}; going on without", sys.stderr)


class Saver:
    """Writes the checkpoints of one run, `best` and `last`."""

    def __init__(self, best: Path, last: Path) -> None:
        self.best, self.last = best, last
        self.saved = True  # whether the last try worked
        self._tried = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last save is long ago."""
        return time.monotonic() - self._tried > 60 * MINUTES

    def save(self, checkpoint: Checkpoint, path: Path) -> bool:
        """Write `checkpoint` to `path`; whether that worked. A signal waits for the end of it."""
        self._tried = time.monotonic()
        try:
            with uninterrupted():
                checkpoint.save(path)
            self.saved = True
        except UserError as error:
            older = "the older one stays" if path.exists() else "there is none yet"
            again = "training goes on, and tries again at the next save"
            say(f"step {checkpoint.step}: {error}; {older}; {again}", sys.stderr)
            self.saved = False
        return self.saved

    def save_for_good(self, checkpoint: Checkpoint) -> Path:
        """Write `checkpoint`, the last one of this process, and return where it is: `last` or, if
        that place takes no more, a file in the directory for temporary ones.

        UserError if both fail.
        """
        try:
            checkpoint.save(self.last)
            return self.last
        except UserError as error:
            failure = str(error)
        path = Path(tempfile.gettempdir(), f"train-{os.getpid()}-{self.last.name}")
        try:
            checkpoint.save(path)
        except UserError as error:
            older = "an older checkpoint is there" if self.last.exists() else "there is none"
            raise UserError(
                f"step {checkpoint.step} is lost: {failure}; {error}; {older}"
            ) from None
        say(f"{failure}: saved elsewhere, move it there once there is room", sys.stderr)
        return path
