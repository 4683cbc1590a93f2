"""Files that nobody should trust: pickles that would run code, and files damaged at random."""

import os
import random
import subprocess
from collections import OrderedDict

import numpy as np
import torch


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


def damaged(whole, count):
    """Copies of some bytes with a few of them changed, left out, or repeated, at random places."""
    for seed in range(count):
        dice = random.Random(seed)
        content = bytearray(whole)
        for _ in range(dice.choice([1, 1, 2, 5])):
            i = dice.randrange(len(content) or 1)
            change = dice.choice(["bit", "byte", "cut", "insert", "end"])
            if change == "bit" and content:
                content[i] ^= 1 << dice.randrange(8)
            elif change == "byte" and content:
                content[i] = dice.randrange(256)
            elif change == "cut":
                del content[i : i + dice.randrange(1, 9)]
            elif change == "insert":
                content[i:i] = dice.randbytes(dice.randrange(1, 9))
            elif len(content) > 1:
                del content[max(i, 1) :]
        yield bytes(content)
