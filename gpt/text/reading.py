"""The text to learn: from a file, a folder, standard input or the network, read piece by piece, so
that it may be larger than memory.

Knows no tokens. A text is UTF-8; a mark at the beginning of a file is dropped, and line ends become
newlines, whatever system wrote them. The project carries no text of its own: without --data it
downloads tiny Shakespeare once, and where there is no network it takes the language reference that
every Python carries.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import platformdirs
from tqdm import tqdm

from gpt.config import UserError
from gpt.text.bpe import last_word_end
from gpt.text.network import download
from tensorlib.serialization import write_atomically

TINY_SHAKESPEARE = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TEXTS = "*.txt *.md"
STDIN = Path("-")
SMALL = 10_000_000  # bytes: up to here all is done in a second or two, without bar and cache
_BLOCK = 1 << 20  # bytes that are read at once


class Text:
    """A text that can be read again and again.

    name: what to call it.
    size: bytes of its files.
    """

    def __init__(self, name: str, sources: Sequence[Path | BinaryIO]) -> None:
        self.name, self._sources = name, sources
        self.size = sum(map(_size, sources))
        self._sha256: str | None = None

    @classmethod
    def from_string(cls, name: str, text: str) -> Text:
        """A text in memory."""
        return cls(name, [io.BytesIO(text.encode())])

    @property
    def is_small(self) -> bool:
        """Whether it is no burden to have it and its tokens in memory."""
        return self.size <= SMALL

    @property
    def sha256(self) -> str:
        """Of its UTF-8; the first time, it may have to be read for that."""
        if self._sha256 is None:
            for _ in self.pieces():
                pass
        assert self._sha256 is not None
        return self._sha256

    def pieces(self, doing: str = "reading") -> Iterator[str]:
        """The text, about a megabyte at a time, each piece cut so that its tokens do not depend on
        the next one's (`bpe.last_word_end`). On a terminal a bar shows what it is `doing`.

        UserError if a file cannot be read, is not UTF-8 or has changed since the last time, or if
        there is nothing to learn in the text.
        """
        rest, blank, digest = "", True, hashlib.sha256()
        for block in self._blocks(doing):
            blank = blank and not block.strip()
            digest.update(block.encode())
            rest += block
            if len(rest) >= _BLOCK:  # a thousand small files need not be a thousand pieces
                end = last_word_end(rest, 0, len(rest))
                yield rest[:end]
                rest = rest[end:]
        if blank:
            raise UserError(f"{self.name} is empty; --data needs a text to learn")
        if self._sha256 not in (None, digest.hexdigest()):
            raise UserError(f"{self.name} has changed while it was read; begin again")
        self._sha256 = digest.hexdigest()
        yield rest

    def read(self) -> str:
        """All of it."""
        return "".join(self.pieces())

    def _blocks(self, doing: str) -> Iterator[str]:
        hidden = True if self.is_small else None  # None: unless this is a terminal
        with tqdm(total=self.size, desc=doing, unit="B", unit_scale=True, disable=hidden) as bar:
            for i, source in enumerate(self._sources):
                if i:
                    yield "\n"  # so that a file never goes on in the line where another ended
                for content, text in _decoded(source):
                    bar.update(content)
                    yield text


def _size(source: Path | BinaryIO) -> int:
    if isinstance(source, Path):
        with _readable(source):
            return source.stat().st_size
    return source.seek(0, os.SEEK_END)


def _decoded(source: Path | BinaryIO) -> Iterator[tuple[int, str]]:
    """A file in blocks: (bytes, their text)."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), True)
    name, done = source if isinstance(source, Path) else "standard input", 0
    with _readable(name), contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        file.seek(0)
        while True:
            block = file.read(_BLOCK)
            done += len(block)
            try:
                yield len(block), decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = done - len(error.object) + error.start
                raise UserError(
                    f"{name} is not UTF-8 text (byte {place}); {_remedy(error.object, source)}"
                ) from None
            if not block:
                return


def _remedy(block: bytes, source: Path | BinaryIO) -> str:
    """What to do with a file that begins with a block like this one."""
    utf_16 = block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if not utf_16 and (b"\0" in block or block.startswith(b"%PDF-")):
        return "it is of another kind: leave it out, or save its text as plain text"
    name = source if isinstance(source, Path) else "FILE"
    return f"convert it: iconv -f {'utf-16' if utf_16 else 'latin1'} -t utf-8 {name} > new.txt"


@contextlib.contextmanager
def _readable(name: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}; check --data") from None


# ------------------------------------------------------------------------------------ where it is


def find_text(data: Path | None, patterns: str = TEXTS) -> Text:
    """The text at `data`: a file; of a folder all files below it that match one of the patterns,
    with spaces between them; of "-" standard input. Without `data`, tiny Shakespeare.

    UserError if there is none.
    """
    if data is None:
        return _default_text()
    if data == STDIN:
        if sys.stdin.isatty():
            print("reading the text from the terminal, until Ctrl-D", file=sys.stderr)
        return Text("standard input", [_spooled(sys.stdin.buffer)])
    with _readable(data):
        if data.is_dir():
            return Text(str(data), _files(data, patterns.split()))
        if not data.is_file() and data.exists():  # a pipe, say, which can be read only once
            with data.open("rb") as file:
                return Text(str(data), [_spooled(file)])
    return Text(str(data), [data])


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files below `folder` that match, sorted by folder and name.

    Upper and lower case do not matter. As in a shell, what begins with a dot is passed over; and
    links to files are followed, those to folders are not, so that there are no circles.
    """
    found = []
    for directory, below, names in os.walk(folder, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            path = Path(directory, name)
            if name.startswith(".") or not (path.is_file() or path.is_symlink()):
                continue
            relative = PurePosixPath(path.relative_to(folder).as_posix().lower())
            if any(relative.match(pattern.lower().removeprefix("**/")) for pattern in patterns):
                found.append(path)
    if not found:
        wanted = " or ".join(patterns)
        raise UserError(
            f"no file {wanted} in the folder {folder}; name others with --glob, in quotes: "
            '--glob "*.py *.rst"'
        )
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _raise(error: OSError) -> None:
    raise UserError(f"cannot read {error.filename}: {error.strerror}; check --data")


def _spooled(stream: BinaryIO) -> BinaryIO:
    """What can be read once, in a nameless file that can be read again."""
    try:
        spool = tempfile.TemporaryFile()  # noqa: SIM115
        shutil.copyfileobj(stream, spool, _BLOCK)
    except OSError as error:
        raise UserError(
            f"cannot keep standard input in {tempfile.gettempdir()}: {error.strerror}; make room "
            "there, or set TMPDIR to another directory"
        ) from None
    return spool


def load_text(path: Path | None) -> tuple[str, str]:
    """(name, text) of `find_text`, whole and in memory."""
    text = find_text(path)
    return text.name, text.read()


# --------------------------------------------------------------------------------- tiny Shakespeare


def cache_directory() -> Path:
    """Where this user's system keeps what can be had again."""
    return Path(platformdirs.user_cache_dir("tensorlib"))


def _default_text() -> Text:
    try:
        return Text("tiny Shakespeare", [io.BytesIO(tiny_shakespeare())])
    except OSError as error:
        print(
            f"cannot download tiny Shakespeare ({error}): going on with Python's language "
            "reference instead; --data FILE takes any text",
            file=sys.stderr,
        )
        from pydoc_data.topics import topics

        reference = "\n".join(topics.values()).encode()
        return Text("Python's language reference", [io.BytesIO(reference)])


def tiny_shakespeare(
    url: str = TINY_SHAKESPEARE, sha256: str = TINY_SHAKESPEARE_SHA256, timeout: float = 10
) -> bytes:
    """Tiny Shakespeare: from the user's cache directory, else downloaded into it.

    OSError if it cannot be had within `timeout` seconds, or is not the file with this `sha256`.
    """
    cached = cache_directory() / "tinyshakespeare.txt"
    if cached.exists() and hashlib.sha256(content := cached.read_bytes()).hexdigest() == sha256:
        return content
    print(f"downloading tiny Shakespeare (1.1 MB) to {cached}", file=sys.stderr)
    content = download(url, timeout)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise OSError(f"{url} answered with something else")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, content)
    except OSError as error:  # no place to keep it is no reason not to use it
        print(f"cannot keep it ({error}): the next run downloads it again", file=sys.stderr)
    return content
