"""Pickles, with the tensors of torch.save in them, read without running anything.

A pickle is a program for a small stack machine; Python's machine calls whatever functions the
program names. An allow-list of names (`pickle.Unpickler.find_class`) is not enough: its BUILD sets
attributes of whatever lies on the stack, and it takes as much memory as the program asks for. So
this is a machine of its own. `pickletools` takes the program apart, which executes nothing, and
`unpickle` knows the few instructions that containers, numbers, strings and tensors need, among them
none that calls, imports or builds. What is not written here does not exist.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

_DTYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "<?",
}  # fmt: skip
_ORDERED_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_NAMES = {_ORDERED_DICT, _TENSOR, *(f"torch {name}" for name in _DTYPES)}


class UnreadableError(ValueError):
    """What a file holds is not read; the message says why, in one line."""


@dataclass(frozen=True)
class _Name:
    """A function or class that a pickle names: no more than its name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """The numbers of one or more tensors: a file in the archive."""

    key: str
    dtype: str  # NumPy's name
    length: int

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class TorchTensor:
    """A view of a storage; offset and stride count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def unpickle(program: bytes) -> Any:
    """What a pickle of protocol 2 or later builds: dict, list, tuple, str, int, float, bool, None
    and TorchTensor. UnreadableError for a program that is damaged, or wants anything else.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop(n: int) -> list[Any]:
        if len(stack) < n:
            raise UnreadableError("its pickle is damaged")
        items = stack[len(stack) - n :]
        del stack[len(stack) - n :]
        return items

    def pop_to_mark() -> list[Any]:
        return pop(len(stack) - marks.pop())

    try:
        argument: Any
        for instruction, argument, _ in pickletools.genops(program):
            match instruction.name:
                case "PROTO" | "FRAME":
                    pass
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(instruction.name == "NEWTRUE")
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(argument)
                case "BINUNICODE" | "SHORT_BINUNICODE":
                    stack.append(argument)
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "MARK":
                    marks.append(len(stack))
                case "TUPLE":
                    stack.append(tuple(pop_to_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(pop(int(instruction.name[-1]))))
                case "APPEND":
                    _extend(stack[-2], pop(1))
                case "APPENDS":
                    items = pop_to_mark()
                    _extend(stack[-1], items)
                case "SETITEM":
                    _update(stack[-3], pop(2))
                case "SETITEMS":
                    items = pop_to_mark()
                    _update(stack[-1], items)
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(_name(argument))
                case "STACK_GLOBAL":
                    stack.append(_name("{} {}".format(*pop(2))))
                case "BINPERSID":
                    stack.append(_storage(pop(1)[0]))
                case "REDUCE":
                    stack.append(_rebuild(*pop(2)))
                case "BUILD":  # the attributes of an OrderedDict: a state dict's _metadata
                    pop(1)
                case "STOP":
                    return pop(1)[0]
                case name:
                    raise UnreadableError(
                        f"its pickle has the instruction {name}, which is not read"
                    )
    except UnreadableError:
        raise
    except (ValueError, IndexError, KeyError, TypeError):
        raise UnreadableError("its pickle is damaged") from None
    raise UnreadableError("its pickle does not end")


def _extend(list_: Any, items: list[Any]) -> None:
    if type(list_) is not list:
        raise TypeError
    list_ += items


def _update(dict_: Any, items: list[Any]) -> None:
    if type(dict_) is not dict or len(items) % 2:
        raise TypeError
    for key in items[::2]:
        # the hash of a tuple of tuples can take for ever, and long integers can be made to collide
        if type(key) is not str and not (type(key) is int and abs(key) < 1 << 31):
            raise TypeError
    dict_.update(zip(items[::2], items[1::2]))


def _name(name: str) -> _Name:
    if name not in _NAMES:
        raise UnreadableError(
            f"it names {name.replace(' ', '.')[:80]!r}, which is no tensor or number"
        )
    return _Name(name)


def _storage(record: Any) -> _Storage:
    """Of a persistent id: ("storage", class, key, device, length)."""
    match record:
        case ("storage", _Name(name), str(key), _, length) if _are_counts(length):
            return _Storage(key, _DTYPES[name.removeprefix("torch ")], length)
    raise TypeError


def _rebuild(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Name(name), () if name == _ORDERED_DICT:
            return {}
        case _Name(name), (_Storage() as storage, offset, tuple(shape), tuple(stride), *_) if (
            name == _TENSOR and len(shape) == len(stride) and _are_counts(offset, *shape, *stride)
        ):
            last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
            # no more numbers than the storage has: no stride of 0 makes a terabyte of one number
            if 0 in shape or last >= storage.length or math.prod(shape) > storage.length:
                raise UnreadableError("a tensor of it reaches beyond its storage")
            return TorchTensor(storage, offset, shape, stride)
    raise TypeError


def _are_counts(*values: Any) -> bool:
    return all(type(n) is int and 0 <= n < 1 << 62 for n in values)
