"""Text to integers and back: one integer per character, per byte, or per piece of a word.

Knows nothing of data sets or models. A checkpoint keeps the tokenizer's record, so that a model is
never sampled with another model's alphabet, and needs no network.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt.config import UserError
from gpt.text import bpe
from gpt.text.network import within

END_OF_TEXT = "<|endoftext|>"  # GPT-2's last token, which no text is encoded to


class Tokenizer:
    """What all kinds share. `decode_bytes(encode(text))` is the text's UTF-8, always.

    name: the kind, as --tokenizer has it.
    tokens: the bytes that each token stands for.
    """

    name: str
    tokens: Sequence[bytes]

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.tokens)

    @property
    def dtype(self) -> np.dtype:
        """The smallest integers that hold the tokens."""
        return np.min_scalar_type(max(self.vocab_size - 1, 0))

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text`, (tokens,) of `dtype`. UserError for a text that has none."""
        raise NotImplementedError

    def decode_bytes(self, tokens: Iterable[Any]) -> bytes:
        """What a sequence of tokens stands for; a single one may be part of a character.

        IndexError for a token that does not exist.
        """
        tokens = list(tokens)
        if min(tokens, default=0) < 0:
            raise IndexError("a token is negative")
        return b"".join(self.tokens[token] for token in tokens)

    def decode(self, tokens: Iterable[Any]) -> str:
        """The text of a sequence of tokens; what is not whole characters becomes U+FFFD."""
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def to_record(self) -> dict[str, Any]:
        """The tokenizer as JSON values, for `tokenizer_from_record`."""
        raise NotImplementedError


class CharTokenizer(Tokenizer):
    """One token per character, numbered in the order of their code points, as in the video.

    chars: the characters it knows, each once, sorted: token i is chars[i].
    """

    name = "char"

    def __init__(self, chars: str) -> None:
        self.chars = chars
        self.tokens = [char.encode() for char in chars]
        codes = _code_points(chars)
        self._table = np.full(int(codes.max(initial=0)) + 2, -1, np.int32)  # token of a code point
        self._table[codes] = np.arange(len(chars))

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The tokenizer whose characters are those of `text`."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> np.ndarray:
        """As `Tokenizer.encode`; the UserError names the characters that it does not know."""
        codes = _code_points(text)
        tokens = self._table[np.minimum(codes, len(self._table) - 1)]  # the last one is -1
        if len(tokens) and tokens.min() < 0:
            unknown = sorted({text[i] for i in np.flatnonzero(tokens < 0)})
            named = " ".join(map(repr, unknown[:20])) + (" …" if len(unknown) > 20 else "")
            raise UserError(f"the model never saw these characters: {named}; leave them out")
        return tokens.astype(self.dtype)

    def to_record(self) -> dict[str, Any]:
        return {"kind": "char", "chars": self.chars}


class BytesTokenizer(Tokenizer):
    """One token per byte of the text's UTF-8: any text has tokens, and there are 256."""

    name = "bytes"
    tokens = tuple(bytes([byte]) for byte in range(256))

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(_utf8(text), np.uint8)

    def to_record(self) -> dict[str, Any]:
        return {"kind": "bytes"}


class BPETokenizer(Tokenizer):
    """Byte-pair encoding (`bpe.py`) with GPT-2's pre-tokens: pieces of words, and all the bytes, so
    that any text has tokens. tiktoken does the encoding.

    merged: the bytes of each token in the order in which they are merged, the 256 bytes included.
    special: a last token that no text is encoded to.
    """

    def __init__(self, merged: Sequence[bytes], special: str | None = None) -> None:
        self.merged, self.special = merged, special
        self.tokens = [*merged, special.encode()] if special else merged
        self.name = "gpt2" if special else f"bpe:{len(merged)}"

    def encode(self, text: str) -> np.ndarray:
        _utf8(text)  # complains; tiktoken would put something else in the place of what is wrong
        parts = self._encoding.encode_ordinary_batch(list(bpe.pieces(text)))
        return np.concatenate([np.array(part, self.dtype) for part in parts])

    @functools.cached_property
    def _encoding(self) -> Any:
        import tiktoken  # which brings an HTTP library: only for those who need it

        ranks = {token: i for i, token in enumerate(self.merged)}
        special = {self.special: len(self.merged)} if self.special else {}
        return tiktoken.Encoding(
            self.name, pat_str=bpe.PATTERN, mergeable_ranks=ranks, special_tokens=special
        )

    def to_record(self) -> dict[str, Any]:
        kind = "gpt2" if self.special else "bpe"
        return {"kind": kind, "merged": [_visible(token) for token in self.merged]}

    def __reduce__(self) -> Any:  # without the encoding, which each process builds if it needs it
        return BPETokenizer, (self.merged, self.special)


def gpt2_tokenizer(
    instead: str = "take --tokenizer bpe:1024, which learns from the text", timeout: float = 20
) -> BPETokenizer:
    """GPT-2's own, by tiktoken, which downloads the vocabulary when it is first used.

    UserError if it cannot be had within `timeout` seconds; instead: what to do then.
    """
    import tiktoken

    try:
        encoding = within(timeout, lambda: tiktoken.get_encoding("gpt2"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot download GPT-2's vocabulary ({type(error).__name__}): {instead}, or set "
            "TIKTOKEN_CACHE_DIR to a directory that has tiktoken's files"
        ) from None
    tokens = [encoding.decode_single_token_bytes(i) for i in range(encoding.n_vocab - 1)]
    return BPETokenizer(tokens, END_OF_TEXT)


def gpt2_tokenizer_from_files(folder: Path) -> BPETokenizer:
    """GPT-2's tokenizer from the vocab.json and merges.txt of a Hugging Face folder.

    UserError if they cannot be read, or are numbered in another way than GPT-2's: the bytes, then
    the merges in their order, then <|endoftext|>.
    """
    try:
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"the tokenizer in {folder} is damaged: {error}") from None
    merges = [
        line.replace(" ", "", 1) for line in lines if line and not line.startswith("#version")
    ]
    try:
        merged = sorted(vocabulary, key=vocabulary.get)[:256] + merges
        if vocabulary != {token: i for i, token in enumerate([*merged, END_OF_TEXT])}:
            raise ValueError
        return _bpe({"kind": "gpt2", "merged": merged})
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"the tokenizer in {folder} is not numbered as GPT-2's: 256 bytes, the merges in "
            f"their order, {END_OF_TEXT}"
        ) from None


# ---------------------------------------------------------------------------------------- records


def tokenizer_from_record(record: Any) -> Tokenizer:
    """The tokenizer back from `to_record`'s JSON values. UserError for what is none."""
    try:
        return _KINDS[record["kind"]](record)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"the checkpoint's tokenizer is damaged ({reason:.80}); take another checkpoint"
        ) from None


def _char(record: dict[str, Any]) -> CharTokenizer:
    chars = record["chars"]
    if not isinstance(chars, str) or not chars or sorted(set(chars)) != list(chars):
        raise ValueError("chars are not a sorted alphabet")
    return CharTokenizer(chars)


def _bpe(record: dict[str, Any]) -> BPETokenizer:
    shown = record["merged"]
    if not isinstance(shown, list) or not all(isinstance(token, str) for token in shown):
        raise ValueError("merged is not a list of texts")
    merged = [_from_visible(token) for token in shown]
    if len(set(merged[:256])) < 256 or any(len(token) != 1 for token in merged[:256]):
        raise ValueError("the bytes are missing")
    if len(set(merged)) < len(merged) or b"" in merged or END_OF_TEXT.encode() in merged:
        raise ValueError("a token is empty or there twice")
    return BPETokenizer(merged, END_OF_TEXT if record["kind"] == "gpt2" else None)


_KINDS: dict[str, Callable[[dict[str, Any]], Tokenizer]] = {
    "char": _char, "bytes": lambda record: BytesTokenizer(), "bpe": _bpe, "gpt2": _bpe,
}  # fmt: skip

# GPT-2's files write a byte as a visible character (OpenAI's encoder.py has the rule): those that
# are visible in Latin-1 as themselves, the others, in their order, from U+0100 on. So do records.
_SHOWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]
_CHARACTER = {byte: chr(byte) for byte in _SHOWN}
_CHARACTER |= {byte: chr(0x100 + i) for i, byte in enumerate(_HIDDEN)}
_BYTE = {character: byte for byte, character in _CHARACTER.items()}


def _visible(token: bytes) -> str:
    return "".join(_CHARACTER[byte] for byte in token)


def _from_visible(token: str) -> bytes:
    return bytes(_BYTE[character] for character in token)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        wrong = text[error.start]
        raise UserError(f"the text is not valid UTF-8: it has {wrong!r}; leave it out") from None


def _code_points(text: str) -> np.ndarray:
    # "surrogatepass": a prompt that was not valid UTF-8 should be named, not crash
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
