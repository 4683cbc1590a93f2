"""The tape: it records which operations ran, and runs them backwards.

An operation is one function on plain arrays that returns its value and, beside it, how a gradient
flows back to each input (`ops/` is full of them):

    @operation
    def mul(x, y):
        return x * y, (lambda grad: grad * y, lambda grad: grad * x)

While it runs, `operation` notes a `Node`: where the inputs came from, and these gradient functions.
`backward` starts at the loss and visits the nodes from the newest to the oldest. An operation is
always younger than those that made its inputs, so when a node's turn comes, every gradient that
can reach it has arrived. That is all of reverse-mode differentiation; the mathematics is in `ops/`,
and this file knows none of it.

`lessons/00_tape.py` is this file in forty lines. At a first reading follow `Node`, `operation`,
`_Arrived.add` and `_run_backward`, and leave out observer (who watches), useful and kept (`grad`,
for some gradients only), fresh and borrowed (who may write where).
"""

from __future__ import annotations

import functools
import heapq
import inspect
import weakref
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import clock
from .arrays import as_array, is_writable, unbroadcast
from .clock import owner_of
from .devices import device_of
from .errors import explained
from .grad_mode import is_quiet, mode
from .observe.anomaly import detect_anomaly as detect_anomaly  # autograd's in PyTorch, too

if TYPE_CHECKING:
    from .observe.observer import Origin
    from .tensor import Tensor


class TensorBase:
    """An array, its gradient, and the node that made it; `Tensor` adds all that is convenient.

    array: the NumPy or CuPy array that holds the values.
    grad: after `backward`, the gradient of a leaf (a tensor that no recorded operation made).
    node, output: the operation that made this tensor and which of its outputs it is; a leaf has
        no node.
    _requires_grad: whether gradients are wanted for it. The tape reads this slot; the public
        `requires_grad` of Tensor also checks what is assigned to it.
    """

    __slots__ = ("__weakref__", "_requires_grad", "array", "grad", "node", "output")

    def __init__(
        self, array: Any, requires_grad: bool = False, node: Node | None = None, output: int = 0
    ) -> None:
        self.array = array if type(array) is np.ndarray else as_array(array)
        self._requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.node = node
        self.output = output


class Node:
    """One operation that ran. It never refers to its own outputs, so that there are no cycles
    and an array nobody needs is freed at once, by reference counting.

    name: the operation's, for messages.
    edges: for each input its source (the node that made it, or a leaf itself), which of the
        source's outputs it is, its shape and its dtype; None for an input that gets no gradient.
    gradients: one function per input, or one function for all; None once they are used up.
    outputs: how many outputs the operation had.
    number: the time on the tape's clock; a larger number is a later operation.
    origin: the source line and the module that ran it, if an observer watched; else None.
    """

    __slots__ = ("edges", "gradients", "name", "number", "origin", "outputs")

    def __init__(self, name: str, edges: list[_Edge], gradients: Any, outputs: int) -> None:
        self.name = name
        self.edges = edges
        self.gradients = gradients
        self.outputs = outputs
        self.number = clock.now()
        self.origin: Origin | None = None

    def __str__(self) -> str:
        return f"{self.name} (its forward ran at {self.origin})" if self.origin else self.name


_Source = Any  # a Node or a leaf
_Key = tuple[_Source, int]  # and which of its outputs
_Edge = tuple[_Source, int, tuple[int, ...], np.dtype] | None


def _key(tensor: TensorBase) -> _Key:
    return (tensor.node or tensor), tensor.output


# The inner tensors whose `.grad` backward fills, too: those that `retain_grad` was called on. It
# keeps none of them alive, for nobody could read the gradient of a tensor that is gone.
retaining: weakref.WeakValueDictionary[_Key, TensorBase] = weakref.WeakValueDictionary()


# ----------------------------------------------------------------------------------- recording


def operation(
    function: Callable | None = None, *, prepare: Callable | None = None
) -> Callable[..., Any]:
    """Make a function on arrays an operation on tensors that the tape records.

    The function gets the arrays of its arguments (anything that is no tensor as it is) and returns
    `(value, gradients)`. A value is an array or a tuple of arrays. `gradients` is one of

        (f, g, …)          per argument a function from the gradient of the value to the gradient
                           of that argument, None where there is none to be had;
        f(grad, needed)    one function for all of them, where they share work: `needed` says
                           which arguments want a gradient, and it returns as many results;
        None               nothing flows back.

    A gradient may come in the shape to which its argument was broadcast and in another floating
    type; the tape sums and casts it back. It is a new array, or `grad`, or a view of `grad`; never
    an array that was saved, because the tape may add to it in place. What a gradient function
    refers to stays in memory until backward has passed: name a `shape` rather than a whole array.

    Whoever calls the operation may give arguments by keyword; gradients flow to them, too. What
    the function takes by keyword alone is an option: it comes as it is, and gets no gradient.

    prepare: maps the arguments before the function sees them. It may cast or widen; the tape
        remembers the arguments as they came, and hands back gradients of that shape and dtype.
    """
    if function is None:
        return functools.partial(operation, prepare=prepare)
    name = function.__name__.strip("_")
    parameters = [
        (parameter.name, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]

    @functools.wraps(function)
    def run(*inputs: Any, **options: Any) -> Any:
        if options:
            inputs = _in_order(parameters, inputs, options)
        if mode.observer is not None:  # who watches calls run again, unobserved
            return mode.observer.forward(run, inputs, options)
        arrays, edges, recorded, enabled = [], [], False, not mode.paused
        for x in inputs:
            edge = None
            if isinstance(x, TensorBase):
                if enabled and x._requires_grad:
                    edge = (x.node or x), x.output, x.array.shape, x.array.dtype
                    recorded = True
                x = x.array
            arrays.append(x)
            edges.append(edge)
        call = functools.partial(function, **options) if options else function
        try:
            if prepare is not None:
                arrays = prepare(*arrays)
            if is_quiet.get():  # inside another operation
                value, gradients = call(*arrays)
            else:  # 1 / 0 is inf without a warning, as in PyTorch
                value, gradients = mode.quiet.run(call, *arrays)
        except (ValueError, TypeError, AttributeError) as error:
            if reason := explained(error, function, arrays, options):
                raise reason from error
            raise
        many = type(value) is tuple
        node = None
        if recorded and gradients is not None:
            if type(gradients) is not tuple:  # one function: of what was left out it is told, too
                edges += [None] * (len(parameters) - len(edges))
            elif None in edges:  # what only an unwanted gradient refers to is freed here
                gradients = [f if e else None for e, f in zip(edges, gradients)]
            node = Node(name, edges, gradients, len(value) if many else 1)
        if many:
            return tuple(_tensor_type(v, node is not None, node, i) for i, v in enumerate(value))
        return _tensor_type(value) if node is None else _tensor_type(value, True, node)

    return run


_tensor_type: Any = TensorBase


def set_tensor_type(cls: type[TensorBase]) -> None:
    """Say which class operations return: `tensor.py` names its Tensor here, once."""
    global _tensor_type
    _tensor_type = cls


def _in_order(parameters: list[tuple[str, Any]], inputs: tuple, options: dict) -> tuple:
    """`inputs`, and after them those of `options` that have a position, which are taken from there,
    with the defaults between. (If one without a default is missing, Python will say so.)"""
    for name, default in parameters[len(inputs) :]:
        if not options or (name not in options and default is inspect.Parameter.empty):
            break
        inputs += (options.pop(name, default),)
    return inputs


# ------------------------------------------------------------------------------------ backward


def backward(
    tensor: TensorBase,
    gradient: TensorBase | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> None:
    """Add to every leaf's `.grad` the gradient of `tensor` with respect to that leaf, and so for
    the inner tensors that retain theirs.

    gradient: d loss / d tensor where `tensor` is not the loss itself; of its shape; may be left
        out for a single element, where it is 1.
    retain_graph: keep what was saved, so that backward can run once more.
    RuntimeError if the tensor does not require a gradient, has many elements and no `gradient`,
    or its graph has been used up, or where a `.grad` that was assigned does not fit. After an error
    no `.grad` has changed.
    """
    found = _run_backward([tensor], [gradient], set(), retain_graph, create_graph)
    owners: list[Any] = [(retaining.get(key, key[0]), g) for key, g in found.items()]
    owners = [(x, g) for x, g in owners if type(x) is not Node]  # beside an output that retains
    for x, g in owners:
        if x.grad is not None:
            _check_fits(x.grad, g)
    for x, g in owners:
        if x.grad is None:
            x.grad = _tensor_type(g)
        else:
            x.grad.array += g
            clock.mark_written(x.grad.array)


def _check_fits(before: Any, gradient: Any) -> None:
    """See to it that `gradient` can be added to a `.grad`: anybody may have assigned anything."""
    if not isinstance(before, TensorBase):
        kind = type(before).__name__
        raise TypeError(f"backward: a .grad is a tensor or None, not {kind}: set it to None")
    given, wanted = ((x.shape, x.dtype, device_of(x)) for x in (before.array, gradient))
    if given != wanted or not is_writable(before.array):
        raise RuntimeError(
            f"backward: a .grad has shape {given[0]}, {given[1]}, on {given[2]}, and the gradient "
            f"{wanted[0]}, {wanted[1]}, on {wanted[2]}: assign a writable one like it, or None"
        )


def grad(
    outputs: TensorBase | Sequence[TensorBase],
    inputs: TensorBase | Sequence[TensorBase],
    grad_outputs: TensorBase | Sequence[TensorBase | None] | None = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of `outputs` with respect to `inputs`; no `.grad` is read or written.

    grad_outputs: the gradients of the outputs; may be left out where they have one element.
    RuntimeError if there is no input, or one does not require a gradient or was not used for the
    outputs (with `allow_unused=True` its gradient is None instead).
    """
    outputs = [outputs] if isinstance(outputs, TensorBase) else list(outputs)
    inputs = [inputs] if isinstance(inputs, TensorBase) else list(inputs)
    if grad_outputs is None or isinstance(grad_outputs, TensorBase):
        grad_outputs = [grad_outputs] * len(outputs)
    if not inputs:
        raise RuntimeError("grad: the list of inputs is empty")
    for i, x in enumerate(inputs):
        if not x._requires_grad:
            raise RuntimeError(f"grad: input {i} does not require a gradient")
    wanted = [_key(x) for x in inputs]
    found = _run_backward(outputs, grad_outputs, set(wanted), retain_graph, create_graph)
    for i, key in enumerate(wanted):
        if key not in found and not allow_unused:
            raise RuntimeError(
                f"grad: input {i} was not used to compute the outputs; "
                "with allow_unused=True its gradient is None"
            )
    return tuple(_tensor_type(found[key]) if key in found else None for key in wanted)


class _Arrived:
    """The gradients that wait at nodes and leaves, added up where they arrive by several paths.

    Adding in place is safe only in an array that we alone hold. A gradient function may have
    returned the array it was given (`lambda grad: grad`), which others still read: such a one is
    borrowed, and of two of them a new array is made.
    """

    __slots__ = ("borrowed", "gradients", "queue", "useful")

    def __init__(self, useful: Container[Node] | None) -> None:
        self.gradients: dict[_Source, list[Any]] = {}  # one, or None, for each of its outputs
        self.borrowed: set[_Key] = set()
        self.queue: list[tuple[int, Node]] = []  # the nodes among them, the newest first
        self.useful = useful

    def add(self, source: _Source, output: int, gradient: Any, fresh: bool) -> None:
        """Add a gradient of `source`'s output; `fresh`: nobody else can see this array."""
        if (totals := self.gradients.get(source)) is None:
            is_node = type(source) is Node
            totals = self.gradients[source] = [None] * (source.outputs if is_node else 1)
            if is_node and (self.useful is None or source in self.useful):
                heapq.heappush(self.queue, (-source.number, source))
        if (total := totals[output]) is not None:
            is_ours = (source, output) not in self.borrowed
            self.borrowed.discard((source, output))
            if is_ours:
                total += gradient
                gradient = total
            elif fresh:
                gradient += total
            else:
                gradient = total + gradient
        elif not fresh:
            self.borrowed.add((source, output))
        totals[output] = gradient

    def owned(self) -> dict[_Key, Any]:
        """What waits there, as arrays that may be written to."""
        return {
            (source, i): total.copy() if (source, i) in self.borrowed else total
            for source, totals in self.gradients.items()
            for i, total in enumerate(totals)
            if total is not None
        }


def _run_backward(
    outputs: Sequence[TensorBase],
    gradients: Sequence[TensorBase | None],
    wanted: set[_Key],
    retain_graph: bool,
    create_graph: bool,
) -> dict[_Key, Any]:
    """Walk the graph from `outputs`, newest node first; return the gradients that were `wanted`,
    or those of all leaves, in arrays that are nobody else's."""
    if create_graph:
        raise RuntimeError("create_graph=True: gradients of gradients are not supported")
    useful = _leading_to(wanted, outputs) if wanted else None  # None: everything is
    kept = {source for source, _ in wanted}  # an inner tensor's gradient is a result and flows on
    kept.update(reference.key[0] for reference in retaining.valuerefs())
    arrived = _Arrived(useful)
    for tensor, given in zip(outputs, gradients):
        start = _starting_gradient(tensor, given)
        key = _key(tensor)
        if useful is None or key[0] in useful or key in wanted:
            arrived.add(*key, start, fresh=False)
    observer = mode.observer
    with np.errstate(all="ignore"):  # inf and nan show in the gradients; no warnings beside them
        while arrived.queue:
            node = heapq.heappop(arrived.queue)[1]
            totals = arrived.gradients[node] if node in kept else arrived.gradients.pop(node)
            gradient = totals[0] if node.outputs == 1 else tuple(totals)
            edges = node.edges if useful is None else useful[node]
            if node.gradients is None or clock.last_write > node.number:
                _check_usable(node)
            if observer is not None:
                observer.backward(node, totals)
            try:
                results = node.gradients
                if one_for_all := callable(results):
                    results = results(gradient, [edge is not None for edge in edges])
                for edge, result in zip(edges, results):
                    if edge is None or result is None:
                        continue
                    if not one_for_all:  # a function each: one result is gone before the next comes
                        result = result(gradient)
                    if observer is not None:
                        observer.gradient(node, edge, totals, result)
                    source, output, shape, dtype = edge
                    if result.shape != shape:
                        result = unbroadcast(result, shape)
                    if result.dtype is not dtype:
                        result = result.astype(dtype, copy=False)
                    if result.base is None and node.outputs == 1:  # the usual case, decided quickly
                        fresh = result is not gradient
                    else:
                        fresh = _is_fresh(result, totals)
                    arrived.add(source, output, result, fresh)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                shapes = ", ".join(str(edge[2]) for edge in node.edges if edge)
                raise RuntimeError(f"backward of {node}, inputs {shapes}: {error}") from error
            if not retain_graph:
                node.gradients = None  # frees what was saved for this node
    # every node has passed its gradients on: what waits now is at leaves, or was wanted
    return arrived.owned()


def _is_fresh(result: Any, arrived: list) -> bool:
    """Whether a gradient is new memory, which nobody else can see, and not one of those that
    arrived, or a view of one."""
    owner = result
    if result.base is not None:
        if not is_writable(result):
            return False  # a broadcast view: its elements share memory with each other
        owner = owner_of(result)
    for gradient in arrived:
        if gradient is owner:
            return False
        if gradient is not None and gradient.base is not None and owner_of(gradient) is owner:
            return False
    return True


def _starting_gradient(tensor: TensorBase, gradient: TensorBase | None) -> Any:
    array = tensor.array
    if not tensor._requires_grad:
        raise RuntimeError(
            "backward: nothing was recorded for this tensor: no input requires a gradient, or it "
            "was made under no_grad() or by detach()"
        )
    if gradient is None:
        if array.size != 1:
            raise RuntimeError(
                f"backward: a gradient can be left out for one element only; for shape "
                f"{array.shape} pass gradient=, of that shape"
            )
        return np.ones_like(array)
    if not isinstance(gradient, TensorBase):
        kind = type(gradient).__name__
        raise TypeError(f"backward: the gradient must be a tensor, not {kind}")
    if device_of(gradient.array) != device_of(array):
        raise RuntimeError(
            f"backward: the gradient is on device {device_of(gradient.array)!r}, the tensor on "
            f"{device_of(array)!r}"
        )
    if gradient.array.shape != array.shape:
        raise RuntimeError(
            f"backward: gradient has shape {gradient.array.shape}, the tensor {array.shape}"
        )
    return gradient.array.astype(array.dtype, copy=False)


def _leading_to(wanted: set[_Key], outputs: Sequence[TensorBase]) -> dict[Node, list[_Edge]]:
    """The nodes that a gradient passes on its way to one of the wanted keys, with their edges, of
    which those that lead elsewhere are None."""
    nodes: set[Node] = set()
    stack: list[_Source] = [tensor.node for tensor in outputs]
    while stack:
        node = stack.pop()
        if isinstance(node, Node) and node not in nodes:
            nodes.add(node)
            stack.extend(edge[0] for edge in node.edges if edge)
    useful: dict[Node, list[_Edge]] = {}
    for node in sorted(nodes, key=lambda node: node.number):  # the oldest first
        edges = [e if e and (e[0] in useful or e[:2] in wanted) else None for e in node.edges]
        if any(edges):
            useful[node] = edges
    return useful


def _check_usable(node: Node) -> None:
    if node.gradients is None:
        raise RuntimeError(
            f"backward ran through {node} before and let go of its gradient functions with "
            "what they had saved; to run it twice, pass retain_graph=True the first time"
        )
    for array in clock.saved_arrays(node.gradients):
        if clock.last_written(array) > node.number:
            raise RuntimeError(
                f"backward of {node}: an array of shape {array.shape} that it needs was "
                "changed in place after it was used; change a copy (x.clone()) instead"
            )
