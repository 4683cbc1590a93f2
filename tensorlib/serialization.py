"""Arrays to and from one safetensors file: names, shapes, numbers and a few strings, nothing that
could be executed. Any program that reads safetensors reads these files, PyTorch's included.

Knows no tensors' graph, no models: a state dict goes in, arrays come out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as _serialize

CHECKSUM = "sha256"  # the metadata entry that proves the rest of the file


def save_file(
    tensors: Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors or arrays, and strings as metadata, with a checksum over both.

    A crash at any moment leaves the complete old file or the complete new one. TypeError for what
    is neither a tensor nor an array.
    """
    metadata = metadata or {}
    arrays = {name: _array(name, tensor) for name, tensor in tensors.items()}
    checksum = {CHECKSUM: _sha256(arrays, metadata)}
    write_atomically(Path(path), _serialize(arrays, metadata={**metadata, **checksum}))


def load_file(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, metadata) of a safetensors file, the checksum verified if it carries one.

    ValueError, in one line, if the file is truncated, damaged, or no safetensors file at all;
    OSError if it cannot be read.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated, or not a safetensors file ({error})") from None
    except (TypeError, AttributeError, KeyError) as error:  # bfloat16, for instance
        raise ValueError(f"{path} has tensors of a type that NumPy lacks ({error})") from None
    if CHECKSUM in metadata:
        rest = {name: value for name, value in metadata.items() if name != CHECKSUM}
        if _sha256(arrays, rest) != metadata[CHECKSUM]:
            raise ValueError(f"{path} is damaged: its contents do not match its checksum")
    return arrays, metadata


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename over it."""
    beside = path.with_name(f".{path.name}.unfinished")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a directory cannot be opened, nor need it be
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _array(name: str, tensor: Any) -> np.ndarray:
    if not hasattr(tensor, "shape"):
        kind = type(tensor).__name__
        raise TypeError(f"{name!r} is a {kind}: a file holds tensors by name, as a state_dict()")
    array = tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu().numpy()
    return np.asarray(array, order="C")  # the library would write a transposed array wrong


def _sha256(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    # over contents in the order of names: the order in the file varies from run to run
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()
