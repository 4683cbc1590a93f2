"""Mistakes with tensors. What is none ends in a TypeError that names the function, the argument
(as PyTorch does) and the remedy; others in PyTorch's exception, in plain words."""

import re

import numpy as np
import pytest
import torch
from harness import tensorlib

A, ONES, INDEX = [[1.0, 2.0], [3.0, 4.0]], [1.0, 1.0], [0, 1]

FUNCTIONS = {  # the others, `given` and `x`, are tensors
    "linear": lambda t, x: t.nn.functional.linear(A, x),
    "linear, weight": lambda t, x: t.nn.functional.linear(x, A),
    "linear, bias": lambda t, x: t.nn.functional.linear(x, x, ONES),
    "Linear": lambda t, x: t.nn.Linear(2, 2)(A),
    "Sequential": lambda t, x: t.nn.Sequential(t.nn.LayerNorm(2), t.nn.GELU())(A),
    "embedding, weight": lambda t, x: t.nn.functional.embedding(x.long(), A),
    "layer_norm": lambda t, x: t.nn.functional.layer_norm(A, (2,)),
    "layer_norm, weight": lambda t, x: t.nn.functional.layer_norm(x, (2,), ONES),
    "rms_norm": lambda t, x: t.nn.functional.rms_norm(A, (2,)),
    "dropout": lambda t, x: t.nn.functional.dropout(A),
    "dropout in evaluation": lambda t, x: t.nn.functional.dropout(A, training=False),
    "dropout of nothing": lambda t, x: t.nn.Dropout(0.0)(A),
    "gelu": lambda t, x: t.nn.functional.gelu(A),
    "cross_entropy": lambda t, x: t.nn.functional.cross_entropy(A, x.long()),
    "cross_entropy, target": lambda t, x: t.nn.functional.cross_entropy(x, INDEX),
    "cross_entropy, target=": lambda t, x: t.nn.functional.cross_entropy(x, target=INDEX),
    "nll_loss, target": lambda t, x: t.nn.functional.nll_loss(x, INDEX),
    "query": lambda t, x: t.nn.functional.scaled_dot_product_attention(A, x, x),
    "key": lambda t, x: t.nn.functional.scaled_dot_product_attention(x, A, x),
    "attn_mask": lambda t, x: t.nn.functional.scaled_dot_product_attention(x, x, x, A),
    "outer": lambda t, x: t.outer(ONES, x[0]),
    "chunk": lambda t, x: t.chunk(A, 2),
    "zeros_like": lambda t, x: t.zeros_like(A),
    "multinomial": lambda t, x: t.multinomial(ONES, 1),
    "allclose": lambda t, x: t.allclose(A, x),
    "bincount": lambda t, x: t.bincount(INDEX),
    "gather, index": lambda t, x: t.gather(x, 0, A),
}


@pytest.mark.parametrize("fn", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_list_is_no_tensor(fn):
    with pytest.raises(TypeError) as theirs:
        fn(torch, torch.ones(2, 2))
    argument = re.search(r"argument '(\w+)' .*must be Tensor, not list", str(theirs.value))[1]
    with pytest.raises(TypeError) as ours:
        fn(tensorlib, tensorlib.ones(2, 2))
    expected = rf"\w+: argument '{argument}' must be a tensor, not list: use tensor\(…\)"
    assert re.fullmatch(expected, str(ours.value))


@pytest.mark.parametrize("name", ["sum", "mean", "softmax", "cumsum", "max", "min", "cat", "stack"])
def test_the_names_of_numpy(name):
    """Which PyTorch takes, too, and the makemore videos type."""
    with pytest.raises(TypeError, match=rf"^{name}: it is dim=, not axis=$"):
        getattr(tensorlib, name)(tensorlib.ones(2), axis=0)


def test_keepdims():
    with pytest.raises(TypeError, match=r"^sum: it is keepdim=, not keepdims=$"):
        tensorlib.ones(2).sum(0, keepdims=True)


OTHERS = {  # whose arguments PyTorch does not name, or names otherwise
    "clone": (lambda t, x: t.clone(A), "clone: argument 'x' .* list"),
    "relu": (lambda t, x: t.relu(A), "relu: argument 'x' .* list"),
    "softmax": (lambda t, x: t.softmax(A, dim=-1), "softmax: argument 'x' .* list"),
    "Embedding": (lambda t, x: t.nn.Embedding(2, 2)(INDEX), "embedding: argument 'input' .* list"),
    "+": (lambda t, x: x + A, "add: argument 'y' .* list"),
    "mean": (lambda t, x: t.mean(None), "mean: argument 'x' .* NoneType"),
    "*": (lambda t, x: x * "2", "mul: argument 'y' .* str"),
    "one_hot": (lambda t, x: t.nn.functional.one_hot(INDEX), "one_hot: argument 'tensor' .* list"),
    "NumPy": (lambda t, x: t.nn.functional.cross_entropy(x, np.zeros(2, int)),
              "cross_entropy: argument 'target' .* ndarray"),
    "MSELoss": (lambda t, x: t.nn.MSELoss()(x, A), "mse_loss: argument 'target' .* list"),
    "mse_loss": (lambda t, x: t.nn.functional.mse_loss(A, x), "mse_loss: argument 'input' .* list"),
}  # fmt: skip


@pytest.mark.parametrize(("fn", "message"), OTHERS.values(), ids=OTHERS)
def test_nothing_else_is_one_either(fn, message):
    with pytest.raises((TypeError, AttributeError)):
        fn(torch, torch.ones(2, 2))
    with pytest.raises(TypeError, match=message) as caught:
        fn(tensorlib, tensorlib.ones(2, 2))
    assert "\n" not in str(caught.value)


MISTAKES = {  # what PyTorch raises, and how we say it
    "dim, a word": (TypeError, lambda t, x: x.sum(dim="a"), "dim must be an integer, not str"),
    "dim, several": (TypeError, lambda t, x: x.max(dim=(0, 1)), "dim must be .*, not tuple"),
    "cat without a list": (TypeError, lambda t, x: t.cat(x, x), r"cat: put .* list, as in cat\("),
    "stack of one": (TypeError, lambda t, x: t.stack(x), r"stack: put the tensors in a list"),
    "split, n / 2": (TypeError, lambda t, x: x.split(2 / 2), r"sizes are integers, not \(1\.0,\)"),
    "chunk, n / 2": (TypeError, lambda t, x: x.chunk(4 / 2), r"sizes are integers, not \(1\.0,\)"),
    "split below 0": (RuntimeError, lambda t, x: x.split([3, -1]), r"\(3, -1\) do not add up to 2"),
    "LayerNorm, n / 2": (TypeError, lambda t, x: t.nn.LayerNorm(4 / 2), "sizes are integers"),
    "x[0] = None": (TypeError, lambda t, x: x.__setitem__(0, None), "in place: .* got None"),
    "a class": (TypeError, lambda t, x: t.nn.Sequential(t.nn.ReLU), r"a class: make .* ReLU\(\)"),
    "lr, a word": (TypeError, lambda t, x: t.optim.SGD([x], lr="0.1"), "lr must be .* not '0.1'"),
    "no lr": (TypeError, lambda t, x: t.optim.AdamW([x], lr=None), "lr must be .* not None"),
    "p.grad = 0": (
        TypeError,
        lambda t, x: zeroed(x).sum().backward(),
        "a .grad is a tensor or",
    ),
    "p.grad, too small": (RuntimeError, lambda t, x: step_with_a_row(t, x), r"\(2, 2\), .*\(2,\)"),
    "a state of lists": (
        RuntimeError,
        lambda t, x: t.nn.Linear(1, 1).load_state_dict({"weight": [1.0], "bias": 1.0}),
        r"(?s)weight: the state has \(1,\), the model \(1, 1\).*bias: the state has \(\)",
    ),
    "integer targets": (
        RuntimeError,
        lambda t, x: t.nn.functional.binary_cross_entropy_with_logits(x, x.long()),
        "needs one floating-point dtype, got int64",
    ),
}


def zeroed(x):
    x.requires_grad_().grad = 0
    return x


def step_with_a_row(t, x):
    x.grad = t.ones(2)
    t.optim.SGD([x], lr=0.1).step()


@pytest.mark.parametrize(("kind", "fn", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_plainly(kind, fn, message):
    with pytest.raises(kind):
        fn(torch, torch.ones(2, 2))
    with pytest.raises(kind, match=message) as caught:
        fn(tensorlib, tensorlib.ones(2, 2))
    assert kind is RuntimeError or "\n" not in str(caught.value)
