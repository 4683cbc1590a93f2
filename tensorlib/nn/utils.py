"""Over all parameters at once: the norm of their gradients, their numbers as one vector, and a
module whose numbers are yet to come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from ..clock import mark_written
from ..kernels import kernels
from ..tensor import Tensor
from .init import drawing

M = TypeVar("M")


def skip_init(module_cls: Callable[..., M], *args, **kwargs) -> M:
    """`module_cls(*args, **kwargs)` whose random parameters hold whatever memory held: for values
    that will be loaded, where drawing them first may take longer than the loading."""
    drawing.on = False
    try:
        return module_cls(*args, **kwargs)
    finally:
        drawing.on = True


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by one factor, in place, so that their joint norm is at most `max_norm`.

    Returns the norm before.
    On a GPU all gradients are multiplied, by 1 where that is the factor: to skip it, the host would
    have to wait for the norm.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    grads = [p.grad.array for p in parameters if p.grad is not None]
    if not grads:
        return Tensor(np.zeros((), np.float32))
    with np.errstate(all="ignore"):  # an infinite norm is returned, not warned about
        norms = [kernels(g).norm(g) for g in grads]
        total = norms[0] if len(norms) == 1 else kernels(norms[0]).norm(np.stack(norms))
        for g in grads:
            kernels(g).clip(g, total, max_norm)
            mark_written(g)
    return Tensor(total.astype(grads[0].dtype, copy=False))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """A copy of all parameters, one after the other, as one 1-D tensor."""
    return Tensor(np.concatenate([p.array.reshape(-1) for p in parameters]))


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Make each parameter a view of its part of `vec`, a 1-D tensor: what is written to the one is
    written to the other. RuntimeError if the lengths differ."""
    parameters = list(parameters)
    if vec.shape != (total := sum(p.numel() for p in parameters),):
        raise RuntimeError(f"a vector of shape {vec.shape} for parameters of {total} numbers")
    ends = np.cumsum([p.numel() for p in parameters])[:-1].tolist()
    for p, part in zip(parameters, np.split(vec.array, ends)):
        p.array = part.reshape(p.shape)
