"""`trace`: every operation of a forward and backward pass, what it took and what it kept.

    with tensorlib.trace() as t:
        logits, loss = model(idx, targets)
        loss.backward()
    print(t)
    print(t.totals())

It watches (`observer.py`) and keeps numbers only, so that memory is freed as without it.
"""

from __future__ import annotations

import math
import os
import re
import time
import weakref
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autograd import Node, TensorBase
from ..clock import owner_of, saved_arrays
from ..devices import device_of
from ..kernels import kernels
from . import flops
from .observer import Observer, Origin, name_of, now
from .tables import digits, shape_text, table


@dataclass
class Record:
    """An operation that ran.

    shapes: of its results; dtype, device: of the first. origin: which line and module ran it, None
        if only its backward was traced.
    forward, backward: seconds; backward is 0 if it did not run, and includes adding up gradients.
    flops: operations of forward and, once it ran, backward.
    kept: bytes that it keeps for backward, and that no parameter and no operation before it kept.
    """

    name: str
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtype: np.dtype | None = None
    device: str = "cpu"
    origin: Origin | None = None
    forward: float = 0.0
    backward: float = 0.0
    flops: int = 0
    kept: int = 0
    gradient_flops: list[int] | int = 0
    norms: list[Any] | None = None

    @property
    def gradient(self) -> float | None:
        """The norm of the gradient of its results; None if backward did not come here."""
        return None if self.norms is None else math.hypot(*map(float, self.norms))


class trace(Observer):  # noqa: N801
    """Record every operation that this thread runs inside `with tensorlib.trace() as t:`.

    t.operations: a `Record` for each, in order; `print(t)` shows them as a table, and
    `t.totals()` sums them by operation and by module. On a GPU each one is waited for.
    """

    def __enter__(self) -> trace:
        super().__enter__()
        self.operations: list[Record] = []
        self._by_node: dict[int, Record] = {}
        self._seen: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._start, self._end = time.perf_counter(), 0.0
        return self

    def __exit__(self, *exception: Any) -> None:
        self._end = time.perf_counter()
        super().__exit__(*exception)

    @property
    def seconds(self) -> float:
        """How long it has watched: the operations, and what was between them."""
        return (self._end or time.perf_counter()) - self._start

    def ran(self, run: Any, inputs: list, outputs: tuple, origin: Origin, seconds: float) -> None:
        arrays = [getattr(x, "array", x) for x in inputs]
        value, node = outputs[0].array, outputs[0].node
        shapes = [x.array.shape for x in outputs]
        record = Record(name_of(run), shapes, value.dtype, device_of(value), origin, seconds)
        record.flops, record.gradient_flops = flops.count(run, value, arrays)
        self.operations.append(record)
        if node is not None:
            self._by_node[node.number] = record
            for x in inputs:
                if isinstance(x, TensorBase) and x.node is None and x._requires_grad:
                    self._is_new(owner_of(x.array))  # a parameter is there anyway
            record.kept = self._new_bytes(node)

    def _new_bytes(self, node: Node) -> int:
        owners = map(owner_of, saved_arrays(node.gradients))
        return sum(owner.nbytes for owner in owners if self._is_new(owner))

    def _is_new(self, owner: Any) -> bool:
        """Whether this memory has not been counted before."""
        if self._seen.get(id(owner)) is owner:
            return False
        self._seen[id(owner)] = owner
        return True

    def started(self, node: Node, arrived: list) -> None:
        if (record := self._by_node.get(node.number)) is None:
            record = self._by_node[node.number] = Record(node.name, origin=node.origin)
            self.operations.append(record)
        gradients = [g.ravel(order="K") for g in arrived if g is not None]
        record.norms = [kernels(g).norm(g) for g in gradients]
        if not isinstance(record.gradient_flops, list):
            record.flops += record.gradient_flops
        self._since = time.perf_counter()

    def flowed(self, node: Node, edge: Any, arrived: list, gradient: Any) -> None:
        record = self._by_node[node.number]
        since, self._since = self._since, now(gradient)
        record.backward += self._since - since
        if isinstance(record.gradient_flops, list):
            record.flops += sum(n for e, n in zip(node.edges, record.gradient_flops) if e is edge)

    def totals(self) -> Totals:
        """The sums over operations of one name, and over those inside of each module."""
        return Totals(self)

    def __repr__(self) -> str:
        rows = [
            (
                str(i),
                r.name,
                _shapes(r.shapes),
                r.dtype.name if r.dtype else "-",
                r.origin.module or "-" if r.origin else "-",
                f"{os.path.basename(r.origin.file)}:{r.origin.line}" if r.origin else "-",
                digits(1e3 * r.forward),
                digits(1e3 * r.backward),
                digits(r.kept / 1e3),
                digits(r.flops / 1e6),
                "-" if r.gradient is None else f"{r.gradient:.1e}",
            )
            for i, r in enumerate(self.operations)
        ]
        header = "# operation shape dtype module line fwd bwd kB MFLOP |grad|"
        return "\n".join([*table(header.split(), rows, right=6), *self._notes()])

    def _notes(self) -> list[str]:
        total = Total()
        for record in self.operations:
            total.add(record)
        notes = [
            "fwd and bwd: ms; kB: kept for backward; |grad|: norm of the gradient of the result",
            f"{total.calls} operations, {1e3 * total.seconds:.1f} ms of {1e3 * self.seconds:.1f}; "
            f"{total.kept / 1e6:.3f} MB kept; {total.flops / 1e9:.4f} GFLOP",
        ]
        if names := self.missing_gradients():
            notes.append(f"parameters without a gradient: {', '.join(names)}")
        return notes


@dataclass
class Total:
    """What some operations took together; `best_seconds` is what their products of matrices would
    take at the machine's peak."""

    calls: int = 0
    forward: float = 0.0
    backward: float = 0.0
    kept: int = 0
    flops: int = 0
    best_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return self.forward + self.backward

    def add(self, record: Record) -> None:
        self.calls += 1
        self.forward += record.forward
        self.backward += record.backward
        self.kept += record.kept
        self.flops += record.flops


class Totals:
    """Sums over the operations of a trace.

    by_operation: a `Total` for each name; by_module: for each dotted name of a module, with what
        is inside of it ("" for what is in none). Printed, repeated blocks (h.0, h.1, …) are one.
    """

    def __init__(self, traced: trace) -> None:
        self.seconds = traced.seconds
        self.by_operation: dict[str, Total] = defaultdict(Total)
        self.by_module: dict[str, Total] = defaultdict(Total)
        self._blocks: dict[str, Total] = defaultdict(Total)
        self._total = Total()
        for record in traced.operations:
            calls = record.origin.calls if record.origin else ()
            modules = dict.fromkeys(map(str, calls)) or [""]
            blocks = dict.fromkeys(re.sub(r"\b\d+\b", "*", name) for name in modules)
            best = 0.0
            if record.flops and record.dtype:
                best = record.flops / flops.peak(record.device, record.dtype)
            for total in (
                self._total,
                self.by_operation[record.name],
                *(self.by_module[name] for name in modules),
                *(self._blocks[name] for name in blocks),
            ):
                total.add(record)
                total.best_seconds += best

    def __repr__(self) -> str:
        names = sorted(self.by_operation, key=lambda name: -self.by_operation[name].seconds)
        header = ["calls", "fwd", "bwd", "time", "kB", "MFLOP", "GFLOP/s", "of_peak"]
        rows = [self._row(name, self.by_operation[name]) for name in names]
        rest = self.seconds - self._total.seconds
        rows.append(("(between them)", "-", "-", "-", self._share(rest), "-", "-", "-", "-"))
        rows.append(self._row("(all)", self._total))
        modules = [self._row(name or "(no module)", t) for name, t in self._blocks.items()]
        return "\n".join(
            [
                *table(["operation", *header], rows, right=1),
                "",
                *table(["module", *header], modules, right=1),
                "fwd and bwd: ms; time: share of all; kB: kept for backward; of_peak: part of what",
                "a large product of matrices reaches; a module's row includes those inside of it",
            ]
        )

    def _row(self, name: str, t: Total) -> tuple[str, ...]:
        rate = f"{t.flops / t.seconds / 1e9:.1f}" if t.flops else "-"
        return (
            name,
            str(t.calls),
            digits(1e3 * t.forward),
            digits(1e3 * t.backward),
            self._share(t.seconds),
            digits(t.kept / 1e3),
            digits(t.flops / 1e6),
            rate,
            f"{t.best_seconds / t.seconds:.0%}" if t.flops else "-",
        )

    def _share(self, seconds: float) -> str:
        return f"{seconds / self.seconds:.0%}"


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    """12×64×128; 3·12×64×128 for three results of that shape."""
    if len(shapes) > 1:
        same = len(set(shapes)) == 1
        return f"{len(shapes)}·{shape_text(shapes[0])}" if same else f"{shape_text(shapes[0])},…"
    return shape_text(shapes[0]) if shapes else "-"
