"""Text to integers and back, one integer per character.

Knows nothing of data sets or models. A checkpoint keeps the tokenizer's `record`, so that a model
is never sampled with another model's alphabet.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt.config import UserError


class CharTokenizer:
    """One token per character, numbered in the order of their code points, as in the video.

    chars: the characters it knows, each once, sorted: token i is chars[i].
    """

    def __init__(self, chars: str) -> None:
        self.chars = chars
        self._codes = _code_points(chars)  # ascending, so that encode can search in it

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The tokenizer whose characters are those of `text`."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.chars)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text`, in the smallest integers that hold them, of shape (len(text),).

        UserError, naming the characters, if there are any that the tokenizer does not know.
        """
        codes = _code_points(text)
        tokens = np.searchsorted(self._codes, codes)
        known = self._codes[np.minimum(tokens, self.vocab_size - 1)] == codes
        if not known.all():
            unknown = sorted({text[i] for i in np.flatnonzero(~known)})
            named = " ".join(map(repr, unknown))
            raise UserError(f"the model never saw these characters: {named}; leave them out")
        return tokens.astype(np.min_scalar_type(self.vocab_size - 1))

    def decode(self, tokens: Any) -> str:
        """The text of a sequence of tokens. IndexError for a token that does not exist."""
        return "".join(self.chars[token] for token in tokens)

    def decode_bytes(self, tokens: Any) -> bytes:
        """The UTF-8 bytes of a sequence of tokens."""
        return self.decode(tokens).encode("utf-8", "surrogatepass")

    def to_record(self) -> dict[str, Any]:
        """The tokenizer as JSON values."""
        return {"kind": "characters", "chars": self.chars}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> CharTokenizer:
        """The tokenizer back from `to_record`'s values."""
        return cls(record["chars"])


def _code_points(text: str) -> np.ndarray:
    # "surrogatepass": a prompt that was not valid UTF-8 should be named, not crash
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
