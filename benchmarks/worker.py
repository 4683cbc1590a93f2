"""One contender in a process of its own: `contest.Worker` starts it and asks for its times.

It speaks lines of JSON: `[]` when it is ready, then for every line with a number of seconds the
list of times that it measured in about as many; a string if something went wrong. In between it
waits for the next line, and does nothing. When no more can come it leaves, whatever it is at.

PyTorch is imported in those processes alone that measure it, and there nothing of ours computes.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gpu, limit, roofline
from benchmarks.contest import Job, Step, timed
from gpt.config import GPTConfig, Sampling, TrainConfig
from gpt.fast import machine

Measure = Callable[[float], list[float]]  # seconds to spend -> what was measured
CHAIN = 1000  # multiplications on the tape
TINY = TrainConfig(batch_size=2, model=GPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=8))


def warm(job: Job, step: Step) -> Measure:
    """`step` with its memory allocated, its code loaded or compiled and its threads started."""
    if job.device == "cpu":
        timed(step, job.warm_up, least=2)
        return lambda seconds: timed(step, seconds)
    wait = gpu.waiting(job)
    together = gpu.repetitions(timed(step, job.warm_up, least=5, wait=wait))
    return lambda seconds: timed(step, seconds, wait=wait, together=together)


# ------------------------------------------------------------------------------- a training step


def our_trainer(job: Job) -> Any:
    """A trainer as train.py's, on random tokens, and never asked to save anything.

    `share_work` gives it all the cores that this process may use: those of the job.
    """
    _our_kernels(job)
    from gpt.data import Corpus
    from gpt.runs.run import Run
    from gpt.tokenizer import CharTokenizer
    from gpt.training import Trainer

    tokens = _tokens(job.config, 100_000)
    corpus = Corpus("random", "", CharTokenizer(""), train=tokens, val=tokens)
    return Trainer(job.config, corpus, Run(Path("unused")), job.device, share_work=True)


def pytorch_training(job: Job) -> tuple[Step, Any]:
    """The same step in PyTorch, and its optimizer. Batches are at hand, where ours draws them.

    who: "heads" (the video's) or else heads batched and AdamW fused; with the words "bfloat16"
    (autocast), "compile" or "reduce-overhead" (compiled in that mode).
    """
    torch = _torch(job)
    from benchmarks.pytorch_gpt import GPT, CausalSelfAttention, MultiHeadAttention

    config, who = job.config, job.who.split()
    attention = MultiHeadAttention if "heads" in who else CausalSelfAttention
    model = GPT(config.model, attention).to(job.device)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = "heads" not in who
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=fused)
    B, T = config.batch_size, config.model.block_size
    x, y = torch.from_numpy(_tokens(config, 2 * B * T)).view(2, B, T).to(job.device)
    modes = {"compile": "default", "reduce-overhead": "reduce-overhead"}
    mode = next((modes[word] for word in who if word in modes), None)
    forward = torch.compile(model, mode=mode) if mode else model

    def step() -> None:
        with torch.autocast(job.device, torch.bfloat16, enabled="bfloat16" in who):
            loss = forward(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        optimizer.step()

    return step, optimizer


def training_step(job: Job) -> Step:
    return our_trainer(job).update if job.who == "ours" else pytorch_training(job)[0]


def memory(job: Job) -> Measure:
    """Bytes: the most that the first three steps had allocated, model and optimizer included."""
    if job.device == "cpu":
        return resident_memory(job)
    return gpu.peak(job, lambda: timed(training_step(job), 0, least=3, wait=gpu.waiting(job)))


def resident_memory(job: Job) -> Measure:
    """Bytes: the peak of the resident set (VmHWM) over the first three steps, model and optimizer
    included, less the resident set (VmRSS) before there was a model. To this comes, for each
    process that shares the work, the peak of what it shares with nobody.

    A step of a tiny model comes first, so that the libraries' own code is not counted.
    """
    training_step(Job(job.task, job.who, TINY, job.threads))()
    gc.collect()

    def measure(seconds: float) -> list[float]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident now
        before = _resident("self")["VmRSS"]
        timed(training_step(job), seconds=0, least=3)
        bytes = _resident("self")["VmHWM"] - before
        for children in Path("/proc/self/task").glob("*/children"):
            for helper in map(_resident, children.read_text().split()):
                bytes += helper["VmHWM"] - helper["RssFile"] - helper["RssShmem"]
        return [bytes]

    return measure


def _resident(process: str) -> dict[str, int]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = {name: value.split() for name, value in (line.split(":", 1) for line in lines)}
    return {name: int(v[0]) * 1024 for name, v in values.items() if v[1:] == ["kB"]}


def recipe(job: Job) -> Measure:
    """A whole run of train.py: its seconds, the step of its best model, and that one's loss over
    the whole validation split."""
    from gpt.commands.job import train

    _our_kernels(job)

    def measure(seconds: float) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            config = dataclasses.replace(job.config, out=Path(folder))
            start = time.perf_counter()
            last = train(config, job.device).reports()[-1]
            return [time.perf_counter() - start, last["best_step"], last["full_val_loss"]]

    return measure


# ------------------------------------------------------------------------ operations, one by one


def operations(config: TrainConfig) -> dict[str, tuple[Callable[..., Any], list[Any]]]:
    """By name: the operation as a function of F and its inputs, and the inputs: shapes to fill
    with random numbers that want gradients, or integers. One lambda serves both libraries."""
    m = config.model
    B, T, C, H, V = config.batch_size, m.block_size, m.n_embd, m.n_head, m.vocab_size
    x, hidden, heads = (B, T, C), (B, T, 4 * C), (B, H, T, C // H)
    tokens, scale, p = _tokens(config, B * T), (C,), 0.2

    def attention(dropout_p: float) -> Callable[..., Any]:
        return lambda F, q, k, v: F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout_p, is_causal=True
        )

    return {
        "linear": (lambda F, x, w, b: F.linear(x, w, b), [x, (4 * C, C), (4 * C,)]),
        "layer_norm": (lambda F, x, w, b: F.layer_norm(x, scale, w, b), [x, scale, scale]),
        "relu": (lambda F, x: F.relu(x), [hidden]),
        "gelu": (lambda F, x: F.gelu(x, approximate="tanh"), [hidden]),
        "softmax": (lambda F, x: F.softmax(x, dim=-1), [(B, H, T, T)]),
        "cross_entropy": (lambda F, x, y: F.cross_entropy(x, y), [(B * T, V), tokens]),
        "dropout": (lambda F, x: F.dropout(x, p), [x]),
        "embedding": (lambda F, i, w: F.embedding(i, w), [tokens.reshape(B, T), (V, C)]),
        "attention": (attention(0.0), [heads] * 3),
        "attention_dropout": (attention(p), [heads] * 3),
    }


def operation(job: Job) -> Step:
    """One operation, forward and backward; or "adamw", the optimizer's step for all weights."""
    if job.op == "adamw":
        return adamw(job)
    library: Any
    if job.who == "ours":
        import tensorlib as library
        from tensorlib.nn import functional as F

        _our_kernels(job)
        machine.prepare(job.threads)
    else:
        library = _torch(job)
        F = library.nn.functional
    function, shapes = operations(job.config)[job.op]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s, np.float32) if isinstance(s, tuple) else s for s in shapes]
    inputs = [library.from_numpy(array) for array in arrays]
    leaves = [x.requires_grad_() for x, s in zip(inputs, shapes) if isinstance(s, tuple)]
    slope = library.ones_like(function(F, *inputs).detach())

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(F, *inputs).backward(slope)

    return step


def adamw(job: Job) -> Step:
    if job.who == "ours":
        trainer = our_trainer(job)
        trainer.update()  # now there are gradients
        return trainer.optimizer.step
    step, optimizer = pytorch_training(job)
    step()
    return optimizer.step


# -------------------------------------------------------------------------- sampling, and the tape


def sampling(job: Job) -> Step:
    """From one token, as many as fill the context; ours in a process as sample.py's."""
    n = job.config.model.block_size - 1
    if job.who == "ours":
        import tensorlib
        from gpt.fast import machine
        from gpt.generate import generate
        from gpt.model import GPT

        _our_kernels(job)
        machine.prepare(threads=machine.cores())
        model = GPT(job.config.model)
        model.to(job.device)
        start = tensorlib.zeros(1, 1, dtype=tensorlib.long, device=job.device)
        return lambda: list(generate(model, start, n, Sampling(), seed=0))
    torch = _torch(job)
    from benchmarks import pytorch_gpt

    their_model = pytorch_gpt.GPT(job.config.model).eval().to(job.device)
    first = torch.zeros(1, 1, dtype=torch.long, device=job.device)

    def sample() -> None:
        with torch.autocast(job.device, torch.bfloat16, enabled="bfloat16" in job.who):
            their_model.generate(first, n)

    return sample


def tape(job: Job) -> Step:
    """A chain of multiplications of one-element arrays, forward and backward; and for "numpy" just
    the calls of NumPy in it. op: "variable" if the second factor wants a gradient too."""
    both = job.op == "variable"
    if job.who == "numpy":
        a, b, c = (np.ones(1, np.float32) for _ in range(3))

        def calls() -> None:
            for _ in range(CHAIN):
                a * b
            for _ in range(CHAIN):
                a * b
                if both:
                    a * b
                    np.add(c, a, out=c)

        return calls
    import tensorlib

    machine.prepare(job.threads)
    x, w = tensorlib.ones(1, requires_grad=True), tensorlib.ones(1, requires_grad=both)

    def chain() -> None:
        x.grad = w.grad = None
        y = x
        for _ in range(CHAIN):
            y = y * w
        y.backward()

    return chain


# ------------------------------------------------------------------------------------ the process


def _tokens(config: TrainConfig, n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(config.model.vocab_size, size=n)


def _our_kernels(job: Job) -> None:
    from tensorlib.kernels import use_fused

    use_fused(job.config.kernels == "fused")


def _torch(job: Job) -> Any:
    import torch

    torch.set_num_threads(job.threads)
    return torch


TASKS: dict[str, Callable[[Job], Measure]] = {
    "step": lambda job: warm(job, training_step(job)),
    "op": lambda job: warm(job, operation(job)),
    "sampling": lambda job: warm(job, sampling(job)),
    "tape": lambda job: warm(job, tape(job)),
    "memory": memory,
    "recipe": recipe,
    "launches": lambda job: gpu.launches(job, training_step(job)),
    "kernels": lambda job: roofline.kernels(job.config),
    "matmul": lambda job: limit.matmul(job.config, job.threads, job.who == "slices"),
}


def requests() -> Iterator[bytes]:
    """The lines of standard input. When it ends, whoever asked is gone, and so is this process,
    even in the middle of a measurement."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        with open(0, "rb", buffering=0, closefd=False) as stdin:  # without sys.stdin's lock, which
            for line in stdin:  # Python would wait for when this process ends by itself
                lines.put(line)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, None)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    turns = map(float, requests())
    job = Job.from_json(sys.argv[1])

    def answer(value: list[float] | str) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        measure = TASKS[job.task](job)
        answer([])
        for seconds in turns:
            answer(measure(seconds))
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        answer(text[:160].replace("|", "/"))  # it goes into a table


if __name__ == "__main__":
    main()
