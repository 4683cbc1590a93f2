"""A training step as one CUDA graph: recorded once, then launched again and again with one call.

An eager step is some 240 launches, and each of them costs the host more time than many of them cost
the GPU. A graph launches all at once, always with the arguments that were recorded. So what changes
from step to step has to be on the device, and be changed there by the step itself:

    its number       an array of one element, to which the recorded step adds 1
    learning rate    a table of all steps' rates

Batches and dropout are functions of the number. `Trainer.update` is recorded as it stands, with
these arrays in place of its numbers, and gives the same bits.

A recording refuses whatever makes the host wait for the GPU, and copies from the host. Where the
step needs such, training goes on without a graph, and says why.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpt.runs.signals import uninterrupted
from gpt.training import Trainer
from tensorlib import Tensor
from tensorlib.devices import library


class GraphUpdate:
    """What may take the place of a trainer's `update`: the same steps, the first three eager.

    From now on, this thread gives the GPU all its work on one stream of its own.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.update = trainer, trainer.update
        self.xp: Any = library("cuda")
        self.xp.cuda.Device().synchronize()  # what was begun on another stream
        self.stream = self.xp.cuda.Stream(non_blocking=True)
        self.stream.use()
        # One that compiles kernels and allocates moments and workspaces, one that has all of it,
        # and one with arrays for numbers, after which the next is recorded.
        self.steps = iter([self.update, self.update, self._prepare_and_record])
        self.graph: Any = None

    def __call__(self) -> Tensor:
        """One training step. Returns the loss of its batch, before the update; the next step writes
        its own over it."""
        if self.graph is None:
            return next(self.steps, self.update)()
        guard = self.trainer.guard
        guard.make_room()
        with uninterrupted():  # as in Trainer.update
            self.graph.launch()
            guard.norms.append(self.norm.copy())  # the next step writes over it
            self._count()
        return self.loss

    def _count(self) -> None:
        self.trainer.step += 1
        for state in self.trainer.optimizer.state.values():
            state["step"] += 1

    def _prepare_and_record(self) -> Tensor:
        with uninterrupted():
            with self._numbers_on_the_device():
                loss = self.update()
                self.trainer.guard.make_room()
                refusal = self._record()
            self._count()
        if refusal is not None:
            reason = " ".join(str(refusal).split()) or type(refusal).__name__
            print(f"training without a CUDA graph: {reason:.200}", file=sys.stderr)
        return loss

    def _record(self) -> Exception | None:
        """Make the graph; returns what stood in the way."""
        # What the step allocates, the graph will write to whenever it is launched: so this memory
        # comes from a pool of its own, from which nobody else gets any.
        self.pool = self.xp.cuda.MemoryPool()
        self.xp.get_default_memory_pool().free_all_blocks()  # what the eager steps have left
        refusal: Exception | None = None
        norms = self.trainer.guard.norms
        known = len(norms)
        with self.xp.cuda.using_allocator(self.pool.malloc):
            self.stream.begin_capture()
            try:
                self.loss = self.update()
            except Exception as error:  # whatever CuPy and CUDA say; without a graph all is well
                refusal = error
            try:
                graph = self.stream.end_capture()
            except Exception as error:
                refusal = refusal or error
        recorded = norms[known:]
        del norms[known:]  # none of a step that was done
        if refusal is None:
            self.graph, (self.norm,) = graph, recorded
        return refusal

    @contextmanager
    def _numbers_on_the_device(self) -> Iterator[None]:
        """Inside, the trainer and its optimizer hold arrays where they have numbers outside."""
        trainer, xp = self.trainer, self.xp
        states, groups = trainer.optimizer.state.values(), trainer.optimizer.param_groups
        step, counts = trainer.step, [state["step"] for state in states]

        def rate(number: int) -> float:
            trainer.step = number
            return trainer.learning_rate()

        table = np.array([rate(i) for i in range(trainer.config.max_iters)], np.float32)
        rates = xp.asarray(table)
        # The graph has their addresses: they have to live as long as it does.
        self.kept = rates, xp.full(1, step, np.uint64), [xp.full(1, n, np.int32) for n in counts]
        _, trainer.step, on_device = self.kept
        for state, count in zip(states, on_device):
            state["step"] = count
        trainer.learning_rate = lambda: rates[trainer.step.astype(np.int64)]  # type: ignore
        try:
            yield
        finally:
            del trainer.learning_rate
            trainer.step = step
            for state, count in zip(states, counts):
                state["step"] = count
            for group in groups:
                group["lr"] = rate(step)
