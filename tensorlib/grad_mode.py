"""Whether the tape records, in this thread: `no_grad` says that it does not. And who watches it."""

from __future__ import annotations

import functools
import inspect
import threading
from contextlib import ContextDecorator
from contextvars import Context, ContextVar
from typing import Any

import numpy as np

# True inside of `mode.quiet`, a context in which NumPy does not warn; no context is entered twice.
is_quiet = ContextVar("is_quiet", default=False)


class _Mode(threading.local):
    paused = 0  # how many no_grad() are active
    observer: Any = None  # who is told of every operation: see observe/observer.py
    calls: tuple = ()  # the modules that are being called, while somebody watches

    def __init__(self) -> None:  # once in each thread
        self.quiet = Context()  # to run in it takes a tenth of the time of np.errstate
        self.quiet.run(_silence)


def _silence() -> None:
    np.seterr(all="ignore")
    is_quiet.set(True)


mode = _Mode()


class no_grad(ContextDecorator):  # noqa: N801
    """Record nothing, in this thread: `with no_grad():`, or `@no_grad()` above a function.

    Above a generator it holds while the generator runs, and not while its caller does.
    """

    def __new__(cls, function: Any = None) -> Any:
        """`@no_grad` without brackets is `@no_grad()`, as in PyTorch."""
        return super().__new__(cls) if function is None else cls()(function)

    def __enter__(self) -> None:
        mode.paused += 1

    def __exit__(self, *_exception: Any) -> None:
        mode.paused -= 1

    def __call__(self, function: Any) -> Any:
        if not inspect.isgeneratorfunction(function):
            return super().__call__(function)

        @functools.wraps(function)
        def steps(*args: Any, **options: Any) -> Any:
            generator, sent = function(*args, **options), None
            while True:
                with self:
                    try:
                        value = generator.send(sent)
                    except StopIteration as end:
                        return end.value
                sent = yield value

        return steps


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread, that is, whether no `no_grad` is active."""
    return not mode.paused
