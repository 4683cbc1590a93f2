"""Who watches the tape: what `trace` and `detect_anomaly` have in common.

While an observer is entered, the tape calls its `forward` instead of an operation, and hands the
gradients of every node through its `backward`; a module tells it that it is being called. While
none is, nothing here runs. An observer knows what ran where, and changes no number.
"""

from __future__ import annotations

import linecache
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..devices import cuda, device_of
from ..grad_mode import mode

_LIBRARY = os.path.dirname(os.path.dirname(__file__)) + os.sep


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module.

    path: its dotted name below `root`, the module that was called first; "" for that one itself.
    names: those of all modules below `root`, by their ids.
    """

    path: str
    module: Any
    root: Any
    names: dict[int, str]

    @property
    def prefix(self) -> str:
        """How the names of what is below it begin."""
        return f"{self.path}." if self.path else ""

    def __str__(self) -> str:
        return self.path or type(self.module).__name__


class Origin(NamedTuple):
    """Where an operation ran: the first line outside this library, and the modules around it."""

    file: str
    line: int
    calls: tuple[Call, ...]

    def __str__(self) -> str:
        return f"{_short(self.file)}:{self.line}" + (f", in {self.module}" if self.calls else "")

    @property
    def module(self) -> str:
        """The name of the innermost module, "" outside of all."""
        return str(self.calls[-1]) if self.calls else ""

    @property
    def code(self) -> str:
        """The source line itself."""
        return linecache.getline(self.file, self.line).strip() or "(no source)"


class Observer:
    """Watches what this thread computes while it is entered: `with observer:`.

    A subclass says in `ran`, `started` and `flowed` what it does about it. Observers may be nested.
    """

    def __enter__(self) -> Any:
        self.outer, mode.observer = mode.observer, self
        self.roots: dict[int, Any] = {}  # the modules called first, by id
        self.reached: dict[int, Any] = {}  # the leaves that got a gradient, by id
        return self

    def __exit__(self, *_exception: Any) -> None:
        mode.observer = self.outer

    def ran(self, run: Any, inputs: list, outputs: tuple, origin: Origin, seconds: float) -> None:
        """The operation `run` has made the tensors `outputs` of `inputs`."""

    def started(self, node: Any, arrived: list) -> None:
        """Backward is about to run the gradient functions of `node` on the gradients `arrived`."""

    def flowed(self, node: Any, edge: Any, arrived: list, gradient: Any) -> None:
        """They have made the gradient of the input behind one of the node's edges."""

    # ------------------------------------------------------------------- what the tape calls

    def forward(self, run: Any, inputs: tuple, options: dict) -> Any:
        """Run an operation, and note where."""
        origin = Origin(*_caller(), mode.calls)
        mode.observer = self.outer
        try:
            start = time.perf_counter()
            result = run(*inputs, **options)
            outputs = result if type(result) is tuple else (result,)
            seconds = now(outputs[0].array) - start
        finally:
            mode.observer = self
        if (node := outputs[0].node) is not None:
            node.origin = origin
            if mode.calls:
                self.roots[id(mode.calls[0].root)] = mode.calls[0].root
        self.ran(run, [*inputs, *options.values()], outputs, origin, seconds)
        return result

    def backward(self, node: Any, arrived: list) -> None:
        """A node's turn has come in backward."""
        if self.outer is not None:
            self.outer.backward(node, arrived)
        self.started(node, arrived)

    def gradient(self, node: Any, edge: Any, arrived: list, gradient: Any) -> None:
        """One of its inputs gets a gradient."""
        if self.outer is not None:
            self.outer.gradient(node, edge, arrived, gradient)
        source = edge[0]
        if hasattr(source, "array"):  # a leaf, not a node
            self.reached[id(source)] = source
        self.flowed(node, edge, arrived, gradient)

    @contextmanager
    def inside(self, module: Any) -> Iterator[None]:
        """While a module is being called."""
        before = mode.calls
        if not before:
            names = {id(below): name for name, below in module.named_modules()}
            call = Call("", module, module, names)
        else:
            root, names = before[0].root, before[0].names
            aside = before[-1].prefix + type(module).__name__  # if it is not in the tree
            call = Call(names.get(id(module), aside), module, root, names)
        mode.calls = (*before, call)
        try:
            yield
        finally:
            mode.calls = before

    def missing_gradients(self) -> list[str]:
        """The parameters of the modules that were called which want a gradient and got none."""
        if not self.reached:
            return []  # there was no backward
        return [
            name
            for root in self.roots.values()
            for name, p in root.named_parameters()
            if p.requires_grad and id(p) not in self.reached
        ]


def name_of(run: Any) -> str:
    """The name of an operation, as the tape says it."""
    return run.__name__.strip("_")


def now(array: Any) -> float:
    """The time, once a GPU has computed `array`."""
    if device_of(array) != "cpu":
        cuda.synchronize()
    return time.perf_counter()


def _caller() -> tuple[str, int]:
    """The file and line that called into this library."""
    frame: Any = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _short(file: str) -> str:
    """A path as seen from the current directory, if it is below."""
    relative = os.path.relpath(file) if os.path.isabs(file) else file
    return file if relative.startswith("..") else relative
