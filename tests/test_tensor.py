"""The Tensor itself: attributes, numbers, its text, comparisons, devices."""

import math
import operator
import re

import harness
import numpy as np
import pytest
import torch
from harness import check, check_error, integers, mask, tensorlib

INF, NAN = float("inf"), float("nan")
tensor, no_grad = tensorlib.tensor, tensorlib.no_grad


# ---- reading -------------------------------------------------------------------------------------

VALUES = [
    np.asarray(2.5, np.float32),
    np.asarray([[1, 2, 3], [4, 5, 6]]),
    np.asarray([True, False]),
    np.zeros((2, 0, 3)),
    np.asarray([[INF, NAN], [-0.0, 1e-8]]),
]


@pytest.mark.parametrize("values", VALUES, ids=lambda v: str(v.shape))
def test_attributes(values):
    check(lambda t, x: tuple(x.shape), values)
    check(lambda t, x: tuple(x.size()), values)
    check(lambda t, x: x.numel(), values)
    check(lambda t, x: x.nelement(), values)
    check(lambda t, x: x.ndim, values)
    check(lambda t, x: x.dim(), values)
    check(lambda t, x: x.dtype, values)
    assert str(tensor(values, device=harness.device).device) == harness.device
    check(lambda t, x: x.is_contiguous(), values)
    check(lambda t, x: x.data, values, finite=False)
    if values.ndim:
        check(lambda t, x: len(x), values)
        check(lambda t, x: x.size(0), values)
        check(lambda t, x: x.size(-1), values)
        check(lambda t, x: x.shape[-1], values)
        check(lambda t, x: tuple(x), values, finite=False)  # iteration
        check_error(IndexError, lambda t, x: x.size(values.ndim), values)
    else:
        check_error(TypeError, lambda t, x: len(x), values)
        check_error(TypeError, lambda t, x: list(x), values)
    if not np.isnan(values).any():
        check(lambda t, x: x.tolist(), values)


def test_data_is_assigned():
    def replaced(t):
        p, source = t.zeros(2, requires_grad=True), t.ones(3)
        p.data = source
        source += 1  # the memory is shared from now on
        p.data -= 0.5
        p.data *= p.data
        assert p.is_leaf
        return p.detach(), source

    def stepped(t):
        x = t.tensor([1.0, 2.0], requires_grad=True)
        (x * x).sum().backward()
        x.data -= 0.1 * x.grad
        x.grad = None
        (x * x).sum().backward()
        return x.detach(), x.grad

    check(replaced)
    check(stepped)
    check_error(TypeError, lambda t, x: setattr(x, "data", [1.0]), (2,))
    check_error(RuntimeError, lambda t, x: setattr(x, "data", t.tensor([1, 2])), (2,))


def test_iteration_and_unpacking():
    check(lambda t, x: [row * i for i, row in enumerate(x)], (3, 2))
    check(lambda t, x: sum(row for row in x), (3, 2))

    def unpack(t, x):
        a, (b, c) = x
        return a, b * c

    check(unpack, (2, 2))
    check(lambda t, x: [a * b for a, b in zip(x, x * 2, strict=True)], (3,))
    check(lambda t, i: [int(v) for v in i], [1, 2])


def test_item_and_numbers():
    for values in ([2.5], 3, [[True]], 1e-3, [-7]):
        array = np.asarray(values)
        check(lambda t, x: x.item(), array, dtypes=["float64"])
        check(lambda t, x: float(x.detach()), array, dtypes=["float64"])
        check(lambda t, x: int(x.detach()), array, dtypes=["float64"])
        check(lambda t, x: bool(x), array, dtypes=["float64"])
    check(lambda t, x: math.sqrt(x.detach()), np.asarray(4.0))
    check(lambda t, x: f"{x:.3f} {x.item():.2f}", np.asarray(2.34567))
    check(lambda t, x: round(x.item(), 2), np.asarray(2.34567))
    check(lambda t, x: [1, 2, 3][x], np.asarray(1))
    check(lambda t, x: list(range(x)), np.asarray(3))
    check(lambda t, x: "yes" if x.sum() > 0 else "no", [1.0])
    check(lambda t, x: not x, [0.0])
    check_error(RuntimeError, lambda t, x: x.item(), (2,))
    check_error(RuntimeError, lambda t, x: x.item(), (0,))
    check_error(RuntimeError, lambda t, x: bool(x), (2,))
    check_error((ValueError, RuntimeError), lambda t, x: float(x.detach()), (2,))
    check_error(TypeError, lambda t, x: [1, 2][x], np.asarray(1.0))
    check_error(TypeError, lambda t, x: f"{x:.2f}", (1,), match=r"item\(\)")


def test_zero_d_integer_tensors_as_numbers():
    i, j = np.asarray(1), np.asarray(3)
    check(lambda t, x, i: x[i], (4, 2), i)
    check(lambda t, x, i, j: x[i:j], (4, 2), i, j)
    check(lambda t, x, i, j: x[:, i:j], (2, 4), i, j)
    check(lambda t, x, i, j: x[i - j :], (4, 2), i, j)
    check(lambda t, x, i: x[i, 0], (4, 2), i)
    check(
        lambda t, x, ix: t.stack([x[i : i + 3] for i in ix]), (10,), [0, 5, 2]
    )  # a batch of the video
    check(lambda t, x, i: x.split(int(i)), (4,), i)
    check(lambda t, i: t.arange(i), j)
    check(lambda t, x, i: [10, 20, 30][i], (), i)


@pytest.mark.cpu("NumPy's arrays are there")
def test_numpy_interoperates():
    x = tensor([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(np.asarray(x), [[1, 2], [3, 4]])
    assert np.asarray(x).dtype == np.float32
    np.testing.assert_array_equal(x.numpy(), [[1, 2], [3, 4]])
    check(lambda t, x: x.numpy().sum().item(), np.arange(3))
    check_error(TypeError, lambda t: t.from_numpy([1.0, 2.0]))


def test_a_number_of_numpy_s_and_no_array_with_a_gradient():
    check(lambda t, x: x * np.float32(2), (3,))
    check_error(RuntimeError, lambda t, x: x.numpy(), (3,))


# ---- repr ----------------------------------------------------------------------------------------


def spelled(text):
    """PyTorch's text with our package's name, and any operation's name after grad_fn."""
    return re.sub(
        r"grad_fn=<\w+>", "grad_fn=<...>", text.replace("torch.", f"{tensorlib.__name__}.")
    )


@pytest.mark.cpu("the text does not name it")
@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.tensor(1),
        lambda t: t.tensor(2.0),
        lambda t: t.tensor([1, -2]),
        lambda t: t.tensor([[1.0, 2.5], [3.25, 4.0]]),
        lambda t: t.tensor([True, False]),
        lambda t: t.tensor([]),
        lambda t: t.zeros(2, 0),
        lambda t: t.tensor([1e-5, 1.0, 1000.0]),
        lambda t: t.tensor([1e10, 1.0]),
        lambda t: t.tensor([INF, -INF, NAN, 1.5]),
        lambda t: t.tensor([1.0, 2.0], dtype=t.float64),
        lambda t: t.tensor([1, 2], dtype=t.int32),
        lambda t: t.arange(2000),
        lambda t: t.zeros(40, 40),
        lambda t: t.arange(24.0).reshape(2, 3, 4),
        lambda t: t.tensor([1.0, 2.0], requires_grad=True),
        lambda t: t.tensor([1.0, 2.0], requires_grad=True) * 2,
        lambda t: t.tensor([1.0, 2.0], requires_grad=True, dtype=t.float64)[0],
        lambda t: t.arange(6).reshape(2, 3).T,
        lambda t: t.tensor([[24, 43, 58, 5], [44, 53, 56, 1]]),
    ],
)
def test_repr(make):
    assert spelled(repr(make(tensorlib))) == spelled(repr(make(torch)))
    assert spelled(str(make(tensorlib))) == spelled(str(make(torch)))


# ---- comparing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons(name):
    op = getattr(operator, name)
    for shapes in [((3, 4), (4,)), ((), (2,)), ((0,), (1,)), ((2, 1), (1, 3))]:
        check(lambda t, x, y: op(x.long(), y.long()), *shapes)
    check(lambda t, x, y: op(x, y), [1.0, 2.0, NAN, INF], [1.0, 3.0, NAN, INF])
    check(lambda t, x: op(x, 1), [0.0, 1.0, 2.0])
    check(lambda t, x: op(1.5, x), [1, 2])
    check(lambda t, m: op(m, True), mask(4))
    check(lambda t, x, i: op(x, i), [1.0, 2.5], [1, 2])
    check(lambda t, x, y: getattr(x, name)(y), [1.0, 2.0], [2.0, 2.0])
    check(lambda t, x, y: getattr(t, name)(x, y), [1.0, 2.0], [2.0, 2.0])
    check_error(RuntimeError, lambda t, x, y: op(x, y), (2,), (3,))


@pytest.mark.cpu("NumPy's arrays are there")
def test_comparing_with_an_array_of_numpy():
    x, row = tensor([1.0, 2.0]), np.array([1.0, 3.0], np.float32)
    assert (x == row).tolist() == [True, False]
    if tensorlib is not torch:  # whose `!=`, and == from the left, compare with nothing
        assert (row == x).tolist() == [True, False]
        assert (x != row).tolist() == (row != x).tolist() == [False, True]


def test_comparing_with_other_things():
    x = tensor([1.0, 2.0])
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert (x == "a") is False
    with pytest.raises(TypeError):
        assert x < "a"
    assert len({x, tensor([1.0, 2.0]), x}) == 2  # a hash by identity
    assert x in [x]


def test_boolean_operators():
    m, n = mask(2, 3), mask(3, seed=1)
    check(lambda t, m, n: (m & n, m | n, ~m), m, n)
    check(lambda t, m, x: (m & (x > 0)).sum(), m, (2, 3))
    check(lambda t, m: m & True, m)
    check(lambda t, m, n: (t.logical_and(m, n), t.logical_or(m, n), t.logical_not(m)), m, n)
    check(lambda t, x: t.logical_not(x), [0.0, 2.0])
    check(lambda t, i, j: (i & j, i | j, ~i), [6, 1], [3, 8])
    check_error(RuntimeError, lambda t, x, y: x & y, (3,), (3,))


def test_to_returns_itself_when_nothing_changes():
    x = tensor([1.0])
    assert x.to(tensorlib.float32) is x
    assert x.float() is x
    assert x.to(harness.device) is x
    assert (x.cpu() is x) == (harness.device == "cpu")
    check(lambda t, x: x.to(t.float64), np.ones(2, np.float32), dtypes=["float32"], finite=False)
    check(lambda t, x: x.to(dtype=t.float32), (3,), dtypes=["float64"], finite=False)
    check(
        lambda t, x, y: x.to(y.dtype) * y,
        np.ones(2, np.float32),
        (2,),
        dtypes=["float64"],
        finite=False,
    )
    check(lambda t, x, y: x.to(y), integers(5, 2), (2,))


def test_devices():
    assert str(tensor([1.0], device="cpu").device) == "cpu"
    assert tensorlib.zeros(2, device="cpu").tolist() == [0, 0]
    assert tensorlib.cuda.is_available() in (True, False)
    check_error((RuntimeError, ValueError), lambda t: t.zeros(2, device="toaster"))
