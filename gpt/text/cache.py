"""Files in the user's cache directory that take long to make: kept whole, or not at all.

A kept file ends with the SHA-256 of all that is before it. So one that was cut off, or in which a
bit flipped, is noticed, and made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DIGEST = 32  # bytes at the end
_BLOCK = 1 << 20
_ABANDONED = 600  # seconds after which nobody writes an unfinished file any more


def keep(path: Path, content: Iterable[Any]) -> None:
    """Write the pieces of `content`, bytes or arrays, beside `path`; when all are on the disk,
    rename. OSError if that cannot be done; then there is no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{path.name}.*.unfinished"):  # by a process that was killed
        with contextlib.suppress(FileNotFoundError):  # whoever wrote it has just finished
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()
    descriptor, beside = tempfile.mkstemp(".unfinished", f"{path.name}.", path.parent)
    try:
        with open(descriptor, "wb") as file:
            digest = hashlib.sha256()
            for piece in content:
                file.write(piece)
                digest.update(piece)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether `path` is a file that `keep` has written, and as it was written."""
    try:
        left = path.stat().st_size - DIGEST
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
            return left == 0 and file.read() == digest.digest()
    except OSError:
        return False
