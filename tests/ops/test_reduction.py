"""Reductions, softmax and cumsum: over one, several and all dimensions."""

import numpy as np
import pytest
from harness import check, check_error, integers

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # 1 / 0 is inf without one

INF, NAN = float("inf"), float("nan")

# A shape and the dimensions to reduce; `...` stands for leaving `dim` out.
DIMS = [
    ((3, 4), ...),
    ((3, 4), 0),
    ((3, 4), 1),
    ((3, 4), -1),
    ((3, 4), -2),
    ((3, 4), (0, 1)),
    ((3, 4), (-1, 0)),
    ((2, 3, 4), (0, 2)),
    ((2, 3, 4), (1,)),
    ((2, 3, 4), (-1, -2)),
    ((2, 3, 4), [0, 1]),
    ((2, 3, 4), 1),
    ((2, 1, 3), 1),
    ((1,), 0),
    ((1, 1), ...),
    ((), ...),
    ((), 0),
    ((), -1),
    ((5, 2), ()),
]
ONE_DIM = [((3, 4), 0), ((3, 4), -1), ((2, 3, 4), 1), ((2, 1, 3), 1), ((1,), 0), ((), 0), ((), -1)]
EMPTY = [((0,), ...), ((0, 3), 0), ((2, 0), 0), ((2, 0, 3), (0, 1))]


def options(dim, **more):
    return more if dim is ... else {"dim": dim, **more}


@pytest.mark.parametrize(("shape", "dim"), DIMS, ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin"])
def test_reduce(name, shape, dim):
    check(lambda t, x: getattr(t, name)(x, **options(dim)), shape)
    check(lambda t, x: getattr(x, name)(**options(dim)), shape)
    if dim is not ...:
        check(lambda t, x: getattr(x, name)(dim), shape)
        check(lambda t, x: getattr(x, name)(dim, keepdim=True), shape)
        check(lambda t, x: getattr(t, name)(x, dim, True), shape)


@pytest.mark.parametrize(("shape", "dim"), DIMS, ids=str)
@pytest.mark.parametrize("name", ["var", "std"])
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_var_and_std(name, shape, dim):
    if dim == ():
        return  # all dimensions, but PyTorch 2.13's gradient then is 10 times too large
    one_element = np.prod(shape) == 1 or 1 in shape
    check(
        lambda t, x: getattr(x, name)(**options(dim, correction=0)), shape, finite=not one_element
    )
    if not one_element:
        check(lambda t, x: getattr(t, name)(x, **options(dim)), shape)
        check(lambda t, x: getattr(x, name)(**options(dim, correction=2)), (3, *shape[1:]))
    if dim is not ...:
        check(lambda t, x: getattr(x, name)(dim, keepdim=True, correction=0), shape, finite=False)
        check(lambda t, x: getattr(x, name)(dim, unbiased=False), shape, finite=False)
        if not one_element:
            check(lambda t, x: getattr(x, name)(dim, unbiased=True, keepdim=True), shape)
            check(lambda t, x: getattr(t, name)(x, dim), shape)


@pytest.mark.parametrize("name", ["var", "std"])
@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_var_and_std_at_the_edge(name):
    check(lambda t, x: getattr(x, name)(unbiased=False), (3, 4))
    check(lambda t, x: getattr(x, name)(0), [[1.0, 2.0]], finite=False)  # 0 / 0
    check(lambda t, x: getattr(x, name)(), [3.0], finite=False)
    check(lambda t, x: getattr(x, name)(-1), [[2.0, 2.0, 2.0], [0.0, 1.0, 2.0]], finite=False)
    check(lambda t, x: getattr(x, name)(-1), [[1e4, 1e4 + 1, 1e4 + 2]])
    check(lambda t, x: getattr(x, name)(), (0,), finite=False)
    check_error(RuntimeError, lambda t, x: getattr(x, name)(), [1, 2, 3])


@pytest.mark.parametrize(("shape", "dim"), ONE_DIM, ids=str)
@pytest.mark.parametrize("name", ["max", "min"])
def test_max_and_min(name, shape, dim):
    check(lambda t, x: getattr(t, name)(x), shape)
    check(lambda t, x: getattr(x, name)(), shape)
    check(lambda t, x: getattr(x, name)(dim), shape)
    check(lambda t, x: getattr(t, name)(x, dim), shape)
    check(lambda t, x: getattr(x, name)(dim=dim, keepdim=True), shape)
    check(lambda t, x: getattr(x, name)(dim).values, shape)
    check(lambda t, x: getattr(x, name)(dim, keepdim=True)[0], shape)
    check(lambda t, x: getattr(x, name)(dim).indices, shape)


@pytest.mark.parametrize("name", ["max", "min"])
def test_max_and_min_of_two_tensors(name):
    check(lambda t, x, y: getattr(t, name)(x, y), (3, 4), (4,))


TIES = [
    [1.0, 1.0, 0.0],
    [[2.0, 1.0, 2.0], [0.0, 0.0, 0.0]],
    [[INF, INF, 0.0], [-INF, 0.0, -INF]],
]


@pytest.mark.parametrize("values", TIES, ids=str)
@pytest.mark.parametrize("name", ["amax", "amin", "max", "min"])
def test_ties(name, values):
    check(lambda t, x: getattr(x, name)(-1), values, finite=False)
    check(lambda t, x: getattr(x, name)(0), values, finite=False)
    check(lambda t, x: getattr(x, name)(), values, finite=False)
    with_nan = [[1.0, NAN, 2.0], [NAN, NAN, 0.0]]
    check(lambda t, x: getattr(x.detach(), name)(), with_nan)
    check(lambda t, x: getattr(x.detach(), name)(-1), with_nan)


@pytest.mark.parametrize("name", ["amax", "amin"])
def test_ties_over_several_dims(name):
    values = [[[1.0, 2.0], [2.0, 0.0]], [[2.0, 2.0], [-1.0, -1.0]]]
    check(lambda t, x: getattr(x, name)((0, 2)), values, finite=False)
    check(lambda t, x: getattr(x, name)((0, 1), keepdim=True), values, finite=False)
    check(lambda t, x: getattr(x, name)(()), values, finite=False)


@pytest.mark.parametrize(("shape", "dim"), DIMS, ids=str)
def test_logsumexp(shape, dim):
    if dim is not ... and dim != ():
        check(lambda t, x: t.logsumexp(x, dim), shape)
        check(lambda t, x: x.logsumexp(dim=dim, keepdim=True), shape)


FAR_OUT = [
    [1000.0, 999.0, -1000.0],
    [-1000.0, -1001.0, -1000.5],
    [0.0, 0.0, 0.0],
    [1e30, 0.0, -1e30],
]


def test_logsumexp_far_out():
    check(lambda t, x: x.logsumexp(-1), FAR_OUT, finite=False)
    check(lambda t, x: x.logsumexp((0, 1)), FAR_OUT, finite=False)
    check(lambda t, x: x.logsumexp(-1), [[0.0, -INF, 1.0], [-INF, -INF, -INF]], finite=False)
    check(lambda t, x: x.logsumexp(-1).detach(), [[0.0, INF, 1.0], [NAN, 1.0, 2.0]], finite=False)
    check(lambda t, x: x.logsumexp(0), (0, 3), finite=False)


@pytest.mark.parametrize(("shape", "dim"), [*ONE_DIM, ((2, 0), 1), ((0, 3), 1)], ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, shape, dim):
    check(lambda t, x: getattr(t, name)(x, dim), shape, low=-4, high=4)
    check(lambda t, x: getattr(x, name)(dim=dim), shape, low=-4, high=4)
    check(lambda t, x: getattr(t, name)(x, dim=dim), shape, low=1000, high=1004, dtypes=["float64"])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_far_out(name):
    check(lambda t, x: getattr(t, name)(x, -1), FAR_OUT, finite=False)
    check(lambda t, x: getattr(t, name)(x, 0), FAR_OUT, finite=False)
    masked = [[0.0, -INF, 1.0], [-INF, 5.0, -INF], [1.0, 2.0, 3.0]]
    check(lambda t, x: getattr(t, name)(x, -1), masked, finite=False)
    check(lambda t, x: getattr(t, name)(x, -1), [[-INF, -INF], [0.0, 1.0]], finite=False)
    check(lambda t, x: getattr(t, name)(x, -1), [[NAN, 1.0], [INF, 1.0]], finite=False)
    check_error(RuntimeError, lambda t, i: getattr(t, name)(i, -1), [1, 2, 3])
    check_error(IndexError, lambda t, x: getattr(t, name)(x, 2), (3, 4))


@pytest.mark.parametrize(("shape", "dim"), [*ONE_DIM, ((2, 0), 1), ((0, 3), 1)], ids=str)
def test_cumsum(shape, dim):
    check(lambda t, x: t.cumsum(x, dim), shape)
    check(lambda t, x: x.cumsum(dim=dim), shape)


@pytest.mark.parametrize(("shape", "dim"), EMPTY, ids=str)
def test_reduce_nothing(shape, dim):
    check(lambda t, x: x.sum(**options(dim)), shape)
    check(lambda t, x: x.mean(**options(dim)), shape, finite=False)


def test_reduce_nothing_is_an_error_where_there_is_no_identity():
    for name in ("amax", "amin", "max", "min"):
        check_error((IndexError, RuntimeError), lambda t, x, n=name: getattr(x, n)(), (0, 3))
        check_error(IndexError, lambda t, x, n=name: getattr(x, n)(0), (0, 3))
        check(lambda t, x, n=name: getattr(x, n)(1), (0, 3))


def test_integers_and_booleans():
    i = integers(10, 3, 4)
    check(lambda t, i: (i.sum(), i.sum(0), i.sum(-1, keepdim=True), i.cumsum(0)), i)
    check(lambda t, i: (i.max(), i.min(), i.amax(0), i.amin(1)), i)
    check(lambda t, i: (i.max(0), i.min(1))[0], i)
    check(lambda t, i: (i.sum(), i.sum(0), i.cumsum(0)), i.astype(np.int32))
    check(lambda t, i: i.max(1), i.astype(np.int32))
    check(lambda t, i: ((i > 4).sum(), (i > 4).sum(0), (i > 4).cumsum(1)), i)
    check(lambda t, i: (i > 4).float().mean(), i)
    check_error(RuntimeError, lambda t, i: i.mean(), i)
    check_error(RuntimeError, lambda t, i: i.mean(0), i)


def test_argmax_argmin_all_any_topk():
    values = [[2.0, 5.0, 5.0, 1.0], [NAN, 0.0, -1.0, 3.0]]
    for name in ("argmax", "argmin"):
        check(lambda t, x, n=name: getattr(t, n)(x), values[:1])
        check(lambda t, x, n=name: getattr(x, n)(-1), values)
        check(lambda t, x, n=name: getattr(x, n)(dim=0, keepdim=True), (3, 4))
    check(lambda t, b: (b.all(), b.any()), [[True, False], [True, True]])
    check(lambda t, b: (b.all(0), b.any(-1)), [[True, False], [True, True]])
    check(lambda t, x: t.topk(x, 2), (3, 5))
    check(lambda t, x: x.topk(3, dim=0), (5, 2))
    check(lambda t, x: x.topk(1, -1, largest=False)[0], (3, 5))
    check(lambda t, x: x.topk(1), ())
    check_error(RuntimeError, lambda t, x: x.topk(2), ())


def test_wrong_dims():
    for name in ("sum", "mean", "amax", "logsumexp", "cumsum", "var", "max", "softmax"):
        check_error(IndexError, lambda t, x, n=name: getattr(x, n)(2), (3, 4))
        check_error(IndexError, lambda t, x, n=name: getattr(x, n)(-3), (3, 4))
    for name in ("sum", "amax", "cumsum", "max", "argmax", "softmax"):
        check_error(IndexError, lambda t, x, n=name: getattr(x, n)(1), ())
    for name in ("sum", "mean", "amax", "logsumexp", "var"):
        check_error(RuntimeError, lambda t, x, n=name: getattr(x, n)((0, 0)), (3, 4))
        check_error(RuntimeError, lambda t, x, n=name: getattr(x, n)((0, -2)), (3, 4))
    check_error(TypeError, lambda t, x: x.sum("0"), (3, 4))


def test_long_sums_are_accurate():
    """16,384 float32 rows: the gradient of a broadcast operand is such a sum."""
    x = np.random.default_rng(0).random((16384, 2), np.float32)
    check(lambda t, x: x.sum(0), x)
    check(lambda t, x, row: x + row, x, (2,), dtypes=["float32"])
    check(lambda t, x: x.mean(), x)
