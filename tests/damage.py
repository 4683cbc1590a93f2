"""Files that nobody should trust: pickles that would run code, bytes and records damaged at random;
and the bounds within which whoever reads them must answer."""

from __future__ import annotations

import copy
import os
import random
import signal
import subprocess
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import torch

SECONDS = 5
MEMORY = 256 * 2**20  # beyond what the process has


class Runs:
    """Runs code when Python's own reader reads it."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


EVIL = {
    "os.system": Runs(os.system, "touch pwned"),
    "eval": Runs(eval, "open('pwned', 'w')"),
    "subprocess": Runs(subprocess.Popen, ["touch", "pwned"]),
    "getattr": Runs(getattr, OrderedDict, "fromkeys"),
    "open": Runs(open, "pwned", "w"),
    "a class": Runs(torch.nn.Linear, 2, 2),
    "numpy": np.zeros(3),
}


# what a damaged or a hostile file may have where a plain value was
VALUES = [
    None, True, False, 0, -1, 1, 2, 63, 2**31, 2**63, 2**64, 10**30, -(10**30),
    0.0, -0.5, 1.5, 1e308, float("inf"), float("-inf"), float("nan"),
    "", "a", "\x00", "\ud800", "é" * 1000, "1e9", "../x",
    "char", "bpe:300", [], [[]], {}, {"a": 1}, [1, "a", None], [0] * 1000,
    {"__class__": "os.system"},
]  # fmt: skip


def damaged_bytes(data: bytes, dice: random.Random) -> bytes:
    """`data` after one to four accidents: bits, bytes, runs, lengths, cuts, repetitions."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        if not changed:
            break
        start = dice.randrange(len(changed))
        if dice.random() < 0.5:  # where headers, lengths and opcodes are
            start = min(start, dice.randrange(min(len(changed), 400)))
        end = min(len(changed), start + dice.choice((1, 2, 4, 8, 64, 1000)))
        match dice.randrange(8):
            case 0:
                changed[start] ^= 1 << dice.randrange(8)
            case 1:
                changed[start] = dice.choice((0, 1, 9, 46, 127, 128, 255, dice.randrange(256)))
            case 2:
                del changed[start:]
            case 3:
                del changed[start:end]
            case 4:
                changed[start:end] = dice.randbytes(end - start)
            case 5:
                changed[start:start] = changed[start:end]
            case 6:  # a length or an offset
                size = dice.choice((1, 2, 4, 8))
                number = dice.choice((0, 1, 2**31, 2**40, 2**63, dice.randrange(2**64)))
                changed[start : start + size] = (number % 256**size).to_bytes(size, "little")
            case 7:
                other = dice.randrange(len(changed))
                changed[start:end] = changed[other : other + end - start]
    return bytes(changed)


def damaged_record(record: object, dice: random.Random) -> object:
    """JSON values after one to three accidents: a value, a key or an element that is another's,
    missing, repeated, or new."""
    changed = copy.deepcopy(record)
    for _ in range(dice.choice((1, 1, 2, 3))):
        places = list(_places(changed))
        if not places:
            return dice.choice(VALUES)
        container, key = dice.choice(places)
        match dice.randrange(6):
            case 0 | 1 | 2:
                container[key] = copy.deepcopy(dice.choice(VALUES))
            case 3:
                del container[key]
            case 4:
                other, name = dice.choice(places)
                container[key] = copy.deepcopy(other[name])
            case 5:
                value = copy.deepcopy(container[key])
                if isinstance(container, list):
                    container.insert(key, value)
                else:
                    container[f"{key}_"] = value
    return changed


def _places(value: object):
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


@contextmanager
def bounded():
    """Inside, more than MEMORY is a MemoryError, and more than SECONDS a TimeoutError."""
    if os.name != "posix":
        yield
        return
    import resource

    def stop(number, frame):
        raise TimeoutError(f"no answer within {SECONDS} seconds")

    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
