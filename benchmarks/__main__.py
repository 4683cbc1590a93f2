"""Measure ours beside PyTorch: `python -m benchmarks`, and `--help` for what can be chosen.

Prints a table for each question, and keeps the tables in benchmarks/RESULTS.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from benchmarks import gpu_tables, limit, report
from benchmarks.contest import Job, Times, alternate, ratios
from benchmarks.worker import CHAIN
from gpt.commands import cli
from gpt.config import PRESETS, TrainConfig, UserError
from gpt.fast.machine import cores

What = Literal[
    "step", "ops", "kernels", "launches", "sampling", "memory", "recipe", "tape", "growth", "all"
]  # fmt: skip
Size = Literal["notebook", "nanogpt-cpu", "video", "gpt2"]
Op = Literal[
    "linear", "layer_norm", "relu", "gelu", "softmax", "cross_entropy", "dropout", "embedding",
    "attention", "attention_dropout", "adamw",
]  # fmt: skip

# train.py's presets, all with the gradient clipped
SIZES: dict[str, TrainConfig] = {
    size: dataclasses.replace(PRESETS[size], grad_clip=1.0) for size in get_args(Size)
}
SIZES["gpt2"] = dataclasses.replace(SIZES["gpt2"], batch_size=8)
BASELINES = {
    "heads": "PyTorch, the video's heads",
    "sdpa": "PyTorch, SDPA, fused AdamW",
    "compile": "PyTorch, that compiled",
}
GROWTH = ("batch", "context", "layers")

Sections = dict[str, tuple[str, Callable[["Benchmark"], str]]]  # by --what: title, and the text
RESULTS = Path(__file__).with_name("RESULTS.md")


def _default(text: str) -> object:
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


@dataclass(frozen=True)
class Benchmark:
    """Measure ours beside PyTorch: tables on standard output, and in a Markdown file."""

    what: What = "all"
    """Training steps, and how close they are to matmul alone; operations one by one; kernels
    beside their limit, launches, and the video's whole recipe (on a GPU); tokens/s; peak memory;
    the tape's own cost; or how the time of a step grows (on a CPU)."""
    size: Annotated[
        tyro.conf.UseAppendAction[tuple[Size, ...]], _default("all; gpt2 on a GPU")
    ] = ()
    """Of the model, for step, memory and launches; may be repeated."""
    op: Annotated[tyro.conf.UseAppendAction[tuple[Op, ...]], _default("all")] = ()
    """Which operation, for ops; may be repeated."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where to compute."""
    data: Annotated[Path | None, _default("tiny Shakespeare, downloaded once")] = None
    """Text to learn, for recipe."""
    threads: Annotated[tuple[int, ...], _default("as many as cores")] = ()
    """Cores and threads that each side has; with 1 2, first one, then two."""
    blocks: int = 7
    """Turns of each contender."""
    seconds: float = 2.0
    """Length of a turn; it has at least one step."""
    out: Annotated[Path, _default("benchmarks/RESULTS.md")] = RESULTS
    """Markdown file whose tables are replaced by those measured."""

    def __post_init__(self) -> None:
        """ValueError for values that cannot be measured."""
        if self.blocks < 1:
            raise UserError(f"blocks is {self.blocks}, but must be at least 1")
        if not 0 <= self.seconds < float("inf"):
            raise UserError(f"seconds is {self.seconds}, but must be at least 0")
        least = 1 if hasattr(os, "sched_setaffinity") else cores()  # else we cannot withhold cores
        for threads in self.threads:
            if not least <= threads <= cores():
                raise UserError(f"threads is {threads}, but must be from {least} to {cores()} here")
        if self.what not in ("all", *self.sections):
            raise UserError(f"what is {self.what}, which is not for --device {self.device}")

    @property
    def sections(self) -> Sections:
        return SECTIONS if self.device == "cpu" else gpu_tables.SECTIONS

    @property
    def sizes(self) -> dict[str, TrainConfig]:
        """The sizes asked for; GPT-2 goes without saying on a GPU only."""
        default = [size for size in SIZES if self.device == "gpu" or size != "gpt2"]
        return {size: SIZES[size] for size in self.size or default}

    @property
    def video(self) -> TrainConfig:
        return SIZES["video"]

    @property
    def thread_counts(self) -> tuple[int, ...]:
        return self.threads or (cores(),)

    def alternate(self, jobs: dict[str, Job]) -> dict[str, Times]:
        return alternate(jobs, self.blocks, self.seconds)

    def one_by_one(self, jobs: dict[str, Job]) -> dict[str, Times]:
        """A turn of each, for what does not change: then their memory need not fit together."""
        return {who: alternate({who: job}, blocks=1, seconds=0)[who] for who, job in jobs.items()}


def run(benchmark: Benchmark) -> None:
    """Measure what is asked for; each table is printed and kept as soon as it is there."""
    if benchmark.device == "gpu":
        cli.find_device("gpu")  # or say why not, before anything begins
    try:
        benchmark.out.open("a").close()
    except OSError as error:
        raise UserError(f"cannot write --out {benchmark.out}: {error.strerror}") from None
    titles = [title for title, _ in (*SECTIONS.values(), *gpu_tables.SECTIONS.values())]
    for what, (title, section) in benchmark.sections.items():
        if benchmark.what in ("all", what):
            text = f"{section(benchmark)}\n\n{report.machine(benchmark.device)}"
            print(f"## {title}\n\n{text}\n", flush=True)
            report.write(benchmark.out, titles, title, text)


# --------------------------------------------------------------------------------------- the tables


def steps(benchmark: Benchmark) -> str:
    """The training step beside the three baselines, and beside its matrix products alone."""
    rows: list[list[str]] = []
    limits = []
    for size, threads in itertools.product(benchmark.sizes, benchmark.thread_counts):
        config = SIZES[size]
        tasks = dict.fromkeys(("ours", *BASELINES), "step") | {"numpy": "matmul"}
        if threads > 1:
            tasks["slices"] = "matmul"
        jobs = {who: Job(task, who, config, threads) for who, task in tasks.items()}
        times = benchmark.alternate(jobs)
        where = [size, str(threads)]
        rows += report.comparison(where, times, BASELINES, report.milliseconds)
        limits.append([*where, *share_of_matmul(config, times)])
    header = ["size", "threads", "who", "ms a step", "ours / theirs"]
    limit_header = ["size", "threads", "our step, ms", "matmul alone, ms", "GFLOP/s", "share"]
    return (
        "Forward, backward, gradient clipping and AdamW; ours is `gpt.training.Trainer.update`, "
        "which draws its batch as well.\n\n"
        f"{report.table(header, rows)}\n\n"
        "How close to the limit: what NumPy's matmul alone takes for all matrix products of the "
        "step, each at the best rate that it reached on this shape, in one call with all threads "
        "or in slices with a thread each; and its share of our step. The last column leaves out "
        "the products in attention that causality makes needless.\n\n"
        f"{report.table([*limit_header, 'share, causal'], limits)}"
    )


def share_of_matmul(config: TrainConfig, times: dict[str, Times]) -> list[str]:
    """Our step, matmul alone, its GFLOP/s, its share of our step, and with half of attention."""
    turns = [turn for who in ("numpy", "slices") if who in times for turn in times[who].blocks]
    ours = times["ours"]
    if ours.failure or not turns:
        return [report.median(ours, report.milliseconds), *["—"] * 4]
    best = [min(product) for product in zip(*turns)]  # seconds of each product, the linear first
    linear, attention = limit.linear_products(config), limit.attention_products(config)
    total, of_attention = sum(best), sum(best[len(linear) :])
    flops = sum(product.flops for product in linear + attention)
    T = config.model.block_size
    causal = total - of_attention * (1 - (T + 1) / (2 * T))
    shares = [f"{seconds / ours.median:.0%}" for seconds in (total, causal)]
    return [
        report.milliseconds(ours.median),
        report.milliseconds(total),
        f"{flops / total / 1e9:.0f}",
        *shares,
    ]


def operations(benchmark: Benchmark) -> str:
    """Each fused operation beside PyTorch's."""
    config = dataclasses.replace(SIZES["video"], batch_size=8)
    rows: list[list[str]] = []
    for op, threads in itertools.product(benchmark.op or get_args(Op), benchmark.thread_counts):
        jobs = {who: Job("op", who, config, threads, op) for who in ("ours", "sdpa")}
        times = benchmark.alternate(jobs)
        rows += report.comparison(
            [op, str(threads)], times, {"sdpa": "PyTorch"}, report.milliseconds
        )
    header = ["operation", "threads", "who", "ms", "ours / theirs"]
    return (
        "Forward and backward at the shapes of the video size with batch 8; adamw is one update "
        f"of all its weights.\n\n{report.table(header, rows)}"
    )


def sampling(benchmark: Benchmark) -> str:
    """Tokens per second of one stream within the context."""
    rows: list[list[str]] = []
    config = SIZES["video"]
    tokens = config.model.block_size - 1
    for threads in benchmark.thread_counts:
        jobs = {who: Job("sampling", who, config, threads) for who in ("ours", "sdpa")}
        ours, theirs = benchmark.alternate(jobs).values()
        speeds = [report.median(times, lambda s: f"{tokens / s:.0f}") for times in (ours, theirs)]
        ratio = ours.failure or theirs.failure or report.spread(ratios(theirs, ours))
        rows.append([str(threads), *speeds, ratio])
    return (
        f"Tokens per second, one stream, {tokens} tokens after a first one, at the video size: "
        "ours with its key/value cache, PyTorch without, as nanoGPT. Here more is better.\n\n"
        f"{report.table(['threads', 'ours', 'PyTorch', 'ours / theirs'], rows)}"
    )


def memory(benchmark: Benchmark) -> str:
    """The peak of a training step."""
    configs = list(benchmark.sizes.items())
    if "video" in dict(configs):
        configs.append(("video, batch 8", dataclasses.replace(SIZES["video"], batch_size=8)))
    names = {who: name for who, name in BASELINES.items() if who != "compile"}
    rows: list[list[str]] = []
    for (size, config), threads in itertools.product(configs, benchmark.thread_counts):
        jobs = {who: Job("memory", who, config, threads) for who in ("ours", *names)}
        times = benchmark.one_by_one(jobs)
        rows += report.comparison([size, str(threads)], times, names, lambda n: f"{n / 2**20:.1f}")
    return (
        "The peak of the resident set over the first three steps, model and optimizer included, "
        "above what was resident before there was a model, in a fresh process that had done one "
        "step of a tiny model.\n\n"
        f"{report.table(['size', 'threads', 'who', 'MiB', 'ours / theirs'], rows)}"
    )


def tape(benchmark: Benchmark) -> str:
    """What the tape costs for an operation, beyond NumPy's work."""
    rows = []
    for op, name in {"constant": "y * constant", "variable": "y * variable"}.items():
        jobs = {who: Job("tape", who, TrainConfig(), 1, op) for who in ("ours", "numpy")}
        times = benchmark.alternate(jobs)
        for which in ("fastest", "median"):
            ours, numpy = (1e6 * getattr(times[who], which) / CHAIN for who in ("ours", "numpy"))
            rows.append([name, which, f"{ours:.2f}", f"{numpy:.2f}", f"{ours - numpy:.2f}"])
    header = ["chain of", "run", "µs an operation", "µs in NumPy's calls", "µs of the tape"]
    return (
        f"A chain of {CHAIN} multiplications of arrays of one element, forward and backward, less "
        "the same calls of NumPy; one thread. The fastest run is the cost itself, for others on "
        "the machine can only add to it; the median is with what they added."
        f"\n\n{report.table(header, rows)}"
    )


def growth(benchmark: Benchmark) -> str:
    """The step's time against the batch, the context and the layers."""
    base, rows = SIZES["nanogpt-cpu"], []
    libraries = {"ours": "ours", "sdpa": BASELINES["sdpa"]}
    for name, threads in itertools.product(GROWTH, benchmark.thread_counts):
        jobs = {
            f"{who} {factor}": Job("step", who, grown(base, name, factor), threads)
            for who in libraries
            for factor in (1, 2, 4)
        }
        times = benchmark.alternate(jobs)
        for who, label in libraries.items():
            first, *larger = (times[f"{who} {factor}"] for factor in (1, 2, 4))
            cells = [t.failure or first.failure or report.spread(ratios(t, first)) for t in larger]
            rows.append(
                [name, str(threads), label, report.median(first, report.milliseconds), *cells]
            )
    header = ["what grows", "threads", "who", "ms a step", "twice", "four times"]
    return (
        "From the nanogpt-cpu size, as multiples of its time, with the smallest and the largest "
        f"over the blocks.\n\n{report.table(header, rows)}"
    )


def grown(base: TrainConfig, name: str, factor: int) -> TrainConfig:
    """`base` with `factor` times the batch, the context or the layers."""
    if name == "batch":
        return dataclasses.replace(base, batch_size=factor * base.batch_size)
    model, knob = base.model, {"context": "block_size", "layers": "n_layer"}[name]
    changes = {knob: factor * getattr(model, knob)}
    return dataclasses.replace(base, model=dataclasses.replace(model, **changes))


SECTIONS: Sections = {
    "step": ("A training step", steps),
    "ops": ("Operations", operations),
    "sampling": ("Sampling", sampling),
    "memory": ("Peak memory of a step", memory),
    "tape": ("The tape's own cost", tape),
    "growth": ("Growth", growth),
}


def main() -> None:
    sys.argv[0] = "python -m benchmarks"  # what --help should call us, rather than __main__.py
    run(cli.parse(Benchmark))


if __name__ == "__main__":
    cli.run(main)
