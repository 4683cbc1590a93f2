"""The tape: order, accumulation, aliasing, in-place changes, recording, errors, and memory.

Where a comparison helps, the same function runs in PyTorch (`both`); the rest is tensorlib's own.
"""

import gc
import operator
import os
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from harness import check, check_error, tensorlib

only_ours = pytest.mark.skipif(tensorlib is torch, reason="a contract of tensorlib, not of PyTorch")
tensor, no_grad, grad = tensorlib.tensor, tensorlib.no_grad, tensorlib.autograd.grad


def leaf(*values, **options):
    return tensor(values, requires_grad=True, **options)


def same(our, their):
    np.testing.assert_allclose(our.detach().numpy(), their.detach().numpy(), rtol=1e-6)


def both(fn):
    """`fn(t)` in both libraries: equal tensors (or None) come out."""
    for our, their in zip(fn(tensorlib), fn(torch), strict=True):
        assert (our is None) == (their is None)
        if our is not None:
            same(our, their)


# ---- the walk ------------------------------------------------------------------------------------


def chain(x, length):
    y = x
    for _ in range(length):
        y = y * 1.0001
    return y


def test_a_long_chain():
    x = leaf(1.0, dtype=tensorlib.float64)
    chain(x, 10_000).backward()
    assert x.grad.item() == pytest.approx(1.0001**10_000)


def test_a_very_long_chain_is_built_walked_and_freed():
    x = leaf(1.0)
    y = chain(x, 100_000)
    del y
    y = chain(x, 100_000)
    y.backward()
    assert x.grad.item() > 1
    del y


def test_a_diamond_of_sixty_storeys():
    """2^60 paths, 120 nodes: a walk over paths would never end."""
    x = leaf(1.0, dtype=tensorlib.float64)
    y = x
    for _ in range(60):
        y = y * 0.5 + y * 0.5
    y.backward()
    assert x.grad.item() == 1.0


def test_skip_connections_of_all_lengths():
    """A node waits for the gradients of all its uses, near and far."""

    def program(t):
        x = t.tensor([0.3, -0.2], requires_grad=True)
        values = [x]
        for _ in range(12):
            values.append(sum(values[1:], values[0]).tanh())
        (values[-1] * values[3]).sum().backward()
        return (x.grad,)

    both(program)


def test_an_unused_branch_changes_nothing():
    def program(t):
        x = t.tensor([1.0, 2.0], requires_grad=True)
        h = x * 3
        unused = h.exp()
        also_unused = unused + x
        (h * h).sum().backward()
        assert also_unused.requires_grad
        return (x.grad,)

    both(program)


def test_an_unused_output_of_a_split():
    def program(t):
        x = t.arange(6.0).requires_grad_()
        a, b, c = (x * 2).split(2)
        (a * a).sum().backward(retain_graph=True)
        (a * c).sum().backward()
        assert b.requires_grad
        return (x.grad,)

    both(program)


def test_a_tensor_used_twice():
    x = leaf(3.0)
    (x * x + x).backward(tensor([1.0]))
    assert x.grad.tolist() == [7.0]


def test_backward_from_the_middle_and_from_a_leaf():
    def program(t):
        x = t.tensor(2.0, requires_grad=True)
        h = x * x
        y = h * 3
        h.backward()
        x.backward()
        assert y.requires_grad
        return (x.grad,)

    both(program)


# ---- several backwards ---------------------------------------------------------------------------


def test_gradients_accumulate():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [5.0, 7.0]
    assert first is x.grad  # added in place, as in PyTorch
    x.grad = None
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]
    assert first.tolist() == [5.0, 7.0]


def test_a_second_backward_needs_retain_graph():
    def twice(t, x):
        y = (x * x).sum()
        y.backward()
        y.backward()

    check_error(RuntimeError, twice, (3,), match="retain_graph")
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [4.0, 8.0]
    with pytest.raises(RuntimeError, match="retain_graph"):
        y.backward()
    assert x.grad.tolist() == [4.0, 8.0]


def test_a_second_backward_through_a_shared_part():
    x = leaf(2.0)
    shared = x.exp()
    first, second = (shared * 2).sum(), (shared * 3).sum()
    first.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        second.backward()


def test_a_freed_part_that_no_gradient_passes_is_no_error():
    def program(t):
        x, w = t.tensor([1.0, 2.0], requires_grad=True), t.tensor([3.0, 4.0], requires_grad=True)
        a = x * x
        a.sum().backward()
        return (*t.autograd.grad((a * w).sum(), w), x.grad)

    both(program)

    def through_it(t, x):
        a = x * x
        a.sum().backward()
        t.autograd.grad((a * 2).sum(), x, allow_unused=True)

    check_error(RuntimeError, through_it, (3,), match="retain_graph")


def test_grad_frees_no_more_than_it_passed():
    def program(t):
        x = t.tensor([1.0, 2.0], requires_grad=True)
        h = x * x
        (g,) = t.autograd.grad((h * h).sum(), h)
        h.backward(g)
        return g, x.grad

    both(program)


@only_ours
def test_create_graph_is_refused():
    x = leaf(2.0)
    with pytest.raises(RuntimeError, match="create_graph"):
        (x * x).sum().backward(create_graph=True)
    with pytest.raises(RuntimeError, match="create_graph"):
        grad((x * x).sum(), x, create_graph=True)
    assert x.grad is None


# ---- aliasing ------------------------------------------------------------------------------------

SHARING = {
    "p + q": lambda p, q: p + q,
    "p - q": lambda p, q: p - q,
    "p + p + q": lambda p, q: p + p + q,
    "views": lambda p, q: p.reshape(2, 2).T.reshape(4) + q.view(4),
    "expand": lambda p, q: p.expand(1, 4)[0] + q,
    "cat": lambda p, q: tensorlib.cat([p, q])[:4] + q,
    "stack": lambda p, q: tensorlib.stack([p, q]).sum(0),
    "sum": lambda p, q: (p.sum() + q.sum()).expand(4),
    "detour": lambda p, q: (p + q) + q,
    "clone": lambda p, q: p.clone() + q.contiguous(),
    "p itself": lambda p, q: p,
}


@only_ours  # PyTorch quarters some of these
@pytest.mark.parametrize("name", SHARING)
def test_a_gradient_is_nobody_elses(name):
    """Halving every gradient in place, one after the other, halves each once."""
    p, q = leaf(1.0, 2.0, 3.0, 4.0), leaf(5.0, 6.0, 7.0, 8.0)
    upstream = tensor([8.0, 16.0, 24.0, 32.0])
    z = SHARING[name](p, q)
    z.backward(upstream)
    gradients = [x.grad for x in (p, q) if x.grad is not None]
    before = [g.tolist() for g in gradients]
    with no_grad():
        for g in gradients:
            g.mul_(0.5)
    assert [g.tolist() for g in gradients] == [[0.5 * v for v in values] for values in before]
    assert upstream.tolist() == [8.0, 16.0, 24.0, 32.0]


@only_ours
@pytest.mark.parametrize("name", SHARING)
def test_accumulating_writes_into_nothing_else(name):
    p, q = leaf(1.0, 2.0, 3.0, 4.0), leaf(5.0, 6.0, 7.0, 8.0)
    upstream = tensor([8.0, 16.0, 24.0, 32.0])
    for _ in range(3):
        SHARING[name](p, q).backward(upstream)
    once = grad(SHARING[name](p, q), (p, q), upstream, allow_unused=True)
    for x, g in zip((p, q), once, strict=True):
        if g is not None:
            assert x.grad.tolist() == [3 * v for v in g.tolist()]
    assert upstream.tolist() == [8.0, 16.0, 24.0, 32.0]


@only_ours
def test_gradients_of_autograd_grad_are_nobody_elses():
    p, q, upstream = leaf(1.0, 2.0), leaf(3.0, 4.0), tensor([8.0, 16.0])
    h = p + q
    gradients = grad(h + q, (p, q, h), upstream)
    for g in gradients:
        g.mul_(0.5)
    assert [g.tolist() for g in gradients] == [[4.0, 8.0], [8.0, 16.0], [4.0, 8.0]]
    assert upstream.tolist() == [8.0, 16.0]


# ---- changes in place ----------------------------------------------------------------------------

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


# ---- recording -----------------------------------------------------------------------------------


def test_no_grad():
    x = leaf(1.0)
    with no_grad():
        y = x * 2
        assert not tensorlib.is_grad_enabled()
        with no_grad():
            pass
        assert not (x * 2).requires_grad
        assert tensor([1.0], requires_grad=True).requires_grad
    assert not y.requires_grad
    assert y.is_leaf
    assert tensorlib.is_grad_enabled()
    assert (x * 2).requires_grad


def test_no_grad_as_a_decorator():
    x = leaf(1.0)

    @no_grad()
    def double(value, times=2):
        """Doubles."""
        return value * times

    assert not double(x).requires_grad
    assert not double(x, times=3).requires_grad
    assert not double(x).requires_grad
    assert (x * 2).requires_grad
    assert (double.__name__, double.__doc__) == ("double", "Doubles.")


def test_no_grad_above_a_generator():
    x = leaf(1.0)

    @no_grad()
    def multiples(times):
        while times:
            times = yield (x * times).requires_grad
        return (x * 2).requires_grad

    steps = multiples(3)
    assert next(steps) is False
    assert tensorlib.is_grad_enabled()  # between its steps
    assert steps.send(2) is False
    with pytest.raises(StopIteration) as end:
        steps.send(0)
    assert end.value.value is False
    assert tensorlib.is_grad_enabled()


def test_one_no_grad_used_several_times():
    quiet = no_grad()
    for _ in range(2):
        with quiet:
            assert not tensorlib.is_grad_enabled()
        assert tensorlib.is_grad_enabled()


@only_ours  # PyTorch's stays off for good
def test_one_no_grad_within_itself():
    quiet = no_grad()
    with quiet:
        with quiet:
            pass
        assert not tensorlib.is_grad_enabled()
    assert tensorlib.is_grad_enabled()


def test_no_grad_ends_after_an_exception():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert tensorlib.is_grad_enabled()


def test_no_grad_is_per_thread():
    x, seen = leaf(1.0), {}
    entered, leave = threading.Event(), threading.Event()

    def other():
        with no_grad():
            entered.set()
            leave.wait(10)
            seen["inside"] = (x * 2).requires_grad

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    seen["outside"] = (x * 2).requires_grad
    with no_grad():
        fresh = threading.Thread(target=lambda: seen.update(fresh=(x * 2).requires_grad))
        fresh.start()
        fresh.join(10)
    leave.set()
    thread.join(10)
    assert seen == {"inside": False, "outside": True, "fresh": True}


@tensorlib.autograd.operation
def exp_of_exp(x):  # an operation may call another
    return tensorlib.exp(tensorlib.tensor(np.exp(x))).array, None


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_operations_do_not_warn_and_leave_numpys_settings_alone():
    infinite = []

    def overflow():
        infinite.append(exp_of_exp(tensorlib.tensor([100.0])).item())

    other = threading.Thread(target=overflow)
    with np.errstate(over="raise"):
        other.start()
        overflow()
        before = np.geterr()
        with pytest.raises(RuntimeError):
            tensorlib.ones(2, 3) + tensorlib.ones(2)
        overflow()
        assert np.geterr() == before
        assert before["over"] == "raise"
    other.join()
    assert infinite == [float("inf")] * 3


def test_threads_share_weights():
    """autograd.grad touches no `.grad`, so many threads can differentiate through one weight."""
    w = tensor(np.linspace(-1, 1, 32 * 32).reshape(32, 32), requires_grad=True)
    inputs = [tensor(np.full((4, 32), i / 10)) for i in range(8)]

    def gradient(x):
        h = x
        for _ in range(10):
            h = (h @ w).tanh()
        return grad(h.sum(), w)[0].numpy()

    expected, found = [gradient(x) for x in inputs], [None] * len(inputs)

    def work(i):
        for _ in range(5):
            found[i] = gradient(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert w.grad is None
    for ours, single in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, single)


def test_detach():
    x = leaf(2.0)
    d = (x * 3).detach()
    assert not d.requires_grad
    assert d.is_leaf
    (d * x).sum().backward()
    assert x.grad.tolist() == [6.0]


def test_flags():
    x, c = leaf(1.0), tensor([1.0])
    assert x.is_leaf
    assert c.is_leaf
    assert x.requires_grad
    assert not c.requires_grad
    assert not (x * c).is_leaf
    assert (x * c).requires_grad
    assert not (c * c).requires_grad
    assert (c * c).is_leaf
    assert c.requires_grad_() is c
    assert c.requires_grad
    assert not c.requires_grad_(False).requires_grad
    c.requires_grad = True
    assert (c * 2).requires_grad
    assert not (x > 0).requires_grad
    assert not x.argmax().requires_grad
    assert not (x * 2).long().requires_grad


@only_ours
def test_retain_grad_is_not_provided():
    assert not hasattr(tensorlib.Tensor, "retain_grad")


def test_requires_grad_refuses():
    check_error(RuntimeError, lambda t, x: (x * 2).requires_grad_(False), (3,))
    check_error(RuntimeError, lambda t: t.tensor([1, 2]).requires_grad_())
    check_error(RuntimeError, lambda t: t.tensor([True], requires_grad=True))
    check_error(RuntimeError, lambda t: setattr(t.tensor([1, 2]), "requires_grad", True))
    check_error(RuntimeError, lambda t, x: setattr(x * 2, "requires_grad", False), (3,))
    integers = tensor([1, 2])
    integers.requires_grad = False
    assert not integers.requires_grad


@only_ours
def test_a_keyword_passes_no_gradient():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    with pytest.raises(TypeError, match=r"mul: .* by position"):
        tensorlib.mul(x, y=y)
    with pytest.raises(TypeError, match="value="):
        x.masked_fill(tensor([True, False]), value=y.sum())
    assert tensorlib.mul(x, y=y.detach()).tolist() == [3.0, 8.0]
    with no_grad():
        assert tensorlib.mul(x, y=y).tolist() == [3.0, 8.0]


def test_only_leaves_keep_gradients():
    x = leaf(1.0, 2.0)
    h = x * 2
    h.sum().backward()
    assert x.grad is not None
    if tensorlib is not torch:  # which warns
        assert h.grad is None


# ---- backward(gradient) and its errors -----------------------------------------------------------


def test_backward_with_a_gradient():
    x = leaf(1.0, 2.0)
    (x * x).backward(tensor([10.0, 1.0]))
    assert x.grad.tolist() == [20.0, 4.0]
    (x * x).backward(gradient=tensor([1.0, 1.0]))
    assert x.grad.tolist() == [22.0, 8.0]
    y = (x * x).sum().reshape(1, 1)
    y.backward()  # one element, any rank
    assert x.grad.tolist() == [24.0, 12.0]


def test_backward_refuses():
    check_error(RuntimeError, lambda t, x: (x * 2).backward(), (3,), match="3")
    check_error(RuntimeError, lambda t, x: (x * 2).backward(), (0,))
    check_error(RuntimeError, lambda t, x: (x * 2).backward(t.ones(2)), (3,), match=r"2.*3|3.*2")
    check_error(RuntimeError, lambda t, x: (x * 2).backward(t.ones(1, 3)), (3,))
    check_error(RuntimeError, lambda t, x: (x * 2).backward(t.ones(3, 3)), (3,))
    check_error(RuntimeError, lambda t: t.ones(()).backward())
    check_error(RuntimeError, lambda t, x: x.detach().sum().backward(), (3,))
    check_error(RuntimeError, lambda t, x: (x > 0).sum().backward(), (3,))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_keep_their_dtype(dtype):
    other = {"float32": "float64", "float64": "float32"}[dtype]
    x = tensor([1.0, 2.0], dtype=getattr(tensorlib, dtype), requires_grad=True)
    c = tensor([1.0, 2.0], dtype=getattr(tensorlib, other))
    (x * c + x).sum().backward()
    assert x.grad.dtype == x.dtype
    assert x.grad.numpy().dtype == dtype
    (x * 2).backward(c)
    assert x.grad.dtype == x.dtype
    assert x.grad.numpy().dtype == dtype
    assert x.grad.tolist() == [4.0, 7.0]
    x.grad = None
    x.backward(c)
    assert x.grad.numpy().dtype == dtype


@only_ours
def test_an_error_in_backward_names_the_operation_and_its_shapes():
    from tensorlib.autograd import operation

    @operation
    def clumsy(x, y):
        return x + y, (lambda g: g, lambda g: np.ones(5))

    x, y = tensor(np.ones((2, 3)), requires_grad=True), tensor(np.ones(3), requires_grad=True)
    with pytest.raises(RuntimeError, match=r"clumsy.*\(2, 3\).*\(3,\)"):
        clumsy(x * 1, y * 1).sum().backward()
    assert x.grad is None
    assert y.grad is None


@only_ours
def test_out_of_memory_in_backward_stays_what_it_is():
    from tensorlib.autograd import operation

    @operation
    def greedy(x):
        def grad_x(g):
            raise MemoryError

        return x + 1, (grad_x,)

    with pytest.raises(MemoryError):
        greedy(leaf(1.0)).sum().backward()


# ---- autograd.grad -------------------------------------------------------------------------------


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


# ---- memory --------------------------------------------------------------------------------------


@pytest.fixture
def no_gc():
    """Only reference counting frees memory in here."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def owner(t):
    """A weak reference to the array that owns the memory of a tensor."""
    array = t.detach().numpy()
    while isinstance(array.base, np.ndarray):
        array = array.base
    reference = weakref.ref(array)
    del array
    assert reference() is not None
    return reference


@only_ours
@pytest.mark.usefixtures("no_gc")
class TestMemory:
    def test_a_result_dies_with_its_last_use(self):
        x = leaf(1.0, 2.0)
        h = x.exp()
        loss = h.sum()
        array, handle = owner(h), weakref.ref(h)
        del h
        assert handle() is None  # the tensor itself is never kept
        assert array() is not None  # exp needs its result
        del loss
        assert array() is None

    @pytest.mark.parametrize(
        "use",
        [
            lambda h: h + 1,
            lambda h: h * 2.0,
            lambda h: h.sum(),
            lambda h: h.mean(0),
            lambda h: h.exp(),
            lambda h: h.tanh(),
            lambda h: h.relu(),
            lambda h: h.softmax(-1),
            lambda h: h * tensor([[1.0, 2.0]]),
            lambda h: h @ tensor([[1.0], [2.0]]),
            lambda h: h[[0, 0]],
            lambda h: tensorlib.cat([h, h]),
            lambda h: h.masked_fill(tensor([[True, False]]), 0.0),
        ],
    )
    def test_what_backward_does_not_need_is_freed_at_once(self, use):
        h = leaf([1.0, 2.0]) * 1.5
        loss = use(h)
        array = owner(h)
        del h
        assert array() is None, "kept by the graph although no gradient needs it"
        loss.sum().backward()

    def test_backward_frees_what_was_saved(self):
        x = leaf(1.0, 2.0)
        a = x * 3
        b = a.sin()
        c = b * a
        loss = c.exp().sum()
        arrays = [owner(t) for t in (a, b, c)]
        del a, b, c
        assert arrays[0]() is not None
        assert arrays[1]() is not None
        loss.backward()
        assert [array() for array in arrays] == [None] * 3  # while `loss` is still held
        assert loss.requires_grad
        arrays = [owner(x), owner(x.grad)]
        del x, loss  # the graph still leads to its leaves, as in PyTorch
        assert [array() is None for array in arrays] == [True] * 2

    def test_backward_frees_inner_gradients(self):
        seen = []
        from tensorlib.autograd import operation

        @operation
        def spy(x):
            def backward(g):
                result = g * 2
                seen.append(weakref.ref(result))
                return result

            return x * 2, (backward,)

        x = leaf(1.0, 2.0)
        loss = spy(spy(spy(x).exp()).exp()).sum()
        loss.backward()
        assert len(seen) == 3
        assert seen[0]() is None
        assert seen[1]() is None

    def test_retain_graph_keeps_and_del_frees(self):
        x = leaf(1.0, 2.0)
        h = x.sin()
        loss = (h * h).sum()
        array = owner(h)
        del h
        loss.backward(retain_graph=True)
        assert array() is not None
        del loss
        assert array() is None

    def test_an_error_leaves_no_gradients_and_no_cycle(self):
        x = leaf(1.0, 2.0)
        h = x * 2
        loss = (h * h).sum()
        array = owner(h)
        with no_grad():
            h.add_(1)
        with pytest.raises(RuntimeError):
            loss.backward()
        assert x.grad is None
        del h, loss
        assert array() is None

    def test_no_grad_keeps_nothing(self):
        with no_grad():
            h = leaf(1.0, 2.0).sin()
            array = owner(h)
            y = h.exp()
        del h
        assert array() is None
        assert y.is_leaf

    def test_every_operation_is_free_of_cycles(self):
        programs = [
            lambda x: x.view(4).reshape(2, 2).T.mT.permute(1, 0).unsqueeze(0).squeeze(0).flatten(),
            lambda x: tensorlib.stack(tensorlib.cat(x.split(1)).unbind(0) + x.chunk(2)[0].unbind()),
            lambda x: x.max(0).values + x.min(0)[0] + x.amax(0) + x.var(0) + x.logsumexp(0),
            lambda x: x[[0, 1, 1]].gather(1, tensor([[0], [1], [1]])) * x[x > 0].sum(),
            lambda x: (x @ x).log_softmax(0).cumsum(0).tril().repeat(2, 1).clamp(-1, 1),
            lambda x: tensorlib.where(x > 1, x, 2 - x) ** 2 + 2**x + tensorlib.maximum(x, x.T),
        ]
        for program in programs:
            x = leaf([1.0, 2.0], [3.0, 4.0])
            h = x * 1.5
            y = program(h)
            arrays = [owner(h), owner(y)]
            del h
            y.sum().backward()
            del y
            assert [array() for array in arrays] == [None, None]

    def test_live_bytes_return_to_the_start_after_training(self):
        rng = np.random.default_rng(0)
        pairs = [(64, 128), (128, 128), (128, 8)]
        weights = [tensor(rng.normal(0, 0.1, pair), requires_grad=True) for pair in pairs]
        biases = [tensor(np.zeros(n), requires_grad=True) for _, n in pairs]
        x, target = tensor(rng.normal(size=(32, 64))), tensor(rng.normal(size=(32, 8)))

        def step():
            h = x
            for w, b in zip(weights, biases, strict=True):
                h = (h @ w + b).tanh()
            loss = ((h - target) ** 2).mean()
            for p in weights + biases:
                p.grad = None
            loss.backward()
            with no_grad():
                for p in weights + biases:
                    p -= 0.1 * p.grad
            return loss.item()

        def live_tensor_bytes():
            tensors = [o for o in gc.get_objects() if issubclass(type(o), tensorlib.Tensor)]
            return sum(t.detach().numpy().nbytes for t in tensors)

        tracemalloc.start()
        losses = [step() for _ in range(3)]  # the gradients and the caches now exist
        tensors, (traced, _) = live_tensor_bytes(), tracemalloc.get_traced_memory()
        losses += [step() for _ in range(20)]
        tensors_after, (traced_after, _) = live_tensor_bytes(), tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert losses[-1] < losses[0]
        assert tensors > 8 * 128 * 128, "the weights are alive, and counted"
        assert tensors_after == tensors
        assert traced_after - traced < 16_384, "an activation is 32,768 bytes"


@only_ours
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_the_process_does_not_grow():
    """Memory beyond what Python accounts for: 300 steps with 4 MB of activations each."""

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    x = tensor(np.ones((512, 512), np.float32), requires_grad=True)
    for step in range(330):
        if step == 30:
            before = resident()
        ((x * 2).sin() * x).sum().backward()
    assert resident() - before < 20e6
