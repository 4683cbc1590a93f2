"""The fused functions equal their plain twins: plain.py specifies what functional.py computes."""

import inspect

import numpy as np
import pytest
from harness import as_values, contiguous, integers, leaf, mask, strided, to_array

import tensorlib
from tensorlib.nn import functional, plain

X, ROW, HEADS = (2, 3, 5), (5,), [(2, 3, 4, 8)] * 3
EXTREME = np.array([[1000.0, -1000.0, 999.0], [-1000.0, -1000.0, -1000.0], [0.0, 500.0, 1.0]])
CAUSAL = np.tril(np.ones((4, 4), bool))
EMPTY_ROW = CAUSAL & (np.arange(4) != 2)[:, None]


def normalized(name):
    """The fused function with normalized_shape filled in, which the twin does not need."""
    return lambda x, weight, *rest, **kw: getattr(functional, name)(
        x, weight.shape, weight, *rest, **kw
    )


FUSED = {  # where the two are not called alike
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "layer_norm": normalized("layer_norm"),
    "rms_norm": normalized("rms_norm"),
}
CASES = {  # the function, its inputs, its options
    "softmax": ("softmax", [X], {"dim": -1}),
    "softmax-dim-1": ("softmax", [X], {"dim": 1}),
    "softmax-extreme": ("softmax", [EXTREME], {"dim": -1}),
    "log_softmax": ("log_softmax", [X], {"dim": -1}),
    "log_softmax-dim-0": ("log_softmax", [X], {"dim": 0}),
    "log_softmax-extreme": ("log_softmax", [EXTREME], {"dim": -1}),
    "masked_softmax": ("masked_softmax", [(2, 4, 4), CAUSAL], {}),
    "masked_softmax-empty-row": ("masked_softmax", [(2, 4, 4), EMPTY_ROW], {}),
    "masked_softmax-random": ("masked_softmax", [(2, 4, 5), mask(2, 4, 5)], {}),
    "masked_softmax-dim-1": ("masked_softmax", [(2, 4, 5), mask(2, 4, 5)], {"dim": 1}),
    "masked_softmax-extreme": ("masked_softmax", [EXTREME, CAUSAL[:3, :3]], {}),
    "cross_entropy": ("cross_entropy", [(6, 5), integers(5, 6)], {}),
    "cross_entropy-extreme": ("cross_entropy", [EXTREME, integers(3, 3)], {}),
    "cross_entropy-one-class": ("cross_entropy", [(6, 1), integers(1, 6)], {}),
    "layer_norm": ("layer_norm", [X, ROW, ROW], {}),
    "layer_norm-eps": ("layer_norm", [X, ROW, ROW], {"eps": 0.1}),
    "rms_norm": ("rms_norm", [X, ROW], {"eps": 1e-6}),
    "rms_norm-eps": ("rms_norm", [X, ROW], {"eps": 0.1}),
    "gelu": ("gelu", [X], {}),
    "gelu-wide": ("gelu", [np.linspace(-9, 9, 37)], {}),
    "silu": ("silu", [X], {}),
    "silu-wide": ("silu", [np.linspace(-90, 90, 37)], {}),
    "linear": ("linear", [X, (4, 5), (4,)], {}),
    "linear-no-bias": ("linear", [X, (4, 5)], {}),
    "embedding": ("embedding", [integers(4, 2, 6), (4, 3)], {}),
    "embedding-many-rows": ("embedding", [integers(300, 2, 400), (300, 3)], {}),
    "attention": ("scaled_dot_product_attention", HEADS, {}),
    "attention-causal": ("scaled_dot_product_attention", HEADS, {"is_causal": True}),
    "attention-scale": ("scaled_dot_product_attention", HEADS, {"scale": 0.7}),
    "attention-lengths": (
        "scaled_dot_product_attention",
        [(2, 4, 8), (2, 6, 8), (2, 6, 3)],
        {"is_causal": True},
    ),
}
TOLERANCE = {"float32": {"rtol": 1e-4, "atol": 1e-5}, "float64": {"rtol": 1e-10, "atol": 1e-11}}


def run(function, case, dtype, layout):
    """The value and every gradient for a random upstream gradient."""
    _, inputs, options = CASES[case]
    rng = np.random.default_rng(0)
    values = [as_values(source, -2.0, 2.0, rng) for source in inputs]
    values = [layout(v.astype(dtype) if v.dtype == np.float64 else v) for v in values]
    leaves = [leaf(tensorlib, v, v.dtype.kind == "f") for v in values]
    out = function(*leaves, **options)
    upstream = np.asarray(rng.standard_normal(out.shape), dtype)
    out.backward(leaf(tensorlib, upstream, False))
    return [to_array(a) for a in (out, *(x.grad for x in leaves if x.requires_grad))]


@pytest.mark.parametrize("layout", [contiguous, strided])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_twins_agree(case, dtype, layout):
    name = CASES[case][0]
    fused = run(FUSED.get(name, getattr(functional, name)), case, dtype, layout)
    spelled_out = run(getattr(plain, name), case, dtype, layout)
    for a, b in zip(fused, spelled_out, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, **TOLERANCE[dtype])


def test_every_twin_is_tested():
    functions = inspect.getmembers(plain, inspect.isfunction)
    public = {name for name, f in functions if f.__module__ == plain.__name__}
    assert {name for name in public if name[0] != "_"} == {name for name, _, _ in CASES.values()}
