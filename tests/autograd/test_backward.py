"""Backward: the order of the walk, several backwards, whose memory a gradient is, errors.

Where a comparison helps, the same function runs in PyTorch (`both`); the rest is tensorlib's own.
"""

import numpy as np
import pytest
from harness import check_error, tensorlib, to_array
from tape import both, grad, leaf, no_grad, only_ours, tensor

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
    "a view of p + q": lambda p, q: (p + q).view(2, 2).view(4),
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
    assert to_array(x.grad).dtype == dtype
    (x * 2).backward(c)
    assert x.grad.dtype == x.dtype
    assert to_array(x.grad).dtype == dtype
    assert x.grad.tolist() == [4.0, 7.0]
    x.grad = None
    x.backward(c)
    assert to_array(x.grad).dtype == dtype


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


@only_ours  # PyTorch refuses most of these when they are assigned
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: tensorlib.zeros(3), r"\(3,\).*\(2,\)"),
        (lambda: tensorlib.zeros(3, 2), r"\(3, 2\).*\(2,\)"),  # which could be broadcast
        (lambda: tensorlib.zeros(2, dtype=tensorlib.float64), "float64.*float32"),
        (lambda: tensorlib.zeros(1).expand(2), "writable"),
        (lambda: [0.0, 0.0], "not list"),
    ],
)
def test_a_wrong_grad_is_told_before_any_has_changed(wrong, told):
    x, y, z = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0)
    x.grad, y.grad = tensorlib.ones(2), wrong()
    for loss in ((x * y * z).sum(), (z * y * x).sum()):
        with pytest.raises((RuntimeError, TypeError), match=f"a .grad .*{told}"):
            loss.backward()
    assert x.grad.tolist() == [1.0, 1.0]
    assert z.grad is None


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
