"""What a process does to itself so that training is fast on a CPU: memory, threads, the collector.

`train.py`, its workers and the benchmark call `prepare`; importing a library changes nothing.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys

from threadpoolctl import threadpool_limits

_FEWEST_FLOPS = 2e8  # a step with less work than this is not worth sharing


def cores() -> int:
    """How many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processes(batch_size: int, flops: float) -> int:
    """How many processes should share a training step of `flops` floating-point operations: one
    per core, but none without a row of the batch, and one alone where there is little to do."""
    return min(cores(), batch_size) if flops >= _FEWEST_FLOPS else 1


def prepare(threads: int) -> None:
    """Make this process ready to train, with `threads` threads in each matrix product."""
    threadpool_limits(limits=threads, user_api="blas")
    _keep_freed_memory()
    gc.collect()
    gc.freeze()
    gc.disable()  # the tape makes no cycles, and looking for some takes time


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next array. By default it gives large blocks back to the
    system, and every new array faults its pages in again, which takes as long as filling it."""
    if sys.platform != "linux":
        return
    trim_threshold, mmap_max = -1, -4  # mallopt's names M_TRIM_THRESHOLD and M_MMAP_MAX
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):  # another C library: nothing lost but time
        pass
