"""`format_tensor` against `repr` of the same tensor in PyTorch, string for string."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tensorlib.printing import format_tensor

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]


def expected(tensor):
    return repr(tensor).replace("torch.", "tensorlib.")


def check(array):
    """PyTorch's text: plain and, for floats, of a leaf that wants a gradient and of a result."""
    array = np.asarray(array)
    plain = torch.from_numpy(array.copy())
    assert format_tensor(array) == expected(plain)
    if plain.is_floating_point():
        leaf = plain.requires_grad_()
        assert format_tensor(array, suffix="requires_grad=True") == expected(leaf)
        for result in (leaf.clone(), leaf.swapaxes(0, 0) if leaf.ndim else leaf.view(())):
            suffix = f"grad_fn=<{type(result.grad_fn).__name__}>"
            assert format_tensor(array, suffix=suffix) == expected(result)


def test_text():
    """Three texts written out, to see what the comparisons below are about."""
    assert format_tensor(np.array([[1, 2], [3, 4]], "f4")) == (
        "tensor([[1., 2.],\n"
        "        [3., 4.]])"
    )  # fmt: skip
    assert format_tensor(np.array(4.87855), suffix="grad_fn=<MulBackward0>") == (
        "tensor(4.8785, dtype=tensorlib.float64, grad_fn=<MulBackward0>)"
    )
    assert format_tensor(np.arange(2000)) == "tensor([   0,    1,    2,  ..., 1997, 1998, 1999])"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "values",
    [
        4.8786,
        0.0,
        -0.0,
        2.0,
        np.nan,
        -np.inf,
        1e-5,
        6e4,
        [1.0, 2.0, -3.0],
        [0.0, -0.0],
        [-0.0, 1.0, 2.5],
        [1.0, np.nan],
        [np.nan, np.inf, -np.inf],
        [1.5, np.nan, -np.inf, 0.0],
        [1e-3, 1.0],
        [0.99e-3, 1.0],
        [1.0, 1001.0],
        [1.0, 1000.0],
        [1e-4, 1e-4],
        [-0.99e-4],
        [1e-7, -0.0, np.nan],
        [0.00005, 0.12345, 0.99995],
        [[1.0, 20.0], [300.0, -4.0]],
        [[[0.1, 0.2]], [[0.3, 0.4]]],
    ],
)
def test_floats(values, dtype):
    check(np.array(values, dtype))


@pytest.mark.parametrize("value", [1e8, 1.0001e8, 123456789.0, 1e16, 1e38, 1e-45, 99999999.5])
def test_large_and_small(value):
    check(np.array([value, value], "float32"))
    check(np.array([value, 1.0]))
    check(np.array([value, np.inf, -value]))
    check(np.array(value))


def test_range_beyond_float64():
    check(np.array([1e308, 5e-324]))


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_integers_and_bools(dtype):
    check(np.array(1, dtype))
    check(np.array([1, 0, 1], dtype))
    check(np.ones((2, 3), dtype))
    if dtype != "bool":
        check(np.array([np.iinfo(dtype).min, 0, np.iinfo(dtype).max], dtype))


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, "bool"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4), (0, 0)])
def test_empty(shape, dtype):
    check(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    "shape",
    [
        *[(1000,), (1001,), (10, 100), (7, 143), (6, 167), (1001, 1), (1, 1001), (2, 2, 251)],
        *[(6, 6, 6, 6), (7, 7, 7, 7), (5, 300, 2), (1, 1, 1, 2000), (3,) * 7, (1,) * 64, (2,) * 8],
        *[(1,) * 63 + (1001,), (40, 30), (300, 2, 3), (25, 41), (1, 30, 40, 1)],
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_shapes(shape, dtype):
    rng = np.random.default_rng(0)
    check((rng.standard_normal(shape) * 3).astype(dtype))
    check(np.zeros(shape, dtype))


def test_hidden_elements_do_not_count():
    array = np.ones(2000, "float32")
    array[1000] = 1.5e20
    check(array)


@pytest.mark.parametrize("length", range(1, 40))
@pytest.mark.parametrize("dtype", FLOATS)
def test_line_width(length, dtype):
    """Rows that end at every column: where the elements wrap, and where the suffixes do."""
    for value in (1.0, 12.0, 0.0, 0.5, -100.25, 1e-6, np.nan):
        check(np.full(length, value, dtype))
        check(np.full((2, length), value, dtype))


@pytest.mark.parametrize("name", ["strided", "transposed", "broadcast", "reversed", "scalar"])
def test_any_layout(name):
    base = np.arange(2400, dtype="float32").reshape(40, 60) / 8
    check(
        {
            "strided": base[::2, ::3],
            "transposed": base.T,
            "broadcast": np.broadcast_to(base[0], (50, 60)),
            "reversed": base[::-1, ::-1],
            "scalar": base[3, 4],
        }[name]
    )


@pytest.mark.parametrize("shape", [(), (3,), (9,), (14,), (2, 5), (0, 3), (2000,)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_device(shape, dtype, monkeypatch):
    """Where the default device is another one, PyTorch names that of a CPU tensor too."""
    monkeypatch.setattr(torch._C, "_get_default_device", lambda: "cuda")
    array = np.ones(shape, dtype)
    tensor = torch.from_numpy(array)
    assert format_tensor(array, suffix="device='cpu'") == expected(tensor)
    if tensor.is_floating_point():
        suffix = "device='cpu', requires_grad=True"
        assert format_tensor(array, suffix=suffix) == expected(tensor.requires_grad_())
        suffix = "device='cpu', grad_fn=<CloneBackward0>"
        assert format_tensor(array, suffix=suffix) == expected(tensor.clone())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("length", [1, 16, 20])
def test_long_suffix(length, dtype):
    """Operations with names of every length: where a suffix wraps after one that has wrapped."""

    def forward(ctx, x):
        return x.clone()

    array = np.ones(length, dtype)
    leaf = torch.from_numpy(array.copy()).requires_grad_()
    for letters in range(1, 90):
        operation = type(
            "F" * letters, (torch.autograd.Function,), {"forward": staticmethod(forward)}
        )
        result = operation.apply(leaf)
        suffix = f"grad_fn=<{type(result.grad_fn).__name__}>"
        assert format_tensor(array, suffix=suffix) == expected(result)


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for values in ([1.0, 2.0], [0.1, -3.3], [1e-9, 1e30], [np.nan, 1.0, -0.0], np.arange(1200)):
        array = np.array(values, "float32")
        text = format_tensor(array.astype(ml_dtypes.bfloat16))
        assert text == expected(torch.from_numpy(array).bfloat16())


numbers = st.one_of(
    st.integers(-1000, 1000),
    st.floats(-10, 10),
    st.floats(width=16),
    st.floats(),
    st.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf]),
)
kinds = [st.integers(-20, 20), st.floats(-10, 10), st.floats(width=16), st.floats(), numbers]


@st.composite
def tensors(draw):
    """Arrays of any rank, short or long enough to be folded, holding a few values many times."""
    dtype = draw(st.sampled_from([*FLOATS, *INTEGERS, "bool"]))
    longest = draw(st.sampled_from([3, 8, 12, 40]))
    rank = {3: 7, 8: 4, 12: 3, 40: 2}[longest]
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=rank, min_side=0, max_side=longest))
    if dtype in FLOATS:
        elements = draw(st.sampled_from(kinds))
    else:
        elements = arrays.from_dtype(np.dtype(dtype))
        if draw(st.booleans()) and dtype != "bool":
            elements = st.integers(0, 100)
    with np.errstate(over="ignore"):
        pool = np.array(draw(st.lists(elements, min_size=1, max_size=9))).astype(dtype)
    return np.random.default_rng(draw(st.integers(0, 9))).choice(pool, shape)


@given(tensors())
@example(np.zeros((1001,), "float16"))
def test_random(array):
    check(array)


@given(st.lists(st.floats(), min_size=1, max_size=30), st.sampled_from(FLOATS))
def test_random_vectors(values, dtype):
    with np.errstate(over="ignore"):
        check(np.array(values).astype(dtype))
