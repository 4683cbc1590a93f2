"""Random words as a function of a counter, computed with array operations, where an array lives.

NumPy has this generator built in (`random.philox` uses it); a GPU has it from here, so that no
random bits are made on the host and copied. Both give the same words.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .device import library

Array = Any

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # what the key grows by in each round
_LOW, _ALL = np.uint64(2**32 - 1), 2**64 - 1


def philox(key: tuple[int, int], counter: tuple[int, int, int], blocks: int, device: str) -> Array:
    """Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011) of the counters (first + i, b, c, 0).

    key: two words. counter: (first, b, c). Returns uint64 (blocks, 4), a row per counter.
    A round multiplies the words 0 and 2 of a counter, and mixes the halves of the products with
    the words 1 and 3 and the key; so the words are kept as two pairs, (2, blocks) each.
    """
    xp = library(device)
    first, b, c = counter
    factors = xp.zeros((2, blocks), np.uint64)  # words 0 and 2
    factors[0] = xp.arange(first, first + blocks, dtype=np.uint64)
    factors[1] = np.uint64(c)
    others = xp.zeros((2, blocks), np.uint64)  # words 1 and 3
    others[0] = np.uint64(b)
    for i in range(10):
        high, low = _multiplied(factors, device)
        for row in (0, 1):
            others[row] ^= np.uint64((key[row] + i * _WEYL[row]) & _ALL)
        factors, others = high[::-1] ^ others, low[::-1]
    return xp.stack([factors[0], others[0], factors[1], others[1]], axis=1)


def _multiplied(x: Array, device: str) -> tuple[Array, Array]:
    """The high and the low words of both rows of x (2, n) times the multipliers.

    The high word as on paper, in halves of 32 bits: no sum below reaches 2⁶⁴.
    """
    m, m_low, m_high = _multipliers(device)  # (2, 1) each
    x_low, x_high = x & _LOW, x >> np.uint64(32)
    middle = x_high * m_low + ((x_low * m_low) >> np.uint64(32))
    other = x_low * m_high + (middle & _LOW)
    return x_high * m_high + (middle >> np.uint64(32)) + (other >> np.uint64(32)), x * m


@functools.cache
def _multipliers(device: str) -> tuple[Array, Array, Array]:
    m = np.array(_MULTIPLIERS, np.uint64)[:, None]
    xp = library(device)
    return xp.asarray(m), xp.asarray(m & _LOW), xp.asarray(m >> np.uint64(32))
