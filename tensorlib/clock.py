"""The tape's clock: when an operation ran, and when memory was last changed in place.

A node of the tape that still needs an array's old values is older than the write that changed
them: so backward can say so, rather than compute with the new values. (PyTorch counts the versions
of each tensor to the same end.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

now = itertools.count(1).__next__  # the time, which is later with every call

# When memory was last written, by the id of the array that owns it. The id of a dead array is used
# again: so this does not grow for ever, and what that array left is older than any node that saves
# its successor.
_writes: dict[int, int] = {}
last_write = 0  # of any memory


def mark_written(array: Any) -> None:
    """Note that `array` was changed in place, as every in-place function does."""
    global last_write
    _writes[id(owner_of(array))] = last_write = now()


def last_written(array: Any) -> int:
    """When the memory of `array` was last changed in place; 0 for never."""
    return _writes.get(id(owner_of(array)), 0)


def owner_of(array: Any) -> Any:
    """The array whose memory `array` shows: itself, unless it is a view."""
    while isinstance(array.base, type(array)):
        array = array.base
    return array


def saved_arrays(value: Any) -> Iterator[Any]:
    """The arrays that gradient functions refer to: what their node saved for backward."""
    if callable(value):
        value = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from saved_arrays(item)
    elif hasattr(value, "strides"):
        yield value
