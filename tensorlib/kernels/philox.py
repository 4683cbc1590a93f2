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

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # what the key grows by in each round
_LOW, _ALL = np.uint64(2**32 - 1), 2**64 - 1


def philox(seed: int, stream: int, step: int, draw: int, n: int, first: int = 0) -> Array:
    """The words of `random.philox`: uint64 (n,), from word `first` on.

    Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011) of the counters (i, draw, step, 0). A round
    multiplies the words 0 and 2 of a counter, and mixes the halves of the products with the words
    1 and 3 and the key; so the words are kept as two pairs, (2, counters) each.
    """
    xp = library("cuda")
    block, skipped = divmod(first, 4)
    blocks = -(-(skipped + n) // 4)
    factors = xp.zeros((2, blocks), np.uint64)  # words 0 and 2
    factors[0] = xp.arange(block, block + blocks, dtype=np.uint64)
    factors[1] = np.uint64(step)
    others = xp.zeros((2, blocks), np.uint64)  # words 1 and 3
    others[0] = np.uint64(draw)
    for i in range(10):
        high, low = _multiplied(factors)
        for row, key in enumerate((seed, stream)):
            others[row] ^= np.uint64((key + i * _WEYL[row]) & _ALL)
        factors, others = high[::-1] ^ others, low[::-1]
    words = xp.stack([factors[0], others[0], factors[1], others[1]], axis=1)
    return words.reshape(-1)[skipped : skipped + n]


def _multiplied(x: Array) -> tuple[Array, Array]:
    """The high and the low words of both rows of x (2, n) times the multipliers.

    The high word as on paper, in halves of 32 bits: no sum below reaches 2⁶⁴.
    """
    m, m_low, m_high = _multipliers()  # (2, 1) each
    x_low, x_high = x & _LOW, x >> np.uint64(32)
    middle = x_high * m_low + ((x_low * m_low) >> np.uint64(32))
    other = x_low * m_high + (middle & _LOW)
    return x_high * m_high + (middle >> np.uint64(32)) + (other >> np.uint64(32)), x * m


@functools.cache
def _multipliers() -> tuple[Array, Array, Array]:
    m = np.array(_MULTIPLIERS, np.uint64)[:, None]
    xp = library("cuda")
    return xp.asarray(m), xp.asarray(m & _LOW), xp.asarray(m >> np.uint64(32))
