"""The list: every public name through which a gradient flows, with inputs to try it on.

A tuple is a random tensor of that shape, an array of integers or bools a constant one. A test
compares this list with the names that the package has, in both directions.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from .case import Case, Training, find, layer, op

X, ROW, BATCH = (3, 4), (4,), (2, 3, 4)
MASK = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]], bool)
CAUSAL = np.tril(np.ones((3, 3), bool))
PLACES = np.array([[2, 0, 2, 1], [0, 1, 1, 2]])  # some come twice
CLASSES = np.array([3, 0, 2])
EXACT = np.array([0.5, -1.25, 1.75])  # 16 bits hold them, also when they are moved by 1/64


def cast(name: str, function: Any) -> Case:
    """Another type rounds, and has a slope all the same where the steps are exact."""
    return op(name, EXACT, function=function, step=1 / 64)


def dropping(name: str, *arguments: Any, function: Any) -> Case:
    """With random numbers of our own, always the same: PyTorch drops others."""

    @functools.wraps(function)
    def seeded(t: Any, *tensors: Any) -> Any:
        t.manual_seed(0)
        return function(t, *tensors)

    case = op(name, *arguments, function=seeded, theirs=False)
    return dataclasses.replace(case, label=case.label[:-1] + ", p=0.3)")


def training(name: str, **options: Any) -> Training:
    """Five steps of an optimizer for a small network."""
    network = layer(
        "nn.Sequential",
        X,
        build=lambda t: t.nn.Sequential(t.nn.Linear(4, 3), t.nn.Tanh(), t.nn.Linear(3, 4)),
    )

    def loss(t: Any, *tensors: Any) -> Any:
        logits = network.function(t, *tensors)
        return t.nn.functional.cross_entropy(logits, t.tensor(CLASSES, device=logits.device))

    written = ", ".join(f"{key}={value}" for key, value in options.items())
    return Training(
        name,
        f"{name}({written})",
        dataclasses.replace(network, function=loss, theirs=loss),
        lambda t, tensors: find(t, name)(tensors, **options),
    )


ARITHMETIC = [
    op("add", X, ROW),
    op("sub", X, ROW),
    op("mul", X, ROW),
    op("div", X, ROW).within(0.5, 2),
    op("pow", X, ROW).within(0.5, 2),
    op("pow", X, 3),
    op("neg", X),
    op("abs", X),
    op("Tensor.__rsub__", X, 2.0),
    op("Tensor.__rtruediv__", X, 2.0).within(0.5, 2),
    op("Tensor.__rpow__", X, 2.0),
    op("matmul", BATCH, (4, 2)),
    op("matmul", BATCH, (2, 4, 2)),
    op("matmul", (4,), (4, 3)),
    op("outer", (3,), (4,)),
]

FUNCTIONS = [
    op("exp", X),
    op("log", X).within(0.5, 3),
    op("sqrt", X).within(0.5, 3),
    op("rsqrt", X).within(0.5, 3),
    op("sin", X),
    op("cos", X),
    op("tanh", X),
    op("sigmoid", X),
    op("relu", X),
    op("nn.functional.gelu", X),
    op("nn.functional.gelu", X, approximate="tanh"),
    op("nn.functional.silu", X),
]

CHOICES = [
    op("maximum", X, ROW),
    op("minimum", X, ROW),
    op("clamp", X, -0.5, 1.0),
    op("clamp", X, ROW),
    op("clamp", X, None, ROW),
    op("where", MASK, X, ROW),
    op("masked_fill", X, MASK, ()),
    op("max", X),
    op("max", X, dim=1),
    op("min", X),
    op("min", X, dim=0),
    op("amax", X, dim=1),
    op("amin", X, dim=0),
    op("topk", X, 2),
    op("gather", X, 0, PLACES),
    op("Tensor.__getitem__", X, function=lambda t, x: x[1:, ::2]),
    op("Tensor.__getitem__", X, PLACES),
]

SUMS = [
    op("sum", X),
    op("sum", BATCH, dim=1),
    op("mean", BATCH, dim=(0, 2)),
    op("var", X, dim=1),
    op("std", X, dim=0),
    op("cumsum", X, dim=1),
    op("logsumexp", X, dim=1),
    op("softmax", X, dim=1),
    op("softmax", BATCH, dim=1),
    op("log_softmax", X, dim=1),
    op(
        "nn.functional.masked_softmax",
        X,
        MASK,
        theirs=lambda t, x, mask: x.masked_fill(~mask, float("-inf")).softmax(-1),
    ),
]

SHAPES = [
    op("reshape", X, [2, 6]),
    op("flatten", BATCH, 1),
    op("transpose", BATCH, 0, 2),
    op("permute", BATCH, [2, 0, 1]),
    op("squeeze", (3, 1, 4), 1),
    op("unsqueeze", X, 1),
    op("cat", [X, (2, 4)]),
    op("stack", [X, X], 1),
    op("split", X, 3, dim=1),
    op("chunk", X, 2, dim=1),
    op("unbind", X, 1),
    op("tril", X),
    op("triu", X, 1),
    op("clone", X),
    op("Tensor.T", X, function=lambda t, x: x.T),
    op("Tensor.mT", BATCH, function=lambda t, x: x.mT),
    op("Tensor.view", X, 2, 6),
    op("Tensor.expand", (3, 1), 2, 3, 4),
    op("Tensor.repeat", (2, 3), 2, 1, 2),
    op("Tensor.contiguous", X, function=lambda t, x: x.T.contiguous()),
    op("Tensor.__iter__", X, function=lambda t, x: list(x)),
    op("Tensor.cpu", X, function=lambda t, x: x.cpu().to(x.device)),  # from a GPU, and back
    cast("Tensor.to", lambda t, x: x.to(t.float32)),
    cast("Tensor.float", lambda t, x: x.float()),
    cast("Tensor.half", lambda t, x: x.half()),
    cast("Tensor.double", lambda t, x: x.float().double()),
]

HEADS = [(2, 3, 4)] * 3  # query, key, value of two heads


def attention(*mask: Any, **options: Any) -> Case:
    return op("nn.functional.scaled_dot_product_attention", *HEADS, *mask, **options)


LAYERS = [
    op("nn.functional.linear", BATCH, (5, 4), (5,)),
    op("nn.functional.embedding", PLACES, (4, 3)),
    op("nn.functional.layer_norm", BATCH, [4], ROW, ROW),
    op("nn.functional.rms_norm", BATCH, [4], ROW, eps=1e-5),
    dropping("nn.functional.dropout", X, function=lambda t, x: t.nn.functional.dropout(x, 0.3)),
    dropping(
        "nn.functional.dropout_add",
        X,
        X,
        function=lambda t, x, residual: t.nn.functional.dropout_add(x, residual, 0.3),
    ),
    attention(),
    attention(is_causal=True),
    attention(CAUSAL),
    attention((3, 3)),
    dropping(
        "nn.functional.scaled_dot_product_attention",
        *HEADS,
        function=lambda t, q, k, v: t.nn.functional.scaled_dot_product_attention(
            q, k, v, None, 0.3
        ),
    ),
    layer("nn.Linear", BATCH, build=lambda t: t.nn.Linear(4, 5)),
    layer("nn.Embedding", PLACES, build=lambda t: t.nn.Embedding(4, 3)),
    layer("nn.LayerNorm", BATCH, build=lambda t: t.nn.LayerNorm(4)),
    layer("nn.RMSNorm", BATCH, build=lambda t: t.nn.RMSNorm(4, 1e-5)),
    layer("nn.ReLU", X, build=lambda t: t.nn.ReLU()),
    layer("nn.GELU", X, build=lambda t: t.nn.GELU()),
    layer("nn.SiLU", X, build=lambda t: t.nn.SiLU()),
    layer("nn.Tanh", X, build=lambda t: t.nn.Tanh()),
    layer("nn.Sigmoid", X, build=lambda t: t.nn.Sigmoid()),
    layer("nn.Softmax", X, build=lambda t: t.nn.Softmax(1)),
    layer("nn.Identity", X, build=lambda t: t.nn.Identity()),
    dropping("nn.Dropout", X, function=lambda t, x: t.nn.Dropout(0.3)(x)),
    layer(
        "nn.Sequential",
        X,
        build=lambda t: t.nn.Sequential(t.nn.Linear(4, 3), t.nn.Tanh(), t.nn.Linear(3, 2)),
    ),
]

LOSSES = [
    op("nn.functional.cross_entropy", X, CLASSES),
    op("nn.functional.cross_entropy", X, CLASSES, label_smoothing=0.1),
    op("nn.functional.cross_entropy", BATCH, PLACES, ignore_index=1),
    op("nn.functional.nll_loss", X, CLASSES),
    op("nn.functional.mse_loss", X, X, reduction="none"),
    op("nn.functional.binary_cross_entropy_with_logits", X, X),
    layer("nn.CrossEntropyLoss", X, CLASSES, build=lambda t: t.nn.CrossEntropyLoss()),
    layer("nn.MSELoss", X, X, build=lambda t: t.nn.MSELoss()),
]

RECOMPUTED = [
    op(
        "utils.checkpoint.checkpoint",
        X,
        ROW,
        function=lambda t, *tensors: t.utils.checkpoint.checkpoint(
            lambda x, y: ((x * y).exp(), x.softmax(1)), *tensors, use_reentrant=False
        ),
    ),
]

TRAINING = [
    training("optim.SGD", lr=0.1, weight_decay=0.01),
    training("optim.SGD", lr=0.1, momentum=0.9),
    training("optim.SGD", lr=0.1, momentum=0.9, nesterov=True),
    training("optim.Adam", lr=0.01, weight_decay=0.01),
    training("optim.AdamW", lr=0.01),
]

SECTIONS: dict[str, list[Case | Training]] = {
    "Arithmetic": [*ARITHMETIC],
    "Functions of one number": [*FUNCTIONS],
    "Choices": [*CHOICES],
    "Sums and averages": [*SUMS],
    "Shapes and types": [*SHAPES],
    "Layers": [*LAYERS],
    "Losses": [*LOSSES],
    "Computed again in backward": [*RECOMPUTED],
    "Five steps of an optimizer": [*TRAINING],
}
