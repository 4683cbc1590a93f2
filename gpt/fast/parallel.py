"""Several processes share a batch: each computes the gradient of its rows, and they are added up.

This is data parallelism, as PyTorch's DistributedDataParallel has it, on the cores of one machine.
It takes processes, because between two NumPy calls Python lets only one thread run. The parameters
lie in memory that all of them see, so an update of the main process is an update for all. And since
batches and dropout are functions of the step, all that a worker must be told is the step's number.

The same number of processes gives the same bits: gradients are added in the order of the rows.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import multiprocessing.connection
import operator
import signal
from collections.abc import Callable, Iterable
from ctypes import c_float
from multiprocessing.sharedctypes import RawArray
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

import tensorlib
from gpt.config import Stream, TrainConfig, UserError
from gpt.data import Batches, Corpus
from gpt.fast import machine
from gpt.fast.precision import Precision
from gpt.model import GPT
from gpt.runs import signals
from tensorlib import Tensor, nn
from tensorlib.devices import move
from tensorlib.kernels import kernels
from tensorlib.nn.utils import parameters_to_vector, vector_to_parameters

_DIED = "a worker process has died, perhaps for want of memory; go on with --resume --processes 1"


class Share:
    """One process's part of the work: some rows of every batch, and any batch of an evaluation.

    A step has `grad_accum` batches, one after the other, and counts as one long batch of them all.

    precision: in which numbers it computes; its scaler has scaled the gradients.
    """

    def __init__(self, config: TrainConfig, corpus: Corpus, model: GPT, rows: range) -> None:
        self.config, self.model, self.rows = config, model, rows
        self.parameters = [p for named in model.parameter_groups() for p in named.values()]
        model.checkpoint_activations = config.checkpoint_activations
        self.precision = Precision(config.dtype, model.device)
        B, T = config.batch_size, config.model.block_size
        train, val = (move(tokens, model.device) for tokens in (corpus.train, corpus.val))
        self.batch = Batches(train, config.rows_per_step, T, config.seed, Stream.TRAIN_BATCH)
        self.evaluation = {
            split: Batches(tokens, B, T, config.seed, Stream.EVALUATION_BATCH)
            for split, tokens in (("train", train), ("val", val))
        }

    def gradient(self, out: Any, step: int) -> Tensor:
        """Write to `out`, one after the other, what these rows add to the gradients of the step's
        mean loss; return what they add to that loss."""
        x, y = self.batch(0 if self.config.overfit_batch else step)
        starts = range(0, self.config.rows_per_step, self.config.batch_size)
        passes = [range(i + self.rows.start, i + self.rows.stop) for i in starts]
        loss = functools.reduce(operator.add, [self._add_gradients(x, y, step, r) for r in passes])
        kernels(out).join([p.grad.array for p in self.parameters if p.grad is not None], out)
        for p in self.parameters:
            p.grad = None
        return loss

    def _add_gradients(self, x: Tensor, y: Tensor, step: int, rows: range) -> Tensor:
        """Of some rows, all in one pass."""
        here = slice(rows.start, rows.stop)
        dropout = tensorlib.random.counter(self.config.seed, Stream.DROPOUT, step, rows=rows)
        with dropout, self.precision.autocast():
            loss = self.model(x[here], y[here])[1]
        if len(rows) < self.config.rows_per_step:
            loss = loss * (len(rows) / self.config.rows_per_step)
        self.precision.scaler.scale(loss).backward()
        return loss.detach()

    def losses(self, split: str, indices: Iterable[int], windows: bool = False) -> list[float]:
        """The mean loss of each of these batches, or of these windows of the whole split."""
        batches = self.evaluation[split]
        choose: Callable = batches.window if windows else batches
        with self.model.evaluating(), tensorlib.no_grad(), self.precision.autocast():
            losses = [self.model(*choose(i))[1] for i in indices]
        return [loss.item() for loss in losses]


class Team:
    """The processes that share a batch; this one does its part as well. One process is a team too.

    The model's parameters become views of one vector, and so do their gradients: what is done to
    all of them (adding up, clipping, updating) is done to long vectors, not to many small arrays.

    An error of a worker is raised again here; UserError if a worker has died.

    whole: that vector, as a leaf.
    matrices, vectors: its parts which weight decay concerns, and those that it does not, as leaves
        for an optimizer.
    """

    def __init__(self, config: TrainConfig, corpus: Corpus, model: GPT, processes: int) -> None:
        groups = [list(named.values()) for named in model.parameter_groups()]
        self.parameters = [p for group in groups for p in group]
        values = parameters_to_vector(self.parameters)
        B = config.batch_size
        bounds = [B * i // processes for i in range(processes + 1)]
        rows = [range(a, b) for a, b in itertools.pairwise(bounds)]
        self.workers: list[multiprocessing.connection.Connection] = []
        self.theirs: list[np.ndarray] = []  # the gradients that the workers compute
        if processes > 1:
            shared = RawArray(c_float, values.numel())
            values = _on(shared).copy_(values)
            spawn = multiprocessing.get_context("spawn")  # the same on every system
            for part in rows[1:]:
                ours, theirs = spawn.Pipe()
                grad, threads = RawArray(c_float, values.numel()), machine.cores() // processes
                arguments = (theirs, config, corpus, part, shared, grad, max(threads, 1))
                with signals.kept_from_children():  # they are for the main process to handle
                    spawn.Process(target=_work, args=arguments, daemon=True).start()
                theirs.close()
                Finalize(self, ours.close, exitpriority=1)  # which tells the worker that it is over
                self.workers.append(ours)
                self.theirs.append(_on(grad).array)
        vector_to_parameters(values, self.parameters)
        self.share = Share(config, corpus, model, rows[0])
        self.grad = tensorlib.zeros_like(values)
        self.whole = nn.Parameter(values)
        self.whole.grad = self.grad
        length = sum(p.numel() for p in groups[0])
        self.matrices, self.vectors = nn.Parameter(values[:length]), nn.Parameter(values[length:])
        self.matrices.grad, self.vectors.grad = self.grad[:length], self.grad[length:]

    def gradient(self, step: int) -> Tensor:
        """Compute the gradient of this step's mean loss; return that loss."""
        for worker in self.workers:
            _ask(worker, "gradient", step)
        loss = self.share.gradient(self.grad.array, step)
        for worker, theirs in zip(self.workers, self.theirs):
            loss = loss + _answer(worker)
            self.grad += theirs
        return loss

    def losses(self, split: str, which: range, windows: bool = False) -> list[float]:
        """The losses of some batches, or windows, of a split, shared out in turn."""
        count = len(self.workers) + 1
        for i, worker in enumerate(self.workers, 1):
            _ask(worker, "losses", split, which[i::count], windows)
        losses = np.empty(len(which))
        losses[::count] = self.share.losses(split, which[::count], windows)
        for i, worker in enumerate(self.workers, 1):
            losses[i::count] = _answer(worker)
        return losses.tolist()


def _on(memory: Any) -> Tensor:
    """The float32 numbers in shared memory as a tensor."""
    return tensorlib.from_numpy(np.frombuffer(memory, np.float32))


def _ask(worker: multiprocessing.connection.Connection, *task: Any) -> None:
    try:
        worker.send(task)
    except ConnectionError:
        raise UserError(_DIED) from None


def _answer(worker: multiprocessing.connection.Connection) -> Any:
    try:
        answer = worker.recv()
    except (EOFError, ConnectionError):
        raise UserError(_DIED) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _work(
    main: multiprocessing.connection.Connection,
    config: TrainConfig,
    corpus: Corpus,
    rows: range,
    shared: Any,
    grad: Any,
    threads: int,
) -> None:
    """The life of a worker: do what the main process asks, until that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows: no mask to inherit
    machine.prepare(threads)
    share = Share(config, corpus, GPT(config.model), rows)
    vector_to_parameters(_on(shared), share.parameters)
    while True:
        try:
            task, *arguments = main.recv()
        except (EOFError, ConnectionError):
            return
        try:
            if task == "gradient":
                answer: Any = share.gradient(_on(grad).array, *arguments).item()
            else:
                answer = share.losses(*arguments)
        except Exception as error:
            answer = error
        try:
            main.send(answer)
        except ConnectionError:
            return
