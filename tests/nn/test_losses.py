"""The losses beside PyTorch: reductions, layouts, ignored targets, extreme logits, refusals."""

import math

import numpy as np
import pytest
import torch
from harness import check, check_error, integers, mask, tensorlib

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")  # PyTorch, of broadcasting
OURS = pytest.mark.skipif(tensorlib is torch, reason="PyTorch does not do this")
REDUCTIONS = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
LAYOUTS = {  # logits, targets
    "N,C": ((4, 5), (4,)),
    "C": ((5,), ()),
    "N,C,d": ((3, 5, 4), (3, 4)),
    "N,C,d1,d2": ((2, 5, 3, 2), (2, 3, 2)),
    "one-class": ((3, 1), (3,)),
    "one-row": ((1, 5), (1,)),
    "no-row": ((0, 5), (0,)),
    "wide": ((3, 70), (3,)),
}
EXTREME = np.array(
    [
        [1000.0, -1000.0, 0.0, 500.0],
        [-1000.0, -1000.0, -1000.0, -1000.0],
        [1000.0, 999.0, 1000.0, -999.0],
        [-1000.0, 0.0, 1.0, 2.0],
    ]
)


def functional(name, **options):
    """The function of that name in nn.functional, for check."""
    return lambda t, *inputs: getattr(t.nn.functional, name)(*inputs, **options)


# ---- cross_entropy and nll_loss: class targets --------------------------------------------------


@REDUCTIONS
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("logits", "targets"), LAYOUTS.values(), ids=LAYOUTS)
def test_cross_entropy(logits, targets, smoothing, reduction):
    fn = functional("cross_entropy", label_smoothing=smoothing, reduction=reduction)
    classes = logits[0] if len(logits) == 1 else logits[1]
    check(fn, logits, integers(classes, *targets), finite=0 not in logits)


@REDUCTIONS
@pytest.mark.parametrize(("logits", "targets"), LAYOUTS.values(), ids=LAYOUTS)
def test_nll_loss(logits, targets, reduction):
    classes = logits[0] if len(logits) == 1 else logits[1]

    def fn(t, x, y):  # contiguous: PyTorch's backward of (N, C, d1, d2) fails on strided logits
        return t.nn.functional.nll_loss(x.contiguous(), y, reduction=reduction)

    check(fn, logits, integers(classes, *targets), finite=0 not in logits)


def test_cross_entropy_is_the_mean_by_default():
    check(functional("cross_entropy"), (4, 5), integers(5, 4))


def test_cross_entropy_of_log_softmax_and_nll_loss_agree():
    def difference(t, x, y):
        F = t.nn.functional
        return F.cross_entropy(x, y) - F.nll_loss(F.log_softmax(x, dim=-1), y)

    check(difference, (4, 5), integers(5, 4), finite=False)


@REDUCTIONS
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignored", [-100, -1, 2, 7])
@pytest.mark.parametrize("shape", ["N,C", "N,C,d"])
def test_cross_entropy_ignores(shape, ignored, smoothing, reduction):
    logits, targets = LAYOUTS[shape]
    y = integers(5, *targets)
    y.flat[::2] = ignored
    options = {"ignore_index": ignored, "label_smoothing": smoothing, "reduction": reduction}
    check(functional("cross_entropy", **options), logits, y)


@REDUCTIONS
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [(3,), ()], ids=str)
def test_cross_entropy_with_every_target_ignored(targets, smoothing, reduction):
    """As in PyTorch the mean is nan, a mean of nothing; its gradient is what PyTorch's is."""
    fn = functional("cross_entropy", label_smoothing=smoothing, reduction=reduction)
    check(fn, (*targets, 5), np.full(targets, -100), finite=False)


@REDUCTIONS
@pytest.mark.parametrize("ignored", [-100, 3])
def test_nll_loss_ignores(ignored, reduction):
    y = np.array([0, ignored, 1, ignored])
    check(functional("nll_loss", ignore_index=ignored, reduction=reduction), (4, 5), y)


@REDUCTIONS
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_extreme_logits(smoothing, reduction):
    fn = functional("cross_entropy", label_smoothing=smoothing, reduction=reduction)
    check(fn, EXTREME, np.array([1, 2, 3, 0]))


def test_cross_entropy_of_an_excluded_class_is_infinite():
    x = np.array([[0.0, -math.inf, 1.0], [0.5, -math.inf, 1.0]])
    check(functional("cross_entropy", reduction="none"), x, np.array([0, 1]), finite=False)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("bad", [5, -1, 300])
def test_class_out_of_range(name, bad):
    y = np.array([0, 1, bad, 2])
    check_error(IndexError, functional(name), (4, 5), y, match=f"{bad}")


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize(
    ("exception", "logits", "targets", "match"),
    [
        (ValueError, (4, 5), (3,), r"(?s)4.*3|3.*4"),
        (RuntimeError, (4, 5), (4, 1), None),
        (RuntimeError, (4, 5, 3), (4,), None),
        (RuntimeError, (2, 3, 5), (2, 3), r"(?s)2, 3, 5.*2, 3"),
        (RuntimeError, (4, 5, 3), (4, 3, 1), None),
    ],
    ids=["rows", "column", "one-short", "the-video's", "one-more"],
)
def test_shapes_that_do_not_fit(name, exception, logits, targets, match):
    """The fourth is the video's (B, T, C) with (B, T): the classes must come second."""
    check_error(exception, functional(name), logits, integers(2, *targets), match=match)


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_class_targets_must_be_integers(dtype):
    check_error(RuntimeError, functional("cross_entropy"), (4, 5), integers(2, 4).astype(dtype))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss", "mse_loss"])
def test_unknown_reduction(name):
    y = (4, 5) if name == "mse_loss" else integers(5, 4)
    check_error(ValueError, functional(name, reduction="avg"), (4, 5), y, match="avg")


def test_label_smoothing_out_of_range():
    fn = functional("cross_entropy", label_smoothing=1.5)
    check_error(RuntimeError, fn, (4, 5), integers(5, 4), match="1.5")


@OURS
def test_cross_entropy_of_class_probabilities_is_not_offered():
    """PyTorch takes them; here it is refused in words, not computed wrongly."""
    x = tensorlib.ones(4, 5)
    with pytest.raises((RuntimeError, TypeError, NotImplementedError)):
        tensorlib.nn.functional.cross_entropy(x, x)


# ---- mse_loss and binary_cross_entropy_with_logits ----------------------------------------------


@REDUCTIONS
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 3, 4), (0, 3)], ids=str)
def test_mse_loss(shape, reduction):
    check(functional("mse_loss", reduction=reduction), shape, shape, finite=0 not in shape)


def test_mse_loss_of_one_tensor_twice():
    check(lambda t, x: t.nn.functional.mse_loss(x, x * x), (3, 4))


def test_mse_loss_broadcasts():
    check(functional("mse_loss"), (3, 4), (4,))


def test_mse_loss_refuses_shapes_that_do_not_broadcast():
    check_error(RuntimeError, functional("mse_loss"), (3, 4), (3, 2), match=r"(?s)4.*2")


@REDUCTIONS
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 3, 4), (0, 3)], ids=str)
def test_binary_cross_entropy_with_logits(shape, reduction):
    fn = functional("binary_cross_entropy_with_logits", reduction=reduction)
    check(fn, shape, mask(*shape) * 1.0, finite=0 not in shape)
    check(
        fn, shape, shape, finite=0 not in shape
    )  # targets need not be 0 or 1, and have a gradient


@REDUCTIONS
def test_binary_cross_entropy_with_extreme_logits(reduction):
    fn = functional("binary_cross_entropy_with_logits", reduction=reduction)
    check(fn, EXTREME, mask(4, 4) * 1.0, finite=False)


def test_binary_cross_entropy_with_logits_refuses_other_shapes():
    fn = functional("binary_cross_entropy_with_logits")
    check_error(ValueError, fn, (4, 5), (1, 5), match=r"(?s)1, 5.*4, 5|4, 5.*1, 5")
