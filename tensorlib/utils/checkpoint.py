"""Less memory for more computation: what backward needs is computed again, instead of kept.

Chen, Xu, Zhang & Guestrin, Training Deep Nets with Sublinear Memory Cost (2016).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from .. import random
from ..autocast_mode import current_autocast
from ..autograd import Node, TensorBase
from ..clock import now
from ..grad_mode import mode


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool = False,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """`function(*args, **kwargs)`, of which only the arguments are kept for backward: what its
    operations saved is let go, and `function` is called once more when backward arrives there.

    The results and all gradients, those of parameters that `function` uses too, are the same bits
    as without. The function must do the same when it is called again: random numbers and autocast
    are as they were the first time, but what it reads elsewhere must not have changed.

    use_reentrant: False; PyTorch's older way, True, is refused.
    preserve_rng_state: whether the second call draws the random numbers of the first.
    RuntimeError in backward if the second call ran other operations than the first.
    """
    if use_reentrant:
        raise RuntimeError("checkpoint: use_reentrant=True is not supported; leave it out")
    state = random.get_state() if preserve_rng_state else None
    autocast, start = current_autocast(), now()
    result = function(*args, **kwargs)
    if nodes := _nodes(result, start):
        inputs = [tensor.array for tensor in _tensors((args, kwargs))]
        again = functools.partial(function, *args, **kwargs)
        segment = _Segment(again, nodes, state, autocast)
        for i, node in enumerate(nodes):
            segment.stand_in(node, i, inputs)
    return result


class _Segment:
    """The operations of one call, of which nothing is kept but how to run them again.

    It knows its nodes by their place in the order in which they ran, and does not refer to them:
    they refer to it, and a cycle would keep all alive.
    """

    def __init__(self, again: Callable[[], Any], nodes: list[Node], state: Any, autocast: Any):
        self.again, self.state, self.autocast = again, state, autocast
        self.signatures = [_signature(node) for node in nodes]
        self.gradients: dict[int, Any] = {}  # of the nodes of the second call, until they are used

    def stand_in(self, node: Node, i: int, inputs: list[Any]) -> None:
        """Have node i compute its gradients by the functions of the second call's node i, and let
        go of its own."""
        if not callable(node.gradients):  # an edge without a function gets no gradient
            pairs = zip(node.edges, node.gradients)
            node.edges = [edge if function else None for edge, function in pairs]
        leaves = [edge[0] for edge in node.edges if edge]
        read = inputs + [leaf.array for leaf in leaves if isinstance(leaf, TensorBase)]

        def gradients(grad: Any, needed: list[bool]) -> Any:
            _ = read  # as a saved array: the tape complains if one was changed in place meanwhile
            functions = self.take(i)
            if callable(functions):
                return functions(grad, needed)
            return (f(grad) if f and wanted else None for f, wanted in zip(functions, needed))

        node.gradients = gradients

    def take(self, i: int) -> Any:
        """The gradient functions of node i, with what they saved."""
        if i not in self.gradients:
            self.gradients = dict(enumerate(self._recomputed()))
        return self.gradients.pop(i)

    def _recomputed(self) -> list[Any]:
        paused, mode.paused = mode.paused, 0
        try:
            with ExitStack() as stack:
                if self.state is not None:
                    stack.enter_context(random.replaying(self.state))
                stack.enter_context(self.autocast)
                start = now()
                nodes = _nodes(self.again(), start)
        finally:
            mode.paused = paused
        if [_signature(node) for node in nodes] != self.signatures:
            raise RuntimeError(
                "checkpoint: the function ran other operations when it was called again in "
                "backward than the first time; it must not depend on what has changed meanwhile, "
                "such as whether a module is in training mode"
            )
        return [node.gradients for node in nodes]


def _tensors(value: Any) -> Iterator[TensorBase]:
    if isinstance(value, TensorBase):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _nodes(result: Any, start: int) -> list[Node]:
    """The nodes younger than `start` that lead to the tensors in `result`, the oldest first."""
    found: set[Node] = set()
    stack: list[Any] = [tensor.node for tensor in _tensors(result)]
    while stack:
        node = stack.pop()
        if isinstance(node, Node) and node.number > start and node not in found:
            found.add(node)
            stack += [edge[0] for edge in node.edges if edge]
    return sorted(found, key=lambda node: node.number)


def _signature(node: Node) -> tuple[str, list[Any]]:
    return node.name, [edge and edge[1:] for edge in node.edges]  # shapes and dtypes
