"""clip_grad_norm_."""

import numpy as np
import pytest
from both import BOTH, same
from harness import tensorlib, to_array

GRADIENTS = {
    "below": [[0.1, 0.2], [0.3]],
    "above": [[3.0, 4.0], [12.0]],
    "zero": [[0.0, 0.0], [0.0]],
    "some-missing": [[3.0, 4.0], None],
    "all-missing": [None, None],
    "infinite": [[1.0, float("inf")], [2.0]],
    "nan": [[1.0, float("nan")], [2.0]],
}


@pytest.mark.parametrize("max_norm", [1.0, 13, 0.0, 1e6])
@pytest.mark.parametrize("grads", GRADIENTS.values(), ids=GRADIENTS)
def test_clip_grad_norm(grads, max_norm):
    results = []
    for t in BOTH:
        params = [t.nn.Parameter(t.zeros(2)), t.nn.Parameter(t.zeros(1))]
        for p, g in zip(params, grads, strict=True):
            p.grad = None if g is None else t.tensor(g)
        norm = t.nn.utils.clip_grad_norm_(iter(params), max_norm)
        kept = [np.zeros(0) if p.grad is None else to_array(p.grad) for p in params]
        results.append([to_array(norm), *kept])
        assert norm.shape == ()
    for ours, theirs in zip(*results[::-1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.cpu("a GPU takes their squares, below 1.2e-38, for zero")
def test_clip_grad_norm_of_tiny_gradients():
    p = tensorlib.nn.Parameter(tensorlib.zeros(1))
    p.grad = tensorlib.tensor([1e-20])
    assert tensorlib.nn.utils.clip_grad_norm_(p, 1.0).item() == pytest.approx(1e-20)
    assert p.grad.item() == pytest.approx(1e-20)


def test_clip_grad_norm_below_the_maximum_leaves_every_bit():
    p = tensorlib.nn.Parameter(tensorlib.zeros(1000))
    p.grad = tensorlib.rand(1000)
    before = to_array(p.grad).copy()
    tensorlib.nn.utils.clip_grad_norm_([p], 1e3)
    assert (to_array(p.grad) == before).all()


def test_clip_grad_norm_of_one_parameter_and_of_nothing():
    def run(t):
        p = t.nn.Parameter(t.zeros(2))
        p.grad = t.tensor([3.0, 4.0])
        return float(t.nn.utils.clip_grad_norm_(p, 10.0)), float(t.nn.utils.clip_grad_norm_([], 1))

    assert same(run) == (5.0, 0.0)
