"""nn.functional beside PyTorch: layers, activations, normalisation, dropout. One line per case."""

import math

import numpy as np
import pytest
import torch
from harness import check, check_error, integers, tensorlib

OURS = pytest.mark.skipif(tensorlib is torch, reason="PyTorch does not do this")
SATURATED = np.array([-1000.0, -100.0, -20.0, -5.0, -1e-4, 1e-4, 0.5, 5.0, 20.0, 100.0, 1000.0])
SHAPES = [(), (1,), (7,), (3, 4), (2, 1, 5), (0, 3)]


def functional(name, **options):
    """The function of that name in nn.functional, for check."""
    return lambda t, *inputs: getattr(t.nn.functional, name)(*inputs, **options)


# ---- linear -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (1,), (4,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_linear(lead, bias):
    shapes = [(*lead, 3), (5, 3)] + [(5,)] * bias
    check(functional("linear"), *shapes)


@pytest.mark.parametrize("shapes", [((4, 1), (1, 1), (1,)), ((2, 40), (33, 40), (33,))])
def test_linear_sizes(shapes):
    check(lambda t, x, w, b: t.nn.functional.linear(x, w, bias=b), *shapes)


def test_linear_shares_one_weight():
    check(lambda t, x, w: t.nn.functional.linear(t.nn.functional.linear(x, w), w), (2, 3), (3, 3))


def test_linear_refuses_shapes_that_do_not_fit():
    check_error(RuntimeError, functional("linear"), (2, 3), (5, 4))
    check_error(RuntimeError, functional("linear"), (2, 3), (5, 3), (4,))


def test_linear_refuses_two_dtypes():
    weight, bias = np.ones((5, 3), np.float32), np.ones(5, np.float32)
    check_error(RuntimeError, functional("linear"), (2, 3), weight, match="float64.*float32")
    check_error(RuntimeError, functional("linear"), (2, 3), (5, 3), bias)


# ---- activations ------------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": lambda t, x: t.nn.functional.relu(x),
    "gelu": lambda t, x: t.nn.functional.gelu(x),
    "gelu-none": lambda t, x: t.nn.functional.gelu(x, approximate="none"),
    "gelu-tanh": lambda t, x: t.nn.functional.gelu(x, approximate="tanh"),
    "silu": lambda t, x: t.nn.functional.silu(x),
    "sigmoid": lambda t, x: t.sigmoid(x),
    "tanh": lambda t, x: t.tanh(x),
    "method-relu": lambda t, x: x.relu(),
    "method-sigmoid": lambda t, x: x.sigmoid(),
    "method-tanh": lambda t, x: x.tanh(),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, shape):
    check(ACTIVATIONS[name], shape)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_saturated(name):
    check(ACTIVATIONS[name], SATURATED)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n not in ("gelu", "gelu-none")])
def test_activation_at_nan_and_infinity(name):
    x = [math.nan, math.inf, -math.inf, 0.0]
    ours, theirs = (ACTIVATIONS[name](t, t.tensor(x)).numpy() for t in (tensorlib, torch))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_relu_at_zero_has_gradient_zero():
    x = tensorlib.zeros(3, requires_grad=True)
    tensorlib.nn.functional.relu(x).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_gelu_refuses_an_unknown_approximation():
    check_error(RuntimeError, functional("gelu", approximate="foo"), (2,), match="none.*tanh")


# ---- softmax ----------------------------------------------------------------------------------

SOFTMAXES = {
    "softmax": lambda t, x, dim: t.nn.functional.softmax(x, dim=dim),
    "log_softmax": lambda t, x, dim: t.nn.functional.log_softmax(x, dim=dim),
    "torch.softmax": lambda t, x, dim: t.softmax(x, dim),
    "method": lambda t, x, dim: x.softmax(dim),
    "method-log": lambda t, x, dim: x.log_softmax(-1 if dim is None else dim),
}
ROWS = [
    ((), 0),
    ((1,), 0),
    ((7,), -1),
    ((3, 1), 1),
    ((2, 3, 4), 0),
    ((2, 3, 4), 1),
    ((2, 3, 4), -1),
]
ROWS += [((0, 3), 1), ((3, 0), 0), ((2, 70), -1)]


@pytest.mark.parametrize(("shape", "dim"), ROWS, ids=str)
@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax(name, shape, dim):
    check(lambda t, x: SOFTMAXES[name](t, x, dim), shape)


@pytest.mark.parametrize("scale", [1e-30, 100.0, 1000.0])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_extreme_rows(name, scale):
    x = scale * np.array([[1.0, -1.0, 0.5, 1.0], [-1.0, -1.0, -1.0, -1.0], [0.999, 1.0, 1.0, 0.0]])
    check(lambda t, x: SOFTMAXES[name](t, x, -1), x)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_with_minus_infinity(name):
    """As after masked_fill: excluded positions weigh nothing and get no gradient."""
    x = [[0.3, -math.inf, 2.0], [-math.inf, 1.0, -math.inf], [-math.inf] * 3]
    results = []
    for t in (tensorlib, torch):
        leaf = t.tensor(x, requires_grad=True)
        out = SOFTMAXES[name](t, leaf, 1)
        out.exp()[:2].sum().backward()
        results.append((out.detach().numpy(), leaf.grad[:2].numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dim", [2, -3])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_refuses_a_missing_dim(name, dim):
    check_error(IndexError, lambda t, x: SOFTMAXES[name](t, x, dim), (2, 3), match=str(dim))


# ---- masked_softmax: ours alone ---------------------------------------------------------------


def masked_softmax(t, x, mask, dim=-1):
    """Ours, or what it must equal: exclude, softmax, and zeros where nothing is left."""
    if t is not torch:
        return t.nn.functional.masked_softmax(x, mask, dim)
    some = mask.any(dim, keepdim=True)
    weights = t.softmax(x.masked_fill(some & ~mask, -math.inf), dim)
    return t.where(some, weights, t.zeros_like(weights))


TRIANGLE = np.tril(np.ones((4, 4), bool))
GAPS = np.random.default_rng(3).random((2, 3, 4, 5)) < 0.4
MASKS = {
    "causal": ((2, 4, 4), TRIANGLE, -1),
    "causal-4d": ((2, 3, 4, 4), TRIANGLE, -1),
    "per-row": ((2, 3, 4, 5), GAPS, -1),
    "broadcast-batch": ((2, 3, 4, 5), GAPS[:1, :1], -1),
    "broadcast-row": ((2, 3, 4, 5), GAPS[:, :1, :1], -1),
    "broadcast-column": ((2, 3, 4, 5), GAPS[:, :, :, :1], -1),
    "dim-1": ((2, 3, 4, 5), GAPS, 1),
    "dim-0": ((5, 2), GAPS[0, 0, :2].T, 0),
    "all": ((3, 4), np.ones((3, 4), bool), -1),
    "nothing": ((3, 4), np.zeros((3, 4), bool), -1),
    "one": ((1, 1), np.ones((1, 1), bool), -1),
    "empty": ((0, 4), np.ones((0, 4), bool), -1),
}


@pytest.mark.parametrize(("shape", "mask", "dim"), MASKS.values(), ids=MASKS)
def test_masked_softmax(shape, mask, dim):
    check(lambda t, x, m: masked_softmax(t, x, m, dim), shape, mask)


def test_masked_softmax_of_extreme_rows():
    x = np.array([[1000.0, -1000.0, 999.0, 0.0]] * 4)
    check(masked_softmax, x, TRIANGLE)


def test_masked_softmax_row_without_a_true_is_zero_with_zero_gradient():
    x = tensorlib.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    mask = tensorlib.tensor([[False, False], [True, False]])
    out = masked_softmax(tensorlib, x, mask)
    (out * tensorlib.tensor([[5.0, 7.0], [11.0, 13.0]])).sum().backward()
    assert out.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert x.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


# ---- embedding and one_hot --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (4,), (9,), (2, 3), (2, 3, 4), (0,), (2, 0)], ids=str)
def test_embedding(shape):
    check(functional("embedding"), integers(5, *shape), (5, 3))


@pytest.mark.parametrize("table", [(5, 1), (5, 40), (1, 3), (1000, 3)], ids=str)
def test_embedding_table(table):
    check(functional("embedding"), integers(min(table[0], 30), 4, 16), table)


def test_embedding_of_one_row_many_times():
    check(functional("embedding"), np.full((8, 8), 2), (3, 4))


def test_embedding_accepts_int32():
    check(functional("embedding"), integers(5, 4).astype(np.int32), (5, 3))


@pytest.mark.parametrize("bad", [5, -1, 1000])
def test_embedding_refuses_what_is_out_of_range(bad):
    index = [[0, 1], [bad, 2]]
    check_error(IndexError, functional("embedding"), index, (5, 3), match="out of range")


def test_embedding_refuses_floats():
    check_error(RuntimeError, functional("embedding"), [0.0], (5, 3))


@pytest.mark.parametrize(("index", "n"), [([0, 2, 1], -1), ([0, 2, 2], 5), ([[1], [0]], 2), (3, 4)])
def test_one_hot(index, n):
    theirs, ours = (t.nn.functional.one_hot(t.tensor(index), n) for t in (torch, tensorlib))
    assert ours.dtype == tensorlib.int64
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("index", "n"), [([0, 2], 2), ([0, -1], 3), ([0, -1], -1), ([0.0], 3), (np.zeros(0, int), -1)]
)
def test_one_hot_refuses(index, n):
    check_error(RuntimeError, functional("one_hot", num_classes=n), index)


# ---- normalisation ----------------------------------------------------------------------------

NORMALISED = [
    ((4, 8), (8,)),
    ((2, 3, 8), (8,)),
    ((2, 3, 8), (3, 8)),
    ((8,), (8,)),
    ((5, 33), (33,)),
]
NORMALISED += [((0, 4), (4,)), ((2, 3, 4, 5), (4, 5))]


@pytest.mark.parametrize("affine", ["plain", "weight", "both"])
@pytest.mark.parametrize(("shape", "normalized"), NORMALISED, ids=str)
def test_layer_norm(shape, normalized, affine):
    extra = {"plain": [], "weight": [normalized], "both": [normalized] * 2}[affine]
    check(lambda t, x, *p: t.nn.functional.layer_norm(x, normalized, *p), shape, *extra)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("width", [1, 2])
def test_norm_of_a_narrow_row(name, width):
    """In float64 alone: two numbers become ±1, and the gradient is all cancellation."""

    def norm(t, x, w):
        return getattr(t.nn.functional, name)(x, (width,), w)

    check(norm, (3, width), (width,), dtypes=["float64"])


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.1])
def test_layer_norm_eps(eps):
    def norm(t, x, w, b):
        return t.nn.functional.layer_norm(x, (6,), weight=w, bias=b, eps=eps)

    check(norm, (3, 6), (6,), (6,))


def test_layer_norm_bias_alone():
    check(lambda t, x, b: t.nn.functional.layer_norm(x, (6,), None, b), (3, 6), (6,))


def test_layer_norm_of_a_constant_row():
    x = np.array([[3.0] * 5, [0.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]])
    check(lambda t, x, w, b: t.nn.functional.layer_norm(x, (5,), w, b), x, (5,), (5,), finite=False)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(("shape", "normalized"), NORMALISED, ids=str)
def test_rms_norm(shape, normalized, affine):
    extra = [normalized] * affine
    check(lambda t, x, *p: t.nn.functional.rms_norm(x, normalized, *p), shape, *extra)


@pytest.mark.parametrize("eps", [None, 1e-6, 0.1])
def test_rms_norm_eps(eps):
    x = np.array([[1e-4, -2e-4, 1e-4], [1.0, 2.0, 3.0], [1e3, -1e3, 2e3]])
    check(
        lambda t, x, w: t.nn.functional.rms_norm(x, (3,), weight=w, eps=eps), x, (3,), finite=False
    )


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0, -3000.0])
def test_norm_of_rows_with_a_large_offset(name, offset):
    """In float32, no farther from the float64 truth than PyTorch (a two-pass variance is)."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((6, 64)) + offset).astype(np.float32)
    w, up = rng.standard_normal((1, 64)), rng.standard_normal((6, 64))

    def run(t, dtype):
        leaf, weight = (t.tensor(a.astype(dtype), requires_grad=True) for a in (x, w[0]))
        out = getattr(t.nn.functional, name)(leaf, (64,), weight)
        out.backward(t.tensor(up.astype(dtype)))
        return [a.detach().numpy() for a in (out, leaf.grad, weight.grad)]

    for true, theirs, ours in zip(
        run(torch, np.float64), run(torch, np.float32), run(tensorlib, np.float32), strict=True
    ):
        scale = np.abs(true).max()
        error, allowed = (np.abs(a - true).max() / scale for a in (ours, theirs))
        assert error <= 4 * allowed + 1e-6


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize(
    ("normalized", "shapes"),
    [((4,), [(5, 3)]), ((3, 3), [(2, 4, 3)]), ((3,), [(5, 3), (4,)])],
    ids=["input", "two-dims", "weight"],
)
def test_norm_refuses_shapes_that_do_not_fit(name, normalized, shapes):
    def norm(t, x, *weight):
        return getattr(t.nn.functional, name)(x, normalized, *weight)

    check_error(RuntimeError, norm, *shapes)


# ---- dropout ----------------------------------------------------------------------------------


def drop(p, n=100_000, seed=0, **kw):
    tensorlib.manual_seed(seed)
    return tensorlib.nn.functional.dropout(tensorlib.ones(n), p, **kw).numpy()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_dropout_is_the_identity_in_eval(p):
    check(functional("dropout", p=p, training=False), (3, 4))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_at_the_ends(p):
    check(functional("dropout", p=p, training=True), (3, 4))


@OURS
@pytest.mark.parametrize("p", [0.01, 0.1, 0.2, 0.5, 0.9])
def test_dropout_keeps_scales_and_preserves_the_mean(p):
    """16-bit thresholds: t = round(65536 p) are dropped, the rest scaled by 65536 / (65536 - t)."""
    out, n, threshold = drop(p), 100_000, round(65536 * p)
    keep = (65536 - threshold) / 65536
    bound = 5 * math.sqrt(n * keep * (1 - keep))  # five standard deviations of the binomial
    assert set(np.unique(out)) == {np.float32(0), np.float32(65536 / (65536 - threshold))}
    assert abs((out != 0).sum() - n * keep) < bound
    assert abs(out.mean() - 1) < bound / (n * keep)


@OURS
def test_dropout_drops_strictly_below_the_threshold():
    """At p = 65535 / 65536 only the largest of the 16-bit integers is kept."""
    out = drop(65535 / 65536, n=1_000_000)
    assert 0 < (out != 0).sum() < 50
    assert out.max() == 65536.0


def test_dropout_draws_neighbours_independently():
    kept = drop(0.5, 100_000) != 0
    for lag in (1, 2, 4, 8, 16, 64):
        assert abs((kept[lag:] == kept[:-lag]).mean() - 0.5) < 5 * 0.5 / math.sqrt(100_000)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 7), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_gradient_uses_the_mask(shape, dtype):
    x = tensorlib.ones(shape, dtype=getattr(tensorlib, dtype), requires_grad=True)
    y = tensorlib.nn.functional.dropout(x, 0.3)
    y.sum().backward()
    assert y.dtype == x.dtype
    assert y.requires_grad
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())


def test_dropout_of_a_non_contiguous_input():
    x = np.arange(1.0, 25.0).reshape(2, 3, 4).T[::2]
    y = tensorlib.nn.functional.dropout(tensorlib.from_numpy(x), 0.5).numpy()
    assert (np.isin(y / x, [0.0, 2.0])).all()
    assert y.any()


def test_dropout_follows_the_seed():
    assert (drop(0.5, seed=1) == drop(0.5, seed=1)).all()
    assert (drop(0.5, seed=1) != drop(0.5, seed=2)).any()
    again = drop(0.5, seed=1), tensorlib.nn.functional.dropout(tensorlib.ones(100_000), 0.5).numpy()
    assert (again[0] != again[1]).any()  # the second draw of a seed is another mask


@OURS
def test_dropout_is_a_function_inside_a_counter():
    """Inside counter(seed, stream, step) the mask depends on these and on the draw, on no state."""

    def draws(seed, stream, step):
        with tensorlib.random.counter(seed, stream, step):
            return [tensorlib.nn.functional.dropout(tensorlib.ones(4096), 0.5) for _ in range(2)]

    first, second = (a.numpy() for a in draws(1, 2, 3))
    tensorlib.manual_seed(99)
    assert (draws(1, 2, 3)[0].numpy() == first).all()
    assert (draws(1, 2, 3)[1].numpy() == second).all()
    assert (first != second).any()
    for other in [(0, 2, 3), (1, 0, 3), (1, 2, 0)]:
        assert (draws(*other)[0].numpy() != first).any()


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_dropout_refuses_what_is_no_probability(p):
    check_error(ValueError, functional("dropout", p=p), (3,), match=str(p))


# ---- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fn",
    [
        lambda t, x: t.nn.functional.linear(x, x),
        lambda t, x: t.nn.functional.gelu(x),
        lambda t, x: t.nn.functional.softmax(x, dim=-1),
        lambda t, x: t.nn.functional.layer_norm(x, (3,)),
        lambda t, x: t.nn.functional.dropout(x, 0.5),
        lambda t, x: t.nn.functional.embedding(t.tensor([1], device=x.device), x),
    ],
    ids=["linear", "gelu", "softmax", "layer_norm", "dropout", "embedding"],
)
def test_nothing_is_recorded_without_grad(fn):
    x = tensorlib.ones(3, 3, requires_grad=True)
    with tensorlib.no_grad():
        assert not fn(tensorlib, x).requires_grad
    assert fn(tensorlib, x).requires_grad
    assert not fn(tensorlib, x.detach()).requires_grad


INTEGERS = {
    "gelu": lambda t, x: t.nn.functional.gelu(x),
    "silu": lambda t, x: t.nn.functional.silu(x),
    "softmax": lambda t, x: t.nn.functional.softmax(x, dim=-1),
    "log_softmax": lambda t, x: t.nn.functional.log_softmax(x, dim=-1),
    "layer_norm": lambda t, x: t.nn.functional.layer_norm(x, (3,)),
    "rms_norm": lambda t, x: t.nn.functional.rms_norm(x, (3,)),
    "dropout": lambda t, x: t.nn.functional.dropout(x, 0.5),
    "cross_entropy": lambda t, x: t.nn.functional.cross_entropy(x, x[:, 0]),
}


@pytest.mark.parametrize("fn", INTEGERS.values(), ids=INTEGERS)
def test_integers_are_refused(fn):
    check_error(RuntimeError, fn, integers(3, 2, 3))


@pytest.mark.parametrize("shape", [(5,), (5, 3, 2)], ids=str)
def test_embedding_needs_a_table(shape):
    check_error(RuntimeError, functional("embedding"), integers(5, 4), shape)
