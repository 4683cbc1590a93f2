"""Signals that end a run: Ctrl-C, SIGTERM (`kill`, a shutdown), SIGHUP (the terminal was closed).

Each becomes an exception in the main thread, and waits until the weights and the step agree.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_NUMBERS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]  # Windows has no HUP


class Terminated(BaseException):
    """SIGTERM or SIGHUP has come; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


STOP = (KeyboardInterrupt, Terminated)  # what a signal raises


def handle() -> None:
    """From now on SIGTERM and SIGHUP raise `Terminated`, and Ctrl-C KeyboardInterrupt; not where
    they are ignored, as SIGHUP is under nohup."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the scripts begin with another
    for number in _NUMBERS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)


def ignore() -> None:
    """From now on Ctrl-C does nothing (but in a notebook, which lives on): to interrupt Python as
    it shuts down only makes tracebacks."""
    if "ipykernel" not in sys.modules:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _terminate(number: int, frame: Any) -> None:
    raise Terminated(number)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside, signals that have a handler wait until the end."""
    waiting: list[int] = []
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        before = {}  # only the main thread gets signals, and may set handlers
    for number in before:
        signal.signal(number, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in waiting[:1]:
        signal.raise_signal(number)


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Inside, signals wait, and a process that is started gets none of them in all its life."""
    with uninterrupted():
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            yield
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)  # which children inherit
        try:
            resource_tracker.ensure_running()  # multiprocessing's helper, whose start may unblock
            signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
