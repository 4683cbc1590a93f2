"""An index out of range is an error: on the CPU at once, on a GPU at the next call that waits.

To see an index on a GPU the host would have to wait for it, in every step. So the GPU keeps the
worst one, a number for each kind of check, and whoever waits anyway has a look at these numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = Any

_TABLE = 256  # numbers that are allocated together, and looked at together
_tables: list[Array] = []  # on the GPU: uint64 (_TABLE,) each
_places: dict[Bounds, Array] = {}  # in the order of the tables


class Bounds(NamedTuple):
    """The indices from `low` to `size` − 1, and what is said of others: "`what` 7 is out of range
    for 5 `of`"."""

    what: str
    size: int
    of: str
    low: int = 0
    kind: type[Exception] = IndexError

    def error(self, index: int, where: str = "") -> Exception:
        return self.kind(f"{self.what} {index} is out of range for {self.size} {self.of}{where}")

    def check(self, index: Array) -> None:
        """Raise the error if one in an array of integers is out of range; on a GPU, keep it."""
        if not index.size:
            return
        if isinstance(index, np.ndarray):
            least, most = index.min(), index.max()
            if least < self.low or most >= self.size:
                raise self.error(least if least < self.low else most)
        else:
            index = index.astype(np.int64, copy=False)
            index = index - self.low if self.low else index
            worst = self.worst(index)
            np.maximum(worst, index.view(np.uint64).max(), out=worst)

    def worst(self, like: Array) -> Array:
        """Where the GPU, on which `like` is, keeps the largest index − low it has met: uint64 (1,).

        What is negative is as uint64 larger than all. A kernel need only write what is out of range
        (`in_range` in `common.cuh`). The memory stays the same: a CUDA graph knows its address.
        """
        if self not in _places:
            i = len(_places) % _TABLE
            if i == 0:
                _tables.append(np.zeros(_TABLE, np.uint64, like=like))
            _places[self] = _tables[-1][i : i + 1]
        return _places[self]


def raise_kept() -> None:
    """Raise the error of an index that was out of range on the GPU, and have the GPU forget it.

    Waits for the GPU.
    """
    kept = (x for table in _tables for x in table.get())
    for bounds, worst in zip(_places, kept):
        if worst >= bounds.size - bounds.low:
            for table in _tables:
                table.fill(0)
            index = int(worst.view(np.int64)) + bounds.low
            raise bounds.error(index, ", in an earlier call on the GPU")
