"""Mixed precision: the dtypes of PyTorch's autocast, and its numbers.

PyTorch decides on dtypes of "cuda" by its own lists without a GPU, too, on tensors that have no
numbers (FakeTensorMode); its numbers are those of autocast on the CPU, where that has the same
lists.
"""

import threading

import fake_cupy
import numpy as np
import pytest
import torch
from harness import integers
from torch._subclasses.fake_tensor import FakeTensorMode

import tensorlib
from tensorlib import nn, random
from tensorlib.amp import autocast
from tensorlib.autocast_mode import current_autocast
from tensorlib.kernels import cublas
from tensorlib.nn import functional as F

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {"bfloat16": 2e-2, "float16": 2e-3}


pytestmark = pytest.mark.usefixtures("machine")


# ---- dtypes --------------------------------------------------------------------------------------

OPERATIONS = {
    "linear": (lambda t, x, w, b: t.nn.functional.linear(x, w, b), (2, 3, 4), (5, 4), (5,)),
    "matmul": (lambda t, x, y: x @ y, (2, 3, 4), (2, 4, 5)),
    "matrix and vector": (lambda t, x, y: x @ y, (3, 4), (4,)),
    "attention": (
        lambda t, q, k, v: t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        *[(2, 3, 5, 4)] * 3,
    ),
    "layer_norm": (lambda t, x, w: t.nn.functional.layer_norm(x, (4,), w), (3, 4), (4,)),
    "rms_norm": (lambda t, x, w: t.nn.functional.rms_norm(x, (4,), w), (3, 4), (4,)),
    "softmax": (lambda t, x: x.softmax(-1), (3, 4)),
    "log_softmax": (lambda t, x: x.log_softmax(-1), (3, 4)),
    "logsumexp": (lambda t, x: x.logsumexp(-1), (3, 4)),
    "cross_entropy": (
        lambda t, x, y: t.nn.functional.cross_entropy(x, y), (6, 5), integers(5, 6)
    ),
    "nll_loss": (lambda t, x, y: t.nn.functional.nll_loss(x, y), (6, 5), integers(5, 6)),
    "mse_loss": (lambda t, x, y: t.nn.functional.mse_loss(x, y), (3, 4), (3, 4)),
    "bce": (
        lambda t, x, y: t.nn.functional.binary_cross_entropy_with_logits(x, y.detach()),
        (3, 4),
        (3, 4),
    ),
    "sum": (lambda t, x: x.sum(), (3, 4)),
    "sum of rows": (lambda t, x: x.sum(0), (3, 4)),
    "mean": (lambda t, x: x.mean(), (3, 4)),
    "cumsum": (lambda t, x: x.cumsum(0), (3, 4)),
    "exp": (lambda t, x: x.exp(), (3, 4)),
    "log": (lambda t, x: (x * x).log(), (3, 4)),
    "pow": (lambda t, x: x**2, (3, 4)),
    "rsqrt": (lambda t, x: (x * x).rsqrt(), (3, 4)),
    "relu": (lambda t, x: x.relu(), (3, 4)),
    "gelu": (lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), (3, 4)),
    "tanh": (lambda t, x: x.tanh(), (3, 4)),
    "add": (lambda t, x, y: x + y, (3, 4), (4,)),
    "mul": (lambda t, x, y: x * y, (3, 4), (4,)),
    "cat": (lambda t, x, y: t.cat([x, y]), (3, 4), (2, 4)),
    "masked_fill": (lambda t, x: x.masked_fill(x > 0, -1), (3, 4)),
    "reshape": (lambda t, x: x.reshape(4, 3).T.relu(), (3, 4)),
    "dropout": (lambda t, x: t.nn.functional.dropout(x, 0.5), (3, 4)),
    "dropout_add": (
        lambda t, x, y: t.nn.functional.dropout(x, 0.5) + y
        if t is torch
        else t.nn.functional.dropout_add(x, y, 0.5),
        (3, 4),
        (3, 4),
    ),
}  # fmt: skip


def values(shapes, seed=0):
    """For shapes random float32 numbers; arrays of integers as they are."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=s).astype(np.float32) if isinstance(s, tuple) else s for s in shapes]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("given", ["float32", "16 bits", "both"])
def test_dtypes_are_those_of_pytorch(name, dtype, given):
    function, *shapes = OPERATIONS[name]
    arrays = values(shapes)
    low = [x.dtype == np.float32 and given != "float32" for x in arrays]
    if given == "both":
        low[1:] = [False] * (len(low) - 1)
    theirs = []
    with FakeTensorMode():
        for x, narrow in zip(arrays, low):
            theirs.append(torch.empty(x.shape, dtype=getattr(torch, str(x.dtype)), device="cuda"))
            if narrow:
                theirs[-1] = theirs[-1].to(TYPES[dtype])
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", TYPES[dtype])
        try:
            expected = str(function(torch, *theirs).dtype).removeprefix("torch.")
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.set_autocast_dtype("cuda", torch.float16)
    ours = []
    for x, narrow in zip(arrays, low):
        tensor = tensorlib.tensor(x, device="cuda")
        tensor = tensor.to(getattr(tensorlib, dtype)) if narrow else tensor
        ours.append(tensor.requires_grad_() if x.dtype == np.float32 else tensor)
    with autocast("cuda", dtype=getattr(tensorlib, dtype)):
        result = function(tensorlib, *ours)
    assert result.dtype.name == expected
    result.backward(tensorlib.ones_like(result))
    for x in ours:
        assert x.grad is None or x.grad.dtype == x.dtype


# ---- numbers -------------------------------------------------------------------------------------


def mlp(t, x, w1, b1, w2):
    h = t.nn.functional.linear(x, w1, b1).relu()
    return x + t.nn.functional.linear(h, w2)


def block(t, x, qkv, proj, gain):
    B, T, C = x.shape
    h = t.nn.functional.layer_norm(x, (C,), gain)
    parts = t.nn.functional.linear(h, qkv).view(B, T, 3, 2, C // 2).permute(2, 0, 3, 1, 4)
    y = t.nn.functional.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
    return x + t.nn.functional.linear(y.transpose(1, 2).reshape(B, T, C), proj)


FUNCTIONS = {
    "linear": OPERATIONS["linear"],
    "long sums": (lambda t, x, w: t.nn.functional.linear(x, w), (3, 4000), (2, 4000)),
    "many rows": (lambda t, x, w: t.nn.functional.linear(x, w), (4000, 3), (2, 3)),
    "matmul": OPERATIONS["matmul"],
    "batched by a matrix": (lambda t, x, y: x @ y, (2, 3, 4), (4, 5)),
    "transposed": (lambda t, x, y: x.transpose(-1, -2) @ y, (2, 4, 3), (2, 4, 5)),
    "attention": OPERATIONS["attention"],
    "attention, mask": (
        lambda t, q, k, v, m: t.nn.functional.scaled_dot_product_attention(q, k, v, m),
        *[(2, 5, 4)] * 3, (5, 5),
    ),
    "attention, one query": (
        lambda t, q, k, v: t.nn.functional.scaled_dot_product_attention(q, k, v),
        (2, 1, 4), (2, 5, 4), (2, 5, 3),
    ),
    "video's attention": (
        lambda t, q, k, v: (
            ((q @ k.transpose(-2, -1)) * 0.5).masked_fill(t.tril(t.ones(5, 5)).to(q.device) == 0,
                                                         float("-inf")).softmax(-1) @ v
        ),
        *[(2, 5, 4)] * 3,
    ),
    "mlp": (mlp, (3, 4), (16, 4), (16,), (4, 16)),
    "block": (block, (2, 5, 8), (24, 8), (8, 8), (8,)),
    "loss": (
        lambda t, x, w, y: t.nn.functional.cross_entropy(t.nn.functional.linear(x, w), y),
        (6, 4), (5, 4), integers(5, 6),
    ),
}  # fmt: skip


def close(ours, theirs, tolerance, what):
    theirs = theirs.detach().double().numpy()
    ours = ours.detach().cpu().numpy().astype(np.float64)
    scale = np.abs(theirs).max(initial=1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=what)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_are_those_of_pytorch(name, dtype):
    function, *shapes = FUNCTIONS[name]
    arrays = values(shapes)
    theirs = [torch.tensor(x, requires_grad=x.dtype == np.float32) for x in arrays]
    with torch.autocast("cpu", dtype=TYPES[dtype]):
        expected = function(torch, *theirs)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    upstream = upstream.to(expected.dtype)
    expected.backward(upstream)
    ours = [tensorlib.tensor(x, device="cuda", requires_grad=x.dtype == np.float32) for x in arrays]
    with autocast("cuda", dtype=getattr(tensorlib, dtype)):
        result = function(tensorlib, *ours)
    result.backward(tensorlib.tensor(upstream.float().numpy(), device="cuda").to(result.dtype))
    close(result, expected, TOLERANCE[dtype], "value")
    for i, (x, y) in enumerate(zip(ours, theirs)):
        if y.requires_grad:
            assert x.grad.dtype == np.float32
            close(x.grad, y.grad, TOLERANCE[dtype], f"gradient {i}")


def test_the_gradient_of_a_bias_is_added_up_in_float32():
    x, w, b = (tensorlib.tensor(a, device="cuda") for a in values([(4000, 3), (2, 3), (2,)]))
    b.requires_grad_()
    with autocast("cuda", dtype=tensorlib.bfloat16):
        y = F.linear(x, w, b)
    upstream = tensorlib.randn(4000, 2, device="cuda").to(tensorlib.bfloat16)
    y.backward(upstream)
    exact = upstream.cpu().numpy().astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(b.grad.tolist(), exact, rtol=1e-5)


def test_attention_drops_what_float32_drops():
    x = values([(2, 3, 6, 4)] * 3)
    results = []
    for active in (False, True):
        q, k, v = (tensorlib.tensor(a, device="cuda", requires_grad=True) for a in x)
        with random.counter(1, 2, 3), autocast("cuda", tensorlib.bfloat16, enabled=active):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.4)
        y.backward(tensorlib.ones_like(y))
        results.append([y, q.grad, k.grad, v.grad])
    for a, b in zip(*results):
        np.testing.assert_allclose(a.tolist(), b.tolist(), atol=5e-2)


# ---- autocast ------------------------------------------------------------------------------------


def test_autocast_nests_and_decorates():
    x, w = tensorlib.ones(2, 3, device="cuda"), tensorlib.ones(4, 3, device="cuda")

    @autocast("cuda", dtype=tensorlib.bfloat16)
    def narrow():
        with autocast("cuda", enabled=False):
            wide = F.linear(x, w).dtype
        with autocast("gpu"):
            half = F.linear(x, w).dtype
        return F.linear(x, w).dtype, wide, half

    for _ in range(2):
        assert [d.name for d in narrow()] == ["bfloat16", "float32", "float16"]
    assert not tensorlib.is_autocast_enabled()
    with pytest.raises(KeyError), autocast("cuda"):
        raise KeyError
    assert F.linear(x, w).dtype == np.float32


def test_autocast_is_of_one_thread():
    found = []
    with autocast("cuda"):
        thread = threading.Thread(target=lambda: found.append(tensorlib.is_autocast_enabled()))
        thread.start()
        thread.join()
        assert tensorlib.is_autocast_enabled()
    assert found == [False]


def test_autocast_leaves_the_cpu_and_float64_alone():
    with autocast("cuda"):
        assert F.linear(tensorlib.ones(2, 3), tensorlib.ones(4, 3)).dtype == np.float32
        x = tensorlib.ones(3, 3, device="cuda", dtype=tensorlib.float64)
        assert F.linear(x, x).dtype == np.float64


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("norm", [F.layer_norm, F.rms_norm], ids=["layer_norm", "rms_norm"])
def test_lowered_norms_are_what_products_would_make_of_them(norm, dtype):
    """The same bits forwards; backwards their gradient has 16 bits as well."""
    arrays = values([(2, 5, 8), (8,), (6, 8), (2, 5, 6)])
    results = []
    for lower_norms in (False, True):
        x, gain, weight, dy = (tensorlib.tensor(a, device="cuda") for a in arrays)
        leaves = [tensor.requires_grad_() for tensor in (x, gain, weight)]
        with autocast("cuda", dtype=getattr(tensorlib, dtype), lower_norms=lower_norms):
            h = norm(x, (8,), gain)
            y = F.linear(h, weight)
        assert h.dtype.name == (dtype if lower_norms else "float32")
        y.backward(dy.to(y.dtype))
        assert {leaf.grad.dtype.name for leaf in leaves} == {"float32"}
        results.append([y, *(leaf.grad for leaf in leaves)])
    for before, after in zip(*results):
        before, after = (t.detach().float().cpu().numpy() for t in (before, after))
        scale = np.abs(before).max()
        np.testing.assert_allclose(after, before, rtol=0, atol=TOLERANCE[dtype] * scale)
    np.testing.assert_array_equal(*(y.detach().float().cpu().numpy() for y, *_ in results))


def test_norms_are_lowered_only_where_that_is_said():
    x = tensorlib.ones(2, 3, device="cuda")

    def dtype_of(x):
        return F.layer_norm(x, (3,)).dtype.name

    with autocast("cuda", lower_norms=True):
        assert dtype_of(x) == "float16"
        assert dtype_of(x.cpu()) == "float32"
        assert dtype_of(x.to(tensorlib.float64)) == "float64"
        with current_autocast():
            assert dtype_of(x) == "float16"
        with autocast("cuda"):
            assert dtype_of(x) == "float32"
        with autocast("cuda", enabled=False, lower_norms=True):
            assert dtype_of(x) == "float32"
    assert dtype_of(x) == "float32"


def test_autocast_refuses():
    with pytest.raises(RuntimeError, match=r"autocast is for a GPU: .* slower"):
        autocast("cpu", dtype=tensorlib.bfloat16)
    with autocast("cpu", enabled=False):
        assert not tensorlib.is_autocast_enabled()
    with pytest.raises(RuntimeError, match="in bfloat16 or float16, not in float32"):
        autocast("cuda", dtype=tensorlib.float32)


def test_the_gradient_of_a_master_weight_is_never_in_16_bits(machine):
    if machine == "GPU":
        pytest.skip("cuBLAS does not tell")
    calls = cublas._cublas().calls
    x, w = tensorlib.ones(8, 3, device="cuda"), nn.Parameter(tensorlib.ones(4, 3, device="cuda"))
    with autocast("cuda", dtype=tensorlib.bfloat16):
        y = F.linear(x, w)
    y.backward(tensorlib.ones_like(y))
    types = [(call[9], call[16]) for call in calls]  # of the operands, of the result
    assert types == [(14, 14), (14, 0)]
    calls.clear()
    F.linear(x, w).sum().backward()  # without autocast nothing is new
    assert not calls


def test_weights_are_cast_once_and_all_together(machine):
    if machine == "GPU":
        pytest.skip("nobody counts")
    layers = [nn.Linear(8, 16), nn.Linear(16, 8)]
    parameters = [p for layer in layers for p in layer.to("cuda").parameters()]
    vector = nn.utils.parameters_to_vector(parameters)
    nn.utils.vector_to_parameters(vector, parameters)
    x = tensorlib.ones(3, 8, device="cuda", dtype=tensorlib.bfloat16)

    def casts():
        before = fake_cupy.count.launches["astype"]
        y = layers[1](layers[0](x))
        return fake_cupy.count.launches["astype"] - before, y.tolist()

    with autocast("cuda", dtype=tensorlib.bfloat16):
        first, again = casts(), casts()
        assert (first[0], again[0]) == (1, 0)
        assert first[1] == again[1]
        with tensorlib.no_grad():
            layers[1].bias += 1  # is seen, since they are written down
        changed = casts()
        assert changed[0] == 1
        assert changed[1] != first[1]
        with autocast("cuda", dtype=tensorlib.float16):
            assert casts()[0] > 0
    vector.array[...] = 0  # an autocast begins with what is there
    with autocast("cuda", dtype=tensorlib.bfloat16):
        assert not np.any(casts()[1])


@pytest.mark.parametrize("name", ["where", "masked_fill"])
def test_a_choice_keeps_bfloat16(name):
    x = tensorlib.ones(2, 3, device="cuda", dtype=tensorlib.bfloat16)
    chosen = {
        "where": lambda: tensorlib.where(x > 0, x, x * 2),
        "masked_fill": lambda: x.masked_fill(x > 0, 2.0),
    }[name]()
    assert chosen.dtype.name == "bfloat16"
