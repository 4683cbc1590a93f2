"""Files of torch.save and pickle.dump, read without PyTorch.

torch.save writes a zip archive: a pickle (`unpickle.py`), and beside it the numbers of the tensors,
to which the pickle refers by the names of their files.
"""

from __future__ import annotations

import functools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpt.config import UserError
from gpt.weights.stored import Stored, as_float32
from gpt.weights.unpickle import TorchTensor, UnreadableError, unpickle

_LIMIT = 4 << 20  # bytes of a pickle: GPT-2 XL with its optimizer has a tenth of that


class TorchFile:
    """A file of torch.save: a zip archive of a pickle and of the storages that it refers to.

    content: what was saved, with a TorchTensor for each tensor.
    """

    def __init__(self, path: Path) -> None:
        """UserError for a file that is damaged, of PyTorch's format before 2020, or that holds
        anything but containers, numbers, strings and tensors."""
        self.path = path
        with _complaints(path):
            self.archive = _archive(path)
            self.size = path.stat().st_size
            names = [n for n in self.archive.namelist() if n.endswith("/data.pkl")]
            if len(names) != 1:
                raise UnreadableError("it is a zip archive, but not of torch.save")
            self.folder = names[0].removesuffix("data.pkl")
            has_order = f"{self.folder}byteorder" in self.archive.namelist()
            if has_order and self._bytes("byteorder", 16) != b"little":
                raise UnreadableError("a machine with another byte order wrote it")
            self.content = unpickle(self._bytes("data.pkl", _LIMIT))

    def stored(self, tensors: Mapping[str, TorchTensor]) -> dict[str, Stored]:
        """Tensors of the content, to be read. UserError if they together are larger than the file
        could hold: then they share storages, and reading could take for ever."""
        with _complaints(self.path):
            total = sum(t.storage.length * t.storage.itemsize for t in tensors.values())
            if total > 2 * self.size:  # twice: a tied head is the token embedding again
                raise UnreadableError("its tensors are larger than the file")
        return {
            name: Stored(t.shape, functools.partial(self._read, t)) for name, t in tensors.items()
        }

    def _read(self, tensor: TorchTensor) -> np.ndarray:
        storage = tensor.storage
        with _complaints(self.path):
            data = self._bytes(f"data/{storage.key}", self.size)
            if len(data) != storage.length * storage.itemsize:
                raise UnreadableError("a storage of it is truncated")
        numbers = as_float32(data, storage.dtype)
        strides = tuple(4 * step for step in tensor.stride)
        view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides)
        return np.ascontiguousarray(view)

    def _bytes(self, name: str, limit: int) -> bytes:
        """A file of the archive; torch.save compresses none, so none becomes larger than it is."""
        entry = self.archive.getinfo(self.folder + name)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UnreadableError("it is compressed, which torch.save never does")
        if max(entry.file_size, entry.compress_size) > min(limit, self.size):
            raise UnreadableError(f"its {name} is larger than it can be")
        return self.archive.read(entry)


def unpickle_file(path: Path) -> Any:
    """What a file of pickle.dump holds, read as `unpickle` does. UserError for anything else."""
    with _complaints(path), open(path, "rb") as file:
        return unpickle(file.read(_LIMIT))


def _archive(path: Path) -> zipfile.ZipFile:
    with open(path, "rb") as file:
        if file.read(1) == b"\x80":  # a pickle
            raise UnreadableError(
                "it is in PyTorch's format before 2020; torch.load and save it anew"
            )
    return zipfile.ZipFile(path)


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    try:
        yield
    except UnreadableError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except (
        OSError, zipfile.BadZipFile, ValueError, KeyError, EOFError, RuntimeError, OverflowError,
        struct.error,
    ) as error:  # zipfile's, for a directory that says nonsense  # fmt: skip
        reason = "it is damaged, or no file of torch.save"
        if isinstance(error, OSError) and error.filename is not None:  # it cannot be opened
            reason = error.strerror or reason
        raise UserError(f"cannot read {path}: {reason}") from None
