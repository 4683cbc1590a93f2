"""A corpus: its text, its tokens in two splits, and batches of them as a function of the step.

Knows no model. The project carries no text of its own: without --data it downloads tiny Shakespeare
once, and where there is no network it takes the language reference that every Python carries.
"""

from __future__ import annotations

import hashlib
import queue
import sys
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

import tensorlib
from gpt.config import Stream, UserError
from gpt.tokenizer import CharTokenizer
from tensorlib import Tensor
from tensorlib.device import device_of, move
from tensorlib.serialization import write_atomically

TINY_SHAKESPEARE = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


# -------------------------------------------------------------------------------------- the text


def load_text(path: Path | None) -> tuple[str, str]:
    """(name, text) of the file or directory at `path`; of tiny Shakespeare without one, or where
    that cannot be had, of Python's language reference.

    UserError if there is no such file, or no text in it, or it is not UTF-8.
    """
    if path is not None:
        return str(path), read_text(path)
    try:
        return "tiny Shakespeare", tiny_shakespeare().decode("utf-8")
    except OSError as error:
        print(
            f"cannot download tiny Shakespeare ({error}): going on with Python's language "
            "reference instead; --data FILE takes any text",
            file=sys.stderr,
        )
        from pydoc_data.topics import topics

        return "Python's language reference", "\n".join(topics.values())


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, or of all .txt files below a directory, in the order of names."""
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"no .txt file in the directory {path}; name a text file with --data")
    text = "\n".join(_read_file(file) for file in files)
    if not text.strip():
        raise UserError(f"{path} is empty; --data needs a text to learn")
    return text


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it, for instance: "
            "iconv -f latin1 -t utf-8"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check --data") from None


def tiny_shakespeare(
    url: str = TINY_SHAKESPEARE, sha256: str = TINY_SHAKESPEARE_SHA256, timeout: float = 10
) -> bytes:
    """Tiny Shakespeare: from the user's cache directory, else downloaded into it.

    OSError if it cannot be had within `timeout` seconds, or is not the file with this `sha256`.
    """
    cached = Path(platformdirs.user_cache_dir("tensorlib")) / "tinyshakespeare.txt"
    if cached.exists() and hashlib.sha256(content := cached.read_bytes()).hexdigest() == sha256:
        return content
    print(f"downloading tiny Shakespeare (1.1 MB) to {cached}", file=sys.stderr)
    content = _download(url, timeout)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise OSError(f"{url} answered with something else")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, content)
    except OSError as error:  # no place to keep it is no reason not to use it
        print(f"cannot keep it ({error}): the next run downloads it again", file=sys.stderr)
    return content


def _download(url: str, timeout: float) -> bytes:
    # In a thread, because a name look-up cannot be interrupted: without a network it may take
    # minutes, and whoever waits should hear about it within seconds.
    answers: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def fetch() -> None:
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                answers.put(response.read())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=fetch, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError(f"no answer within {timeout:.0f} seconds") from None
    if isinstance(answer, bytes):
        return answer
    raise OSError(getattr(answer, "reason", answer)) from answer


# -------------------------------------------------------------------------------------- its tokens


@dataclass(frozen=True)
class Corpus:
    """A text as tokens: the first nine tenths to learn from, the rest to validate on."""

    name: str
    sha256: str  # of the text: a resumed run must go on with the same one
    tokenizer: CharTokenizer
    train: np.ndarray  # (tokens,)
    val: np.ndarray  # (tokens,)

    @classmethod
    def from_text(cls, name: str, text: str, block_size: int) -> Corpus:
        """UserError if a split would be too short for one sequence of `block_size` tokens."""
        needed = 10 * (block_size + 1)
        if len(text) < needed:
            raise UserError(
                f"{name} is too short: {len(text)} characters, where --block-size {block_size} "
                f"needs {needed}; take a longer text or a smaller block size"
            )
        tokenizer = CharTokenizer.from_text(text)
        tokens = tokenizer.encode(text)
        split = int(0.9 * len(tokens))
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        return cls(name, sha256, tokenizer, train=tokens[:split], val=tokens[split:])


@dataclass(frozen=True)
class Batches:
    """`batch(step)` for a split: a pure function of the seed, the stream and the step."""

    tokens: Any  # (tokens,), an array on the device where the batches shall be
    batch_size: int
    block_size: int
    seed: int
    stream: Stream

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(B, T) tokens from random places, and the (B, T) tokens that follow each."""
        B, T = self.batch_size, self.block_size
        # drawn where the step is: in a CUDA graph it is on the device (`gpt.cuda_graph`)
        words = tensorlib.random.philox(self.seed, self.stream, step, 0, B, device=device_of(step))
        starts = (words % np.uint64(len(self.tokens) - T)).astype(np.int64)  # (B,)
        starts = move(starts, device_of(self.tokens))  # all that a step copies to a GPU
        places = starts[:, None] + np.arange(T, like=starts)  # (B, T)
        return self._tensor(places), self._tensor(places + 1)

    @property
    def windows(self) -> list[tuple[int, int]]:
        """The whole split in pieces (start, end), each token once as a target: batches of sequences
        side by side, and at the end a sequence that is shorter than T."""
        last = len(self.tokens) - 1
        whole = last - last % self.block_size
        size = self.batch_size * self.block_size
        pieces = [(start, min(start + size, whole)) for start in range(0, whole, size)]
        return pieces if whole == last else [*pieces, (whole, last)]

    def window(self, i: int) -> tuple[Tensor, Tensor]:
        """Piece i of `windows`: (B, T) tokens, and the (B, T) tokens that follow each."""
        start, end = self.windows[i]
        T = min(self.block_size, end - start)
        places = np.arange(start, end, like=self.tokens).reshape(-1, T)  # (B, T)
        return self._tensor(places), self._tensor(places + 1)

    def _tensor(self, places: Any) -> Tensor:
        return Tensor(self.tokens[places].astype(np.int64))
