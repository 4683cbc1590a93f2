"""layer_norm and rms_norm."""

import numpy as np
import pytest
import torch
from harness import check, check_error, tensorlib, to_array

NORMALISED = [
    ((4, 8), (8,)),
    ((2, 3, 8), (8,)),
    ((2, 3, 8), (3, 8)),
    ((8,), (8,)),
    ((5, 33), (33,)),
]
NORMALISED += [((0, 4), (4,)), ((2, 3, 4, 5), (4, 5))]


@pytest.mark.parametrize("affine", ["plain", "weight", "both"])
@pytest.mark.parametrize(("shape", "normalized"), NORMALISED, ids=str)
def test_layer_norm(shape, normalized, affine):
    extra = {"plain": [], "weight": [normalized], "both": [normalized] * 2}[affine]
    check(lambda t, x, *p: t.nn.functional.layer_norm(x, normalized, *p), shape, *extra)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("width", [1, 2])
def test_norm_of_a_narrow_row(name, width):
    """In float64 alone: two numbers become ±1, and the gradient is all cancellation."""

    def norm(t, x, w):
        return getattr(t.nn.functional, name)(x, (width,), w)

    check(norm, (3, width), (width,), dtypes=["float64"])


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.1])
def test_layer_norm_eps(eps):
    def norm(t, x, w, b):
        return t.nn.functional.layer_norm(x, (6,), weight=w, bias=b, eps=eps)

    check(norm, (3, 6), (6,), (6,))


def test_layer_norm_bias_alone():
    check(lambda t, x, b: t.nn.functional.layer_norm(x, (6,), None, b), (3, 6), (6,))


def test_layer_norm_of_a_constant_row():
    x = np.array([[3.0] * 5, [0.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]])
    check(lambda t, x, w, b: t.nn.functional.layer_norm(x, (5,), w, b), x, (5,), (5,), finite=False)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(("shape", "normalized"), NORMALISED, ids=str)
def test_rms_norm(shape, normalized, affine):
    extra = [normalized] * affine
    check(lambda t, x, *p: t.nn.functional.rms_norm(x, normalized, *p), shape, *extra)


@pytest.mark.parametrize("eps", [None, 1e-6, 0.1])
def test_rms_norm_eps(eps):
    x = np.array([[1e-4, -2e-4, 1e-4], [1.0, 2.0, 3.0], [1e3, -1e3, 2e3]])
    check(
        lambda t, x, w: t.nn.functional.rms_norm(x, (3,), weight=w, eps=eps), x, (3,), finite=False
    )


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0, -3000.0])
def test_norm_of_rows_with_a_large_offset(name, offset):
    """In float32, no farther from the float64 truth than PyTorch (a two-pass variance is)."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((6, 64)) + offset).astype(np.float32)
    w, up = rng.standard_normal((1, 64)), rng.standard_normal((6, 64))

    def run(t, dtype):
        leaf, weight = (t.tensor(a.astype(dtype), requires_grad=True) for a in (x, w[0]))
        out = getattr(t.nn.functional, name)(leaf, (64,), weight)
        out.backward(t.tensor(up.astype(dtype)))
        return [to_array(a) for a in (out, leaf.grad, weight.grad)]

    for true, theirs, ours in zip(
        run(torch, np.float64), run(torch, np.float32), run(tensorlib, np.float32), strict=True
    ):
        scale = np.abs(true).max()
        error, allowed = (np.abs(a - true).max() / scale for a in (ours, theirs))
        assert error <= 4 * allowed + 1e-6


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize(
    ("normalized", "shapes"),
    [((4,), [(5, 3)]), ((3, 3), [(2, 4, 3)]), ((3,), [(5, 3), (4,)])],
    ids=["input", "two-dims", "weight"],
)
def test_norm_refuses_shapes_that_do_not_fit(name, normalized, shapes):
    def norm(t, x, *weight):
        return getattr(t.nn.functional, name)(x, normalized, *weight)

    check_error(RuntimeError, norm, *shapes)
