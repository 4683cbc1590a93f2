"""Elementwise operations: arithmetic, functions of one variable, selections."""

import operator

import numpy as np
import pytest
from harness import check, check_error, integers, mask, tensorlib
from tape import only_ours

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # 1 / 0 is inf without one

INF, NAN = float("inf"), float("nan")

# Shapes that broadcast: equal, row, column, both ways, scalar, size 1, empty.
PAIRS = [
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((3, 1), (3, 4)),
    ((2, 1, 4), (3, 1)),
    ((), (3, 4)),
    ((3, 4), ()),
    ((), ()),
    ((1,), (1, 1)),
    ((1, 1, 1), (2, 3)),
    ((0,), (1,)),
    ((2, 0), (1, 1)),
    ((0, 3), (3,)),
]
SHAPES = [(3, 4), (2, 1, 5), (), (1,), (0,), (3, 0, 2)]

# Functions of one variable: where to draw from, when not between -2 and 2.
UNARY = {
    "neg": {},
    "exp": {},
    "log": {"low": 0.2, "high": 4},
    "sqrt": {"low": 0.2, "high": 4},
    "rsqrt": {"low": 0.2, "high": 4},
    "abs": {},
    "tanh": {"low": -4, "high": 4},
    "sigmoid": {"low": -6, "high": 6},
    "sin": {"low": -4, "high": 4},
    "cos": {"low": -4, "high": 4},
    "relu": {},
}
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1000.0, -1000.0, 1e-30, INF, -INF, NAN]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_unary(name, shape):
    check(lambda t, x: getattr(t, name)(x), shape, **UNARY[name])
    check(lambda t, x: getattr(x, name)(), shape, **UNARY[name])


@pytest.mark.parametrize("name", UNARY)
def test_unary_at_special_values(name):
    specials = [v for v in SPECIAL if not (name in ("sin", "cos") and abs(v) == 1000)]
    check(lambda t, x: getattr(t, name)(x.detach()), specials)
    check(lambda t, x: getattr(t, name)(x), specials[:-1], finite=False)  # all but nan


@pytest.mark.parametrize("name", UNARY)
def test_unary_of_integers(name):
    if name == "relu":
        check(lambda t, x: t.relu(x), [-1, 0, 2])
    else:
        check(lambda t, x: getattr(t, name)(x), [1, 2, 3])


def test_unary_operators():
    check(lambda t, x: -x, (3, 4))
    check(lambda t, x: abs(x), (3, 4))
    check(lambda t, x: -x, ())


def test_unary_far_out():
    check(lambda t, x: t.sigmoid(x), [-1000.0, -100.0, -30.0, 30.0, 100.0, 1000.0])
    check(lambda t, x: t.tanh(x), [-1000.0, -20.0, 20.0, 1000.0])
    check(lambda t, x: t.exp(x), [-1000.0, -80.0, 80.0])


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum", "minimum"])
def test_binary(name, shapes):
    check(lambda t, x, y: getattr(t, name)(x, y), *shapes, low=0.3, high=3)
    check(lambda t, x, y: getattr(x, name)(y), *shapes, low=-3, high=-0.3)


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul, operator.truediv])
def test_operators(op, shapes):
    check(lambda t, x, y: op(x, y), *shapes, low=0.3, high=3)


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
def test_pow(shapes):
    check(lambda t, x, y: t.pow(x, y), *shapes, low=0.3, high=3)
    check(lambda t, x, y: x**y, *shapes, low=0.3, high=3)
    check(lambda t, x, y: x.pow(y), *shapes, low=0.3, high=3)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 0.5, -0.5, 1.5, 2.0, 0.0, 1.0])
def test_pow_of_a_number(exponent):
    check(lambda t, x: x**exponent, (3, 4), low=0.3, high=3)
    check(lambda t, x: t.pow(x, exponent), (3,), low=0.3, high=3)
    check(lambda t, x: x.pow(exponent), (), low=0.3, high=3)
    check(lambda t, x: x**exponent, (0, 2))
    specials = [-2.0, 0.0, 1.0, INF, NAN, -INF][: -1 if exponent % 1 else None]
    check(lambda t, x: x**exponent, specials, finite=False)


@pytest.mark.parametrize("base", [2, 0.5, 1, 2.0])
def test_number_to_the_power(base):
    check(lambda t, x: base**x, (3, 4))
    check(lambda t, x: t.pow(base, x), (3,))
    check(lambda t, x: base**x, ())
    check(lambda t, x: base**x, (0,))


def test_pow_at_zero():
    bases = [[0.0, 0.0, 0.0, 0.0, 2.0, -2.0, -2.0]]
    exponents = [[0.0, 1.0, 2.0, -1.0, 0.0, 2.0, 3.0]]
    check(lambda t, x, y: x**y, bases, exponents, finite=False)
    check(lambda t, x: 0**x, [0.0, 1.0, 2.0], finite=False)


@pytest.mark.parametrize("number", [2, -3, 0.5, True])
@pytest.mark.parametrize("shape", [(3, 4), (), (0,)], ids=str)
def test_python_numbers_on_either_side(number, shape):
    check(lambda t, x: x + number, shape, low=0.5)
    check(lambda t, x: number + x, shape, low=0.5)
    check(lambda t, x: x * number, shape, low=0.5)
    check(lambda t, x: number * x, shape, low=0.5)
    check(lambda t, x: x / number, shape, low=0.5)
    check(lambda t, x: number / x, shape, low=0.5)
    if number is not True:  # PyTorch refuses to subtract a bool
        check(lambda t, x: x - number, shape, low=0.5)
        check(lambda t, x: number - x, shape, low=0.5)


@pytest.mark.parametrize("name", ["add", "mul", "div", "sub"])
def test_python_numbers_in_functions(name):
    check(lambda t, x: getattr(t, name)(x, 2.5), (3, 4))
    check(lambda t, x: getattr(x, name)(2), (3, 4))


def test_division_by_zero():
    with np.errstate(all="ignore"):
        check(lambda t, x, y: x / y, [1.0, -1.0, 0.0, NAN], [0.0, 0.0, 0.0, 1.0], finite=False)
        check(lambda t, x: x / 0, [1.0, -1.0, 0.0], finite=False)
        check(lambda t, x: 1 / x, [0.0, -0.0, INF], finite=False)


def test_integers():
    check(lambda t, x, y: (x + y, x - y, x * y, x / y), [7, -7, 8], [2, 3, -4])
    check(lambda t, x: (x + 1, 1 - x, x * 2, x / 2, 2 / x, x**2, -x, abs(x)), [7, -7, 8])
    check(lambda t, x: (x + 1.5, x * 0.5, 2.0**x, x**0.5), [7, 1, 8])


def test_the_same_operand_twice():
    check(lambda t, x: x * x, (3, 4))
    check(lambda t, x: x + x, (3, 4))
    check(lambda t, x: x / x, (3,), low=0.5)
    check(lambda t, x: x - x, (3,))
    check(lambda t, x: x**x, (3,), low=0.5)
    check(lambda t, x: t.maximum(x, x), (3,), finite=False)
    check(lambda t, x: x * x[0], (3, 4))


def test_mixed_with_tensors_of_another_dtype():
    check(lambda t, x, y: x * y, (3, 4), integers(5, 4))
    check(lambda t, x, y: x + y, (3, 4), mask(3, 1))
    check(lambda t, x, y: y / x, (3, 4), integers(5, 3, 1), low=0.5)
    check(lambda t, x, y: x * y, (3, 4), np.ones(4, np.float32))
    check(lambda t, x, y: y - x, (), np.ones((2, 3), np.float32), dtypes=["float64"])
    check(lambda t, x, y: t.maximum(x, y), (3, 4), integers(2, 4))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_share_the_gradient(name):
    check(lambda t, x, y: getattr(t, name)(x, y), [1.0, 2.0, 2.0], [2.0, 2.0, 1.0], finite=False)
    check(lambda t, x, y: getattr(t, name)(x, y), [[0.0], [1.0]], [0.0, 1.0], finite=False)
    specials = [NAN, 1.0, NAN, INF, -INF, INF]
    check(lambda t, x, y: getattr(t, name)(x.detach(), y.detach()), specials, specials[::-1])
    check(lambda t, x, y: getattr(t, name)(x, y), [INF, -INF], [INF, 1.0], finite=False)
    check(lambda t, x, y: getattr(t, name)(x, y), [3, 1], [2, 2])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_clamp(shape):
    check(lambda t, x: t.clamp(x, -0.5, 1), shape)
    check(lambda t, x: x.clamp(min=0.25), shape)
    check(lambda t, x: x.clamp(max=0.25), shape)
    check(lambda t, x: t.clamp(x, min=-1, max=0.5), shape)


def test_clamp_with_tensors_for_bounds():
    check(lambda t, x, low: x.clamp(min=low), (3, 4), (4,))
    check(lambda t, x, high: t.clamp(x, max=high), (3, 4), (3, 1))
    check(lambda t, x, low, high: x.clamp(low, high + 4), (3, 4), (4,), (4,))


def test_clamp_at_and_beyond_its_bounds():
    values = [-1.0, 0.0, 1.0, 2.0, NAN, INF, -INF]
    check(lambda t, x: x.clamp(0, 1), values, finite=False)
    check(lambda t, x: x.clamp(min=0), values, finite=False)
    check(lambda t, x: x.clamp(max=1), values, finite=False)
    check(lambda t, x: x.clamp(1, 0), values, finite=False)  # the upper bound wins
    check(lambda t, x: x.clamp(-1, 1), [-3, 0, 3])
    check(lambda t, x: x.clamp(min=0.5), [-3, 0, 3])
    check_error(RuntimeError, lambda t, x: x.clamp(), (3,))
    slopes = [INF, 2.0, INF]
    check(lambda t, x, y: x.clamp(0, 1) * y, [-1.0, 0.5, 2.0], slopes, finite=False)


WHERE = [
    ((3, 4), (3, 4), (3, 4)),
    ((3, 1), (4,), (3, 4)),
    ((4,), (3, 1), ()),
    ((), (3,), (2, 1)),
    ((2, 1, 1), (3, 1), (4,)),
    ((), (), ()),
    ((1,), (1,), (1, 1)),
    ((0,), (1,), (0,)),
    ((2, 0), (), (1, 1)),
]


@pytest.mark.parametrize("shapes", WHERE, ids=str)
def test_where(shapes):
    condition, x, y = shapes
    check(lambda t, c, x, y: t.where(c, x, y), mask(*condition), x, y)
    check(lambda t, c, x: t.where(c, x, 0.5), mask(*condition), x)
    check(lambda t, c, x: t.where(c, -1, x), mask(*condition), x)
    check(lambda t, c, x: t.where(c, x, -INF), mask(*condition), x, finite=False)


@only_ours  # PyTorch's looks for what is not 0
def test_where_wants_two_choices():
    with pytest.raises(TypeError, match="two choices"):
        tensorlib.where(tensorlib.tensor([True]))


def test_where_wants_a_condition():
    check_error(RuntimeError, lambda t, x: t.where(x, x, x), (3,), match="bool")


def test_where_on_a_condition_that_is_computed():
    check(lambda t, x, y: t.where(x > y, x, y), (3, 4), (4,))
    check(lambda t, c: t.where(c, 1.0, 0.0), mask(3, 4))
    check(lambda t, c, i: t.where(c, i, 0), mask(3), [1, 2, 3])
    check(lambda t, c, x, i: t.where(c, x, i), mask(3), (3,), [1, 2, 3])


@pytest.mark.parametrize(
    "shapes",
    [((3, 4), (3, 4)), ((2, 3, 4), (3, 4)), ((3, 4), (1,)), ((), ()), ((0, 2), (2,))],
    ids=str,
)
def test_masked_fill(shapes):
    shape, mask_shape = shapes
    check(lambda t, x, m: x.masked_fill(m, 0.5), shape, mask(*mask_shape))
    check(lambda t, x, m: x.masked_fill(m, -INF), shape, mask(*mask_shape), finite=False)
    check(lambda t, x, m: t.masked_fill(x, m == 0, 2), shape, mask(*mask_shape))
    check(lambda t, x, m, y: x.masked_fill(m, y), shape, mask(*mask_shape), ())


def test_masked_fill_of_integers():
    i, m = [1, 2, 3], [True, False, True]
    check(lambda t, i, m: i.masked_fill(m, 1.5), i, m)
    check(lambda t, i, m: m.masked_fill(m, -INF), i, m)
    for value in (-INF, NAN, 1e30):
        check_error(RuntimeError, lambda t, i, m, v=value: i.masked_fill(m, v), i, m)
        check_error(RuntimeError, lambda t, i, m, v=value: i.masked_fill(m, t.tensor(v)), i, m)
    check_error(RuntimeError, lambda t, i, m: i.int().masked_fill(m, 2**40), i, m, match="int32")


def test_errors():
    for op in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow):
        check_error(RuntimeError, lambda t, x, y, op=op: op(x, y), (3, 4), (3,))
    check_error(RuntimeError, lambda t, x, y: t.maximum(x, y), (2, 3), (4,))
    check_error(RuntimeError, lambda t, c, x, y: t.where(c, x, y), mask(3), (3,), (4,))
    check_error(TypeError, lambda t, x: x + "1", (3,))
    check_error(TypeError, lambda t, x: x * None, (3,))
    check_error(RuntimeError, lambda t, x: x.masked_fill(x, 0.0), (3,))
    check_error(RuntimeError, lambda t, x, m: x.masked_fill(m, 0.0), (3,), mask(4))
    check_error(RuntimeError, lambda t, i: i**-1, [1, 2, 3])
