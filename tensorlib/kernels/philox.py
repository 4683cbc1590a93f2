"""Random words as a function of a counter, made on a GPU with plain array operations.

NumPy has this generator built in, and the CPU takes it from there (`random.philox`). Both give the
same words, and none is copied.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..devices import library

Array = Any
Word = Any  # numbers of uint64

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # what the key grows by in each round
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)


def philox(seed: int, stream: int, step: int, draw: int, n: int, first: int = 0) -> Array:
    """The words of `random.philox`: uint64 (n,), from word `first` on."""
    xp = library("cuda")
    block, skipped = divmod(first, 4)
    blocks = -(-(skipped + n) // 4)
    words = xp.empty((blocks, 4), np.uint64)
    numbers = map(np.uint64, (draw, step, seed, stream))
    counters = xp.arange(block, block + blocks, dtype=np.uint64)
    _in_one_launch()(counters, *numbers, *(words[:, j] for j in range(4)))
    return words.reshape(-1)[skipped : skipped + n]


@functools.cache
def _in_one_launch() -> Any:
    """`_philox` as a kernel that CuPy makes of its operations, of which there are 360."""
    return library("cuda").fuse(kernel_name="philox")(_philox)


def _philox(i: Word, draw: Word, step: Word, seed: Word, stream: Word, *out: Array) -> None:
    """Write the four words of Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011) of the counters
    (i, draw, step, 0), with the key (seed, stream), to the arrays `out`."""
    x, y, z, w, keys = i, draw, step, np.uint64(0), [seed, stream]
    for _ in range(10):
        (high_x, low_x), (high_z, low_z) = map(_multiplied, (x, z), _MULTIPLIERS)
        x, y, z, w = high_z ^ y ^ keys[0], low_z, high_x ^ w ^ keys[1], low_x
        keys = [key + np.uint64(growth) for key, growth in zip(keys, _WEYL)]
    for array, word in zip(out, (x, y, z, w)):
        array[...] = word


def _multiplied(x: Word, multiplier: int) -> tuple[Word, Word]:
    """The high and the low word of a product.

    The high word as on paper, in halves of 32 bits: no sum below reaches 2⁶⁴.
    """
    m = np.uint64(multiplier)
    m_low, m_high, x_low, x_high = m & _LOW, m >> _HALF, x & _LOW, x >> _HALF
    middle = x_high * m_low + ((x_low * m_low) >> _HALF)
    other = x_low * m_high + (middle & _LOW)
    return x_high * m_high + (middle >> _HALF) + (other >> _HALF), x * m
