"""A run directory: what a training run leaves for people and for programs.

config.json        every setting; `train.py --config` repeats them
metrics.jsonl      what was measured; see below
loss.png           the curves (`curves.py`)
best.safetensors   the model with the lowest validation loss so far
last.safetensors   where the run stands: model and optimizer, all that --resume needs
report.html        the run and its best model, to look at; from `python -m gpt.report`

metrics.jsonl has one flat JSON object per line, which `pandas.read_json(path, lines=True)` takes as
it is, and whose numbers can be given to TensorBoard's `add_scalar` or to `wandb.log`. A number that
there is none of is null, never NaN. At each evaluation:

step               updates so far
time               when, in seconds since 1970
train_loss         mean over some batches of the training split, in nats per token
val_loss           the same of the validation split
val_bits_per_byte  the same as bits per byte of UTF-8, which can be compared between tokenizers
learning_rate      of the next update
grad_norm          of the last update's gradient before it was clipped; null where there was none
skipped            updates left out so far, since their gradient was far out of range
ms_per_step        since the last evaluation, without it
tokens_per_second  the same, as tokens
sample             what the model writes now: text; alone with step and time between evaluations

and in the last line of a run that reached its end: step, time, and

best_step               the step of best.safetensors
full_val_loss           its mean loss over every token of the validation split
full_val_bits_per_byte  the same as bits per byte
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt.config import RunConfig, TrainConfig, UserError
from gpt.record import to_record
from gpt.runs.saving import dispensable
from tensorlib.serialization import write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUNS = Path("runs")
_FIRST_DRAWING = 5.0  # seconds after the beginning; until then there is hardly anything to see
_DRAWING_SHARE = 0.02  # of the time that a run takes, at most


class Run:
    """The files of one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.metrics = path / "metrics.jsonl"
        self.curve = path / "loss.png"
        self._unwritten: list[str] = []  # reports that found no room
        # the time of time.monotonic() from which on it is due
        self._next_drawing = time.monotonic() + _FIRST_DRAWING

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def resumable(cls, path: Path | None) -> Run:
        """The run at `path`, by default the newest. UserError if there is none."""
        if path is None:
            return cls.newest("last.safetensors")
        if not any(path.glob("*.safetensors")):
            near = [path] if path.suffix == ".safetensors" else [*path.glob("*/last.safetensors")]
            newest = max((file for file in near if file.is_file()), key=_written, default=None)
            remedy = f"perhaps --out {newest.parent}" if newest else "check --out"
            raise UserError(f"there is no run in {path} to go on with; {remedy}")
        return cls(path)

    @classmethod
    def measured(cls, config: RunConfig) -> Path:
        """The checkpoint that --eval-only is about: --out itself, if it is a file; else the best of
        that run or of the newest, or with --resume its last. UserError if there is no run."""
        if config.out is not None and config.out.is_file():
            return config.out
        name = "last.safetensors" if config.resume else "best.safetensors"
        return (cls.newest(name).path if config.out is None else config.out) / name

    @classmethod
    def newest(cls, name: str) -> Run:
        """The run in runs/ whose file `name` was written last. UserError if none has one."""
        file = max(RUNS.glob(f"*/{name}"), key=_written, default=None)
        if file is None:
            raise UserError(
                f"there is no {RUNS}/*/{name} here; train a model first: python train.py"
            )
        return cls(file.parent)

    @classmethod
    def create(cls, config: TrainConfig) -> Run:
        """Make the directory --out, by default the next free runs/<n>.

        UserError if it cannot be made, or holds a run that is neither resumed nor overwritten.
        """
        path = config.out
        if path is None:
            taken = [int(entry.name) for entry in RUNS.glob("*") if entry.name.isdecimal()]
            path = RUNS / str(max(taken, default=0) + 1)
        run = cls(path)
        if path.is_file():
            raise UserError(f"--out {run} is a file; a run needs a folder")
        held = any(file.exists() for file in (run.best, run.last, run.metrics))
        if held and not (config.resume or config.overwrite):
            raise UserError(
                f"{run} holds a run already; --resume goes on with it, --overwrite replaces it, "
                "another --out keeps it"
            )
        with _writable(run):
            path.mkdir(parents=True, exist_ok=True)
        return run

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Inside, no other process can claim the run; UserError if one has. The claim ends with the
        process, however that ends. (Windows lacks it.)"""
        if fcntl is None:
            yield
            return
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(directory)
            raise UserError(
                f"another process is training in {self}; wait for it, or choose another --out"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            os.close(directory)

    def begin(self, config: TrainConfig) -> None:
        """Delete the files of the run that was here, unless it is resumed, and what a crash left
        unfinished; write config.json.

        UserError if the directory cannot be written.
        """
        page = self.path / "report.html"
        old = [] if config.resume else [self.last, self.best, self.metrics, self.curve, page]
        with _writable(self):
            for file in (*old, *self.path.glob(".*.unfinished")):
                file.unlink(missing_ok=True)
            settings = json.dumps(to_record(config), indent=2) + "\n"
            write_atomically(self.path / "config.json", settings.encode())

    def report(self, **values: Any) -> None:
        """Append one line to metrics.jsonl; a number that is not finite becomes null, which JSON
        has. What finds no room on the disk is written with the next line."""
        values["time"] = round(time.time(), 3)
        strict = {name: value if _is_json(value) else None for name, value in values.items()}
        self._unwritten.append(json.dumps(strict, allow_nan=False) + "\n")
        with dispensable(self.metrics), open(self.metrics, "ab", buffering=0) as file:
            end = file.tell()
            try:
                text = "".join(self._unwritten).encode()
                while text:  # a disk that becomes full takes a part, and says so the next time
                    text = text[file.write(text) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)  # no half lines
                raise
            self._unwritten.clear()

    def reports(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without what a crash left half written."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        reports = []
        for line in lines:
            with contextlib.suppress(ValueError):
                reports.append(json.loads(line))
        return [report for report in reports if isinstance(report, dict) and "step" in report]

    def rewind(self, step: int) -> None:
        """Forget the reports of `step` and later: the run is about to make them again."""
        kept = [json.dumps(report) + "\n" for report in self.reports() if report["step"] < step]
        with _writable(self):
            write_atomically(self.metrics, "".join(kept).encode())

    def plot(self, at_once: bool = True) -> None:
        """Draw loss.png from metrics.jsonl. at_once=False: not in the first seconds of a run, nor
        if drawing would then take more than a fiftieth of its time. What cannot be written is told
        on standard error."""
        begun = time.monotonic()
        if begun < self._next_drawing and not at_once:
            return
        # it warns where it cannot keep its list of fonts
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        from gpt.runs.curves import draw  # a second to import

        with dispensable(self.curve):
            write_atomically(self.curve, draw(self.reports(), str(self)))
        now = time.monotonic()
        self._next_drawing = now + (now - begun) / _DRAWING_SHARE


def _written(file: Path) -> float:
    return file.stat().st_mtime


@contextlib.contextmanager
def _writable(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to --out {run}: {error.strerror or error}") from None


def _is_json(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
