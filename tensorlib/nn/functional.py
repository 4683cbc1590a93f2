"""The functions behind the layers, as in `torch.nn.functional`: usually imported as F.

Most are one fused operation: the checks, the kernel, the gradients. What such a one computes, step
by step with primitives, is written out under the same name in `plain.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import random
from ..arrays import promote, promote_types, require_floating
from ..autocast_mode import in_float32, loss_dtype, lowered, lowered_weights, norm_dtype
from ..autograd import operation
from ..bounds import Bounds
from ..errors import takes_tensors
from ..kernels import kernels
from ..ops.elementwise import relu, sigmoid, tanh  # noqa: F401  (functions of F, too)
from ..ops.reduction import log_softmax, softmax  # noqa: F401
from ..ops.shape import permute, reshape
from ..tensor import Tensor

# ----------------------------------------------------------------------------------- activations


@operation
def gelu(input, approximate="none"):
    """x Φ(x), with Φ the normal distribution function; `approximate="tanh"` is GPT-2's form."""
    require_floating("gelu", input)
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu: approximate must be 'none' or 'tanh', not {approximate!r}")
    by_tanh = approximate == "tanh"
    return kernels(input).gelu(input, by_tanh), (
        lambda grad: kernels(grad).gelu_backward(grad, input, by_tanh),
    )


@operation
def silu(x):
    """x · sigmoid(x), also called swish."""
    require_floating("silu", x)
    s = 1 / (1 + np.exp(-x))
    return x * s, (lambda grad: grad * s * (1 + x * (1 - s)),)


@operation
@in_float32
def masked_softmax(input, mask, dim=-1):
    """Softmax over the positions where `mask` (bool, broadcast to the input) is True, 0 elsewhere.

    The video's masked_fill with −inf and softmax, in one; a row without any True becomes 0.
    """
    y = kernels(input).masked_softmax(input, mask, dim)
    return y, (lambda grad: kernels(grad).softmax_backward(grad, y, dim),)


# ------------------------------------------------------------------------------ layers with weights


@operation
def linear(input, weight, bias=None):
    """x Wᵀ + b. input (…, in), weight (out, in), bias (out,); the result is (…, out)."""
    if input.ndim == 0 or weight.ndim != 2 or input.shape[-1] != weight.shape[1]:
        raise RuntimeError(
            f"linear: input {input.shape} and weight {weight.shape} do not fit: "
            "the last size of the input must be the second of the weight"
        )
    dtypes = input.dtype, weight.dtype  # as they came, and as their gradients leave
    (x,), (weight, bias) = lowered(input), lowered_weights(weight, bias)
    require_floating("linear", x, weight, bias)
    return kernels(x).linear(x, weight, bias), (
        lambda grad, needed: kernels(grad).linear_backward(grad, x, weight, needed, *dtypes)
    )


@operation
def embedding(input, weight):
    """Row input[...] of `weight`. input: integers of any shape, weight (V, C); result (…, C).

    IndexError for an index outside 0 … V − 1.
    """
    if input.dtype.kind != "i":
        raise RuntimeError(f"embedding: the input must be integers, not {input.dtype}")
    if weight.ndim != 2:
        raise RuntimeError(f"embedding: the weight must be (V, C), not of shape {weight.shape}")
    rows = len(weight)
    return kernels(weight).embedding(input, weight), (
        None,
        lambda grad: kernels(grad).embedding_backward(grad, input, rows),
    )


# ---------------------------------------------------------------------------------- normalisation


@operation
@in_float32
def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(x − mean) / √(variance + eps) · weight + bias over the last dimensions.

    normalized_shape: the sizes of those dimensions, and the shape of weight and bias. The
    variance is the biased one. Ba, Kiros & Hinton, Layer Normalization (2016).
    """
    x, row = input, _normalized_sizes("layer_norm", input, normalized_shape, weight, bias)
    require_floating("layer_norm", x, weight, bias)
    gain, shift = (None if w is None else w.reshape(-1) for w in (weight, bias))
    y, normed, rstd = kernels(x).layer_norm(_as_rows(x, row), gain, shift, eps, norm_dtype(x))
    shape = x.shape

    def gradients(grad, needed):
        grad, needed = grad.reshape(normed.shape), (needed[0], needed[2], needed[3])
        dx, dw, db = kernels(grad).layer_norm_backward(grad, normed, rstd, gain, needed)
        return _reshaped((dx, None, dw, db), (shape, None, row, row))

    return y.reshape(shape), gradients


@operation
@in_float32
def rms_norm(input, normalized_shape, weight=None, eps=None):
    """x / √(mean(x²) + eps) · weight over the last dimensions; eps None is that of the dtype.

    Zhang & Sennrich, Root Mean Square Layer Normalization (2019).
    """
    x, row = input, _normalized_sizes("rms_norm", input, normalized_shape, weight)
    require_floating("rms_norm", x, weight)
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    gain = None if weight is None else weight.reshape(-1)
    y, normed, rstd = kernels(x).rms_norm(_as_rows(x, row), gain, eps, norm_dtype(x))
    shape = x.shape

    def gradients(grad, needed):
        grad, needed = grad.reshape(normed.shape), (needed[0], needed[2])
        dx, dw = kernels(grad).rms_norm_backward(grad, normed, rstd, gain, needed)
        return _reshaped((dx, None, dw), (shape, None, row))

    return y.reshape(shape), gradients


def _normalized_sizes(name, input, normalized_shape, *weights):
    """The sizes of the dimensions that are normalised, once all shapes are seen to agree."""
    row = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    wrong = [w.shape for w in weights if w is not None and w.shape != row]
    if not row or input.shape[-len(row) :] != row or wrong:
        raise RuntimeError(
            f"{name}: normalized_shape {row} must be the last sizes of the input {input.shape}, "
            f"and the shape of the weights{f', not {wrong[0]}' if wrong else ''}"
        )
    return row


def _as_rows(x, row):
    """(…, *row) as rows (N, C)."""
    return x.reshape(math.prod(x.shape[: x.ndim - len(row)]), math.prod(row))


def _reshaped(arrays, shapes):
    return [None if a is None else a.reshape(s) for a, s in zip(arrays, shapes, strict=True)]


# ------------------------------------------------------------------------------------------ dropout


@operation
def _dropout(input, threshold):
    require_floating("dropout", input)
    y, keep = kernels(input).dropout(input, random.dropout_draw(input.size), threshold)
    return y, (lambda grad: kernels(grad).dropout_backward(grad, keep, threshold),)


@takes_tensors
def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Each element zero with probability p, the others scaled so that the mean stays.

    p is rounded to 16 bits: t = round(65536 p), and what is kept is scaled by 65536 / (65536 − t).
    Which are dropped follows from `manual_seed`, or inside `random.counter(...)` from its counter.
    """
    threshold = _dropout_threshold("dropout", p)
    if not (input.numel() and training and threshold):  # numel first: a list has none
        return input
    return _dropout(input, threshold)


@operation
def _dropout_add(x, residual, threshold):
    dtype = x.dtype
    residual = residual.astype(promote_types(dtype, residual.dtype), copy=False)
    draw = random.dropout_draw(x.size)
    y, keep = kernels(residual).dropout(x, draw, threshold, residual)
    return y, (
        lambda grad: kernels(grad).dropout_backward(grad, keep, threshold, dtype),
        lambda grad: grad,
    )


@takes_tensors
def dropout_add(input: Tensor, residual: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """residual + dropout(input, p): how a branch joins the residual stream; on a GPU one kernel.

    input, residual: of one shape; the result has their common dtype.
    """
    threshold = _dropout_threshold("dropout_add", p)
    require_floating("dropout_add", input)
    if input.shape != residual.shape:
        raise RuntimeError(
            f"dropout_add: input {input.shape} and residual {residual.shape} differ in shape"
        )
    if not training or not threshold:
        return residual + input
    return _dropout_add(input, residual, threshold)


def _dropout_threshold(name: str, p: float) -> int:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must be between 0 and 1, not {p}")
    return round(65536 * p)


# ------------------------------------------------------------------------------------------- losses


def _reduced(losses: Tensor, reduction: str, count: Any = None) -> Tensor:
    """`losses` as they are, their sum, or their mean (over `count` where some were ignored)."""
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    total = losses.sum()
    return total if reduction == "sum" else total / (losses.numel() if count is None else count)


def _rows_and_classes(name: str, input: Tensor, target: Tensor, ignore_index: int) -> tuple:
    """Scores (N, C) or (C,) or (N, C, d1, …) as rows (M, C); the targets as (M,), 0 where ignored;
    and which are ignored (M,)."""
    require_floating(name, input)
    if target.dtype.kind != "i":
        raise RuntimeError(f"{name}: targets are class indices (int64), not {target.dtype}")
    dim = 0 if input.ndim == 1 else 1
    if input.ndim == 0 or target.shape != input.shape[:dim] + input.shape[dim + 1 :]:
        kind = ValueError if input.ndim == 2 and target.ndim == 1 else RuntimeError
        raise kind(
            f"{name}: input {input.shape} and target {target.shape} do not fit: expected "
            "(N, C) with (N,), or (N, C, d1, …) with (N, d1, …); flatten (B, T, C) to (B*T, C)"
        )
    classes = input.shape[dim]
    rows = input if input.ndim < 3 else permute(input, 0, *range(2, input.ndim), 1)
    index = target.array.reshape(-1)
    ignored = index == ignore_index
    index = np.where(ignored, 0, index)
    return reshape(rows, index.size, classes), index, ignored


@operation
def _cross_entropy(logits, targets, ignored, smoothing):
    goal, dtype = (targets, ignored, smoothing), logits.dtype
    losses, shares = kernels(logits).cross_entropy(logits, *goal, loss_dtype(logits))
    return losses, (lambda grad: kernels(grad).cross_entropy_backward(grad, shares, *goal, dtype),)


@takes_tensors
def cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """−log softmax(input)[target]: how surprised the scores are by the right class.

    input: scores (N, C), (C,) or (N, C, d1, …); target: class indices (N,), () or (N, d1, …).
    ignore_index: a target that counts for nothing, in the mean neither.
    label_smoothing: the share of the target that is spread evenly over all classes.
    Raises IndexError for a class out of range, ValueError or RuntimeError for shapes that differ.
    """
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"cross_entropy: label_smoothing is from 0 to 1, not {label_smoothing}")
    rows, index, ignored = _rows_and_classes("cross_entropy", input, target, ignore_index)
    losses = _cross_entropy(rows, index, ignored, label_smoothing)
    count = index.size - ignored.sum()  # which the host does not wait for
    return _reduced(losses.reshape(target.shape), reduction, count)


@operation
@in_float32
def _nll(x, targets, ignored):
    rows, shape, dtype = np.arange(len(x), like=x), x.shape, x.dtype
    Bounds("nll_loss: target", shape[1], "classes").check(targets)
    losses = np.where(ignored, 0, -x[rows, targets])

    def grad_x(grad):
        total = np.zeros_like(grad, dtype, shape=shape)
        total[rows, targets] = np.where(ignored, 0, -grad)
        return total

    return losses, (grad_x,)


@takes_tensors
def nll_loss(
    input: Tensor, target: Tensor, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """−input[target], for log-probabilities; shapes and errors as `cross_entropy`."""
    rows, index, ignored = _rows_and_classes("nll_loss", input, target, ignore_index)
    losses = _nll(rows, index, ignored)
    return _reduced(losses.reshape(target.shape), reduction, index.size - ignored.sum())


@operation(prepare=promote)
@in_float32
def _mse_loss(input, target):
    difference = input - target
    return difference * difference, (
        lambda grad: 2 * grad * difference,
        lambda grad: -2 * grad * difference,
    )


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """(input − target)²."""
    return _reduced(_mse_loss(input, target), reduction)


@operation
@in_float32
def _binary_cross_entropy_with_logits(x, y):
    losses = np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))
    return losses, (lambda grad: grad * (1 / (1 + np.exp(-x)) - y), lambda grad: -grad * x)


@takes_tensors
def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, *, reduction: str = "mean"
) -> Tensor:
    """−y log σ(x) − (1 − y) log(1 − σ(x)), σ the sigmoid; input and target of one shape."""
    if input.shape != target.shape:
        raise ValueError(
            f"binary_cross_entropy_with_logits: {input.shape} and {target.shape} differ in shape"
        )
    for x in (input, target):
        require_floating("binary_cross_entropy_with_logits", x)
    return _reduced(_binary_cross_entropy_with_logits(input, target), reduction)


@takes_tensors
def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at the class and 0 elsewhere, as int64 (…, num_classes); -1 takes the largest + 1."""
    index = tensor.array
    if index.dtype.kind != "i":
        raise RuntimeError(f"one_hot: needs integers, not {index.dtype}")
    if num_classes == -1 and not index.size:
        raise RuntimeError("one_hot: without any element, num_classes must be given")
    classes = int(index.max()) + 1 if num_classes == -1 else num_classes
    Bounds("one_hot: class", classes, "classes", kind=RuntimeError).check(index)
    return Tensor((index[..., None] == np.arange(classes, like=index)).astype(np.int64))


# ---------------------------------------------------------------------------------------- attention


@operation
def _attention(query, key, value, attn_mask, causal, scale, threshold):
    _check_attention(query, key, value, attn_mask, causal)
    q, k, v = lowered(query, key, value)
    require_floating("scaled_dot_product_attention", q, k, v)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    draw = None
    if threshold:
        lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        draw = random.dropout_draw(math.prod(lead) * q.shape[-2] * k.shape[-2])
    y, saved = kernels(q).attention(q, k, v, attn_mask, causal, scale, draw, threshold)

    def gradients(grad, needed):
        return kernels(grad).attention_backward(grad, q, k, v, saved, causal, scale, threshold)

    return y, gradients


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q kᵀ · scale + mask) v: what each position gathers from those it attends to.

    query (…, L, E), key (…, S, E), value (…, S, D); the result is (…, L, D).
    attn_mask: broadcast to (…, L, S); bool, True where attention is allowed, or numbers to add.
    is_causal: position i attends to positions up to i. scale: 1 / √E by default.
    dropout_p: dropped whatever the mode, as in PyTorch: pass 0 in evaluation.
    Vaswani et al., Attention Is All You Need (2017).
    """
    threshold = _dropout_threshold("scaled_dot_product_attention", dropout_p)
    return _attention(query, key, value, attn_mask, is_causal, scale, threshold)


def _check_attention(query, key, value, attn_mask, is_causal):
    rank = min(query.ndim, key.ndim, value.ndim)
    if rank < 2 or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise RuntimeError(
            f"scaled_dot_product_attention: query {query.shape}, key {key.shape} and value "
            f"{value.shape} do not fit: expected (…, L, E), (…, S, E) and (…, S, D), that is, "
            "at least 2 dimensions"
        )
    if is_causal and attn_mask is not None:
        raise RuntimeError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if attn_mask is not None and attn_mask.dtype not in (np.bool_, np.float32, query.dtype):
        raise RuntimeError(
            f"scaled_dot_product_attention: attn_mask must be bool, float32 or of the query's "
            f"dtype, not {attn_mask.dtype}"
        )
