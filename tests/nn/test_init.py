"""nn.init draw for draw: the same seed gives PyTorch's numbers and leaves the stream as it does."""

import numpy as np
import pytest
import torch
from harness import check_error, memory, tensorlib, to_array
from streams import NORMAL

INITIALISERS = {
    "normal_": lambda init, w: init.normal_(w),
    "normal_-0.02": lambda init, w: init.normal_(w, mean=0.0, std=0.02),
    "normal_-shifted": lambda init, w: init.normal_(w, 3.0, 2.0),
    "uniform_": lambda init, w: init.uniform_(w),
    "uniform_-range": lambda init, w: init.uniform_(w, a=-0.3, b=0.5),
    "zeros_": lambda init, w: init.zeros_(w),
    "ones_": lambda init, w: init.ones_(w),
    "constant_": lambda init, w: init.constant_(w, 0.25),
    "kaiming_uniform_": lambda init, w: init.kaiming_uniform_(w),
    "kaiming_uniform_-linear": lambda init, w: init.kaiming_uniform_(w, a=5**0.5),
    "kaiming_uniform_-fan_out": lambda init, w: init.kaiming_uniform_(
        w, mode="fan_out", nonlinearity="relu"
    ),
    "xavier_uniform_": lambda init, w: init.xavier_uniform_(w),
    "xavier_uniform_-gain": lambda init, w: init.xavier_uniform_(w, gain=2.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 4), (17, 1), (2, 16), (33, 7), (65, 65)])
@pytest.mark.parametrize("name", INITIALISERS)
def test_draw_for_draw(name, shape, dtype):
    results = []
    for t in (torch, tensorlib):
        t.manual_seed(1337)
        w = t.empty(shape, dtype=getattr(t, dtype))
        assert INITIALISERS[name](t.nn.init, w) is w
        results.append((to_array(w), t.rand(3).cpu().numpy()))
    for theirs, ours in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=NORMAL)


@pytest.mark.parametrize("name", ["normal_", "uniform_", "zeros_", "ones_", "constant_"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0,)], ids=str)
def test_any_rank(name, shape):
    results = []
    for t in (torch, tensorlib):
        t.manual_seed(0)
        results.append(INITIALISERS[name](t.nn.init, t.ones(shape)).cpu().numpy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", INITIALISERS)
def test_a_parameter_is_filled_in_place_outside_the_graph(name):
    p = tensorlib.nn.Parameter(tensorlib.full((4, 5), 7.0))
    array = memory(p)
    assert INITIALISERS[name](tensorlib.nn.init, p) is p
    assert p.requires_grad
    assert p.is_leaf
    assert p.grad is None
    assert (to_array(p) != 7.0).all()
    assert memory(p) is array


@pytest.mark.parametrize("name", ["kaiming_uniform_", "xavier_uniform_"])
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_fans_need_two_dimensions(name, shape):
    check_error(ValueError, lambda t: INITIALISERS[name](t.nn.init, t.zeros(shape)), match="2|two")


def test_unknown_mode():
    fn = lambda t: t.nn.init.kaiming_uniform_(t.zeros(3, 3), mode="fan")  # noqa: E731
    check_error(ValueError, fn, match="mode")


def test_skip_init_draws_nothing():
    tensorlib.manual_seed(0)
    layer = tensorlib.nn.utils.skip_init(tensorlib.nn.Linear, 3, 5, bias=False)
    assert layer.weight.shape == (5, 3)
    assert layer.bias is None
    drawn = tensorlib.nn.Linear(3, 5, bias=False).weight.detach().cpu().numpy()
    torch.manual_seed(0)
    np.testing.assert_array_equal(
        drawn, torch.nn.Linear(3, 5, bias=False).weight.detach().cpu().numpy()
    )
