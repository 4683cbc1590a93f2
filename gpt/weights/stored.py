"""Tensors in files that others wrote, read one at a time as float32: the largest models shall not
be in memory twice. Here safetensors; `torch_file.py` has PyTorch's own format."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from gpt.config import UserError

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16"}
_JSON_LIMIT = 16 << 20  # bytes; the largest that a model comes with, its vocabulary, has about one


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in a file: its shape, and how to read it, as float32."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def T(self) -> Stored:
        """The transposed matrix."""
        return Stored(self.shape[::-1], lambda: self.read().T)


def as_float32(data: Any, dtype: str) -> np.ndarray:
    """The numbers in some bytes, as a vector; dtype: NumPy's name, or bfloat16, which it lacks."""
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # a float64 may be beyond float32: then it is infinite
        return np.frombuffer(data, dtype).astype(np.float32, copy=False)


def read_safetensors(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """(tensors, metadata) of a safetensors file; tensors of other than floating-point numbers, such
    as masks, are left out. UserError if it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:  # proves that the header is right
            metadata = file.metadata() or {}
        with open(path, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or 'no such file'}") from None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is truncated, or not a safetensors file ({error})") from None
    header.pop("__metadata__", None)

    def stored(entry: dict[str, Any]) -> Stored:
        (start, end), shape = entry["data_offsets"], tuple(entry["shape"])

        def read() -> np.ndarray:
            # np.frombuffer sees the bytes where they are: one copy of them, or two where the
            # numbers have to be made float32
            with open(path, "rb") as file:
                file.seek(8 + length + start)
                return as_float32(file.read(end - start), _DTYPES[entry["dtype"]]).reshape(shape)

        return Stored(shape, read)

    return {
        name: stored(entry) for name, entry in header.items() if entry["dtype"] in _DTYPES
    }, metadata


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. UserError if there is none."""
    try:
        small = path.stat().st_size <= _JSON_LIMIT
        record = json.loads(path.read_bytes()) if small else None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged: it should be a JSON object")
    return record
