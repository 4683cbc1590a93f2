"""What comes over the network, without ever waiting long for it."""

from __future__ import annotations

import queue
import threading
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call()` returns or raises; TimeoutError if it takes longer.

    In a thread, because a name look-up cannot be interrupted: without a network it may take
    minutes, and whoever waits should hear about it within seconds.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.0f} seconds") from None
    if error is not None:
        raise error
    return answer


def download(url: str, timeout: float) -> bytes:
    """What is at `url`; OSError if it cannot be had within `timeout` seconds."""

    def fetch() -> bytes:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.read()

    try:
        return within(timeout, fetch)
    except Exception as error:
        raise OSError(getattr(error, "reason", error)) from error
