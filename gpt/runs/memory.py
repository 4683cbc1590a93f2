"""How much memory a run needs, asked before it is used; a closed form, from the configuration.

In float32: what a step keeps for backward (of a block `_of_block`), gradients, the optimizer's
moments, and the copies that saving takes. Measured peaks are within a sixth of it, see the tests.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np

import tensorlib
from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.fast import machine
from gpt.runs.saving import say
from tensorlib.kernels.cpu import attention_pairs

_PROCESS = 80e6  # bytes of Python with its libraries
_CERTAIN = 0.75  # of an estimate is needed in any case: only what is beyond that is refused


def num_parameters(model: GPTConfig) -> int:
    """How many numbers such a GPT learns, as `GPT.num_parameters`, without making one."""
    C, V, b = model.n_embd, model.vocab_size, int(model.bias)
    block = 12 * C * C + 2 * C + b * (8 * C) + int(model.qkv_bias) * 3 * C
    head = 0 if model.tied_head else V * C + b * V
    return V * C + model.block_size * C + model.n_layer * block + (1 + b) * C + head


def processes(config: TrainConfig) -> int:
    """How many processes share a step on a CPU."""
    flops = 6 * num_parameters(config.model) * config.tokens_per_step
    return config.processes or machine.processes(config.batch_size, flops)


def estimate(config: TrainConfig, device: str = "cpu", processes: int = 1) -> int:
    """The most bytes that a run has in use at once, all processes together; on a GPU, there."""
    P, rows = num_parameters(config.model), -(-config.batch_size // processes)
    step = P + _of_step(config, device, rows)  # the gradients that backward collects
    evaluation = _of_evaluation(config.model, config.batch_size)
    saving = 6 * P if device == "cpu" else 0  # weights and moments, and all that as one file
    if config.eval_only:
        step = saving = 0
    main = 4 * P + max(step, evaluation, saving)  # weights, gradients, two moments
    worker = P + max(step, evaluation)
    total = 4 * (main + (processes - 1) * worker)  # float32
    return total + int(processes * _PROCESS if device == "cpu" else 0)


def _of_step(config: TrainConfig, device: str, rows: int) -> int:
    """Numbers that live when backward begins, or soon after, in a pass over `rows` sequences."""
    model, N = config.model, rows * config.model.block_size
    C, V, L, block = model.n_embd, model.vocab_size, model.n_layer, _of_block(model, device, rows)
    kept = L * N * C + block if config.checkpoint_activations else L * block
    # on the way back, in the head or in the last block's MLP
    passing = {"relu": 8, "gelu_tanh": 24, "gelu": 42}[model.activation]
    return kept + max(2 * N * C + 2 * N * V, passing * N * C + N * V)


def _of_block(model: GPTConfig, device: str, rows: int) -> int:
    """Numbers that a block keeps for backward: the normalised rows and the results of both
    LayerNorms, query, key and value, what the attention gathered, the hidden layer; the attention
    weights; and of dropout a byte for each number."""
    N, C, H = rows * model.block_size, model.n_embd, model.n_head
    seen = np.empty((model.block_size, 0), np.float32)
    pairs = model.block_size**2
    weights = attention_pairs(seen, seen, seen, None, True, 1.0) if device == "cpu" else pairs
    hidden = 4 if model.activation == "relu" else 8  # with what went into the activation
    kept = N * C * (8 + hidden) + rows * H * weights
    return kept + (2 * N * C + rows * H * pairs) // 4 if model.dropout else kept


def _of_evaluation(model: GPTConfig, batch_size: int) -> int:
    N = batch_size * model.block_size
    passing = {"relu": 11, "gelu_tanh": 27, "gelu": 45}[model.activation]
    return N * max(passing * model.n_embd, 2 * model.n_embd + 2 * model.vocab_size)


# --------------------------------------------------------------------------------- what there is


def check(config: TrainConfig, device: str) -> None:
    """UserError, with a size that would do, if the run needs far more memory than there is; a
    warning on standard error if it needs more than is free."""
    there = available(device)
    if there is None:
        return
    needed = _needed(config, device)
    free, total = there
    if needed * _CERTAIN > total:
        raise UserError(
            f"this run needs about {_written(needed)} of memory, and there are {_written(total)}: "
            f"take {_smaller(config, device, min(free, total))}"
        )
    if needed > free:
        say(
            f"this run needs about {_written(needed)} of memory, and {_written(free)} are free; "
            f"should it run out, take {_smaller(config, device, free)}",
            sys.stderr,
        )


def check_samples(model: GPTConfig, n: int, device: str) -> None:
    """UserError, with the number that would do, if n texts drawn at once need more than there is:
    keys and values, and some orders and sums of a token's probabilities."""
    each = 8 * model.n_layer * model.block_size * model.n_embd + 40 * model.vocab_size
    there = available(device)
    if there is not None and n * each > there[1]:
        raise UserError(
            f"{n:,} samples at once need about {_written(n * each)} of memory, and there are "
            f"{_written(there[1])}: take --num-samples {max(min(there) // each, 1)}"
        )


def describe(config: TrainConfig, device: str) -> str:
    """What a run needs of what there is, in words."""
    there = available(device)
    of = f" of {_written(there[1])}" if there else ""
    return f"about {_written(_needed(config, device))}{of}"


def available(device: str) -> tuple[int, int] | None:
    """(free, all) in bytes, of a GPU or of this computer: with what the system would give back, and
    within the limit of a container. None where the system does not say."""
    if device != "cpu":
        return tensorlib.cuda.mem_get_info()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        if not hasattr(os, "sysconf"):
            return None
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    sizes = {name: 1024 * int(rest.split()[0]) for name, rest in (x.split(":") for x in lines)}
    free = sizes.get("MemAvailable", sizes["MemFree"])  # the first not in every Linux
    computer = free, sizes["MemTotal"] + sizes["SwapTotal"]
    there = [computer, *_containers()]
    return min(free for free, _ in there), min(total for _, total in there)


def _containers() -> list[tuple[int, int]]:
    """(free, all) in bytes of each control group around this process that has a limit."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no control groups in this system
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in _GROUPS:
            continue
        root, most, used, cache = _GROUPS[controllers]
        inner = Path(root, path.lstrip("/"))
        for group in (inner, *inner.parents):
            try:
                limit, usage = (int((group / name).read_text()) for name in (most, used))
                rows = (group / "memory.stat").read_text().splitlines()
            except (OSError, ValueError):  # no such file, or "max"
                continue
            reclaimable = sum(int(row.split()[1]) for row in rows if row.split()[0] == cache)
            found.append((limit - usage + reclaimable, limit))
    return found


_GROUPS = {  # by the controllers of a line of /proc/self/cgroup: version 2, version 1
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


def _needed(config: TrainConfig, device: str) -> int:
    return estimate(config, device, processes(config) if device == "cpu" else 1)


def _smaller(config: TrainConfig, device: str, limit: int) -> str:
    """The flags that would make the run fit: the largest half of a half of the batch that does;
    with single sequences, activations computed again, or a shorter context."""
    B, T = config.batch_size, config.model.block_size
    for size in (B >> i for i in range(1, B.bit_length())):
        fewer = dataclasses.replace(config, batch_size=size, processes=min(size, processes(config)))
        if _needed(fewer, device) <= limit:
            same = f" (with --grad-accum {config.rows_per_step // size}, the same step)"
            return f"--batch-size {size}{same if config.rows_per_step % size == 0 else ''}"
    alone = dataclasses.replace(config, batch_size=1, processes=1, checkpoint_activations=True)
    if _needed(alone, device) <= limit:
        return "--batch-size 1 --checkpoint-activations"
    for length in (T >> i for i in range(1, T.bit_length())):
        shape = dataclasses.replace(config.model, block_size=length)
        shorter = dataclasses.replace(config, batch_size=1, processes=1, model=shape)
        if _needed(shorter, device) <= limit:
            return f"--batch-size 1 --block-size {length}"
    return "a smaller --n-embd or --n-layer"


def _written(size: float) -> str:
    if size < 1e9:
        return f"{size / 1e6:.0f} MB"
    if size > 1e15:
        return "1,000,000 GB or more"
    return f"{size / 1e9:,.{1 if size < 1e11 else 0}f} GB"
