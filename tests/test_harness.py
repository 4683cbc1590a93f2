"""Tests that can fail: every oracle of the harness turns red when something is wrong.

`broken` is tensorlib with one function replaced. Each test plants one fault and expects the message
of the oracle that is there to find it; the same case without the fault passes.
"""

import types

import numpy as np
import pytest
import torch
from harness import check, check_error, check_slope, tensorlib


def broken(**functions):
    """tensorlib with some functions replaced."""
    return types.SimpleNamespace(**{**vars(tensorlib), **functions})


def turns_red(message, case, *inputs, library, **options):
    """The case passes in tensorlib as it is, and fails with `message` in the broken library."""
    check(case, *inputs, **options)
    with pytest.raises(AssertionError, match=message):
        check(case, *inputs, library=library, **options)


def twisted(value, gradient_of):
    """The value of the first with the gradient of the second."""
    return gradient_of + (value - gradient_of).detach()


def exp_with_gradient(scale):
    """exp, with its gradient times `scale`."""
    return lambda x: twisted(x.exp(), x.exp() * scale)


def exp(t, x):
    return t.exp(x)


def test_a_wrong_value():
    turns_red("output 0", exp, (3, 4), library=broken(exp=lambda x: x.exp() * 1.001))


@pytest.mark.parametrize("scale", [2, -1, 0, 1.001])
def test_a_wrong_gradient(scale):
    turns_red("gradient 0", exp, (3, 4), library=broken(exp=exp_with_gradient(scale)))


def test_a_gradient_wrong_in_one_element():
    def wrong(x):
        nudge = tensorlib.tensor(np.arange(12).reshape(3, 4) == 7).to(x.dtype) * 1e-3
        return twisted(x.exp(), x.exp() * (1 + nudge))

    turns_red("gradient 0", exp, (3, 4), library=broken(exp=wrong))


def test_a_wrong_gradient_that_a_sum_would_hide():
    """The gradient of softmax(x).sum() is zero, and so is this one: a random upstream tells."""
    library = broken(softmax=lambda x, dim: x.softmax(dim).detach() + 0 * x)
    turns_red("gradient 0", lambda t, x: t.softmax(x, -1), (3, 4), library=library)


def test_a_missing_gradient():
    library = broken(mul=lambda x, y: x * y.detach())
    turns_red("gradient 1", lambda t, x, y: t.mul(x, y), (3, 4), (4,), library=library)


def test_a_result_that_should_not_require_grad():
    turns_red("requires_grad|gradient", exp, (3,), library=broken(exp=lambda x: x.exp().detach()))
    library = broken(zeros_like=lambda x: 0 * x)
    turns_red("requires_grad|gradient", lambda t, x: t.zeros_like(x), (3,), library=library)


def test_a_wrong_dtype():
    turns_red("dtype", exp, (3,), library=broken(exp=lambda x: x.exp().to(tensorlib.float64)))


def test_a_wrong_shape():
    turns_red("shape", exp, (3, 1), library=broken(exp=lambda x: x.exp().reshape(3)))


def test_an_error_that_only_strides_bring_out():
    def wrong(x):
        return x.exp() * (1.0 if x.is_contiguous() else 1.01)

    turns_red("strided inputs", exp, (3, 4), library=broken(exp=wrong))


def test_an_error_that_only_a_lone_gradient_brings_out():
    def wrong(x, y):
        return twisted(x * y, x * y if x.requires_grad else 3 * x * y)

    turns_red(
        r"wanted: \[False, True\]",
        lambda t, x, y: t.mul(x, y),
        (3,),
        (3,),
        library=broken(mul=wrong),
    )


def test_an_error_of_one_precision():
    def wrong(x):
        return x.exp() * (1.0 if x.dtype == tensorlib.float32 else 1 + 1e-8)

    turns_red("float64, contiguous", exp, (3,), library=broken(exp=wrong))


def test_an_input_that_is_changed():
    def wrong(x):
        y = x.exp()
        with tensorlib.no_grad():
            x.detach()[0] = 0.0
        return y

    turns_red("input 0 was changed", lambda t, x: t.exp(x) * 1, (3,), library=broken(exp=wrong))


def test_a_copy_where_pytorch_has_a_view_and_the_reverse():
    library = broken(reshape=lambda x, shape: x.clone().reshape(shape))
    turns_red("shares.memory", lambda t, x: t.reshape(x, (4, 3)), (3, 4), library=library)
    library = broken(clone=lambda x: x.reshape(x.shape))
    turns_red("shares.memory", lambda t, x: t.clone(x), (3, 4), library=library)


@pytest.mark.parametrize("scale", [2, -1, 0, 1.001])
def test_finite_differences_alone_see_a_wrong_gradient(scale):
    """Without PyTorch beside it: this oracle does not lean on the other."""
    values = [np.random.default_rng(0).uniform(-2, 2, (3, 4))]
    check_slope(exp, values, 0, tensorlib)
    with pytest.raises(AssertionError, match="finite differences"):
        check_slope(exp, values, 0, broken(exp=exp_with_gradient(scale)))


def test_an_error_that_is_not_raised():
    check_error(RuntimeError, lambda t, x, y: t.add(x, y), (3,), (4,))
    lenient = broken(add=lambda x, y: x)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_error(RuntimeError, lambda t, x, y: t.add(x, y), (3,), (4,), library=lenient)


@pytest.mark.skipif(tensorlib is torch, reason="plants its fault with tensorlib's own `operation`")
class TestOperations:
    """Faults as an author of operations makes them."""

    @staticmethod
    def library(name, function):
        from tensorlib.autograd import operation

        return broken(**{name: operation(function)})

    @pytest.mark.parametrize(
        ("fault", "gradient"),
        {
            "right": lambda x, y, g: (g / y, -g * x / y**2),
            "sign": lambda x, y, g: (g / y, g * x / y**2),
            "operand": lambda x, y, g: (g / x, -g * x / y**2),
            "power": lambda x, y, g: (g / y, -g * x / y),
            "swapped": lambda x, y, g: (-g * x / y**2, g / y),
            "not broadcast": lambda x, y, g: (g / y, (-g * x / y**2)[:1]),
        }.items(),
    )
    def test_div(self, fault, gradient):
        def div(x, y):
            return x / y, (lambda g: gradient(x, y, g)[0], lambda g: gradient(x, y, g)[1])

        def case(t, x, y):
            return t.div(x, y)

        options = {"low": 0.5, "high": 2, "library": self.library("div", div)}
        if fault == "right":
            check(case, (3, 4), (4,), **options)
        else:
            with pytest.raises(AssertionError):
                check(case, (3, 4), (4,), **options)

    def test_repeated_indices(self):
        """`out[i] = g` where `out[i] += g` is meant: right until an index comes twice."""

        def take(x, i):
            def backward(g):
                out = np.zeros_like(x)
                out[i] = g
                return out

            return x[i], (backward, None)

        library = self.library("take", take)

        def case(t, x, i):
            return x[i] if t is torch else library.take(x, i)

        check(case, (4, 2), [2, 0, 3])
        with pytest.raises(AssertionError, match="gradient 0"):
            check(case, (4, 2), [2, 0, 2])

    def test_a_backward_that_spoils_what_it_saved(self):
        def wrong(x):
            y = np.exp(x)

            def backward(g):
                y[...] *= g
                return y.copy()

            return y.copy(), (backward,)

        library = self.library("exp", wrong)
        turns_red("second backward", exp, (3,), library=library)

    def test_a_saved_array_that_the_tape_cannot_see(self):
        class Hidden:
            def __init__(self, x):
                self.x = x

            def __call__(self, g):
                return g * np.cos(self.x)

        library = self.library("sin", lambda x: (np.sin(x), (Hidden(x),)))
        turns_red("input 0 changed in place", lambda t, x: t.sin(x), (3,), library=library)

    def test_a_gradient_that_is_not_its_own(self):
        def twice(x):
            kept = np.zeros_like(x)
            return kept, (lambda g: kept,)

        library = self.library("twice", twice)
        with pytest.raises(AssertionError, match="shares memory"):
            check(lambda t, x: x * 0 if t is torch else library.twice(x), (3,))
