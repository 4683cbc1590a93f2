"""`retain_grad`: backward fills the `.grad` of inner tensors, too, as in PyTorch."""

import gc
import weakref

import pytest
import torch
from harness import check_error, tensorlib
from tape import both, grad, leaf, no_grad, only_ours, tensor

from tensorlib import autograd


def test_every_step_of_a_loss():
    """Asked for once all of it has run, and after one tensor was used twice."""

    def program(t):
        logits = t.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]], requires_grad=True)
        bias = t.tensor([0.1, 0.2, 0.3], requires_grad=True)
        shifted = logits + bias
        maxima = shifted.max(1, keepdim=True).values
        normal = shifted - maxima
        counts = normal.exp()
        sums = counts.sum(1, keepdim=True)
        inverse = sums**-1
        probs = counts * inverse
        logprobs = probs.log()
        loss = -logprobs[[0, 1], [2, 0]].mean()
        inner = [shifted, normal, counts, sums, inverse, probs, logprobs, loss]
        # and not maxima, whose gradient is 0 but for rounding
        for x in inner:
            x.retain_grad()
        loss.backward()
        return [x.grad for x in (logits, bias, *inner)]

    both(program)


def test_one_output_of_several():
    def program(t):
        x = t.tensor([1.0, 2.0, 3.0], requires_grad=True)
        a, b, c = (x * 2).unbind(0)
        b.retain_grad()
        (a * b + c).backward()
        return x.grad, b.grad, a.grad, c.grad

    with pytest.warns(UserWarning, match="not a leaf"):  # PyTorch's, for a and c
        both(program)


def test_it_adds_up_and_starts_anew():
    def program(t):
        x = t.tensor([1.0, 2.0], requires_grad=True)
        h = x * x
        h.retain_grad()
        h.retain_grad()  # once more changes nothing
        loss = (h * h).sum()
        loss.backward(retain_graph=True)
        once = h.grad.clone()
        loss.backward(retain_graph=True)
        twice = h.grad.clone()
        h.grad = None
        loss.backward()
        return once, twice, h.grad, x.grad

    both(program)


@pytest.mark.parametrize("t", [tensorlib, torch])
def test_who_retains(t):
    x = t.tensor([1.0], requires_grad=True)
    y, z = x * 2, x * 3
    x.retain_grad()  # a leaf keeps its gradient anyway
    y.retain_grad()
    assert (x.retains_grad, y.retains_grad, z.retains_grad) == (False, True, False)
    assert not t.ones(1).retains_grad
    (y + z).backward()
    assert (x.grad.item(), y.grad.item()) == (5.0, 1.0)


def test_it_refuses_what_gets_no_gradient():
    check_error(RuntimeError, lambda t: t.ones(2).retain_grad(), match="retain_grad")
    check_error(RuntimeError, lambda t, x: x.detach().retain_grad(), (3,))
    check_error(RuntimeError, lambda t, x: (x > 0).retain_grad(), (3,))


@only_ours
def test_the_gradient_is_nobody_elses():
    """The first gradient to arrive is handed on as it is: to h, to p and to q."""
    p, q = leaf(1.0, 2.0), leaf(3.0, 4.0)
    h = p + q
    z = h + 0
    h.retain_grad()
    z.retain_grad()
    upstream = tensor([8.0, 16.0])
    z.backward(upstream)
    gradients = [x.grad for x in (p, q, h, z)]
    with no_grad():
        for g in gradients:
            g.mul_(0.5)
    assert [g.tolist() for g in gradients] == [[4.0, 8.0]] * 4
    assert upstream.tolist() == [8.0, 16.0]


@only_ours  # PyTorch fills it there, too
def test_autograd_grad_writes_no_grad():
    x = leaf(2.0)
    h = x * x
    h.retain_grad()
    assert [g.item() for g in grad(h * h, (x, h))] == [32.0, 8.0]
    assert h.grad is None


@only_ours
def test_it_keeps_nothing_alive():
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        h = x.exp()
        h.retain_grad()
        array = weakref.ref(h.array)
        before = len(autograd.retaining)
        loss = h.sum()
        del h
        assert len(autograd.retaining) == before - 1
        del loss
        assert array() is None
    finally:
        gc.enable()
