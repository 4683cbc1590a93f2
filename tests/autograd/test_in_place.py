"""Changes in place: what backward notices, what is fine, what is refused."""

import operator

import pytest
from harness import tensorlib
from tape import both, grad, leaf, no_grad, only_ours, same, tensor

# y = f(a, b) and whether its backward needs the values of a.
NEEDS_A = {
    "a + b": (lambda a, b: a + b, False),
    "a - b": (lambda a, b: a - b, False),
    "a * b": (lambda a, b: a * b, True),
    "a / b": (lambda a, b: a / b, True),
    "a * 2": (lambda a, b: a * 2, False),
    "a * constant": (lambda a, b: a * b.detach(), False),
    "a ** 3": (lambda a, b: a**3, True),
    "a.exp()": (lambda a, b: a.exp(), False),  # it saves its result
    "a.sin()": (lambda a, b: a.sin(), True),
    "a.log()": (lambda a, b: a.log(), True),
    "a.sum()": (lambda a, b: a.sum(), False),
    "a.mean()": (lambda a, b: a.mean(), False),
    "a.softmax(0)": (lambda a, b: a.softmax(0), False),
    "a @ b": (lambda a, b: a @ b, True),
    "a @ constant": (lambda a, b: a @ b.detach(), False),
    "a.reshape(1, 3)": (lambda a, b: a.reshape(1, 3), False),
    "a[1:]": (lambda a, b: a[1:], False),
    "a[[0, 0]]": (lambda a, b: a[[0, 0]], False),
    "cat": (lambda a, b: tensorlib.cat([a, b]), False),
    "where": (lambda a, b: tensorlib.where(b > 0, a, b), False),
    "a.T * b": (lambda a, b: a.reshape(3, 1) * b, True),
}
CHANGES = {
    "add_": lambda a: a.add_(1),
    "mul_": lambda a: a.mul_(2),
    "+=": lambda a: operator.iadd(a, 1),
    "*=": lambda a: operator.imul(a, 2),
    "item": lambda a: operator.setitem(a, 0, 5.0),
    "slice": lambda a: operator.setitem(a, slice(1), 5.0),
    "zero_": lambda a: a.zero_(),
    "fill_": lambda a: a.fill_(5.0),
    "copy_": lambda a: a.copy_(tensor([3.0, 2.0, 1.0])),
    "view": lambda a: a[1:].add_(1),
    "view of a view": lambda a: a.view(3, 1)[1:].mul_(2),
    "detach": lambda a: a.detach().add_(1),
}


@pytest.mark.parametrize("name", NEEDS_A)
def test_an_operand_changed_after_it_was_saved(name):
    fn, needs_a = NEEDS_A[name]
    a, b = leaf(1.0, 2.0, 3.0), leaf(4.0, 5.0, 6.0)
    expected = grad(fn(a, b).sum(), (a, b), allow_unused=True)
    loss = fn(a, b).sum()
    with no_grad():
        a.add_(1)
    if needs_a:
        with pytest.raises(RuntimeError, match="place"):
            loss.backward()
        assert a.grad is None
    else:
        loss.backward()
        same(a.grad, expected[0])


@pytest.mark.parametrize("name", CHANGES)
def test_every_way_to_change_in_place_is_noticed(name):
    a = leaf(1.0, 2.0, 3.0)
    h = a * 2
    loss = (a * a + h.sin()).sum()
    with no_grad():
        CHANGES[name](a)
    with pytest.raises(RuntimeError, match="place"):
        loss.backward()


@pytest.mark.parametrize("name", CHANGES)
def test_a_view_was_saved_and_its_base_is_changed(name):
    a = leaf(1.0, 2.0, 3.0)
    loss = (a[:2] * a[1:]).sum()
    with no_grad():
        CHANGES[name](a)
    with pytest.raises(RuntimeError, match="place"):
        loss.backward()


def test_what_changes_in_place_before_it_is_used_is_fine():
    def program(t):
        a = t.tensor([1.0, 2.0], requires_grad=True)
        with t.no_grad():
            a.add_(1)
            a[0] = 7.0
        (a * a).sum().backward()
        return a, a.grad

    both(program)


def test_a_saved_result_changed():
    a = leaf(1.0, 2.0)
    y = a.exp()
    loss = y.sum()
    with no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="place"):
        loss.backward()


def test_a_constant_changed():
    """Tensors outside the graph count as well: they were saved too."""
    a, c = leaf(1.0, 2.0), tensor([3.0, 4.0])
    loss = (a * c).sum()
    c.add_(1)
    with pytest.raises(RuntimeError, match="place"):
        loss.backward()


def test_a_gradient_that_was_used_is_accumulated_into():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (a * a).sum().backward()
    loss = (a.grad * b).sum()
    (a * a).sum().backward()
    with pytest.raises(RuntimeError, match="place"):
        loss.backward()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_an_optimizer_changes_weights_in_place(name):
    layer = tensorlib.nn.Linear(2, 2)
    optimizer = getattr(tensorlib.optim, name)(layer.parameters(), lr=0.1)
    x = leaf(1.0, 2.0)
    stale = layer(x).sum()
    layer(x).sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="place"):
        stale.backward()


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.load_state_dict({"weight": tensor([[1.0, 2.0]])}),
        lambda layer: tensorlib.nn.init.zeros_(layer.weight),
        lambda layer: tensorlib.nn.init.normal_(layer.weight),
    ],
)
def test_loading_and_initialising_change_weights_in_place(change):
    layer = tensorlib.nn.Linear(2, 1, bias=False)
    weight = layer.weight.detach()
    before = weight.tolist()
    stale = layer(leaf(1.0, 2.0)).sum()
    change(layer)
    assert weight.tolist() != before
    with pytest.raises(RuntimeError, match="place"):
        stale.backward()


def test_training_changes_weights_in_place_every_step():
    w = leaf(1.0, 2.0)
    for _ in range(3):
        (w * w).sum().backward()
        with no_grad():
            w -= 0.1 * w.grad
            w.grad.zero_()
    assert w.tolist() == pytest.approx([0.512, 1.024])


@pytest.mark.parametrize("name", [n for n in CHANGES if n != "detach"])
def test_leaves_that_require_grad_are_not_changed_in_a_graph(name):
    a = leaf(1.0, 2.0, 3.0)
    with pytest.raises(RuntimeError):
        CHANGES[name](a)
    assert a.tolist() == [1.0, 2.0, 3.0]
    c = tensor([1.0, 2.0, 3.0])
    CHANGES[name](c)  # a tensor without gradient may be changed
    assert c.tolist() != [1.0, 2.0, 3.0]


@only_ours
@pytest.mark.parametrize("name", [n for n in CHANGES if n != "detach"])
def test_results_are_not_changed_in_a_graph(name):
    """PyTorch records the change; tensorlib says that it does not."""
    h = leaf(1.0, 2.0, 3.0) * 2
    with pytest.raises(RuntimeError):
        CHANGES[name](h)
    assert h.tolist() == [2.0, 4.0, 6.0]
