"""`autograd.grad`: gradients that are returned, and touch no `.grad`."""

import pytest
from harness import check, check_error, tensorlib
from tape import both, grad, leaf, only_ours


def test_grad_returns_gradients_and_touches_no_grad():
    def program(t):
        x, w = t.tensor([1.0, 2.0], requires_grad=True), t.tensor([3.0, 4.0], requires_grad=True)
        h = x * w
        y = (h * h).sum()
        leaves = t.autograd.grad(y, (x, w), retain_graph=True)
        (inner,) = t.autograd.grad(y, h, retain_graph=True)
        mixed = t.autograd.grad(y, [h, x], retain_graph=True)
        (itself,) = t.autograd.grad(y, y, retain_graph=True)
        with_gradient = t.autograd.grad(h, x, grad_outputs=t.tensor([1.0, -1.0]))
        assert x.grad is None
        assert w.grad is None
        assert isinstance(leaves, tuple)
        return (*leaves, inner, *mixed, itself, *with_gradient)

    both(program)


def test_grad_leaves_an_existing_grad_alone():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    before = x.grad
    grad((x * x).sum(), x)
    assert x.grad is before
    assert before.tolist() == [3.0, 3.0]


def test_grad_of_several_outputs():
    def program(t):
        x = t.tensor([1.0, 2.0], requires_grad=True)
        a, b = x * x, x.exp()
        upstream = [t.tensor([1.0, 2.0]), t.tensor([0.5, 0.25])]
        return t.autograd.grad([a, b], x, upstream)

    both(program)


def test_grad_of_unused_inputs():
    def unused(t, x, y):
        return t.autograd.grad((x * x).sum(), (x, y))

    check_error(RuntimeError, unused, (3,), (2,), match="allow_unused")
    both(
        lambda t: t.autograd.grad(
            t.ones(2, requires_grad=True).sum(), t.ones(3, requires_grad=True), allow_unused=True
        )
    )
    x, h = leaf(1.0, 2.0), leaf(3.0) * 2
    found = grad((x * x).sum(), (h, x), allow_unused=True)
    assert found[0] is None
    assert found[1].tolist() == [2.0, 4.0]


def test_grad_refuses():
    check_error(RuntimeError, lambda t, x: t.autograd.grad(x.sum(), t.ones(3)), (3,))
    check_error(RuntimeError, lambda t, x: t.autograd.grad(x * 2, x), (3,))
    check_error(RuntimeError, lambda t, x: t.autograd.grad(t.ones(()), x), (3,))
    check_error(RuntimeError, lambda t, x: t.autograd.grad(x * 2, x, t.ones(2)), (3,))
    check_error(RuntimeError, lambda t, x: t.autograd.grad(x.sum(), []), (3,), match="inputs")
    x = leaf(1.0)
    y = (x * x).sum()
    with pytest.raises(RuntimeError):
        grad(y, [])  # which frees nothing
    grad(y, x)
    with pytest.raises(RuntimeError, match="retain_graph"):
        grad(y, x)


def test_gradients_nobody_asked_for_are_not_computed():
    """A constant operand costs nothing: its gradient would be nan here, and must not be made."""
    check(lambda t, x: x * t.tensor(float("inf")).detach(), [1.0, 2.0], finite=False)
    x, w = leaf(1.0, 2.0), leaf(0.5, 0.5)
    h = x * 2
    found = grad((h * w).sum(), w)
    assert found[0].tolist() == [2.0, 4.0]
    assert x.grad is None


@only_ours
@pytest.mark.parametrize("one_for_all", [False, True])
def test_grad_computes_no_gradient_that_leads_elsewhere(one_for_all):
    asked = []

    @tensorlib.autograd.operation
    def product(x, w):
        def both(grad, needed):
            asked.extend(name for name, wanted in zip("xw", needed) if wanted)
            return grad * w, grad * x

        def of(name, other):
            return lambda grad: asked.append(name) or grad * other

        return x * w, both if one_for_all else (of("x", w), of("w", x))

    x, w = leaf(2.0), leaf(3.0)
    (g,) = tensorlib.autograd.grad(product(x * x, w).sum(), x)
    assert g.tolist() == [12]
    assert asked == ["x"]
