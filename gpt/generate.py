"""Sampling: a model's text, token by token, as it is drawn.

Within the context length only the newest token is computed, on top of the keys and values kept of
all before it. Past it, the oldest token leaves the context, every other token's position (which the
model learned as absolute) shifts by one, and each step is computed afresh.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

import tensorlib
from gpt.config import Sampling, Stream, UserError
from gpt.fast.decode import decode
from gpt.tokenizer import END_OF_TEXT, Tokenizer
from tensorlib import Tensor

if TYPE_CHECKING:
    from gpt.model import GPT


def generate(
    model: GPT,
    idx: Tensor,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | Sequence[int],
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """Continue each row of `idx` (B, T): yields `max_new_tokens` times the next tokens (B, 1).

    The same seed draws the same tokens; rows draw independently. With a seed for each row, a row
    draws as it would alone. use_cache changes the speed only. ValueError if `idx` holds no token.
    """
    if idx.shape[1] == 0:
        raise ValueError("generate: idx holds no token to continue")
    (B, T), block_size = idx.shape, model.config.block_size
    past = model.new_past() if use_cache else None
    decodes = model.is_unchanged() and not tensorlib.is_autocast_enabled()
    text = [idx]  # in pieces: the newest is all that the cache needs
    with model.evaluating():
        for step in range(max_new_tokens):
            with tensorlib.no_grad():  # not around the loop: our caller's code runs at the yield
                if past is None or T + step > block_size:
                    text = [tensorlib.cat(text, dim=1)[:, -block_size:]]
                    logits = model(text[0])[0][:, -1]
                elif step and decodes:
                    logits = Tensor(decode(model, text[-1].array[:, 0], past))
                else:
                    logits = model(text[-1], past=past)[0][:, -1]
            tokens = draw(logits.cpu().numpy(), _uniform(seed, step, B), sampling)  # (B,)
            text.append(tensorlib.from_numpy(tokens[:, None]).to(idx.device))
            yield text[-1]  # (B, 1)


def generate_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
) -> Iterator[str]:
    """Continue `prompt`, or begin as `encode_prompt` does: yields the new text, piece by piece.
    UserError for characters that the tokenizer does not know."""
    pieces = generate_texts(model, tokenizer, prompt, max_new_tokens, sampling, [seed])
    return (piece or "" for (piece,) in pieces)


def generate_texts(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    stop: str | None = None,
) -> Iterator[list[str | None]]:
    """Continue `prompt` once with each of the seeds, in one batch: yields, for every token, what
    each text goes on with, None for one that has ended. A text ends before its first `stop`."""
    start = encode_prompt(tokenizer, prompt)
    idx = tensorlib.from_numpy(np.tile(start, (len(seeds), 1))).to(model.device)  # (B, T)
    texts = [Text(tokenizer, stop) for _ in seeds]
    drawn = generate(model, idx, max_new_tokens, sampling, seeds)
    for step, tokens in enumerate(drawn, 1):
        last = step == max_new_tokens
        yield [text.add(token, last) for text, (token,) in zip(texts, tokens.tolist())]
        if all(text.ended for text in texts):
            return


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
    """The tokens (T,) int64 that a model continues. Without a prompt: the token that
    GPT-2 begins with; if the tokenizer has none a new line, as in the video; or else token 0.
    UserError for characters that it does not know."""
    if prompt:
        return tokenizer.encode(prompt).astype(np.int64)
    if tokenizer.tokens[-1] == END_OF_TEXT.encode():
        return np.array([tokenizer.vocab_size - 1], np.int64)
    try:
        return tokenizer.encode("\n").astype(np.int64)
    except UserError:
        return np.zeros(1, np.int64)


class Text:
    """A text that grows by one token at a time, of which only that is told which is certain: whole
    characters, and nothing that may turn out to begin `stop`. ended: whether `stop` was found."""

    def __init__(self, tokenizer: Tokenizer, stop: str | None = None) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, token: int, last: bool = False) -> str | None:
        """What can be told of the text after this token; None if it ended before. last: no token
        will follow, so tell all."""
        if self.ended:
            return None
        text = self._held + self._decoder.decode(self.tokenizer.decode_bytes([token]), last)
        certain = len(text)
        if self.stop is not None:
            certain = text.find(self.stop)
            self.ended = certain >= 0
            if not self.ended:
                certain = len(text) if last else _without_beginning(text, self.stop)
        self._held = text[certain:]
        return text[:certain]


def _without_beginning(text: str, stop: str) -> int:
    """How much of `text` cannot belong to a `stop` that is not complete yet."""
    for start in range(max(len(text) - len(stop) + 1, 0), len(text)):
        if stop.startswith(text[start:]):
            return start
    return len(text)


def draw(logits: np.ndarray, uniform: np.ndarray, sampling: Sampling) -> np.ndarray:
    """One token (B,) int64 per row of logits (B, V): where `uniform` (B,), numbers in [0, 1), falls
    when the tokens' probabilities are laid side by side, the likeliest first.

    Among equally likely tokens the smaller number comes first, so top_k leaves exactly k tokens.
    """
    order = np.argsort(-logits, axis=1, kind="stable")  # (B, V), the likeliest first
    if sampling.temperature == 0:
        return order[:, 0]
    rows = np.arange(len(order))
    p = logits[rows[:, None], order].astype(np.float64)
    p = np.exp((p - p[:, :1]) / sampling.temperature)  # not yet summing to 1
    if sampling.top_k is not None:
        p[:, sampling.top_k :] = 0
    if sampling.top_p is not None:
        before = np.cumsum(p, axis=1) - p  # what the likelier tokens have together
        p[before >= sampling.top_p * p.sum(axis=1, keepdims=True)] = 0
    cumulative = np.cumsum(p, axis=1)
    rank = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)
    return order[rows, rank]


def _uniform(seed: int | Sequence[int], step: int, n: int) -> np.ndarray:
    if isinstance(seed, Sequence):
        return np.concatenate([_uniform(row, step, 1) for row in seed])  # (n,)
    words = tensorlib.random.philox(seed, Stream.SAMPLE, step, 0, n)
    return (words >> np.uint64(11)) * 2.0**-53  # (n,), in [0, 1)
