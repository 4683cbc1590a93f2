"""dropout: which are dropped, how the rest is scaled, what its gradient uses."""

import math

import numpy as np
import pytest
import torch
from harness import check, check_error, tensorlib, to_array

OURS = pytest.mark.skipif(tensorlib is torch, reason="PyTorch does not do this")


def functional(name, **options):
    """The function of that name in nn.functional, for check."""
    return lambda t, *inputs: getattr(t.nn.functional, name)(*inputs, **options)


def drop(p, n=100_000, seed=0, **kw):
    tensorlib.manual_seed(seed)
    return tensorlib.nn.functional.dropout(tensorlib.ones(n), p, **kw).cpu().numpy()


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
    np.testing.assert_array_equal(to_array(x.grad), to_array(y))


def test_dropout_of_a_non_contiguous_input():
    x = np.arange(1.0, 25.0).reshape(2, 3, 4).T[::2]
    y = tensorlib.nn.functional.dropout(tensorlib.from_numpy(x), 0.5).cpu().numpy()
    assert (np.isin(y / x, [0.0, 2.0])).all()
    assert y.any()


def test_dropout_follows_the_seed():
    assert (drop(0.5, seed=1) == drop(0.5, seed=1)).all()
    assert (drop(0.5, seed=1) != drop(0.5, seed=2)).any()
    again = (
        drop(0.5, seed=1),
        tensorlib.nn.functional.dropout(tensorlib.ones(100_000), 0.5).cpu().numpy(),
    )
    assert (again[0] != again[1]).any()  # the second draw of a seed is another mask


@OURS
def test_dropout_is_a_function_inside_a_counter():
    """Inside counter(seed, stream, step) the mask depends on these and on the draw, on no state."""

    def draws(seed, stream, step):
        with tensorlib.random.counter(seed, stream, step):
            return [tensorlib.nn.functional.dropout(tensorlib.ones(4096), 0.5) for _ in range(2)]

    first, second = (to_array(a) for a in draws(1, 2, 3))
    tensorlib.manual_seed(99)
    assert (draws(1, 2, 3)[0].cpu().numpy() == first).all()
    assert (draws(1, 2, 3)[1].cpu().numpy() == second).all()
    assert (first != second).any()
    for other in [(0, 2, 3), (1, 0, 3), (1, 2, 0)]:
        assert (draws(*other)[0].cpu().numpy() != first).any()


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_dropout_refuses_what_is_no_probability(p):
    check_error(ValueError, functional("dropout", p=p), (3,), match=str(p))


# ---- dropout_add --------------------------------------------------------------------------------


@OURS
@pytest.mark.parametrize(("p", "training"), [(0.0, True), (1.0, True), (0.5, False)])
def test_dropout_add_at_the_ends(p, training):
    def function(t, x, residual):
        if t is torch:
            return residual + t.nn.functional.dropout(x, p, training)
        return t.nn.functional.dropout_add(x, residual, p, training)

    check(function, (2, 3, 4), (2, 3, 4))


@OURS
@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5), (0, 4)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_dropout_add_is_the_sum_and_so_are_its_gradients(shape, training):
    """Bit for bit."""
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]

    def run(function):
        tensorlib.manual_seed(0)
        x, residual = (tensorlib.tensor(v, requires_grad=True) for v in values[:2])
        y = function(tensorlib.nn.functional, x, residual)
        y.backward(tensorlib.tensor(values[2]))
        return [to_array(t).tobytes() for t in (y, x.grad, residual.grad)]

    fused = run(lambda F, x, residual: F.dropout_add(x, residual, 0.3, training))
    assert fused == run(lambda F, x, residual: residual + F.dropout(x, 0.3, training))


@OURS
@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")])
def test_dropout_add_of_two_dtypes(dtypes):
    x, residual = (
        tensorlib.ones(4, dtype=getattr(tensorlib, name), requires_grad=True) for name in dtypes
    )
    y = tensorlib.nn.functional.dropout_add(x, residual, 0.5)
    assert y.dtype == np.float64
    y.sum().backward()
    assert (x.grad.dtype, residual.grad.dtype) == (x.dtype, residual.dtype)
    np.testing.assert_array_equal(to_array(x.grad), to_array(y) - 1)


@OURS
def test_dropout_add_refuses_what_does_not_fit():
    dropout_add, x = tensorlib.nn.functional.dropout_add, tensorlib.ones(2, 3)
    with pytest.raises(RuntimeError, match=r"input \(2, 3\) and residual \(3,\) differ in shape"):
        dropout_add(x, x[0])
    with pytest.raises(RuntimeError, match=r"dropout_add.*int64"):
        dropout_add(x.long(), x)
    with pytest.raises(ValueError, match=r"p must be between 0 and 1, not 1\.5"):
        dropout_add(x, x, 1.5)
