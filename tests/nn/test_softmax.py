"""softmax, log_softmax and masked_softmax, extreme rows too."""

import math

import numpy as np
import pytest
import torch
from harness import check, check_error, tensorlib, to_array

# ---- softmax ----------------------------------------------------------------------------------

SOFTMAXES = {
    "softmax": lambda t, x, dim: t.nn.functional.softmax(x, dim=dim),
    "log_softmax": lambda t, x, dim: t.nn.functional.log_softmax(x, dim=dim),
    "torch.softmax": lambda t, x, dim: t.softmax(x, dim),
    "method": lambda t, x, dim: x.softmax(dim),
    "method-log": lambda t, x, dim: x.log_softmax(-1 if dim is None else dim),
}
ROWS = [
    ((), 0),
    ((1,), 0),
    ((7,), -1),
    ((3, 1), 1),
    ((2, 3, 4), 0),
    ((2, 3, 4), 1),
    ((2, 3, 4), -1),
]
ROWS += [((0, 3), 1), ((3, 0), 0), ((2, 70), -1)]


@pytest.mark.parametrize(("shape", "dim"), ROWS, ids=str)
@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax(name, shape, dim):
    check(lambda t, x: SOFTMAXES[name](t, x, dim), shape)


@pytest.mark.parametrize("scale", [1e-30, 100.0, 1000.0])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_extreme_rows(name, scale):
    x = scale * np.array([[1.0, -1.0, 0.5, 1.0], [-1.0, -1.0, -1.0, -1.0], [0.999, 1.0, 1.0, 0.0]])
    check(lambda t, x: SOFTMAXES[name](t, x, -1), x)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_with_minus_infinity(name):
    """As after masked_fill: excluded positions weigh nothing and get no gradient."""
    x = [[0.3, -math.inf, 2.0], [-math.inf, 1.0, -math.inf], [-math.inf] * 3]
    results = []
    for t in (tensorlib, torch):
        leaf = t.tensor(x, requires_grad=True)
        out = SOFTMAXES[name](t, leaf, 1)
        (out.exp() * t.tensor([1.0, 2.0, 4.0]))[:2].sum().backward()
        results.append((to_array(out), leaf.grad[:2].cpu().numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dim", [2, -3])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_refuses_a_missing_dim(name, dim):
    check_error(IndexError, lambda t, x: SOFTMAXES[name](t, x, dim), (2, 3), match=str(dim))


# ---- masked_softmax: ours alone ---------------------------------------------------------------


def masked_softmax(t, x, mask, dim=-1):
    """Ours, or what it must equal: exclude, softmax, and zeros where nothing is left."""
    if t is not torch:
        return t.nn.functional.masked_softmax(x, mask, dim)
    some = mask.any(dim, keepdim=True)
    weights = t.softmax(x.masked_fill(some & ~mask, -math.inf), dim)
    return t.where(some, weights, t.zeros_like(weights))


TRIANGLE = np.tril(np.ones((4, 4), bool))
GAPS = np.random.default_rng(3).random((2, 3, 4, 5)) < 0.4
MASKS = {
    "causal": ((2, 4, 4), TRIANGLE, -1),
    "causal-4d": ((2, 3, 4, 4), TRIANGLE, -1),
    "per-row": ((2, 3, 4, 5), GAPS, -1),
    "broadcast-batch": ((2, 3, 4, 5), GAPS[:1, :1], -1),
    "broadcast-row": ((2, 3, 4, 5), GAPS[:, :1, :1], -1),
    "broadcast-column": ((2, 3, 4, 5), GAPS[:, :, :, :1], -1),
    "dim-1": ((2, 3, 4, 5), GAPS, 1),
    "dim-0": ((5, 2), GAPS[0, 0, :2].T, 0),
    "all": ((3, 4), np.ones((3, 4), bool), -1),
    "nothing": ((3, 4), np.zeros((3, 4), bool), -1),
    "one": ((1, 1), np.ones((1, 1), bool), -1),
    "empty": ((0, 4), np.ones((0, 4), bool), -1),
}


@pytest.mark.parametrize(("shape", "mask", "dim"), MASKS.values(), ids=MASKS)
def test_masked_softmax(shape, mask, dim):
    check(lambda t, x, m: masked_softmax(t, x, m, dim), shape, mask)


def test_masked_softmax_of_extreme_rows():
    x = np.array([[1000.0, -1000.0, 999.0, 0.0]] * 4)
    check(masked_softmax, x, TRIANGLE)


def test_masked_softmax_row_without_a_true_is_zero_with_zero_gradient():
    x = tensorlib.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    mask = tensorlib.tensor([[False, False], [True, False]])
    out = masked_softmax(tensorlib, x, mask)
    (out * tensorlib.tensor([[5.0, 7.0], [11.0, 13.0]])).sum().backward()
    assert out.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert x.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]
