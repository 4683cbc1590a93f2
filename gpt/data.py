"""A corpus: a text as tokens in two splits, and batches of them as a function of the step.

Knows no model. The tokens of a large text are in a file, in the user's cache directory, from which
the system reads the places that a batch needs (a memory map); those of a small one are in memory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tensorlib
from gpt.config import Stream, UserError
from gpt.text import bpe, cache
from gpt.text.reading import Text, cache_directory
from gpt.tokenizer import (
    BPETokenizer,
    BytesTokenizer,
    CharTokenizer,
    Tokenizer,
    gpt2_tokenizer,
    tokenizer_from_record,
)
from tensorlib import Tensor
from tensorlib.devices import device_of, move

_BPE_LEARNS_FROM = 50_000_000  # bytes; what more text changes in the merges, no model notices


@dataclass(frozen=True)
class Corpus:
    """A text as tokens: the first nine tenths to learn from, the rest to validate on.

    train, val: (tokens,), perhaps memory maps; a copy in another process maps the same file.
    """

    name: str
    sha256: str  # of the text: a resumed run must go on with the same one
    tokenizer: Tokenizer
    train: np.ndarray
    val: np.ndarray

    @classmethod
    def from_text(
        cls, name: str, text: str, block_size: int, tokenizer: str | Tokenizer = "char"
    ) -> Corpus:
        """As `load_corpus`, of a text in memory."""
        return load_corpus(Text.from_string(name, text), tokenizer, block_size)

    @functools.cached_property
    def val_bytes(self) -> int:
        """How many bytes of UTF-8 the validation split is: for bits per byte, which can be compared
        between tokenizers."""
        lengths, tokens = np.array([len(token) for token in self.tokenizer.tokens]), self.val
        size = 1 << 20  # tokens at once
        return sum(int(lengths[tokens[i : i + size]].sum()) for i in range(0, len(tokens), size))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {split: _place(getattr(self, split)) for split in ("train", "val")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for split in ("train", "val"):
            if isinstance(state[split], dict):
                self.__dict__[split] = np.memmap(**state[split])


def _place(tokens: np.ndarray) -> Any:
    """Where mapped tokens are, as arguments of np.memmap; of others, the tokens themselves."""
    if not isinstance(tokens, np.memmap):
        return tokens
    return {
        "filename": tokens.filename, "dtype": tokens.dtype, "mode": "r",
        "offset": tokens.offset, "shape": tokens.shape,
    }  # fmt: skip


def load_corpus(text: Text, tokenizer: str | Tokenizer, block_size: int) -> Corpus:
    """The text as tokens of `tokenizer`: one that exists, or one to be made, by its --tokenizer.

    UserError if a split would be too short for one sequence of `block_size` tokens.
    """
    if isinstance(tokenizer, str):
        tokenizer = make_tokenizer(tokenizer, text)
    splits = _in_memory(text, tokenizer) if text.is_small else _mapped(text, tokenizer)
    train, val = splits
    tokens, needed = len(train) + len(val), 10 * (block_size + 1)
    if tokens < needed:
        raise UserError(
            f"{text.name} is too short: {tokens:,} tokens, where --block-size {block_size} "
            f"needs {needed:,}; take a longer text or a smaller block size"
        )
    return Corpus(text.name, text.sha256, tokenizer, train, val)


def _split(tokens: int) -> int:
    return int(0.9 * tokens)


def _in_memory(text: Text, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.concatenate(list(_encoded(text, tokenizer)))
    return tokens[: _split(len(tokens))], tokens[_split(len(tokens)) :]


def _mapped(text: Text, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The splits as memory maps of a file that is kept for the next run with this text and this
    tokenizer; where it cannot be kept, in memory."""
    record = json.dumps(tokenizer.to_record(), sort_keys=True).encode()
    path = _kept(text, hashlib.sha256(record).hexdigest()[:16], "tokens")
    if not cache.is_whole(path):
        try:
            cache.keep(path, _encoded(text, tokenizer))
        except OSError as error:
            print(
                f"cannot keep the tokens in {path.parent} ({error.strerror}): they stay in memory",
                file=sys.stderr,
            )
            return _in_memory(text, tokenizer)
        print(f"its tokens are kept for the next run: {path}", file=sys.stderr)
    dtype = tokenizer.dtype
    tokens = (path.stat().st_size - cache.DIGEST) // dtype.itemsize
    split = _split(tokens)
    train = np.memmap(path, dtype, "r", shape=split)
    return train, np.memmap(path, dtype, "r", split * dtype.itemsize, shape=tokens - split)


def _encoded(text: Text, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    return (tokenizer.encode(piece) for piece in text.pieces("tokenizing"))


def _kept(text: Text, name: str, kind: str) -> Path:
    return cache_directory() / "texts" / f"{text.sha256[:16]}-{name}.{kind}"


# ----------------------------------------------------------------------------- a tokenizer for it


def make_tokenizer(kind: str, text: Text) -> Tokenizer:
    """The tokenizer that --tokenizer asks for, learned from `text` where it has to be; what is
    learned from a large text is kept for the next run."""
    if kind == "bytes":
        return BytesTokenizer()
    if kind == "gpt2":
        return gpt2_tokenizer()
    if text.is_small:
        return _learn(kind, text)
    path = _kept(text, kind.replace(":", "-"), "tokenizer")
    if cache.is_whole(path):
        with contextlib.suppress(UserError):  # of another version: learn it anew
            return tokenizer_from_record(json.loads(path.read_bytes()[: -cache.DIGEST]))
    tokenizer = _learn(kind, text)
    with contextlib.suppress(OSError):  # `_mapped` is about to say so
        cache.keep(path, [json.dumps(tokenizer.to_record()).encode()])
    return tokenizer


def _learn(kind: str, text: Text) -> Tokenizer:
    if kind == "char":
        return CharTokenizer("".join(sorted(set().union(*map(set, text.pieces("reading"))))))
    size = int(kind.removeprefix("bpe:"))
    every = -(-text.size // _BPE_LEARNS_FROM)  # of a very large text some pieces, from all over it
    pieces = (piece for i, piece in enumerate(text.pieces("counting words")) if i % every == 0)
    tokenizer = BPETokenizer(bpe.train(bpe.count_pre_tokens(pieces), size))
    if tokenizer.vocab_size < size:
        print(
            f"no pair occurs twice after {tokenizer.vocab_size - 256:,} merges: the vocabulary has "
            f"{tokenizer.vocab_size:,} tokens, not {size:,}",
            file=sys.stderr,
        )
    return tokenizer


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
        # drawn where the step is: in a CUDA graph it is on the device (`gpt.fast.cuda_graph`)
        words = tensorlib.random.philox(self.seed, self.stream, step, 0, B, device=device_of(step))
        starts = (words % np.uint64(len(self.tokens) - T)).astype(np.int64)  # (B,)
        starts = move(starts, device_of(self.tokens))  # all that a step copies to a GPU
        places = starts[:, None] + np.arange(T, like=starts)  # (B, T)
        return self._tensor(places), self._tensor(places + 1)

    @functools.cached_property  # of a large split there are very many
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
