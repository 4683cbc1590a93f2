"""Tensors outside the tape: making, reading, comparing, changing in place, sharing memory."""

# ruff: noqa: B023 (a case runs as soon as it is written)

import contextlib
import math
import operator
import re

import numpy as np
import pytest
import torch
from harness import check, check_error, integers, mask, tensorlib

INF, NAN = float("inf"), float("nan")
tensor, no_grad = tensorlib.tensor, tensorlib.no_grad
DTYPES = ["bool", "int32", "int64", "float16", "float32", "float64"]


# ---- creation ------------------------------------------------------------------------------------


def test_tensor_from_values():
    for values in (
        2,
        2.5,
        True,
        [],
        [[]],
        [1, 2],
        [1.5, 2],
        [[1], [2]],
        [[[True]]],
        (1, 2),
        [(1, 2)],
    ):
        check(lambda t: t.tensor(values))
    for values in (
        np.arange(6).reshape(2, 3),
        np.ones(2),
        np.float32(1),
        np.asarray(2.0),
        np.zeros((0, 2)),
    ):
        check(lambda t: t.tensor(values))
    check(lambda t: t.tensor([t.tensor(1), t.tensor(2)]))
    check(lambda t: t.tensor([t.tensor(1.5), 2]))
    check(lambda t: t.tensor([1.0, 2.0], requires_grad=True))
    check(lambda t: t.tensor([1, 2], dtype=t.float64))
    check(lambda t: t.tensor([1.9, -1.9], dtype=t.long))
    check(lambda t: t.tensor([INF, -INF, NAN]))
    check(lambda t: t.tensor(range(3)))
    check(lambda t: t.tensor(data=[1, 2]))
    check_error(ValueError, lambda t: t.tensor([[1, 2], [3]]))
    check_error((TypeError, ValueError), lambda t: t.tensor("a"))
    check_error((TypeError, ValueError), lambda t: t.tensor(["a"]))
    check_error((TypeError, ValueError, RuntimeError), lambda t: t.tensor(None))


@pytest.mark.parametrize("dtype", [None, *DTYPES])
def test_constants(dtype):
    def options(t):
        return {} if dtype is None else {"dtype": getattr(t, dtype)}

    for size in [(2, 3), (1,), (0, 2), ()]:
        for name in ("zeros", "ones"):
            check(lambda t: getattr(t, name)(*size, **options(t)) if size else t.zeros(()))
            check(lambda t: getattr(t, name)(size, **options(t)))
            check(lambda t: getattr(t, name)(list(size), **options(t)))
        check(lambda t: t.empty(size, **options(t)).shape)
        check(lambda t: t.empty(size, **options(t)).dtype)
        for value in (2, 1.5, True):
            check(lambda t: t.full(size, value, **options(t)))
    check(lambda t: t.eye(3, **options(t)))
    check(lambda t: t.eye(2, 3, **options(t)))
    check(lambda t: t.eye(0, **options(t)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_like(dtype):
    values = np.ones((2, 3), dtype)
    check(lambda t, x: (t.zeros_like(x), t.ones_like(x), t.full_like(x, 3)), values)
    check(lambda t, x: t.zeros_like(x, dtype=t.float64), values)
    check(lambda t, x: t.empty_like(x).shape, values)
    check(lambda t, x: t.empty_like(x).dtype, values)
    check(lambda t, x: t.ones_like(x.mT), values)
    if dtype in ("float32", "float64"):
        check(lambda t, x: t.zeros_like(x, requires_grad=True), values)
        check(lambda t, x: t.rand_like(x).dtype, values)
        check(lambda t, x: t.randn_like(x).shape, values)


def test_the_class_itself():
    """Video and micrograd write `torch.Tensor([2.0]).double()`."""
    check(lambda t: t.Tensor([2.0]).double())
    check(lambda t: t.Tensor([[1], [2]]))
    check_error(TypeError, lambda t: t.Tensor(2.0), match="tensor")
    check_error(TypeError, lambda t: t.Tensor("a"), match="str")
    check_error(ValueError, lambda t: t.Tensor([[1], [2, 3]]))


def test_requires_grad_at_creation():
    for name in ("zeros", "ones", "rand", "randn", "empty"):
        check(lambda t, n=name: getattr(t, n)(2, requires_grad=True).requires_grad)
    check(lambda t: t.full((2,), 1.0, requires_grad=True))
    check_error(RuntimeError, lambda t: t.zeros(2, dtype=t.int64, requires_grad=True))


def test_sequences():
    for args in [
        (5,),
        (0,),
        (2, 7),
        (1, 8, 3),
        (5, 0, -2),
        (2.5,),
        (0, 1, 0.25),
        (1, 2, 0.3),
        (-1.5, 2),
    ]:
        check(lambda t: t.arange(*args))
        check(lambda t: t.arange(*args, dtype=t.float64))
    check(lambda t: t.arange(5, dtype=t.int32))
    check(lambda t: t.arange(0, 1, 0.1))
    check(lambda t: t.arange(start=1, end=3))
    for args in [
        (0, 1, 5),
        (0, 1, 1),
        (-3, 3, 7),
        (2, 2, 3),
        (1, 0, 4),
        (0, 1, 0),
        (0.1, 0.7, 100),
    ]:
        check(lambda t: t.linspace(*args))
        check(lambda t: t.linspace(*args, dtype=t.float64))
    check_error(RuntimeError, lambda t: t.arange(0, 5, 0))
    check_error(RuntimeError, lambda t: t.arange(5, 0))
    check_error(RuntimeError, lambda t: t.linspace(0, 1, -1))
    check_error(RuntimeError, lambda t: t.zeros(-1))


def test_random_shapes_and_dtypes():
    for size in [(2, 3), (0,), (17,)]:
        check(lambda t: t.rand(*size).shape)
        check(lambda t: t.randn(size).shape)
        check(lambda t: t.randint(5, size).shape)
        check(lambda t: t.randint(2, 5, size).dtype)
    check(lambda t: t.rand(2, dtype=t.float64).dtype)
    check(lambda t: t.randn(2).dtype)
    check(lambda t: sorted(t.randperm(7).tolist()))
    check(lambda t: t.multinomial(t.tensor([[0.0, 1.0], [1.0, 0.0]]), 1))
    check(lambda t: t.randint(3, 4, (5,)))


@pytest.mark.parametrize("seed", [0, 1337])
def test_the_same_seed_gives_the_same_numbers(seed):
    def draw(t):
        t.manual_seed(seed)
        return t.rand(17), t.randn(4, 5), t.randint(65, (3, 4)), t.randperm(9), t.randn(3)

    check(draw)


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
    check(lambda t, x: x.ndim, values)
    check(lambda t, x: x.dim(), values)
    check(lambda t, x: x.dtype, values)
    check(lambda t, x: str(x.device), values)
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


def test_numpy_interoperates():
    x = tensor([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(np.asarray(x), [[1, 2], [3, 4]])
    assert np.asarray(x).dtype == np.float32
    np.testing.assert_array_equal(x.numpy(), [[1, 2], [3, 4]])
    check(lambda t, x: x * np.float32(2), (3,))
    check_error(RuntimeError, lambda t, x: x.numpy(), (3,))  # it requires a gradient
    check_error(TypeError, lambda t: t.from_numpy([1.0, 2.0]))
    check(lambda t, x: x.numpy().sum().item(), np.arange(3))


# ---- repr ----------------------------------------------------------------------------------------


def spelled(text):
    """PyTorch's text with our package's name, and any operation's name after grad_fn."""
    return re.sub(
        r"grad_fn=<\w+>", "grad_fn=<...>", text.replace("torch.", f"{tensorlib.__name__}.")
    )


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


def test_allclose_and_equal():
    x, y = [1.0, 2.0, INF], [1.0 + 1e-7, 2.0, INF]
    check(lambda t, x, y: t.allclose(x, y), x, y)
    check(lambda t, x, y: t.allclose(x, y, rtol=0, atol=1e-9), x, y, dtypes=["float64"])
    check(lambda t, x: t.allclose(x, x), [1.0, NAN])
    check(lambda t, x: t.allclose(x, x, equal_nan=True), [1.0, NAN])
    check(lambda t, x, y: t.equal(x, y), [1.0, 2.0], [1.0, 2.0])
    check(lambda t, x, y: t.equal(x, y), (2,), (3,))


def test_counting():
    check(lambda t, i: t.bincount(i), [0, 3, 3, 1])
    check(lambda t, i: t.bincount(i, minlength=6), [0, 3, 3, 1])
    check(lambda t, i: t.bincount(i, minlength=2), np.zeros(0, np.int64))
    check_error(RuntimeError, lambda t, i: t.bincount(i), [-1, 2])


# ---- changing in place ---------------------------------------------------------------------------

# Each changes a tensor of shape (3, 4), in both libraries.
WRITES = {
    "int": lambda t, x: operator.setitem(x, 1, 7.0),
    "ints": lambda t, x: operator.setitem(x, (1, -1), 7),
    "slice": lambda t, x: operator.setitem(x, slice(1, None), 0.5),
    "column": lambda t, x: operator.setitem(x, (slice(None), 2), t.tensor([1.0, 2.0, 3.0])),
    "row broadcast": lambda t, x: operator.setitem(x, slice(0, 2), t.arange(4)),
    "ellipsis": lambda t, x: operator.setitem(x, ..., 3.0),
    "mask": lambda t, x: operator.setitem(x, x > 0, -1.0),
    "mask of rows": lambda t, x: operator.setitem(x, t.tensor([True, False, True]), 9.0),
    "indices": lambda t, x: operator.setitem(x, t.tensor([2, 0]), t.ones(2, 4).to(x.dtype)),
    "index pairs": lambda t, x: operator.setitem(
        x, (t.tensor([2, 0]), t.tensor([-1, 1])), t.tensor([5.0, 6.0]).to(x.dtype)
    ),
    "int and indices": lambda t, x: operator.setitem(x, (1, t.tensor([0, 3])), 4.0),
    "list": lambda t, x: operator.setitem(x, [0, 2], 4.0),
    "0-d index": lambda t, x: operator.setitem(x, t.tensor(1), t.tensor(2.5)),
    "other dtype": lambda t, x: operator.setitem(x, 0, t.tensor([1, 2, 3, 4])),
    "none": lambda t, x: operator.setitem(x, (slice(None), None), t.ones(3, 1, 4)),
    "+= number": lambda t, x: operator.iadd(x, 1),
    "+= row": lambda t, x: operator.iadd(x, t.arange(4)),
    "-=": lambda t, x: operator.isub(x, t.ones(3, 1)),
    "*=": lambda t, x: operator.imul(x, 2.5),
    "/=": lambda t, x: operator.itruediv(x, 2),
    "+= itself": lambda t, x: operator.iadd(x, x),
    "add_": lambda t, x: x.add_(2).sub_(1).mul_(3).div_(2),
    "add_ row": lambda t, x: x.add_(t.arange(4.0)),
    "zero_": lambda t, x: x.zero_(),
    "fill_": lambda t, x: x.fill_(2.5),
    "copy_": lambda t, x: x.copy_(t.arange(12).reshape(3, 4)),
    "copy_ broadcast": lambda t, x: x.copy_(t.arange(4.0)),
    "row view": lambda t, x: x[0].add_(1),
    "element view": lambda t, x: x[0, 1].fill_(1),
    "transposed view": lambda t, x: operator.iadd(x.T, 1),
    "reshaped view": lambda t, x: operator.setitem(x.view(-1), 5, 8.0),
    "chunk": lambda t, x: x.chunk(2, 1)[1].zero_(),
    "unbind": lambda t, x: x.unbind(0)[2].fill_(4),
    "iterated rows": lambda t, x: [row.mul_(i) for i, row in enumerate(x)],
    "detached": lambda t, x: x.detach().add_(1),
    "data": lambda t, x: x.data.mul_(2),
}


FLOAT_WRITES = ["-=", "*=", "/=", "add_", "add_ row"]  # into integers these do not fit


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("name", WRITES)
def test_writes(name, dtype):
    results = []
    for t in (tensorlib, torch):
        array = (np.arange(12).reshape(3, 4) - 5).astype(dtype)
        x = t.from_numpy(array)
        refused = dtype == "int64" and name in FLOAT_WRITES
        with pytest.raises(RuntimeError) if refused else contextlib.nullcontext():
            WRITES[name](t, x)
        assert np.may_share_memory(x.numpy(), array)
        results.append(array)
    np.testing.assert_array_equal(*results)


def test_writes_refuse():
    check_error(RuntimeError, lambda t: operator.iadd(t.ones(3), t.ones(2, 3)))  # may not grow
    check_error(RuntimeError, lambda t: operator.iadd(t.ones(3), t.ones(2)))
    check_error(
        RuntimeError, lambda t: operator.itruediv(t.tensor([1, 2]), 2)
    )  # nor change its dtype
    check_error(RuntimeError, lambda t: operator.iadd(t.tensor([1, 2]), 1.5))
    check_error(RuntimeError, lambda t: operator.setitem(t.ones(3), slice(2), t.ones(3)))
    check_error(IndexError, lambda t: operator.setitem(t.ones(3), 3, 1.0))
    check_error(IndexError, lambda t: operator.setitem(t.ones(3), t.tensor([5]), 1.0))
    check_error(RuntimeError, lambda t: t.ones(3).copy_(t.ones(2)))
    check_error(IndexError, lambda t: operator.setitem(t.ones(3), t.tensor([True, False]), 1.0))


def test_augmented_assignment_keeps_the_tensor_and_its_dtype():
    x = tensor([1.0, 2.0])
    before, memory = x, x.numpy()
    x += tensor([1.0, 1.0], dtype=tensorlib.float64)
    x *= 2
    assert x is before
    assert x.dtype == tensorlib.float32
    assert memory.tolist() == [4.0, 6.0]
    i = tensor([1, 2], dtype=tensorlib.int32)
    i += tensor([1, 1])
    assert i.dtype == tensorlib.int32
    assert i.tolist() == [2, 3]


# ---- sharing memory ------------------------------------------------------------------------------

VIEWS = {
    "view": lambda x: x.view(12),
    "reshape": lambda x: x.reshape(2, 6),
    "transpose": lambda x: x.transpose(0, 1),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "permute": lambda x: x.permute(1, 0),
    "expand": lambda x: x[:, :1].expand(3, 4),
    "squeeze": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "flatten": lambda x: x.flatten(),
    "split": lambda x: x.split(2)[0],
    "chunk": lambda x: x.chunk(2, 1)[0],
    "unbind": lambda x: x.unbind(0)[0],
    "row": lambda x: x[0],
    "element": lambda x: x[0, 0],
    "slices": lambda x: x[::2, 1:],
    "none and ellipsis": lambda x: x[None, ..., 0],
    "iteration": lambda x: next(iter(x)),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "contiguous": lambda x: x.contiguous(),
    "to": lambda x: x.to(tensorlib.float32).float().to("cpu"),
}
COPIES = {
    "clone": lambda x: x.clone(),
    "clone of a view": lambda x: x[0].clone(),
    "x + 0": lambda x: x + 0,
    "x * 1": lambda x: x * 1,
    "indices": lambda x: x[tensor([0])],
    "list": lambda x: x[[0]],
    "mask": lambda x: x[x == x],
    "reshape across": lambda x: x.T.reshape(12),
    "contiguous across": lambda x: x.T.contiguous(),
    "tensor": lambda x: tensor(x.numpy()),
    "to another dtype": lambda x: x.double(),
    "cat": lambda x: tensorlib.cat([x]),
    "stack": lambda x: tensorlib.stack([x]),
    "repeat": lambda x: x.repeat(1, 1),
    "tril": lambda x: x.tril(5),
    "clamp": lambda x: x.clamp(min=-100),
    "sum over nothing": lambda x: x.sum(()) if tensorlib is torch else x[:1].sum(0),
    "zeros_like": lambda x: tensorlib.zeros_like(x),
    "tolist": lambda x: tensor(x.tolist()),
    "relu": lambda x: x.relu(),
    "abs": lambda x: x.abs(),
    "amax": lambda x: x[:1].amax(0),
    "pow": lambda x: x**1,
    "where": lambda x: tensorlib.where(x == x, x, 0),
    "masked_fill": lambda x: x.masked_fill(x > 100, 0.0),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory(name):
    x = tensorlib.arange(12.0).reshape(3, 4)
    view = VIEWS[name](x)
    with no_grad():
        x += 100
    np.testing.assert_array_equal(view.numpy(), VIEWS[name](x).numpy())
    assert view.numpy().min() >= 100
    x[0, 0] = 7.0
    assert view.numpy().ravel()[0] == 7 or name == "slices"


@pytest.mark.parametrize("name", COPIES)
def test_copies_do_not(name):
    x = tensorlib.arange(12.0).reshape(3, 4)
    copy = COPIES[name](x)
    before = copy.numpy().copy()
    x += 100
    np.testing.assert_array_equal(copy.numpy(), before)
    assert not np.may_share_memory(copy.numpy(), x.numpy())


def test_numpy_and_from_numpy_share_tensor_copies():
    array = np.zeros(3, np.float32)
    shared, copied = tensorlib.from_numpy(array), tensor(array)
    array[0] = 5
    assert shared.tolist() == [5, 0, 0]
    assert copied.tolist() == [0, 0, 0]
    shared[1] = 6
    assert array.tolist() == [5, 6, 0]
    shared.numpy()[2] = 7
    assert array.tolist() == [5, 6, 7]
    assert shared.tolist() == [5, 6, 7]
    x = tensor([1.0, 2.0], requires_grad=True)
    x.detach().numpy()[0] = 9
    assert x.tolist() == [9, 2]
    transposed = tensorlib.from_numpy(np.arange(6.0).reshape(2, 3).T)
    assert transposed.shape == (3, 2)
    assert not transposed.is_contiguous()
    assert tensor([[1, 2]]).T.tolist() == [[1], [2]]


def test_to_returns_itself_when_nothing_changes():
    x = tensor([1.0])
    assert x.to(tensorlib.float32) is x
    assert x.float() is x
    assert x.to("cpu") is x
    assert x.cpu() is x
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
    assert str(tensor([1.0]).device) == "cpu"
    assert tensorlib.zeros(2, device="cpu").tolist() == [0, 0]
    assert tensorlib.cuda.is_available() in (True, False)
    check_error((RuntimeError, ValueError), lambda t: t.zeros(2, device="toaster"))
