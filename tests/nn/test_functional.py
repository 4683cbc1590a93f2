"""linear, activations, embedding and one_hot; what all functions of nn.functional refuse."""

import math

import numpy as np
import pytest
import torch
from harness import check, check_error, integers, tensorlib

SATURATED = np.array([-1000.0, -100.0, -20.0, -5.0, -1e-4, 1e-4, 0.5, 5.0, 20.0, 100.0, 1000.0])
SHAPES = [(), (1,), (7,), (3, 4), (2, 1, 5), (0, 3)]


def functional(name, **options):
    """The function of that name in nn.functional, for check."""
    return lambda t, *inputs: getattr(t.nn.functional, name)(*inputs, **options)


# ---- linear -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (1,), (4,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_linear(lead, bias):
    shapes = [(*lead, 3), (5, 3)] + [(5,)] * bias
    check(functional("linear"), *shapes)


@pytest.mark.parametrize("shapes", [((4, 1), (1, 1), (1,)), ((2, 40), (33, 40), (33,))])
def test_linear_sizes(shapes):
    check(lambda t, x, w, b: t.nn.functional.linear(x, w, bias=b), *shapes)


def test_linear_shares_one_weight():
    check(lambda t, x, w: t.nn.functional.linear(t.nn.functional.linear(x, w), w), (2, 3), (3, 3))


def test_linear_refuses_shapes_that_do_not_fit():
    check_error(RuntimeError, functional("linear"), (2, 3), (5, 4))
    check_error(RuntimeError, functional("linear"), (2, 3), (5, 3), (4,))


def test_linear_refuses_two_dtypes():
    weight, bias = np.ones((5, 3), np.float32), np.ones(5, np.float32)
    check_error(RuntimeError, functional("linear"), (2, 3), weight, match="float64.*float32")
    check_error(RuntimeError, functional("linear"), (2, 3), (5, 3), bias)


# ---- activations ------------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": lambda t, x: t.nn.functional.relu(x),
    "gelu": lambda t, x: t.nn.functional.gelu(x),
    "gelu-none": lambda t, x: t.nn.functional.gelu(x, approximate="none"),
    "gelu-tanh": lambda t, x: t.nn.functional.gelu(x, approximate="tanh"),
    "silu": lambda t, x: t.nn.functional.silu(x),
    "sigmoid": lambda t, x: t.sigmoid(x),
    "tanh": lambda t, x: t.tanh(x),
    "method-relu": lambda t, x: x.relu(),
    "method-sigmoid": lambda t, x: x.sigmoid(),
    "method-tanh": lambda t, x: x.tanh(),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, shape):
    check(ACTIVATIONS[name], shape)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_saturated(name):
    check(ACTIVATIONS[name], SATURATED)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n not in ("gelu", "gelu-none")])
def test_activation_at_nan_and_infinity(name):
    x = [math.nan, math.inf, -math.inf, 0.0]
    ours, theirs = (ACTIVATIONS[name](t, t.tensor(x)).cpu().numpy() for t in (tensorlib, torch))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_relu_at_zero_has_gradient_zero():
    x = tensorlib.zeros(3, requires_grad=True)
    tensorlib.nn.functional.relu(x).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_gelu_refuses_an_unknown_approximation():
    check_error(RuntimeError, functional("gelu", approximate="foo"), (2,), match="none.*tanh")


# ---- embedding and one_hot --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (4,), (9,), (2, 3), (2, 3, 4), (0,), (2, 0)], ids=str)
def test_embedding(shape):
    check(functional("embedding"), integers(5, *shape), (5, 3))


@pytest.mark.parametrize("table", [(5, 1), (5, 40), (1, 3), (1000, 3)], ids=str)
def test_embedding_table(table):
    check(functional("embedding"), integers(min(table[0], 30), 4, 16), table)


def test_embedding_of_one_row_many_times():
    check(functional("embedding"), np.full((8, 8), 2), (3, 4))


def test_embedding_accepts_int32():
    check(functional("embedding"), integers(5, 4).astype(np.int32), (5, 3))


@pytest.mark.parametrize("bad", [5, -1, 1000])
def test_embedding_refuses_what_is_out_of_range(bad):
    index = [[0, 1], [bad, 2]]
    check_error(IndexError, functional("embedding"), index, (5, 3), match="out of range")


def test_embedding_refuses_floats():
    check_error(RuntimeError, functional("embedding"), [0.0], (5, 3))


@pytest.mark.parametrize(("index", "n"), [([0, 2, 1], -1), ([0, 2, 2], 5), ([[1], [0]], 2), (3, 4)])
def test_one_hot(index, n):
    theirs, ours = (t.nn.functional.one_hot(t.tensor(index), n) for t in (torch, tensorlib))
    assert ours.dtype == tensorlib.int64
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("index", "n"), [([0, 2], 2), ([0, -1], 3), ([0, -1], -1), ([0.0], 3), (np.zeros(0, int), -1)]
)
def test_one_hot_refuses(index, n):
    check_error(RuntimeError, functional("one_hot", num_classes=n), index)


# ---- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fn",
    [
        lambda t, x: t.nn.functional.linear(x, x),
        lambda t, x: t.nn.functional.gelu(x),
        lambda t, x: t.nn.functional.softmax(x, dim=-1),
        lambda t, x: t.nn.functional.layer_norm(x, (3,)),
        lambda t, x: t.nn.functional.dropout(x, 0.5),
        lambda t, x: t.nn.functional.embedding(t.tensor([1], device=x.device), x),
    ],
    ids=["linear", "gelu", "softmax", "layer_norm", "dropout", "embedding"],
)
def test_nothing_is_recorded_without_grad(fn):
    x = tensorlib.ones(3, 3, requires_grad=True)
    with tensorlib.no_grad():
        assert not fn(tensorlib, x).requires_grad
    assert fn(tensorlib, x).requires_grad
    assert not fn(tensorlib, x.detach()).requires_grad


INTEGERS = {
    "gelu": lambda t, x: t.nn.functional.gelu(x),
    "silu": lambda t, x: t.nn.functional.silu(x),
    "softmax": lambda t, x: t.nn.functional.softmax(x, dim=-1),
    "log_softmax": lambda t, x: t.nn.functional.log_softmax(x, dim=-1),
    "layer_norm": lambda t, x: t.nn.functional.layer_norm(x, (3,)),
    "rms_norm": lambda t, x: t.nn.functional.rms_norm(x, (3,)),
    "dropout": lambda t, x: t.nn.functional.dropout(x, 0.5),
    "cross_entropy": lambda t, x: t.nn.functional.cross_entropy(x, x[:, 0]),
}


@pytest.mark.parametrize("fn", INTEGERS.values(), ids=INTEGERS)
def test_integers_are_refused(fn):
    check_error(RuntimeError, fn, integers(3, 2, 3))


@pytest.mark.parametrize("shape", [(5,), (5, 3, 2)], ids=str)
def test_embedding_needs_a_table(shape):
    check_error(RuntimeError, functional("embedding"), integers(5, 4), shape)
