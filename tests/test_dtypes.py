"""Type promotion is `torch.result_type`'s, and a gradient has the dtype of its value."""

# ruff: noqa: B023 (a case runs as soon as it is written)

import itertools
import operator

import numpy as np
import pytest
import torch
from harness import check, check_error, tensorlib, to_array

DTYPES = ["bool", "int32", "int64", "float16", "float32", "float64"]
NUMBERS = {"bool": True, "int": 2, "float": 1.5}
# A pair of operands: with dimensions, 0-d, or a Python number.
PAIRS = list(itertools.product(DTYPES, DTYPES))
ARITHMETIC = [operator.add, operator.mul, operator.truediv]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


def name(dtype):
    return str(dtype).split(".")[-1]


def ones(t, dtype, *shape):
    return t.ones(shape, dtype=getattr(t, dtype))


def assert_same_dtype(fn):
    """`fn(t)` has the dtype in tensorlib that it has in PyTorch; also as an array."""
    ours, theirs = fn(tensorlib), fn(torch)
    assert name(ours.dtype) == name(theirs.dtype)
    assert to_array(ours).dtype == to_array(theirs).dtype
    return theirs


@pytest.mark.parametrize("op", ARITHMETIC, ids=lambda op: op.__name__)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_two_tensors(a, b, op):
    for shape_a, shape_b in itertools.product([(2,), ()], repeat=2):
        result = assert_same_dtype(lambda t: op(ones(t, a, *shape_a), ones(t, b, *shape_b)))
        if op is operator.add:
            assert result.dtype == torch.result_type(
                ones(torch, a, *shape_a), ones(torch, b, *shape_b)
            )


@pytest.mark.parametrize("op", ARITHMETIC, ids=lambda op: op.__name__)
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_and_a_number(dtype, number, op):
    for shape in [(2,), ()]:
        assert_same_dtype(lambda t: op(ones(t, dtype, *shape), NUMBERS[number]))
        assert_same_dtype(lambda t: op(NUMBERS[number], ones(t, dtype, *shape)))


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_maximum_where_and_joins(a, b):
    assert_same_dtype(lambda t: t.maximum(ones(t, a, 2), ones(t, b)))
    assert_same_dtype(lambda t: t.where(t.tensor([True, False]), ones(t, a, 2), ones(t, b)))
    assert_same_dtype(lambda t: t.cat([ones(t, a, 2), ones(t, b, 1)]))
    assert_same_dtype(lambda t: t.stack([ones(t, a), ones(t, b)]))
    if "bool" not in (a, b) and not (a.startswith("int") and b.startswith("int")):
        assert_same_dtype(lambda t: ones(t, a, 2) ** ones(t, b))


@pytest.mark.parametrize("op", COMPARISONS, ids=lambda op: op.__name__)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_comparisons_give_bool(a, b, op):
    assert assert_same_dtype(lambda t: op(ones(t, a, 2), ones(t, b))).dtype is torch.bool
    assert assert_same_dtype(lambda t: op(ones(t, a, 2), 1.5)).dtype is torch.bool


@pytest.mark.parametrize(
    "function", ["exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid"]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_one_variable(dtype, function):
    for shape in [(2,), ()]:
        assert_same_dtype(lambda t: getattr(t, function)(ones(t, dtype, *shape)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions_and_pow(dtype):
    assert_same_dtype(lambda t: ones(t, dtype, 2, 2).sum())
    assert_same_dtype(lambda t: ones(t, dtype, 2, 2).sum(0))
    assert_same_dtype(lambda t: ones(t, dtype, 2).cumsum(0))
    assert_same_dtype(lambda t: ones(t, dtype, 2).max())
    assert_same_dtype(lambda t: ones(t, dtype, 2).amax(0))
    for exponent in (2, 2.0, 0.5):
        assert_same_dtype(lambda t: ones(t, dtype, 2) ** exponent)
    if dtype.startswith("float"):
        for function in ("mean", "var", "std"):
            assert_same_dtype(lambda t: getattr(ones(t, dtype, 2, 2), function)(0))
        assert_same_dtype(lambda t: ones(t, dtype, 2, 2).softmax(0))
        assert_same_dtype(lambda t: ones(t, dtype, 2, 2).logsumexp(0))
        assert_same_dtype(lambda t: ones(t, dtype, 2, 2) @ ones(t, dtype, 2))
        assert_same_dtype(lambda t: ones(t, dtype, 2, 2).clamp(0, 1))


@pytest.mark.parametrize(("a", "b"), [p for p in PAIRS if {"float32", "float64"} & set(p)])
def test_gradients_keep_the_dtype_of_their_value(a, b):
    """Float operands of two dtypes: each gets a gradient of its own dtype."""
    values = [np.asarray([1.0, 2.0], a), np.asarray(3.0, b)]
    dtypes = ["float64"]
    check(lambda t, x, y: x * y, *values, dtypes=dtypes)
    check(lambda t, x, y: x + y, *values, dtypes=dtypes)
    check(lambda t, x, y: x / y, *values, dtypes=dtypes)
    check(lambda t, x, y: t.maximum(x, y), *values, dtypes=dtypes)
    check(lambda t, x, y: t.cat([x, y[None]]), *values, dtypes=dtypes)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_casts(a, b):
    assert_same_dtype(lambda t: ones(t, a, 2).to(getattr(t, b)))
    check(
        lambda t, x: x.to(getattr(t, b)),
        np.asarray([0.0, 1.0], a),
        dtypes=["float64"],
        finite=False,
    )


@pytest.mark.parametrize("method", ["float", "double", "half", "long", "int", "bool"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cast_methods(dtype, method):
    values = np.asarray([0, 1, 3], dtype)
    check(lambda t, x: getattr(x, method)(), values, dtypes=["float64"], finite=False)


def test_what_python_values_become():
    for values in (
        1,
        1.0,
        True,
        [1, 2],
        [1, 2.0],
        [True, 2],
        [True, False],
        [],
        [[]],
        [[1.0], [2]],
    ):
        assert_same_dtype(lambda t: t.tensor(values))
    for values in (
        np.float64(2),
        np.ones(2),
        np.ones(2, np.float32),
        np.arange(3),
    ):
        assert_same_dtype(lambda t: t.tensor(values))
    assert_same_dtype(lambda t: t.tensor([1.7, 2.2], dtype=t.int64))
    assert_same_dtype(lambda t: t.tensor([1, 0], dtype=t.bool))
    assert_same_dtype(lambda t: t.tensor(1, dtype=t.float64))


def test_what_a_model_runs_into():
    """The places where NumPy alone would slip into float64."""
    check(lambda t, x: x * 64**-0.5, (3,))
    check(lambda t, x: x / np.sqrt(64.0), (3,))
    check(lambda t, x: x * np.float64(2), (3,))
    check(lambda t, x: x / t.tensor(8.0, device=x.device).sqrt(), (3,))
    check(lambda t, x: x * t.tensor(2.0, dtype=t.float64, device=x.device), (3,))
    check(lambda t, x, i: x * (i + 1), (3,), [0, 1, 2])
    check(lambda t, x, i: x + t.exp(i), (3,), [0, 1, 2], dtypes=["float32"])
    check(lambda t, x: x * x.shape[0], (3,))
    check(lambda t, x: x.mean() + x.sum() / 3, (3,))
    check(lambda t, x, m: (x * m).sum() / m.sum(), (3,), [True, False, True])
    check(lambda t, x: sum(x), (3,))


def test_names():
    assert tensorlib.long == tensorlib.int64
    for dtype in DTYPES:
        assert ones(tensorlib, dtype, 2).dtype == getattr(tensorlib, dtype)


def test_only_floats_require_gradients():
    for dtype in ("bool", "int32", "int64"):
        check_error(RuntimeError, lambda t, d=dtype: ones(t, d, 2).requires_grad_())
        check_error(
            RuntimeError, lambda t, d=dtype: t.tensor([1], dtype=getattr(t, d), requires_grad=True)
        )


def test_bfloat16_names_what_it_needs():
    if tensorlib is torch:
        pytest.skip("PyTorch has it")
    try:
        import ml_dtypes
    except ImportError:
        with pytest.raises(AttributeError, match="pip install ml_dtypes"):
            _ = tensorlib.bfloat16
    else:
        assert tensorlib.bfloat16 == ml_dtypes.bfloat16
    with pytest.raises(AttributeError, match="no attribute 'floot'"):
        _ = tensorlib.floot
