"""The tables of `python -m benchmarks --device gpu`: ours beside PyTorch on the same GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from benchmarks import report, roofline
from benchmarks.contest import Job, Times
from gpt.config import PRESETS, TrainConfig
from gpt.fast.machine import cores

if TYPE_CHECKING:
    from benchmarks.__main__ import Benchmark

# Ours, each with what is changed in the configuration
OURS: dict[str, dict[str, Any]] = {
    "ours, plain": {"kernels": "plain"},
    "ours, fused": {"kernels": "fused"},
    "ours, fused, bfloat16": {"kernels": "fused", "dtype": "bfloat16"},
    "ours, fused, bfloat16, graph": {"kernels": "fused", "dtype": "bfloat16", "graph": True},
}
# Theirs, in the words of `worker.pytorch_training`
THEIRS = {
    "PyTorch, float32": "float32",
    "PyTorch, bfloat16": "bfloat16",
    "PyTorch, bfloat16, compiled": "bfloat16 compile",
    "PyTorch, bfloat16, reduce-overhead": "bfloat16 reduce-overhead",
}
EAGER = ("PyTorch, float32", "PyTorch, bfloat16")
SAMPLING = ("ours, plain", "ours, fused", *EAGER)
THEIR_DEVICE = "cuda"


def contenders(
    task: str, config: TrainConfig, names: Iterable[str] = (*OURS, *THEIRS)
) -> dict[str, Job]:
    """A job for each, without those of ours that need a setting which there is not (yet)."""
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    jobs = {}
    for name in names:
        if name in THEIRS:
            jobs[name] = Job(task, THEIRS[name], config, cores(), device=THEIR_DEVICE)
        elif OURS[name].keys() <= known:
            ours = dataclasses.replace(config, **OURS[name])
            jobs[name] = Job(task, "ours", ours, cores(), device="cuda")
    return jobs


def compared(times: dict[str, dict[str, Times]], unit: str, number: Callable[[float], str]) -> str:
    """By size, a row for every contender: what it took, and what part of that each of ours took."""
    ours = [who for who in next(iter(times.values())) if who.startswith("ours")]
    rows = [
        [size, who, report.median(t, number), *(report.ratio_of(there[our], t) for our in ours)]
        for size, there in times.items()
        for who, t in there.items()
    ]
    return report.table(["size", "who", unit, *(f"{our} / this" for our in ours)], rows)


def steps(benchmark: Benchmark) -> str:
    """The training step."""
    times = {
        size: benchmark.alternate(contenders("step", config))
        for size, config in benchmark.sizes.items()
    }
    return (
        "Forward, backward, gradient clipping and AdamW. Ours is `gpt.training.Trainer.update`, "
        "which draws its batch as well; PyTorch's batch lies on the GPU, its attention is SDPA, "
        "its AdamW fused. The host waits for the GPU after some 50 ms of steps, not after each.\n\n"
        f"{compared(times, 'ms a step', report.milliseconds)}"
    )


def memory(benchmark: Benchmark) -> str:
    """The peak of a training step."""
    times = {
        size: benchmark.one_by_one(contenders("memory", config))
        for size, config in benchmark.sizes.items()
    }
    return (
        "The most bytes in use over the first three steps, model and optimizer included, as CuPy's "
        "pool and `torch.cuda.max_memory_allocated` count them: without what CUDA and its "
        f"libraries take.\n\n{compared(times, 'MiB', lambda n: f'{n / 2**20:.1f}')}"
    )


def launches(benchmark: Benchmark) -> str:
    """How often the host starts something."""
    rows = [
        [size, who, report.median(t, lambda n: f"{n:.0f}")]
        for size, config in benchmark.sizes.items()
        for who, t in benchmark.one_by_one(contenders("launches", config)).items()
    ]
    return (
        "Kernels, copies and graphs that the host starts in a training step: the calls of CUDA "
        "that PyTorch's profiler sees, which are CuPy's as well.\n\n"
        f"{report.table(['size', 'who', 'launches'], rows)}"
    )


def sampling(benchmark: Benchmark) -> str:
    """Tokens per second of one stream within the context."""
    config = benchmark.video
    tokens = config.model.block_size - 1
    rows = [
        [who, report.median(t, lambda seconds: f"{tokens / seconds:.0f}")]
        for who, t in benchmark.alternate(contenders("sampling", config, SAMPLING)).items()
    ]
    return (
        f"Tokens per second, one stream, {tokens} tokens after a first one, at the video size: "
        "ours with its key/value cache, PyTorch without, as nanoGPT. Here more is better.\n\n"
        f"{report.table(['who', 'tokens/s'], rows)}"
    )


def recipe(benchmark: Benchmark) -> str:
    """The video's run from beginning to end."""
    data = benchmark.data and benchmark.data.absolute()
    config = dataclasses.replace(PRESETS["video"], data=data)
    rows = []
    for who, times in benchmark.one_by_one(contenders("recipe", config, OURS)).items():
        cells = [times.failure, "", ""]
        if not times.failure:
            seconds, step, loss = times.blocks[0]
            cells = [f"{seconds:.0f}", f"{step:.0f}", f"{loss:.4f}"]
        rows.append([who, *cells])
    return (
        f"`train.py --preset video`, {config.max_iters} steps with the evaluations and checkpoints "
        "between them; the loss is that of the best model over the whole validation split.\n\n"
        f"{report.table(['who', 'seconds', 'best step', 'loss'], rows)}"
    )


def kernels(benchmark: Benchmark) -> str:
    """Each fused kernel beside its limit."""
    job = Job("kernels", "ours", benchmark.video, cores(), device="cuda")
    times = benchmark.alternate({"ours": job})["ours"]
    if times.failure:
        return times.failure
    rows = []
    for i, name in enumerate(roofline.NAMES):
        size = times.blocks[0][3 * i]
        took, limit = (min(turn[3 * i + j] for turn in times.blocks) for j in (1, 2))
        cells = f"{size / 1e6:.1f}", f"{1e6 * took:.1f}", f"{1e6 * limit:.1f}"
        rows.append([name, *cells, f"{limit / took:.0%}"])
    header = ["kernel", "MB", "µs", "µs at least", "share"]
    return (
        "At the shapes of the video size, activations in float16, weights of the optimizer in "
        "float32. At least: its inputs read and its outputs written once, as fast as a large copy "
        "on this GPU; for attention, its products of matrices as fast as cuBLAS has a large one. "
        "Beside it the best time of ours, launched many times in a row.\n\n"
        f"{report.table(header, rows)}"
    )


SECTIONS: dict[str, tuple[str, Callable[[Benchmark], str]]] = {
    "step": ("On a GPU: a training step", steps),
    "kernels": ("On a GPU: the fused kernels", kernels),
    "launches": ("On a GPU: launches", launches),
    "sampling": ("On a GPU: sampling", sampling),
    "recipe": ("On a GPU: the video's run", recipe),
    "memory": ("On a GPU: peak memory of a step", memory),
}
