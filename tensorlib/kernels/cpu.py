"""The fused operations in NumPy: forward and, right below it, backward.

They run on CuPy's arrays as well (NumPy's functions hand them over), which is the plain path of a
GPU and what its own kernels are compared with.

A kernel takes and returns plain arrays. In the forward pass y was computed from x, so the backward
kernel gets dy, the gradient of y, with what the forward pass saved, and returns dx. Matrices of
rows are written (N, C): whatever comes before the last dimension is one row after the other.

Softmax, dropout, and attention, which is made of both, have files of their own.
"""

from __future__ import annotations

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..arrays import peak, sum_rows, vecdot
from ..bounds import Bounds
from ..devices import device_of
from .cpu_attention import attention, attention_backward, attention_pairs  # noqa: F401
from .cpu_dropout import dropout, dropout_backward  # noqa: F401
from .cpu_softmax import (  # noqa: F401
    log_softmax,
    log_softmax_backward,
    masked_softmax,
    softmax,
    softmax_backward,
)
from .cublas import product
from .erf import erf
from .philox import philox  # noqa: F401

Array = Any

# -------------------------------------------------------------------------------------- activations


def relu(x: Array) -> Array:
    """y = max(x, 0)."""
    return np.maximum(x, np.zeros_like(x, shape=x.shape[-1:]))  # twice as fast as with a number


def relu_backward(dy: Array, y: Array) -> Array:
    """dx = dy where y > 0; a nan stays one.

    Unlike in PyTorch, 0 times an infinite gradient is nan and not 0: np.where would choose, and
    takes thirteen times as long as the product.
    """
    return dy * ~(y <= 0)


def gelu(x: Array, approximate: bool) -> Array:
    """y = x Φ(x), Φ the normal distribution function; or its approximation by tanh.

    Hendrycks & Gimpel, Gaussian Error Linear Units (2016).
    """
    wide = _wide(x)
    y = wide * (_tanh_cdf(wide)[0] if approximate else _normal_cdf(wide))
    return y.astype(x.dtype, copy=False)


def gelu_backward(dy: Array, x: Array, approximate: bool) -> Array:
    """dx = dy (Φ(x) + x Φ′(x))."""
    dy, x = _wide(dy), _wide(x)
    if approximate:
        cdf, slope = _tanh_cdf(x)
    else:
        cdf, slope = _normal_cdf(x), np.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return dy * (cdf + x * slope)


def _wide(x: Array) -> Array:
    """x in float32, if it has 16 bits: too few for what comes between."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + erf(x * math.sqrt(0.5)))


def _tanh_cdf(x: Array) -> tuple[Array, Array]:
    """½ (1 + tanh u) with u = √(2/π) (x + 0.044715 x³), and its slope ½ (1 − tanh² u) du/dx."""
    a, b = math.sqrt(2 / math.pi), 0.044715
    square = x * x
    t = np.tanh(a * x * (1 + b * square))
    return 0.5 * (1 + t), 0.5 * (1 - t * t) * a * (1 + 3 * b * square)


# ----------------------------------------------------------------------------- linear, embedding


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """y = x Wᵀ + b. x (…, in), weight (out, in), bias (out,) or None; y (…, out)."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if len(rows) == 1 and device_of(x) == "cpu":
        # As in sampling: the weight is all that is read, and vecdot reads fastest.
        y = vecdot(weight, rows[0])
    else:
        y = product(rows, weight.T)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


def linear_backward(
    dy: Array,
    x: Array,
    weight: Array,
    needed: list[bool],
    x_dtype: Any = None,
    weight_dtype: Any = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """dx = dy W, dW = dyᵀ x, db = Σ dy over the rows; None for what is not `needed`.

    x_dtype: what a GPU may keep dx in, where the operands are in 16 bits; weight_dtype: dW and db.
    """
    rows = math.prod(x.shape[:-1])
    dy = dy.reshape(rows, dy.shape[-1])
    return (
        product(dy, weight, dtype=x_dtype).reshape(x.shape) if needed[0] else None,
        product(dy.T, x.reshape(rows, x.shape[-1]), dtype=weight_dtype) if needed[1] else None,
        sum_rows(dy) if needed[2] else None,
    )


def embedding(index: Array, weight: Array) -> Array:
    """y[...] = weight[index[...]]. index any shape of integers, weight (V, C); y (…, C).

    IndexError for an index outside 0 … V − 1.
    """
    Bounds("embedding: index", len(weight), "rows").check(index)
    return weight[index]


def embedding_backward(dy: Array, index: Array, rows: int) -> Array:
    """dW[v] = Σ of the dy whose index is v. dy (…, C); dW (rows, C).

    With few rows as a product with the one-hot matrix, which is fastest; else the gradients are
    sorted by index and summed run by run, since `np.add.at` is slower than both, and on a GPU adds
    in no fixed order. There a run's sum is the difference of two running sums, in float64: how many
    runs there are, the host does not know.
    """
    index, dy = index.reshape(-1), dy.reshape(index.size, dy.shape[-1])
    if rows <= 256:
        one_hot = np.zeros((rows, index.size), dy.dtype, like=dy)
        one_hot[index, np.arange(index.size, like=index)] = 1
        return np.matmul(one_hot, dy)
    order = np.argsort(index, kind="stable")
    if device_of(dy) != "cpu":
        sums = np.zeros((index.size + 1, dy.shape[-1]), np.float64, like=dy)
        sums[1:] = np.cumsum(dy[order], axis=0, dtype=np.float64)
        ends = np.searchsorted(index[order], np.arange(rows + 1, like=index))
        return (sums[ends[1:]] - sums[ends[:-1]]).astype(dy.dtype)
    dw = np.zeros((rows, dy.shape[-1]), dy.dtype)
    if index.size:
        present, starts = np.unique(index[order], return_index=True)
        dw[present] = np.add.reduceat(dy[order], starts, axis=0)
    return dw


# ---------------------------------------------------------------------------------- normalisation


def layer_norm(
    x: Array, weight: Array | None, bias: Array | None, eps: float, dtype: Any = None
) -> tuple[Array, Array, Array]:
    """y = (x − mean) / √(variance + eps) · weight + bias, along each row of x (N, C).

    weight, bias: (C,) or None. The variance is the biased one, Σ(x − mean)² / C.
    dtype: of y on a GPU, if it shall be in 16 bits where x is float32.
    Returns y, and for backward the normalised rows (N, C) and 1 / √(variance + eps) (N, 1).
    Ba, Kiros & Hinton, Layer Normalization (2016).
    """
    if len(x) == 1 and device_of(x) == "cpu":  # as in sampling: numbers take less time than columns
        return _layer_norm_of_row(x[0], weight, bias, eps)
    normed = x - _row_means(x)
    rstd = 1 / np.sqrt(_mean_of_product(normed, normed) + x.dtype.type(eps))
    normed *= rstd
    y = normed.copy() if weight is None else normed * weight
    if bias is not None:
        y += bias
    return y if dtype is None else y.astype(dtype, copy=False), normed, rstd


def _layer_norm_of_row(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """`layer_norm` where there is a single row: x (C,), the results as there."""
    C, dtype = x.size, x.dtype.type
    normed = x - x.sum() / dtype(C)
    rstd = 1 / np.sqrt(vecdot(normed, normed) / dtype(C) + dtype(eps))
    normed *= rstd
    y = normed.copy() if weight is None else normed * weight
    if bias is not None:
        y += bias
    return y[None], normed[None], rstd.reshape(1, 1)


def layer_norm_backward(
    dy: Array, normed: Array, rstd: Array, weight: Array | None, needed: list[bool]
) -> tuple[Array | None, Array | None, Array | None]:
    """dx = rstd (g − mean(g) − normed · mean(g · normed)) with g = dy · weight; dw and db."""
    dx = dw = db = None
    dy = dy.astype(normed.dtype, copy=False)
    if needed[0]:
        dx = dy.copy() if weight is None else dy * weight
        slope = _mean_of_product(dx, normed)
        dx -= _row_means(dx)
        dx -= normed * slope
        dx *= rstd
    if needed[1]:
        dw = sum_rows(dy * normed)
    if needed[2]:
        db = sum_rows(dy)
    return dx, dw, db


def rms_norm(
    x: Array, weight: Array | None, eps: float, dtype: Any = None
) -> tuple[Array, Array, Array]:
    """y = x / √(mean(x²) + eps) · weight, along each row of x (N, C); saves as `layer_norm` does.

    Zhang & Sennrich, Root Mean Square Layer Normalization (2019).
    """
    rstd = 1 / np.sqrt(_mean_of_product(x, x) + x.dtype.type(eps))
    normed = x * rstd
    y = normed.copy() if weight is None else normed * weight
    return y if dtype is None else y.astype(dtype, copy=False), normed, rstd


def rms_norm_backward(
    dy: Array, normed: Array, rstd: Array, weight: Array | None, needed: list[bool]
) -> tuple[Array | None, Array | None]:
    """dx = rstd (g − normed · mean(g · normed)) with g = dy · weight; dw by columns."""
    dx = dw = None
    dy = dy.astype(normed.dtype, copy=False)
    if needed[0]:
        dx = dy.copy() if weight is None else dy * weight
        dx -= normed * _mean_of_product(dx, normed)
        dx *= rstd
    if needed[1]:
        dw = sum_rows(dy * normed)
    return dx, dw


def _row_means(x: Array) -> Array:
    """The mean of each row of x (N, C): (N, 1). einsum is three times as fast as NumPy's mean."""
    if type(x) is not np.ndarray:
        return x.mean(axis=1, keepdims=True)
    means = np.einsum("nc->n", x)[:, None]
    means /= x.shape[1]
    return means


def _mean_of_product(a: Array, b: Array) -> Array:
    """The mean of a · b along each row, on the CPU without the product as an array: (N, 1)."""
    if type(a) is not np.ndarray:
        return _row_means(a * b)
    means = vecdot(a, b)[:, None]
    means /= a.shape[1]
    return means


# ------------------------------------------------------------------------------------ cross-entropy


def cross_entropy(
    logits: Array, targets: Array, ignored: Array, smoothing: float, dtype: Any = None
) -> tuple[Array, Array]:
    """loss[n] = −Σ_c t[n, c] log softmax(logits[n])[c], 0 for a row that is ignored.

    t is 1 − smoothing at the target plus smoothing / C everywhere. logits (N, C), targets (N,) in
    0 … C − 1, else IndexError; ignored (N,) bool. Returns the losses (N,), and for backward the
    softmax (N, C); dtype: of both, if they shall be float32 where the logits have 16 bits.
    """
    Bounds("cross_entropy: target", logits.shape[1], "classes").check(targets)
    logits = logits if dtype is None else logits.astype(dtype, copy=False)
    shifted = logits - peak(logits, 1)
    losses = -(1 - smoothing) * shifted[np.arange(len(logits), like=logits), targets]
    if smoothing:
        losses -= smoothing * shifted.mean(axis=1)
    shares = np.exp(shifted, out=shifted)
    total = shares.sum(axis=1)
    losses += np.log(total)
    losses = np.where(ignored, 0, losses)
    shares /= total[:, None]
    return losses, shares


def cross_entropy_backward(
    dlosses: Array,
    shares: Array,
    targets: Array,
    ignored: Array,
    smoothing: float,
    dtype: Any = None,
) -> Array:
    """dlogits = (softmax − t) dloss, 0 in a row that is ignored; in `dtype`, the logits'."""
    dlogits = shares.copy()
    dlogits[np.arange(len(shares), like=shares), targets] -= 1 - smoothing
    if smoothing:
        dlogits -= smoothing / shares.shape[1]
    dlogits *= np.where(ignored, 0, dlosses)[:, None]
    return dlogits if dtype is None else dlogits.astype(dtype, copy=False)


# ---------------------------------------------------------------------------------------- gradients


def join(arrays: list[Array], out: Array) -> None:
    """Write the numbers of the arrays into out (n,), one array after the other."""
    np.concatenate([x.reshape(-1) for x in arrays], out=out)


def norm(x: Array) -> Array:
    """√Σ x² over all elements: an array ()."""
    return np.sqrt(np.vdot(x, x))


def clip(x: Array, norm: Array, max_norm: float) -> None:
    """x ← x · min(1, max_norm / (norm + 1e-6)), in place; norm is an array (). nan stays nan."""
    factor = np.minimum(max_norm / (norm + 1e-6), 1)
    if device_of(x) != "cpu" or factor != 1:  # a GPU would have to be waited for
        x *= factor.astype(x.dtype, copy=False)


# ---------------------------------------------------------------------------------------- optimizer

_BLOCK = 2**18  # long enough that threads rarely wait for each other to speak to Python


def adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    skip: Array | None = None,
) -> None:
    """One step of Adam (Kingma & Ba 2015) or, decoupled, AdamW (Loshchilov & Hutter 2019).

    m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²
    p ← p − lr · m̂ / (√v̂ + eps),  m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
    Weight decay first shrinks p by lr · weight_decay · p (AdamW), or is added to g (Adam).
    skip: a number (); where it is not 0, nothing happens, whatever g holds.
    """
    if skip is not None and device_of(p) == "cpu":
        if skip:
            return
        skip = None
    if p.ndim == 1 and p.size > _BLOCK and device_of(p) == "cpu":  # in blocks, by several threads
        settings = (step, lr, betas, eps, weight_decay, decoupled)
        n = math.ceil(p.size / _BLOCK)
        blocks = [slice(p.size * i // n, p.size * (i + 1) // n) for i in range(n)]
        list(_threads().map(lambda i: adam(p[i], g[i], m[i], v[i], *settings), blocks))
        return
    beta1, beta2 = betas
    rate = lr / (1 - beta1**step)
    correction = math.sqrt(1 - beta2**step)  # √v̂ = √v / correction
    work = np.empty_like(p)
    take1, take2 = 1 - beta1, 1 - beta2
    if skip is not None:  # the host does not know: with these numbers nothing changes
        lr, rate, g, take1, take2 = (_unless(skip, x, 0, p) for x in (lr, rate, g, take1, take2))
        beta1, beta2 = (_unless(skip, x, 1, p) for x in betas)
    if weight_decay and decoupled:
        p *= 1 - lr * weight_decay
    elif weight_decay:
        g = g + weight_decay * p
    m *= beta1
    m += np.multiply(g, take1, out=work)
    v *= beta2
    np.multiply(g, g, out=work)
    work *= take2
    v += work
    np.sqrt(v, out=work)
    work += eps * correction
    np.divide(m, work, out=work)
    work *= rate * correction
    p -= work


def _unless(skip: Array, x: Any, otherwise: float, like: Array) -> Array:
    return np.where(skip, like.dtype.type(otherwise), x).astype(like.dtype, copy=False)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """A thread per core. Not for many small calls: between two of them only one thread can run."""
    some = hasattr(os, "sched_getaffinity")  # this process may not have all cores
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)) if some else os.cpu_count())
