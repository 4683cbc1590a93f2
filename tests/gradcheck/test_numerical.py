"""The function `gradcheck`, beside PyTorch's: its verdict, its message, what it refuses."""

import inspect

import numpy as np
import pytest
import torch

import tensorlib
from tensorlib import autograd, nn
from tensorlib.autograd import operation
from tensorlib.gradcheck import GradcheckError


def leaf(*shape, t=tensorlib):
    values = np.random.default_rng(0).uniform(0.5, 2, shape)
    return t.tensor(values, dtype=t.float64, requires_grad=True)


def double_backward(t, wrong):
    """x · y in library t, with the gradients that `wrong` makes of the right ones."""
    if t is tensorlib:

        @operation
        def product(x, y):
            return x * y, lambda grad, needed: wrong(grad * y, (grad * x).sum(0))

        return product

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(context, x, y):
            context.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(context, grad):
            x, y = context.saved_tensors
            return wrong(grad * y, (grad * x).sum(0))

    return Product.apply


def times(factor, gradient, *index):
    gradient = 1 * gradient
    gradient[index] *= factor
    return gradient


FAULTS = {  # what is done to the gradients of x (3, 4) and y (4,); the input and the element named
    "none": (lambda dx, dy: (dx, dy), None),
    "scale": (lambda dx, dy: (dx, 1.01 * dy), r"input 1\["),
    "small, within rtol": (lambda dx, dy: (dx, 1.0005 * dy), None),
    "sign": (lambda dx, dy: (-dx, dy), r"input 0\["),
    "sign of one": (lambda dx, dy: (times(-1, dx, 1, 2), dy), r"input 0\[1, 2\]"),
    "swapped": (lambda dx, dy: (dx * 0 + dy, dx.sum(0)), "input"),
    "nan": (lambda dx, dy: (times(float("nan"), dx, 2, 3), dy), r"input 0\[2, 3\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_verdict_is_pytorchs_and_the_place_is_named(fault):
    wrong, place = FAULTS[fault]
    for t in (torch, tensorlib):
        product, inputs = double_backward(t, wrong), (leaf(3, 4, t=t), leaf(4, t=t))
        check = t.autograd.gradcheck
        assert check(product, inputs, raise_exception=False) is (place is None)
        if place and t is tensorlib:
            with pytest.raises(GradcheckError, match=place):
                check(product, inputs)


def test_the_message_says_what_was_expected():
    product = double_backward(tensorlib, lambda dx, dy: (times(-1, dx, 1, 2), dy))
    x, y = leaf(3, 4), leaf(4)
    with pytest.raises(GradcheckError) as error:
        autograd.gradcheck(product, (x, y))
    slope = y.tolist()[2]
    assert str(error.value) == (
        f"gradcheck: the gradient of output 0[1, 2] with respect to input 0[1, 2] is {-slope:.8g} "
        f"by backward, expected {slope:.8g} by finite differences; allowed is a difference of "
        "1e-05 + 0.001 · |expected|; 1 input element is wrong"
    )


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x: (x.exp(), x.sum(0)), [(2, 3)]),
        (lambda x, y: x @ y, [(2, 3), (3, 2)]),
        (lambda x: x.max(1), [(2, 3)]),  # indices, too, through which nothing flows
        (lambda x: x * x.detach().sum() if x.numel() > 9 else x, [()]),
        (lambda x: x[:0], [(2,)]),
    ],
)
def test_functions_that_are_right_in_both(function, shapes):
    for t in (torch, tensorlib):
        assert t.autograd.gradcheck(function, [leaf(*shape, t=t) for shape in shapes])


@pytest.mark.parametrize("function", [lambda x: x * x.detach(), lambda x: x.detach() * 2])
def test_a_path_that_is_cut_is_found_in_both(function):
    for t in (torch, tensorlib):
        with pytest.raises(RuntimeError):
            t.autograd.gradcheck(function, leaf(3, t=t))


def test_tolerances_and_step_are_pytorchs():
    product = double_backward(tensorlib, lambda dx, dy: (1.01 * dx, dy))
    inputs = (leaf(3, 4), leaf(4))
    assert autograd.gradcheck(product, inputs, rtol=0.02)
    assert autograd.gradcheck(product, inputs, atol=0.1)
    parameters = inspect.signature(torch.autograd.gradcheck).parameters
    for name, ours in inspect.signature(autograd.gradcheck).parameters.items():
        assert (ours.default, ours.kind) == (parameters[name].default, parameters[name].kind)


def test_a_model_and_its_parameters():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)).to(tensorlib.float64)
    x, before = leaf(4, 3), [p.tolist() for p in model.parameters()]
    assert autograd.gradcheck(lambda x, *_: model(x), (x, *model.parameters()))
    assert [p.tolist() for p in model.parameters()] == before
    assert x.grad is None


def test_a_strided_input():
    x = tensorlib.Tensor(np.random.default_rng(0).uniform(0.5, 2, (4, 3)).T[:, ::2])
    assert autograd.gradcheck(lambda x: x.log(), x.requires_grad_())


def test_what_cannot_be_checked():
    for t in (torch, tensorlib):
        with pytest.raises(ValueError):
            t.autograd.gradcheck(lambda x: x, t.zeros(3))
        single = t.zeros(3, requires_grad=True)
        with pytest.warns(UserWarning, match="(?i)input #?0.*double"):
            t.autograd.gradcheck(lambda x: x.sin(), single, raise_exception=False)
        shared = t.zeros(1, dtype=t.float64).expand(3).requires_grad_()
        with pytest.raises((ValueError, RuntimeError)):
            t.autograd.gradcheck(lambda x: x * 1, shared)
