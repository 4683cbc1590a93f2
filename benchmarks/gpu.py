"""What a worker process asks of its GPU: whether it is done, how much memory, how many launches.

PyTorch's profiler sees whatever this process has CUDA do, CuPy's launches as well.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.contest import Job, Step

_TOGETHER = 0.05  # seconds of work between two moments at which the host waits
_LAUNCH = re.compile("cu(da)?(LaunchKernel|LaunchCooperative|GraphLaunch|Memcpy|Memset)")


def waiting(job: Job) -> Step:
    """A function that waits until the GPU has done all that it was asked to."""
    if job.who == "ours":
        import tensorlib

        return tensorlib.cuda.synchronize
    import torch

    return torch.cuda.synchronize if job.device == "cuda" else int


def repetitions(times: list[float]) -> int:
    """How many steps are to be timed together, where they took so long one by one."""
    return max(1, min(100, int(_TOGETHER / statistics.median(times))))


def peak(job: Job, work: Step) -> Callable[[float], list[float]]:
    """The most bytes that were in use during `work`, in CuPy's memory pool or PyTorch's."""

    def theirs(seconds: float) -> list[float]:
        import torch

        torch.cuda.reset_peak_memory_stats()
        work()
        return [torch.cuda.max_memory_allocated()]

    def ours(seconds: float) -> list[float]:
        from tensorlib.devices import library

        cupy: Any = library("cuda")
        pool = cupy.get_default_memory_pool()

        class Peak(cupy.cuda.MemoryHook):
            bytes = 0

            def malloc_postprocess(self, **_: Any) -> None:
                self.bytes = max(self.bytes, pool.used_bytes())

        with Peak() as found:
            work()
        return [found.bytes]

    return ours if job.who == "ours" else theirs


def launches(job: Job, step: Step) -> Callable[[float], list[float]]:
    """How often a step has the host start something on the GPU: a kernel, a copy, a graph."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    wait = waiting(job)
    for _ in range(5):  # what happens once is none of a step's business
        step()
    wait()
    if torch.cuda.is_available():
        torch.cuda.init()  # without it, the profiler does not listen

    def measure(seconds: float) -> list[float]:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            step()
            wait()
        return [sum(_LAUNCH.match(event.name) is not None for event in profiler.events())]

    return measure
