"""Tensors from values, constants, sequences, random numbers; comparing and counting whole ones."""

# ruff: noqa: B023 (a case runs as soon as it is written)

import numpy as np
import pytest
import torch
from harness import check, check_error, tensorlib

INF, NAN = float("inf"), float("nan")
DTYPES = ["bool", "int32", "int64", "float16", "float32", "float64"]


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
    check_error(ValueError, lambda t: t.tensor([[1, 2], [3]]), match="length")
    check_error((TypeError, ValueError), lambda t: t.tensor("a"))
    check_error(TypeError, lambda t: t.from_numpy(np.array(["a"])))
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
    check_error(TypeError, lambda t: t.zeros(2.5), match="integers")
    check_error(TypeError, lambda t: t.randint(10), match="size")


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


@pytest.mark.cpu("the names of devices")
def test_device_is_the_name_of_one():
    for t in (tensorlib, torch):
        assert t.ones(2, device=t.device("cpu")).device == t.device("cpu")
        assert str(t.device("cpu")) == "cpu"
        with pytest.raises(RuntimeError):
            t.device("xyz")
