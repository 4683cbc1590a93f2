"""matmul for every pair of ranks, and outer."""

import numpy as np
import pytest
from harness import check, check_error, integers

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # 1 / 0 is inf without one

PAIRS = [
    ((4,), (4,)),
    ((1,), (1,)),
    ((4,), (4, 3)),
    ((2, 4), (4,)),
    ((2, 4), (4, 3)),
    ((1, 4), (4, 1)),
    ((4, 1), (1, 4)),
    ((1, 1), (1, 1)),
    ((4,), (2, 4, 3)),
    ((2, 3, 4), (4,)),
    ((4,), (5, 2, 4, 3)),
    ((5, 2, 3, 4), (4,)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 3, 4), (2, 4, 5)),
    ((1, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (1, 4, 5)),
    ((5, 2, 3, 4), (5, 2, 4, 3)),
    ((5, 1, 3, 4), (2, 4, 3)),
    ((2, 3, 4), (5, 1, 4, 3)),
    ((5, 2, 3, 4), (4, 3)),
    ((3, 4), (5, 2, 4, 3)),
    ((1, 1, 3, 4), (5, 2, 4, 3)),
    ((1, 2, 1, 4), (3, 1, 4, 1)),
    ((2, 1, 2, 2, 3), (3, 1, 3, 2)),
]
EMPTY = [
    ((0,), (0,)),
    ((0, 4), (4, 3)),
    ((2, 0), (0, 3)),
    ((2, 4), (4, 0)),
    ((0, 3, 4), (4, 5)),
    ((0, 3, 4), (0, 4, 5)),
    ((2, 3, 0), (2, 0, 5)),
    ((0, 1, 3, 4), (2, 4, 3)),
    ((3, 0), (0,)),
    ((0, 4), (4,)),
]


@pytest.mark.parametrize("shapes", PAIRS + EMPTY, ids=str)
def test_matmul(shapes):
    check(lambda t, x, y: x @ y, *shapes)
    check(lambda t, x, y: t.matmul(x, y), *shapes)
    check(lambda t, x, y: x.matmul(y), *shapes)


def test_matmul_of_transposed_views():
    check(lambda t, x, y: x @ y.T, (2, 4), (3, 4))
    check(lambda t, x, y: x.T @ y, (4, 2), (4, 3))
    check(lambda t, q, k: q @ k.transpose(-2, -1), (2, 3, 4), (2, 5, 4))
    check(lambda t, x, y: x @ y.mT, (2, 3, 4), (5, 4))
    check(lambda t, x, y: x[:, ::2] @ y[1:], (3, 4), (3, 2))
    check(lambda t, x, y: x.expand(3, 2, 4) @ y, (2, 4), (3, 4, 2))


def test_matmul_of_a_tensor_with_itself():
    check(lambda t, x: x @ x, (3, 3))
    check(lambda t, x: x @ x.T, (3, 4))
    check(lambda t, x: x @ x, (4,))
    check(lambda t, x: x @ x @ x, (2, 3, 3))


def test_sizes_of_the_model():
    check(lambda t, x, w: x @ w, (4, 64, 32), (32, 65))
    check(lambda t, q, k: q @ k.mT * 8**-0.5, (2, 4, 16, 8), (2, 4, 16, 8))


def test_special_values():
    inf, nan = float("inf"), float("nan")
    check(lambda t, x, y: x @ y, [[0.0, inf], [nan, 1.0]], [[1.0, 0.0], [0.0, 2.0]], finite=False)


@pytest.mark.parametrize(
    "shapes", [((3,), (4,)), ((1,), (1,)), ((0,), (3,)), ((3,), (0,))], ids=str
)
def test_outer(shapes):
    check(lambda t, x, y: t.outer(x, y), *shapes)
    check(lambda t, x, y: x.outer(y), *shapes)


def test_integers():
    check(lambda t, x, y: x @ y, integers(9, 2, 3), integers(9, 3, 2))
    check(lambda t, x, y: t.outer(x, y), [1, 2], [3, 4])


def test_errors():
    check_error(RuntimeError, lambda t, x, y: x @ y, (2, 3), (2, 3))
    check_error(RuntimeError, lambda t, x, y: x @ y, (3,), (4,))
    check_error(RuntimeError, lambda t, x, y: x @ y, (2, 3), (4,))
    check_error(RuntimeError, lambda t, x, y: x @ y, (2, 3, 4), (3, 4, 5))
    check_error(RuntimeError, lambda t, x, y: x @ y, (), (3,))
    check_error(RuntimeError, lambda t, x, y: x @ y, (3, 4), ())
    check_error(TypeError, lambda t, x: x @ 2.0, (3,))
    check_error(RuntimeError, lambda t, x, y: t.outer(x, y), (2, 3), (3,))
    # PyTorch multiplies matrices of one dtype only.
    check_error(RuntimeError, lambda t, x, y: x @ y, (2, 3), integers(9, 3, 2))
    check_error(RuntimeError, lambda t, x, y: x @ y, np.ones((2, 3)), np.ones((3, 2), np.float32))
