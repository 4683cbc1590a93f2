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
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .anomaly import detect_anomaly as detect_anomaly  # autograd's in PyTorch, too
from .arrays import as_array, is_writable, unbroadcast
from .device import device_of
from .grad_mode import is_quiet, mode

if TYPE_CHECKING:
    from .observer import Origin
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
    edges: for each input its key, shape and dtype; None for an input that wants no gradient.
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
        self.number = next(_clock)
        self.origin: Origin | None = None

    def __str__(self) -> str:
        return f"{self.name} (its forward ran at {self.origin})" if self.origin else self.name


_Key = tuple[Any, int]  # the source of a tensor (its node, or a leaf itself), and which output
_Edge = tuple[_Key, tuple[int, ...], np.dtype] | None
_clock = itertools.count(1)


def now() -> int:
    """The time on the tape's clock: nodes with a larger number are of later operations."""
    return next(_clock)


def _key(tensor: TensorBase) -> _Key:
    return tensor.node or tensor, tensor.output


# ----------------------------------------------------------------------------------- recording


def operation(
    function: Callable | None = None, *, prepare: Callable | None = None
) -> Callable[..., Any]:
    """Make a function on arrays an operation on tensors that the tape records.

    The function gets the arrays of its arguments (anything that is no tensor as it is) and returns
    `(value, gradients)`. A value is an array or a tuple of arrays. `gradients` is one of

        (f, g, …)          per positional argument a function from the gradient of the value to
                           the gradient of that argument, None where there is none to be had;
        f(grad, needed)    one function for all of them, where they share work: `needed` says
                           which arguments want a gradient, and it returns as many results;
        None               nothing flows back.

    A gradient may come in the shape to which its argument was broadcast and in another floating
    type; the tape sums and casts it back. It is a new array, or `grad`, or a view of `grad`; never
    an array that was saved, because the tape may add to it in place. What a gradient function
    refers to stays in memory until backward has passed: name a `shape` rather than a whole array.

    prepare: maps the arguments before the function sees them. It may cast or widen; the tape
        remembers the arguments as they came, and hands back gradients of that shape and dtype.
    """
    if function is None:
        return functools.partial(operation, prepare=prepare)
    name = function.__name__.strip("_")

    @functools.wraps(function)
    def run(*inputs: Any, **options: Any) -> Any:
        if mode.observer is not None:  # who watches calls run again, and notes what came of it
            return mode.observer.forward(run, inputs, options)
        arrays, edges, enabled = [], [], not mode.paused
        for x in inputs:
            edge = None
            if isinstance(x, TensorBase):
                if enabled and x._requires_grad:  # and _key(x), without the cost of a call
                    edge = (x.node or x, x.output), x.array.shape, x.array.dtype
                x = x.array
            arrays.append(x)
            edges.append(edge)
        if options:
            options = {k: _constant(name, k, x) for k, x in options.items()}
        try:
            if prepare is not None:
                arrays = prepare(*arrays)
            if is_quiet.get():  # inside another operation
                value, gradients = function(*arrays, **options)
            else:  # 1 / 0 is inf without a warning, as in PyTorch
                value, gradients = mode.quiet.run(function, *arrays, **options)
        except (ValueError, TypeError) as error:
            if explained := _explained(error, name, arrays):
                raise explained from error
            raise
        many = type(value) is tuple
        node = None
        if gradients is not None and any(edges):
            if not (all(edges) or callable(gradients)):
                # what only an unwanted gradient refers to is freed here
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


def _constant(name: str, option: str, value: Any) -> Any:
    """What the function gets for a keyword argument, through which no gradient can flow."""
    if not isinstance(value, TensorBase):
        return value
    if value._requires_grad and not mode.paused:
        raise TypeError(f"{name}: pass tensors that need gradients by position, not as {option}=")
    return value.array


def _explained(error: Exception, name: str, arrays: list) -> Exception | None:
    """NumPy's complaint about shapes, or CuPy's about an array elsewhere, as the exception that
    PyTorch raises; None for any other TypeError."""
    arrays = [x for x in arrays if hasattr(x, "shape") and not isinstance(x, np.generic)]
    devices = sorted({device_of(x) for x in arrays})
    if len(devices) > 1:
        return RuntimeError(
            f"{name}: a tensor is on device {devices[0]!r} and another on {devices[1]!r}; "
            "move one with .to(device)"
        )
    if not isinstance(error, ValueError):
        return None
    kind = IndexError if isinstance(error, IndexError) else RuntimeError
    shapes = ", ".join(str(tuple(x.shape)) for x in arrays)
    return kind(f"{name} of shapes {shapes}: {error}")


# ------------------------------------------------------------------------------------ backward


def backward(
    tensor: TensorBase,
    gradient: TensorBase | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> None:
    """Add to every leaf's `.grad` the gradient of `tensor` with respect to that leaf.

    gradient: d loss / d tensor where `tensor` is not the loss itself; of its shape; may be left
        out for a single element, where it is 1.
    retain_graph: keep what was saved, so that backward can run once more.
    RuntimeError if the tensor does not require a gradient, has many elements and no `gradient`,
    or its graph has been used up. After an error no `.grad` has changed.
    """
    found = _run_backward([tensor], [gradient], None, retain_graph, create_graph)
    for (leaf, _), total in found.items():
        if leaf.grad is None:
            leaf.grad = _tensor_type(total.owned())
        else:
            leaf.grad.array += total.value
            mark_written(leaf.grad.array)


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
    return tuple(_tensor_type(found[key].owned()) if key in found else None for key in wanted)


class _Sum:
    """The gradients that arrive at one place by several paths, added up.

    Adding in place is safe only in an array that we alone hold. A gradient function may have
    returned the array it was given (`lambda grad: grad`), which others still read; so the first
    sum makes a new array, unless `_is_fresh` says that one of the two gradients was new already.
    """

    __slots__ = ("fresh", "value")

    def __init__(self, gradient: Any, fresh: bool) -> None:
        self.value = gradient
        self.fresh = fresh

    def add(self, gradient: Any, fresh: bool) -> None:
        if self.fresh:
            self.value += gradient
        elif fresh:
            gradient += self.value
            self.value, self.fresh = gradient, True
        else:
            self.value, self.fresh = self.value + gradient, True

    def owned(self) -> Any:
        """The sum as an array that may be written to."""
        return self.value if self.fresh else self.value.copy()


def _run_backward(
    outputs: Sequence[TensorBase],
    gradients: Sequence[TensorBase | None],
    wanted: Collection[_Key] | None,
    retain_graph: bool,
    create_graph: bool,
) -> dict[_Key, _Sum]:
    """Walk the graph from `outputs`, newest node first; return the gradients of every leaf, or
    only those that are `wanted`."""
    if create_graph:
        raise RuntimeError("create_graph=True: gradients of gradients are not supported")
    useful = None if wanted is None else _leading_to(wanted, outputs)  # None: everything is
    wanted = wanted or ()
    pending: dict[_Key, _Sum] = {}  # the gradients that have arrived and are not consumed
    queue: list[tuple[int, Node]] = []  # the nodes among them, the newest first
    queued: set[Node] = set()

    def arrive(key: _Key, gradient: Any, fresh: bool) -> None:
        if (total := pending.get(key)) is not None:
            total.add(gradient, fresh)
            return
        pending[key] = _Sum(gradient, fresh)
        source = key[0]
        if isinstance(source, Node) and source not in queued and (not useful or source in useful):
            queued.add(source)
            heapq.heappush(queue, (-source.number, source))

    for tensor, gradient in zip(outputs, gradients):
        start = _starting_gradient(tensor, gradient)
        if _is_useful(key := _key(tensor), useful):
            arrive(key, start, fresh=False)

    with np.errstate(all="ignore"):  # inf and nan show in the gradients; no warnings beside them
        while queue:
            node = heapq.heappop(queue)[1]
            _check_usable(node)
            arrived = []
            for output in range(node.outputs):
                # grad() may want an inner tensor's: it stays in `pending` as a result, and flows on
                key = (node, output)
                total = pending.get(key) if key in wanted else pending.pop(key, None)
                arrived.append(total and total.value)
            try:
                results = _input_gradients(node, arrived, useful)
                if mode.observer is not None:
                    results = mode.observer.backward(node, arrived, results)
                for (key, shape, dtype), result in results:
                    if result.shape != shape:
                        result = unbroadcast(result, shape)
                    if result.dtype != dtype:
                        result = result.astype(dtype)
                    arrive(key, result, _is_fresh(result, arrived))
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                shapes = ", ".join(str(shape) for _, shape, _ in filter(None, node.edges))
                raise RuntimeError(f"backward of {node}, inputs {shapes}: {error}") from error
            if not retain_graph:
                node.gradients = None  # frees what was saved for this node
    return pending


def _input_gradients(node: Node, arrived: list, useful: set | None) -> Iterator[tuple[Any, Any]]:
    """Each edge of `node` that wants a gradient, with the gradient that its input gets."""
    gradient = arrived[0] if node.outputs == 1 else tuple(arrived)
    edges = node.edges
    if useful is not None:
        edges = [edge if edge and _is_useful(edge[0], useful) else None for edge in edges]
    if callable(node.gradients):
        results = node.gradients(gradient, [edge is not None for edge in edges])
        yield from (pair for pair in zip(edges, results) if pair[0])
    else:
        for edge, function in zip(edges, node.gradients):
            if edge and function:
                yield edge, function(gradient)


def _is_fresh(result: Any, arrived: list) -> bool:
    """Whether a gradient is new memory, which nobody else can see, and not one of those that
    arrived, or a view of one."""
    if result.base is not None and not is_writable(result):
        return False  # a broadcast view: its elements share memory with each other
    owner = result if result.base is None else owner_of(result)
    for gradient in arrived:
        if gradient is owner:
            return False
        if gradient is not None and gradient.base is not None and owner_of(gradient) is owner:
            return False
    return True


def _starting_gradient(tensor: TensorBase, gradient: TensorBase | None) -> Any:
    array = tensor.array
    if not tensor._requires_grad:
        raise RuntimeError("backward: the tensor does not require a gradient, nor was it recorded")
    if gradient is None:
        if array.size != 1:
            raise RuntimeError(
                f"backward: a gradient can be left out for one element only; for shape "
                f"{array.shape} pass gradient=, of that shape"
            )
        return np.ones_like(array)
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


def _leading_to(wanted: Collection[_Key], outputs: Sequence[TensorBase]) -> set:
    """The wanted keys, and the nodes that a gradient passes on its way to one of them."""
    nodes: set[Node] = set()
    stack = [tensor.node for tensor in outputs if tensor.node]
    while stack:
        node = stack.pop()
        if node not in nodes:
            nodes.add(node)
            stack.extend(source for source, _ in _inputs(node) if isinstance(source, Node))
    useful: set[Any] = set(wanted)
    for node in sorted(nodes, key=lambda node: node.number):  # the oldest first
        if any(_is_useful(key, useful) for key in _inputs(node)):
            useful.add(node)
    return useful


def _inputs(node: Node) -> list[_Key]:
    return [key for key, _, _ in filter(None, node.edges)]


def _is_useful(key: _Key, useful: set | None) -> bool:
    source, _ = key
    return useful is None or key in useful or source in useful


# ----------------------------------------------------------------------------- in-place changes

# When memory was last written, by the id of the array that owns it. The id of a dead array is used
# again: so this does not grow for ever, and what that array left is older than any node that saves
# its successor.
_writes: dict[int, int] = {}
_last_write = 0


def mark_written(array: Any) -> None:
    """Note on the tape's clock that `array` was changed in place, as every in-place function does.

    A node that still needs the old values is older than the write: backward then says so, rather
    than compute with the new ones.
    """
    global _last_write
    _writes[id(owner_of(array))] = _last_write = next(_clock)


def last_written(array: Any) -> int:
    """When the memory of `array` was last changed in place, on the tape's clock; 0 for never."""
    return _writes.get(id(owner_of(array)), 0)


def _check_usable(node: Node) -> None:
    if node.gradients is None:
        raise RuntimeError(
            f"backward ran through {node} before and let go of its gradient functions with "
            "what they had saved; to run it twice, pass retain_graph=True the first time"
        )
    if _last_write > node.number:
        for array in saved_arrays(node.gradients):
            if last_written(array) > node.number:
                raise RuntimeError(
                    f"backward of {node}: an array of shape {array.shape} that it needs was "
                    "changed in place after it was used; change a copy (x.clone()) instead"
                )


def saved_arrays(value: Any) -> Iterator[Any]:
    """The arrays that gradient functions refer to: what this node saved for backward."""
    if callable(value):
        value = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from saved_arrays(item)
    elif hasattr(value, "strides"):
        yield value


def owner_of(array: Any) -> Any:
    while isinstance(array.base, type(array)):
        array = array.base
    return array
