"""What a case is: a function of tensors that runs in tensorlib and, unchanged, in PyTorch.

    op("softmax", (3, 4), dim=1)

calls `softmax` by its public name, which both libraries share, on values that are the same on
every machine. A case gives `results` (values, and gradients for a random gradient of the values)
in either library, and what finite differences make of it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import tensorlib

from ..devices import move
from .numerical import differences, floating

Results = dict[str, np.ndarray]  # "value" and "d x", or with several outputs "value 0", …


@dataclass(frozen=True)
class Case:
    """name: the public name it covers. label: how the table calls it.
    arguments: a tuple is a float tensor of that shape with random values from `low` to `high`, a
        list several, an array of integers or bools is constant, one of floats gives the values;
        anything else stays what it is.
    function(t, *arguments): computes it in library t. theirs: in PyTorch, where that differs;
        None where PyTorch has nothing to compare with.
    step: of the finite differences. slack: a factor for their tolerance.
    """

    name: str
    label: str
    arguments: tuple[Any, ...]
    function: Callable[..., Any]
    theirs: Callable[..., Any] | None
    names: tuple[str, ...]
    low: float = -2.0
    high: float = 2.0
    step: float = 1e-6
    slack = 1

    def within(self, low: float, high: float) -> Case:
        """The same with values from `low` to `high`."""
        return dataclasses.replace(self, low=low, high=high)

    def bind(self, t: Any, dtype: str, device: str = "cpu") -> tuple[Callable[[], Any], dict]:
        """The computation in library t, and the tensors that it depends on, by name."""
        leaves, random = {}, Random(self.label)

        def tensor(source: Any, name: str) -> Any:
            if isinstance(source, list):
                return [tensor(s, f"{name}[{i}]") for i, s in enumerate(source)]
            if isinstance(source, np.ndarray) and source.dtype.kind != "f":
                return t.tensor(source, device=device)
            if isinstance(source, tuple):
                source = random.uniform(self.low, self.high, source)
            elif not isinstance(source, np.ndarray):
                return source
            x = t.tensor(source, dtype=getattr(t, dtype), device=device)
            leaves[name] = x.requires_grad_()
            return x

        arguments = [tensor(*pair) for pair in zip(self.arguments, self.names, strict=True)]
        function = self.function if t is tensorlib else self.theirs
        assert function is not None
        return (lambda: function(t, *arguments)), leaves

    def results(self, t: Any, dtype: str = "float64", device: str = "cpu") -> Results:
        """Values and gradients in library t."""
        compute, leaves = self.bind(t, dtype, device)
        outputs = compute()
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        names = ["value"] if len(outputs) == 1 else [f"value {i}" for i in range(len(outputs))]
        results = {name: to_numpy(y) for name, y in zip(names, outputs)}
        if starts := [y for y in floating(outputs) if y.requires_grad]:
            upstream = [
                t.tensor(g, dtype=y.dtype, device=device)
                for g, y in zip(self._upstream(starts), starts)
            ]
            found = t.autograd.grad(starts, list(leaves.values()), upstream, allow_unused=True)
        else:
            found = [None] * len(leaves)
        for (name, x), gradient in zip(leaves.items(), found):
            none = np.zeros(tuple(x.shape))  # what nothing flowed back to
            results[f"d {name}"] = none if gradient is None else to_numpy(gradient)
        return results

    def slopes(self, device: str = "cpu") -> Results:
        """The gradients that finite differences see, in float64."""
        compute, leaves = self.bind(tensorlib, "float64", device)

        def projected() -> list[np.ndarray]:
            with tensorlib.no_grad():
                outputs = floating(compute())
            pairs = zip(outputs, self._upstream(outputs))
            return [np.asarray(sum((to_numpy(y) * g).sum() for y, g in pairs))]

        results = {}
        for name, x in leaves.items():
            slopes = np.empty(x.shape)
            for index, (slope,) in differences(projected, x, self.step):
                slopes[index] = slope
            results[f"d {name}"] = slopes
        return results

    def _upstream(self, outputs: Sequence[Any]) -> list[np.ndarray]:
        """A random gradient for each output; never 0, and such that 16 bits hold it."""
        random = Random(f"{self.label}, upstream")
        return [(np.floor(random.uniform(-64, 64, tuple(y.shape))) + 0.5) / 64 for y in outputs]


@dataclass(frozen=True)
class Training:
    """Steps of an optimizer down the value of a case: every tensor that it depends on is learnt."""

    name: str
    label: str
    loss: Case
    optimizer: Callable[[Any, list], Any]  # of a library and the tensors
    steps: int = 5
    theirs = True
    slack = 100  # Adam divides by the size of the gradient, and finite differences see no tiny one

    def results(self, t: Any, dtype: str = "float64", device: str = "cpu") -> Results:
        """The loss before each step, and all tensors after the last, by backward in library t."""

        def backward(compute: Callable[[], Any], leaves: dict[str, Any]) -> float:
            value = compute()
            value.backward()
            return value.item()

        return self._run(t, dtype, device, backward)

    def slopes(self, device: str = "cpu") -> Results:
        """The same where every gradient of every step comes from finite differences."""

        def measure(compute: Callable[[], Any], leaves: dict[str, Any]) -> float:
            with tensorlib.no_grad():
                for x in leaves.values():
                    slopes = np.empty(x.shape)
                    for index, (s,) in differences(lambda: [compute().item()], x, self.loss.step):
                        slopes[index] = s
                    x.grad = tensorlib.tensor(slopes, device=device)
                return compute().item()

        return self._run(tensorlib, "float64", device, measure)

    def _run(self, t: Any, dtype: str, device: str, gradients: Callable[..., float]) -> Results:
        compute, leaves = self.loss.bind(t, dtype, device)
        optimizer = self.optimizer(t, list(leaves.values()))
        losses = []
        for _ in range(self.steps):
            optimizer.zero_grad()
            losses.append(gradients(compute, leaves))
            optimizer.step()
        learnt = {name: to_numpy(x.detach()).copy() for name, x in leaves.items()}
        return {"loss": np.array(losses), **learnt}


# ---------------------------------------------------------------------------------- making cases


def op(
    name: str,
    *arguments: Any,
    function: Callable[..., Any] | None = None,
    theirs: Callable[..., Any] | bool = True,
    step: float = 1e-6,
    **options: Any,
) -> Case:
    """A case for the public name `name`: it is called with the arguments, unless a `function` of
    (t, *arguments) says how. theirs: how PyTorch computes it; False where it has no such thing."""
    written = [*map(_written, arguments), *(f"{key}={value!r}" for key, value in options.items())]
    label = f"{short(name)}({', '.join(written)})"

    def by_name(t: Any, *tensors: Any) -> Any:
        return find(t, name)(*tensors, **options)

    names = _parameters(function)[1:] if function else _parameters(find(tensorlib, name))
    names += [f"{names[-1]}[{i}]" for i in range(1, len(arguments) - len(names) + 1)]
    function = function or by_name
    other = function if theirs is True else theirs or None
    return Case(name, label, arguments, function, other, tuple(names[: len(arguments)]), step=step)


def layer(name: str, *inputs: Any, build: Callable[[Any], Any]) -> Case:
    """A case for a module: its inputs and all its parameters. build(t) makes it in library t."""
    build = functools.cache(build)
    shapes = {n: tuple(p.shape) for n, p in build(tensorlib).named_parameters()}

    def function(t: Any, *arguments: Any) -> Any:
        tensors, weights = arguments[: len(inputs)], arguments[len(inputs) :]
        return call(t, build(t), dict(zip(shapes, weights)), tensors)

    label = f"{short(name)}({', '.join(map(_written, inputs))})"
    names = [*_parameters(build(tensorlib).forward)[: len(inputs)], *shapes]
    return Case(name, label, (*inputs, *shapes.values()), function, function, tuple(names))


def call(t: Any, module: Any, weights: dict[str, Any], inputs: Sequence[Any]) -> Any:
    """The module's output with other tensors in place of its parameters."""
    if t is not tensorlib:
        return t.func.functional_call(module, weights, tuple(inputs))
    chosen = {id(p): weights[name] for name, p in module.named_parameters()}
    before = [(m, dict(m._parameters)) for m in module.modules()]
    try:
        for m, parameters in before:
            _set(m, {n: None if p is None else chosen[id(p)] for n, p in parameters.items()})
        return module(*inputs)
    finally:
        for m, parameters in before:
            _set(m, parameters)


def _set(module: Any, parameters: dict[str, Any]) -> None:
    module._parameters.update(parameters)
    vars(module).update(parameters)


def find(t: Any, name: str) -> Any:
    """What a public name is in library t: find(torch, "nn.functional.gelu")."""
    return operator.attrgetter(name)(t)


def short(name: str) -> str:
    """nn.functional by the name under which everyone imports it."""
    return name.replace("nn.functional.", "F.")


class Random:
    """Numbers that follow from a name and from nothing else: neither NumPy's version nor the order
    of the cases. All are float32 numbers, so that a case means the same in both types."""

    def __init__(self, name: str) -> None:
        self._bits = np.random.PCG64(zlib.crc32(name.encode()))

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        raw = self._bits.random_raw(int(np.prod(shape)))
        fractions = (raw >> np.uint64(11)) * 2.0**-53
        return (low + (high - low) * fractions).astype(np.float32).astype(np.float64).reshape(shape)


def to_numpy(y: Any) -> np.ndarray:
    """A tensor of either library as an array on the host."""
    y = y.detach()
    return np.asarray(move(y.array, "cpu") if hasattr(y, "array") else y.numpy())


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _written(argument: Any) -> str:
    """An argument in a label: a tensor is its shape."""
    if isinstance(argument, tuple):
        return "×".join(map(str, argument)) or "0-d"
    if isinstance(argument, list):
        return f"[{', '.join(map(_written, argument))}]"
    if isinstance(argument, np.ndarray):
        kind = {"b": "bool ", "i": "int "}.get(argument.dtype.kind, "")
        return kind + _written(argument.shape)
    return repr(argument)
