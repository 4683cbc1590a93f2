"""What a loss means: per byte of text, and at the least."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpt.data import Corpus


def bits_per_byte(loss: float, corpus: Corpus) -> float:
    """A validation loss, in nats per token, as bits per byte of UTF-8: comparable between
    tokenizers, of which one makes few tokens of a text and another many."""
    return loss / math.log(2) * len(corpus.val) / corpus.val_bytes


def lowest_loss(x: Any, y: Any) -> float:
    """The loss on a batch x, y (B, T) of a model that has learned it by heart: 0 but where
    sequences begin alike and then go on differently, where it can only know how often."""
    total, seen = 0.0, np.zeros(len(x), np.int64)  # (B,): which beginning each sequence has
    for tokens, following in zip(x.T, y.T):
        seen = _numbered(seen, tokens)
        continued = _numbered(seen, following)
        alike, same = np.bincount(seen)[seen], np.bincount(continued)[continued]  # (B,) how many
        total -= np.log(same / alike).sum()
    return float(total / x.size)


def _numbered(*columns: np.ndarray) -> np.ndarray:
    """A number for each row, (B,): the same one for rows that are the same."""
    return np.unique(np.stack(columns, 1), axis=0, return_inverse=True)[1].reshape(-1)
