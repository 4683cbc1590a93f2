"""Sampling: a model's text, token by token, as it is drawn.

Within the context length only the newest token is computed, on top of the keys and values kept of
all before it. Past it, the oldest token leaves the context, every other token's position (which the
model learned as absolute) shifts by one, and each step is computed afresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

import tensorlib
from gpt.config import Sampling, Stream
from gpt.decode import decode
from tensorlib import Tensor

if TYPE_CHECKING:
    from gpt.model import GPT
    from gpt.tokenizer import CharTokenizer


def generate(
    model: GPT,
    idx: Tensor,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """Continue each row of `idx` (B, T): yields `max_new_tokens` times the next tokens (B, 1).

    The same seed draws the same tokens; rows draw independently. use_cache changes the speed only.
    ValueError if `idx` holds no token.
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
    tokenizer: CharTokenizer,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
) -> Iterator[str]:
    """Continue `prompt`: yields the new text, piece by piece. Without a prompt the model starts
    from token 0, as in the video. UserError for characters that the tokenizer does not know."""
    start = tokenizer.encode(prompt) if prompt else np.zeros(1)
    idx = tensorlib.from_numpy(start[None].astype(np.int64)).to(model.device)  # (1, T)
    for token in generate(model, idx, max_new_tokens, sampling, seed):
        yield tokenizer.decode([token.item()])


def draw(logits: np.ndarray, uniform: np.ndarray, sampling: Sampling) -> np.ndarray:
    """One token (B,) int64 per row of logits (B, V): where `uniform` (B,), numbers in [0, 1), falls
    when the tokens' probabilities are laid side by side, the likeliest first.

    Among equally likely tokens the smaller number comes first, so top_k leaves exactly k tokens.
    """
    order = np.argsort(-logits, axis=1, kind="stable")  # (B, V), the likeliest first
    if sampling.temperature == 0:
        return order[:, 0]
    p = np.take_along_axis(logits, order, axis=1).astype(np.float64)
    p = np.exp((p - p[:, :1]) / sampling.temperature)  # not yet summing to 1
    if sampling.top_k is not None:
        p[:, sampling.top_k :] = 0
    if sampling.top_p is not None:
        before = np.cumsum(p, axis=1) - p  # what the likelier tokens have together
        p[before >= sampling.top_p * p.sum(axis=1, keepdims=True)] = 0
    cumulative = np.cumsum(p, axis=1)
    rank = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)
    return np.take_along_axis(order, rank[:, None], axis=1)[:, 0]


def _uniform(seed: int, step: int, n: int) -> np.ndarray:
    words = tensorlib.random.philox(seed, Stream.SAMPLE, step, 0, n)
    return (words >> np.uint64(11)) * 2.0**-53  # (n,), in [0, 1)
