"""`utils.checkpoint`: the bits of backward without it, in less memory."""

import contextlib
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from harness import check, to_array

import tensorlib
from tensorlib import autograd, nn
from tensorlib.grad_mode import mode
from tensorlib.utils.checkpoint import checkpoint


def again(t, function, *args, **kwargs):
    return t.utils.checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)


CASES = {
    "one output": (lambda x, y: (x * y).exp().sum(1), [(3, 4), (4,)]),
    "two outputs": (lambda x, y: ((x @ y).tanh(), x.softmax(1)), [(3, 4), (4, 2)]),
    "a list, and an input as it is": (lambda x, y: [x, x * y], [(3, 4), (3, 4)]),
    "an output of no gradient": (lambda x: (x.exp(), x.argmax(1)), [(3, 4)]),
    "an input twice": (lambda x: x.sin() * x.exp() + x, [(3, 4)]),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_pytorchs(case):
    function, shapes = CASES[case]
    check(lambda t, *tensors: again(t, function, *tensors), *shapes)


def test_nested_and_by_keyword():
    def inner(t, x):
        return again(t, lambda x: (x * 2).sin(), x) * x

    check(lambda t, x, y: again(t, lambda a, b: inner(t, a) * b.exp(), x, b=y), (3, 4), (3, 4))


def network():
    tensorlib.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 32), nn.GELU(), nn.Dropout(0.3), nn.LayerNorm(32), nn.Linear(32, 8)
    )


def results(wrap, counted):
    """Loss, the next random number, and all gradients of a network, `wrap` around each call."""
    model = network()
    x = tensorlib.randn(16, 8, requires_grad=True)
    counter = tensorlib.random.counter(1, 2, 3, rows=range(4, 20))
    with counter if counted else contextlib.nullcontext():
        loss = wrap(model, wrap(model, x)).pow(2).sum()
        following = tensorlib.nn.functional.dropout(tensorlib.ones(50), 0.5)
        loss.backward()
        after = tensorlib.nn.functional.dropout(tensorlib.ones(50), 0.5)
    gradients = [p.grad for p in [x, *model.parameters()]]
    return [to_array(value) for value in (loss.detach(), following, after, *gradients)]


@pytest.mark.parametrize("counted", [False, True], ids=["manual_seed", "counter"])
def test_the_same_bits_dropout_included(counted):
    plain = results(lambda model, x: model(x), counted)
    for ours, expected in zip(results(checkpoint, counted), plain, strict=True):
        np.testing.assert_array_equal(ours, expected)
    other = results(lambda model, x: checkpoint(model, x, preserve_rng_state=False), counted)
    assert any((a != b).any() for a, b in zip(other, plain, strict=True))


def test_parameters_get_pytorchs_gradients():
    ours, theirs = network().eval(), torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Identity(), torch.nn.LayerNorm(32),
        torch.nn.Linear(32, 8),
    )  # fmt: skip
    theirs.load_state_dict({k: torch.from_numpy(to_array(v)) for k, v in ours.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    for t, model in ((tensorlib, ours), (torch, theirs)):
        y = again(t, model, again(t, model, t.tensor(x)))  # the input wants no gradient
        (y * y).sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(to_array(p.grad), to_array(q.grad), rtol=1e-4, atol=1e-5)


@pytest.mark.cpu("tracemalloc sees its memory")
def test_only_what_it_got_is_kept_and_freed_again():
    """Ten layers of 16 functions: kept is one array each, and while one is computed again, its."""
    n, layers, functions = 50_000, 10, 16

    def layer(x):
        for _ in range(functions):
            x = x.sin()
        return x

    def peak(wrap):
        x = tensorlib.ones(n, requires_grad=True)
        tracemalloc.start()
        try:
            y = x
            for _ in range(layers):
                y = wrap(y)
            y.sum().backward()
            return tracemalloc.get_traced_memory()[1] / (4 * n)
        finally:
            tracemalloc.stop()

    assert layers * functions <= peak(layer) <= layers * functions + 5
    assert layers + functions <= peak(lambda x: checkpoint(layer, x)) <= layers + functions + 5


def test_what_it_saved_is_gone_at_once_and_nothing_is_kept_alive_by_a_cycle():
    made = []

    def function(x):
        y = x.exp()
        made.append(weakref.ref(y.array))
        return y.sin()

    x = tensorlib.ones(3, requires_grad=True)
    y = checkpoint(function, x)
    assert made[0]() is None
    y.sum().backward()
    assert len(made) == 2
    assert made[1]() is None
    y = checkpoint(function, x)
    gradients = weakref.ref(y.node.gradients)
    del y
    assert gradients() is None


def test_a_second_backward_is_an_error_unless_the_graph_is_retained():
    calls = []

    def function(x):
        calls.append(1)
        return x.exp().sin()

    x = tensorlib.ones(3, requires_grad=True)
    y = checkpoint(function, x).sum()
    y.backward(retain_graph=True)
    first = to_array(x.grad).copy()
    y.backward()
    np.testing.assert_array_equal(to_array(x.grad), 2 * first)
    assert len(calls) == 3
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()
    assert len(calls) == 3


def test_nothing_is_recorded_or_repeated_under_no_grad():
    calls = []
    x = tensorlib.ones(3, requires_grad=True)
    with tensorlib.no_grad():
        y = checkpoint(lambda x: calls.append(1) or x.exp(), x)
    assert not y.requires_grad
    assert y.node is None
    assert len(calls) == 1


def test_backward_in_another_mode_and_thread():
    """no_grad, and a thread of its own: what the second call needs does not hang on either."""
    x = tensorlib.ones(3, requires_grad=True)
    y = checkpoint(lambda x: (x * x).exp(), x).sum()

    def backward():
        with tensorlib.no_grad():
            y.backward()
            assert mode.paused == 1

    thread = threading.Thread(target=backward)
    thread.start()
    thread.join()
    np.testing.assert_allclose(to_array(x.grad), np.full(3, 2 * np.e), rtol=1e-6)


def test_autocast_is_as_it_was():
    x, seen = tensorlib.ones(3, requires_grad=True), []

    def function(x):
        seen.append(tensorlib.is_autocast_enabled())
        return x.exp()

    with tensorlib.autocast("cuda"):
        y = checkpoint(function, x).sum()
    y.backward()
    z = checkpoint(function, x).sum()
    with tensorlib.autocast("cuda"):
        z.backward()
        assert tensorlib.is_autocast_enabled()
    assert seen == [True, True, False, False]


def test_a_function_that_does_something_else_the_second_time():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    y = checkpoint(model, tensorlib.ones(2, 4)).sum()
    model.eval()
    with pytest.raises(RuntimeError, match="other operations"):
        y.backward()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("what", ["input", "weight", "bias"])
def test_what_was_changed_in_place_meanwhile_is_told(what):
    layer, x = nn.Linear(4, 4), tensorlib.ones(2, 4)
    y = checkpoint(layer, x * 1).sum() if what != "input" else checkpoint(layer, x).sum()
    with tensorlib.no_grad():
        (x if what == "input" else getattr(layer, what)).add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_grad_of_an_inner_tensor_and_only_what_is_asked_for():
    x = tensorlib.ones(3, requires_grad=True)
    w = tensorlib.full((3,), 2.0, requires_grad=True)
    y = checkpoint(lambda x: (x * w).sin(), x.exp())
    (gradient,) = autograd.grad(y.sum(), [w])
    np.testing.assert_allclose(to_array(gradient), np.e * np.cos(2 * np.e), rtol=1e-5)


def test_the_older_way_is_refused():
    with pytest.raises(RuntimeError, match="use_reentrant"):
        checkpoint(lambda x: x, tensorlib.ones(1), use_reentrant=True)
