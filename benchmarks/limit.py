"""The limit: the matrix products of a training step, computed by NumPy and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from benchmarks.contest import timed
from gpt.config import TrainConfig


class Product(NamedTuple):
    """`times` in a step: `batch` products of (m, k) by (k, n), with "a" or "b" transposed."""

    times: int
    batch: int
    m: int
    k: int
    n: int
    transposed: str

    @property
    def flops(self) -> int:
        return 2 * self.times * self.batch * self.m * self.k * self.n

    def operands(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Random matrices: (batch, m, k) and (batch, k, n)."""
        shapes = {"a": (self.m, self.k), "b": (self.k, self.n)}
        a, b = (
            rng.random((self.batch, *shape[::-1]), np.float32).swapaxes(1, 2)
            if name == self.transposed
            else rng.random((self.batch, *shape), np.float32)
            for name, shape in shapes.items()
        )
        return a, b


def linear_products(config: TrainConfig) -> list[Product]:
    """Each linear layer's y = x Wᵀ, dx = dy W and dW = dyᵀ x."""
    m = config.model
    C, L, N = m.n_embd, m.n_layer, config.batch_size * m.block_size
    layers = [(L, C, 3 * C), (L, C, C), (L, C, 4 * C), (L, 4 * C, C), (1, C, m.vocab_size)]
    products = []
    for times, n_in, n_out in layers:
        products.append(Product(times, 1, N, n_in, n_out, "b"))
        products.append(Product(times, 1, N, n_out, n_in, ""))
        products.append(Product(times, 1, n_out, N, n_in, "a"))
    return products


def attention_products(config: TrainConfig) -> list[Product]:
    """q kᵀ and dy vᵀ; weights v and dscores k; weightsᵀ dy and dscoresᵀ q. Each is whole here,
    though where attention is causal little more than half of it is needed."""
    m = config.model
    T, E, times, batch = m.block_size, m.n_embd // m.n_head, 2 * m.n_layer, config.batch_size
    batch *= m.n_head
    return [
        Product(times, batch, T, E, T, "b"),
        Product(times, batch, T, T, E, ""),
        Product(times, batch, T, T, E, "a"),
    ]


def matmul(config: TrainConfig, threads: int, slices: bool) -> Callable[[float], list[float]]:
    """The best time of each product, in seconds, by how often it occurs; first the linear layers'.

    slices: threads of ours compute a part of the rows, or of the batch, each. Otherwise np.matmul
    is called once, and has the threads that BLAS was given.
    """
    products = linear_products(config) + attention_products(config)
    rng = np.random.default_rng(0)
    parts = threads if slices else 1
    each = ThreadPoolExecutor(threads).map if slices else map

    def best(product: Product, seconds: float) -> float:
        a, b = product.operands(rng)
        out = np.zeros((product.batch, product.m, product.n), np.float32)
        axis = 1 if product.batch == 1 else 0
        a_parts, out_parts = (np.array_split(array, parts, axis) for array in (a, out))
        b_parts = np.array_split(b, parts) if axis == 0 else [b] * parts

        def step() -> None:
            list(each(np.matmul, a_parts, b_parts, out_parts))

        return product.times * min(timed(step, seconds, least=2))

    return lambda seconds: [best(product, seconds / len(products)) for product in products]
