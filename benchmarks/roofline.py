"""Each fused kernel beside its limit: a kernel can be no faster than memory is read and written.

A kernel must read its inputs and write its outputs once; how fast that can be, a copy shows, on the
same GPU. What multiplies matrices (attention) is limited by how fast cuBLAS does that, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contest import Step, timed
from benchmarks.gpu import repetitions
from gpt.config import TrainConfig


class Case(NamedTuple):
    """A kernel with its arguments; `flops` where it multiplies matrices, else 0."""

    function: Callable[..., Any]
    arguments: tuple
    flops: int = 0
    changed: tuple = ()  # arrays among the arguments that it writes to

    @property
    def bytes(self) -> int:
        """What it must read and write."""
        return (
            _bytes(self.arguments) + _bytes(self.changed) + _bytes(self.function(*self.arguments))
        )


def _bytes(x: Any) -> int:
    if isinstance(x, tuple | list):
        return sum(map(_bytes, x))
    return getattr(x, "nbytes", 0) if getattr(x, "ndim", 0) else 0


NAMES = (
    "layer_norm", "layer_norm_backward", "gelu", "gelu_backward", "dropout", "dropout_add",
    "dropout_backward",
    "softmax", "cross_entropy", "cross_entropy_backward", "embedding", "embedding_backward",
    "attention", "attention_backward", "norm", "clip", "adam",
)  # fmt: skip


def cases(config: TrainConfig) -> Iterator[Case]:
    """One for each of `NAMES`, with the shapes of a training step; activations are float16."""
    from tensorlib.devices import library
    from tensorlib.kernels import gpu as k
    from tensorlib.random import Draw

    xp, rng, m = library("cuda"), np.random.default_rng(0), config.model
    B, T, C, H, V = config.batch_size, m.block_size, m.n_embd, m.n_head, m.vocab_size
    N = B * T

    def array(*shape: int, dtype: Any = np.float16) -> Any:
        return xp.asarray(rng.standard_normal(shape, np.float32).astype(dtype))

    x, dy, scale, hidden = array(N, C), array(N, C), array(C), array(N, 4 * C)
    _, normed, rstd = k.layer_norm(x, scale, scale, 1e-5)
    yield Case(k.layer_norm, (x, scale, scale, 1e-5))
    yield Case(k.layer_norm_backward, (dy, normed, rstd, scale, [True, True, True]))
    yield Case(k.gelu, (hidden, True))
    yield Case(k.gelu_backward, (hidden, hidden, True))
    keep = xp.asarray(rng.random((N, C)) < 0.8)
    yield Case(k.dropout, (x, Draw(1337, 2, 0, 0), 13107))
    yield Case(k.dropout, (x, Draw(1337, 2, 0, 0), 13107, array(N, C, dtype=np.float32)))
    yield Case(k.dropout_backward, (dy, keep, 13107))
    yield Case(k.softmax, (array(N, T), -1))
    logits, tokens = array(N, V), xp.asarray(rng.integers(V, size=N))
    ignored = xp.zeros(N, np.bool_)
    losses, shares = k.cross_entropy(logits, tokens, ignored, 0.0)
    yield Case(k.cross_entropy, (logits, tokens, ignored, 0.0))
    yield Case(k.cross_entropy_backward, (losses, shares, tokens, ignored, 0.0))
    yield Case(k.embedding, (tokens, array(V, C)))
    yield Case(k.embedding_backward, (dy, tokens, V))
    q, key, v, dheads = (array(B, H, T, C // H) for _ in range(4))
    causal = True, (C // H) ** -0.5
    _, saved = k.attention(q, key, v, None, *causal, None, 0)
    products = 2 * B * H * T * (T + 1) // 2 * (C // H)  # of one of the products of matrices
    yield Case(k.attention, (q, key, v, None, *causal, None, 0), 2 * products)
    backward = dheads, q, key, v, saved, *causal, 0
    yield Case(k.attention_backward, backward, 5 * products)
    n = 12 * m.n_layer * C * C + V * C
    p, g, mean, square = (array(n, dtype=np.float32) for _ in range(4))
    yield Case(k.norm, (g,))
    yield Case(k.clip, (g, k.norm(g), 1.0), changed=(g,))
    settings = 1, 1e-3, (0.9, 0.99), 1e-8, 0.1, True
    yield Case(k.adam, (p, g, mean, square**2, *settings), changed=(p, mean, square))


def kernels(config: TrainConfig) -> Callable[[float], list[float]]:
    """For each of `NAMES`: its bytes, its best time and the least that it can take, in seconds."""
    import tensorlib
    from tensorlib.devices import library

    xp: Any = library("cuda")
    wait = tensorlib.cuda.synchronize
    all_cases = dict(zip(NAMES, cases(config), strict=True))
    sizes = [case.bytes for case in all_cases.values()]  # which runs them all: they are compiled
    copied = sum(sizes) // 2  # far more than a cache holds
    source, target = xp.zeros(copied, np.uint8), xp.zeros(copied, np.uint8)
    N, C = config.batch_size * config.model.block_size, config.model.n_embd
    a, b = xp.zeros((N, 4 * C), np.float16), xp.zeros((4 * C, 4 * C), np.float16)

    def copy() -> None:
        target[...] = source

    def best(step: Step, seconds: float) -> float:
        together = repetitions(timed(step, 0, least=2, wait=wait))
        return min(timed(step, seconds, least=2, wait=wait, together=together))

    def measure(seconds: float) -> list[float]:
        seconds /= len(all_cases) + 2
        per_byte = best(copy, seconds) / (2 * copied)
        per_flop = best(lambda: a @ b, seconds) / (2 * a.size * b.shape[1])
        found: list[float] = []
        for case, size in zip(all_cases.values(), sizes):
            time = best(lambda case=case: case.function(*case.arguments), seconds)  # type: ignore[misc]
            found += [size, time, max(size * per_byte, case.flops * per_flop)]
        return found

    return measure
