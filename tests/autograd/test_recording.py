"""What is recorded and what is not: no_grad, threads, detach, flags."""

import threading

import numpy as np
import pytest
import torch
from harness import check, check_error, tensorlib, to_array
from tape import grad, leaf, no_grad, only_ours, tensor


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


def test_no_grad_without_brackets():
    x = leaf(1.0)

    @no_grad
    def double():
        return x * 2

    assert not double().requires_grad
    assert (x * 2).requires_grad


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
        return to_array(grad(h.sum(), w)[0])

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


def test_requires_grad_refuses():
    check_error(RuntimeError, lambda t, x: (x * 2).requires_grad_(False), (3,))
    check_error(RuntimeError, lambda t: t.tensor([1, 2]).requires_grad_())
    check_error(RuntimeError, lambda t: t.tensor([True], requires_grad=True))
    check_error(RuntimeError, lambda t: setattr(t.tensor([1, 2]), "requires_grad", True))
    check_error(RuntimeError, lambda t, x: setattr(x * 2, "requires_grad", False), (3,))
    integers = tensor([1, 2])
    integers.requires_grad = False
    assert not integers.requires_grad


def test_a_keyword_passes_gradients():
    check(lambda t, x, w, b: t.nn.functional.linear(x, bias=b, weight=w), (2, 3), (4, 3), (4,))
    check(lambda t, x, w: t.nn.functional.layer_norm(x, (3,), bias=w), (2, 3), (3,))
    check(lambda t, x, y: x.masked_fill(t.tensor([True, False]), value=y.sum()), (3, 2), (1,))


@only_ours
def test_a_missing_or_unknown_keyword_is_named():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    assert tensorlib.mul(x, y=y).tolist() == [3.0, 8.0]
    with pytest.raises(TypeError, match=r"mul\(\) missing .* argument: 'x'"):
        tensorlib.mul(y=y)
    with pytest.raises(TypeError, match=r"mul\(\) got an unexpected keyword argument 'other'"):
        tensorlib.mul(x, other=y)
    with pytest.raises(TypeError, match=r"mul\(\) got multiple values for argument 'x'"):
        tensorlib.mul(x, y, x=y)


@only_ours
def test_defaults_before_a_keyword_are_kept():
    @tensorlib.autograd.operation
    def affine(x, scale=2.0, shift=0.0):
        return x * scale + shift, (lambda grad: grad * scale, None, lambda grad: grad)

    x, shift = leaf(1.0), leaf(5.0)
    y = affine(x, shift=shift)
    y.backward()
    assert (y.item(), x.grad.item(), shift.grad.item()) == (7.0, 2.0, 1.0)


def test_only_leaves_keep_gradients():
    x = leaf(1.0, 2.0)
    h = x * 2
    h.sum().backward()
    assert x.grad is not None
    if tensorlib is not torch:  # which warns
        assert h.grad is None


@only_ours
@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (lambda: tensorlib.ones(2, 3) * tensorlib.ones(2), RuntimeError,
         r"mul of shapes \(2, 3\), \(2,\): sizes must be equal, or one of them 1"),
        (lambda: tensorlib.softmax([1.0, 2.0], 0), TypeError,
         "softmax: argument 'x' must be a tensor, not list: use tensor"),
        (lambda: tensorlib.ones(2).sum().backward(), RuntimeError,
         r"nothing was recorded .* no_grad\(\)"),
        (lambda: tensorlib.ones(1, requires_grad=True).backward(1.0), TypeError,
         "gradient must be a tensor, not float"),
    ],
    ids=["shapes", "list", "unrecorded", "number"],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(mistake, kind, message):
    with pytest.raises(kind, match=message) as caught:
        mistake()
    assert "\n" not in str(caught.value)
