"""What can be read off a trained model: attention, similar vectors, norms, certainty.

Every function takes a model, which it leaves as it was, and returns plain arrays. Knows no files
and no HTML: `report.py` shows what is found here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

import tensorlib
from gpt.model import GPT, Block
from tensorlib import Tensor, autograd


def attention(model: GPT, idx: Tensor) -> np.ndarray:
    """Where every head looks: (layers, heads, T, T) for tokens `idx` (1, T); the row of a position
    sums to 1 over itself and those before it."""
    weights = []
    with tensorlib.no_grad(), model.evaluating():
        x = model.wte(idx) + model.wpe(tensorlib.arange(idx.shape[1]))  # (1, T, C)
        for block in model.h:
            assert isinstance(block, Block)
            weights.append(block_attention(block, x).numpy()[0])
            x = block(x)
    return np.stack(weights)


def block_attention(block: Block, x: Tensor) -> Tensor:
    """softmax(q kᵀ / √(C / heads)), masked: the weights (B, heads, T, T) with which a block adds up
    the values. The block itself never has them whole, its attention being fused."""
    B, T, C = x.shape
    heads = block.attn.n_head
    qkv = block.attn.c_attn(block.ln_1(x)).view(B, T, 3, heads, C // heads)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, C / heads)
    scores = q @ k.transpose(-2, -1) / math.sqrt(C // heads)  # (B, heads, T, T)
    future = tensorlib.tril(tensorlib.ones(T, T)) == 0
    return scores.masked_fill(future, -math.inf).softmax(-1)


def cosines(vectors: np.ndarray) -> np.ndarray:
    """The cosine of the angle between any two of the vectors (N, C): (N, N), from -1 to 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(vectors.dtype).tiny)
    return unit @ unit.T


def nearest(similarity: np.ndarray, k: int) -> np.ndarray:
    """For each of N things the k that are most similar to it, the closest first, without itself:
    (N, k), or (N, N - 1) if there are fewer. `similarity` is (N, N)."""
    others = similarity.copy()
    np.fill_diagonal(others, -math.inf)
    return np.argsort(-others, axis=1, kind="stable")[:, : min(k, len(others) - 1)]


class Norm(NamedTuple):
    """The Euclidean norm of a layer's parameters, weight and bias together, and of the gradient."""

    layer: str
    parameters: int
    weight: float
    gradient: float | None


def norms(model: GPT, batch: tuple[Tensor, Tensor] | None = None) -> list[Norm]:
    """One for each layer that has parameters, in the model's order; the gradients are those of the
    mean loss of `batch`, tokens (B, T) and the tokens that follow, without dropout."""
    named = dict(model.named_parameters())
    gradients: list[np.ndarray | None] = [None] * len(named)
    if batch is not None:
        with model.evaluating():
            _, loss = model(*batch)
        assert loss is not None
        found = autograd.grad(loss, list(named.values()))
        gradients = [None if g is None else g.numpy() for g in found]
    layers: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {}
    for (name, p), gradient in zip(named.items(), gradients):
        layers.setdefault(name.rpartition(".")[0], []).append((p.detach().numpy(), gradient))
    return [
        Norm(
            layer,
            sum(weight.size for weight, _ in pairs),
            _norm([weight for weight, _ in pairs]),
            None if batch is None else _norm([g for _, g in pairs if g is not None]),
        )
        for layer, pairs in layers.items()
    ]


def _norm(arrays: list[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.vdot(x, x)) for x in arrays))


class Predictions(NamedTuple):
    """N predictions of the next token: where the predicted token stands in the split (N,), how
    many tokens the model saw before it (N,), and the probability of every token (N, V)."""

    places: np.ndarray
    seen: np.ndarray
    probabilities: np.ndarray


def predictions(model: GPT, tokens: np.ndarray, n: int) -> Predictions:
    """About `n` predictions, spread evenly over a split of `tokens`, each with at least half a
    context before it: without one everything is uncertain."""
    T = model.config.block_size
    least = T // 2
    rows = min(max(n // (T - least), 1), len(tokens) // T)
    starts = np.unique(np.linspace(0, len(tokens) - T - 1, rows).astype(np.int64))
    places = starts[:, None] + np.arange(T)  # (B, T)
    with tensorlib.no_grad(), model.evaluating():
        logits, _ = model(tensorlib.from_numpy(tokens[places].astype(np.int64)))
        probabilities = logits.softmax(-1).numpy()[:, least:]  # (B, T - least, V)
    seen = np.broadcast_to(np.arange(least, T) + 1, places[:, least:].shape)
    V = probabilities.shape[-1]
    return Predictions(places[:, least:].ravel() + 1, seen.ravel(), probabilities.reshape(-1, V))
