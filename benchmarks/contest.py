"""One process per contender, and only one of them at work at a time.

In one process OpenBLAS's idle threads, which spin for a while after their work, starve PyTorch's,
and flatter us by a factor of two. And whatever else a machine does comes and goes: so contenders
take turns in short blocks, A B C A B C …, and are compared block by block.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt.config import TrainConfig
from gpt.record import from_record, to_record

Step = Callable[[], Any]
PAUSE = 0.05  # seconds before a turn, in which the threads of the one before stop spinning


@dataclass(frozen=True)
class Job:
    """What a worker process measures.

    task: a key of `worker.TASKS`; who: whose code does it; op: which of several operations;
    device: "cpu" or "cuda"; warm_up: seconds of it before the first turn.
    """

    task: str
    who: str
    config: TrainConfig
    threads: int
    op: str = ""
    device: str = "cpu"
    warm_up: float = 0.5

    def to_json(self) -> str:
        return json.dumps(vars(self) | {"config": to_record(self.config)})

    @classmethod
    def from_json(cls, text: str) -> Job:
        job = cls(**json.loads(text))
        return dataclasses.replace(job, config=from_record(job.config))

    def environment(self) -> dict[str, str]:
        """That of its process: as many threads, in BLAS or, for "slices", around it."""
        blas = "1" if self.who == "slices" else str(self.threads)
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        return os.environ | dict.fromkeys(names, blas)


class WorkerError(Exception):
    """A worker could not do its job; the message is one line."""


class Worker:
    """A process that does a job: it prepares and warms up at once, and measures when asked. It
    leaves when its standard input ends, as it does when we are gone."""

    def __init__(self, job: Job) -> None:
        with _only_cores(job.threads):
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", job.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                cwd=Path(__file__).parents[1],
                env=job.environment(),
                start_new_session=True,  # Ctrl-C is for us; and it gets a process group of its own
            )

    def prepare(self) -> None:
        """Wait until it is ready. WorkerError if that fails."""
        self._answer()

    def measure(self, seconds: float) -> list[float]:
        """Its times, in seconds, from about `seconds` of work, while nobody else works."""
        assert self.process.stdin is not None
        time.sleep(PAUSE)
        with contextlib.suppress(BrokenPipeError):  # it has died: there will be no answer
            print(seconds, file=self.process.stdin, flush=True)
        return self._answer()

    def stop(self) -> None:
        """End it, with all that it has started."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> list[float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(
                f"the process died with status {self.process.wait()} (out of memory?)"
            )
        answer = json.loads(line)
        if isinstance(answer, str):
            raise WorkerError(answer)
        return answer


@dataclass
class Times:
    """What a worker answered, turn by turn; or why it did not."""

    blocks: list[list[float]] = field(default_factory=list)
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(second for block in self.blocks for second in block)

    @property
    def fastest(self) -> float:
        return min(second for block in self.blocks for second in block)


def alternate(jobs: dict[str, Job], blocks: int, seconds: float) -> dict[str, Times]:
    """Let the jobs take turns, `blocks` times `seconds` each: the times by the keys of `jobs`.

    A turn lasts at least one step, and the time to warm up is not longer. Whoever fails is left out
    from then on.
    """
    times = {name: Times() for name in jobs}
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, job in jobs.items():
            _tell(f"{job.task} {job.op}, {name}: warming up")
            job = dataclasses.replace(job, warm_up=min(job.warm_up, seconds))
            workers[name] = Worker(job)
            stack.callback(workers[name].stop)
            with _failing(times[name]):
                workers[name].prepare()  # before the next one starts: only one at a time works
        for turn in range(blocks):
            _tell(f"{turn} of {blocks} blocks")
            for name, worker in workers.items():
                if not times[name].failure:
                    with _failing(times[name]):
                        times[name].blocks.append(worker.measure(seconds))
    _tell("")
    return times


@contextlib.contextmanager
def _only_cores(n: int) -> Iterator[None]:
    # a process starts with the cores of its parent, and whatever it starts gets no others; it
    # cannot do this for itself, since by then NumPy has started threads
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(ours)[:n])
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


@contextlib.contextmanager
def _failing(times: Times) -> Iterator[None]:
    try:
        yield
    except WorkerError as failure:
        times.failure = str(failure)


def _tell(progress: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def ratios(ours: Times, theirs: Times) -> list[float]:
    """The median of our times over the median of theirs, block by block."""
    pairs = zip(ours.blocks, theirs.blocks, strict=True)
    return [statistics.median(a) / statistics.median(b) for a, b in pairs]


def timed(
    step: Step, seconds: float, least: int = 1, wait: Step = int, together: int = 1
) -> list[float]:
    """The time that each repetition took; `least` of them, and on until `seconds` have passed.

    A GPU is still at work when the host goes on: `wait` waits for it, and `together` repetitions,
    which follow each other as in training, are timed as one that took the mean.
    """
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(together):
            step()
        wait()
        times.append((time.perf_counter() - start) / together)
    return times
