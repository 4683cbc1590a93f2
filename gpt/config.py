"""Every knob of the model and of its training, once: its type, its default, its line of help.

The same classes are the library's interface (`GPTConfig(n_layer=6)`), train.py's command line
(`--n-layer 6`, see `cli.py`), and what a checkpoint keeps. Knows no tensors and reads no files.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Device = Literal["auto", "cpu", "gpu", "cuda"]
Kernels = Literal["plain", "fused"]
DType = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
Preset = Literal["auto", "nanogpt-cpu", "video", "notebook"]


class UserError(ValueError):
    """A mistake of the user's. Its message is one line: what is wrong, and what to do."""


class Stream(IntEnum):
    """Who draws random numbers. Each draw is a pure function of (seed, stream, step, draw), so
    streams never touch each other: evaluating more often does not change what training sees."""

    TRAIN_BATCH = 0
    EVALUATION_BATCH = 1
    DROPOUT = 2
    SAMPLE = 3


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _at_least(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    _require(least <= value < float("inf"), f"{name} is {value}, but must be at least {least}")


def _valid_seed(seed: int) -> None:
    _require(0 <= seed < 2**64, f"seed is {seed}, but must be in [0, 2**64)")


def _fraction(config: Any, name: str) -> None:
    value = getattr(config, name)
    _require(0 <= value < 1, f"{name} is {value}, but must be in [0, 1)")


def _default(text: str) -> Any:
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")  # where None would say nothing


@dataclass(frozen=True)
class GPTConfig:
    """What the model is made of."""

    vocab_size: Annotated[int, tyro.conf.Suppress] = 65  # on the command line the text decides
    """How many different tokens there are."""
    block_size: int = 64
    """Context length: how many tokens the model sees at once."""
    n_layer: int = 4
    """Blocks."""
    n_head: int = 4
    """Attention heads in a block."""
    n_embd: int = 128
    """Channels, a multiple of n-head."""
    dropout: float = 0.0
    """Fraction dropped in training, in the video's three places."""
    activation: Literal["relu", "gelu"] = "relu"
    """Of the MLP; gelu in GPT-2's tanh form."""
    bias: bool = True
    """Biases in linear layers and LayerNorms."""
    qkv_bias: bool = False
    """Bias of query, key and value; GPT-2 has it."""
    tied_head: bool = False
    """Head and token embedding share a weight, as in GPT-2."""
    scaled_init: bool = False
    """Smaller initial weights where a block ends, as in GPT-2."""

    def __post_init__(self) -> None:
        """ValueError for values that make no model."""
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            _at_least(self, name, 1)
        _fraction(self, "dropout")
        _require(
            self.activation in ("relu", "gelu"),
            f"activation is {self.activation!r}, but must be relu or gelu",
        )
        _require(
            self.n_embd % self.n_head == 0,
            f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head}), "
            "so that every head gets as many channels",
        )


@dataclass(frozen=True)
class RunConfig:
    """What to learn, where, and where to keep it."""

    data: Annotated[Path | None, _default("tiny Shakespeare, downloaded once")] = None
    """UTF-8 text to learn: a file, or a directory of .txt files."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    kernels: Kernels = "plain"
    """On a GPU: CuPy's operations, or our own in CUDA C++."""
    dtype: DType = "float32"
    """Of products of matrices on a GPU; auto: bfloat16 if it has it, else float16."""
    preset: Preset = "auto"
    """Sets the defaults below; auto: nanogpt-cpu on a CPU, video on a GPU."""
    out: Annotated[Path | None, _default("the next free runs/<n>")] = None
    """Run directory."""
    resume: bool = False
    """Go on with the run in --out, or the newest in runs/, as it was set up."""
    seed: int = 1337
    """Weights, batches and dropout all follow from it."""

    def __post_init__(self) -> None:
        """ValueError for values that cannot be."""
        _valid_seed(self.seed)


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Train a GPT on a text and keep it in a run directory; sample.py lets it speak."""

    max_iters: int = 2000
    """Training steps."""
    eval_interval: int = 100
    """Steps between evaluations; each one reports and saves."""
    eval_iters: int = 20
    """Batches of either split that an evaluation looks at."""
    batch_size: int = 12
    """Sequences in a batch."""
    learning_rate: float = 1e-3
    """AdamW's, after the warm-up."""
    min_lr: float = 1e-4
    """At the end of the cosine; equal to learning-rate: constant."""
    warmup_iters: int = 100
    """Steps over which the learning rate rises."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.99
    """AdamW's memory of the squared gradient."""
    weight_decay: float = 0.1
    """AdamW's, for matrices; vectors have none."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0: no limit."""
    graph: bool = False
    """On a GPU, with fused kernels: launch a step as one CUDA graph."""
    processes: Annotated[int | None, _default("one per core, if that is faster")] = None
    """CPU processes that share a batch; the weights' last bits depend on it."""
    model: GPTConfig = GPTConfig()

    def __post_init__(self) -> None:
        """ValueError for values that cannot train."""
        super().__post_init__()
        if self.processes is not None:
            _require(
                1 <= self.processes <= self.batch_size,
                f"processes is {self.processes}, but must be from 1 to batch_size",
            )
        for name in ("max_iters", "eval_interval", "eval_iters", "batch_size"):
            _at_least(self, name, 1)
        for name in ("warmup_iters", "min_lr", "weight_decay", "grad_clip"):
            _at_least(self, name, 0)
        for name in ("beta1", "beta2"):
            _fraction(self, name)
        _require(
            0 < self.learning_rate < float("inf"),
            f"learning_rate is {self.learning_rate}, but must be a positive number",
        )
        _require(
            self.min_lr <= self.learning_rate,
            f"min_lr ({self.min_lr}) must not be above learning_rate ({self.learning_rate})",
        )


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from its probabilities."""

    temperature: float = 1.0
    """Below 1 safer, above 1 wilder; 0: always the likeliest token."""
    top_k: Annotated[int | None, _default("all")] = None
    """Draw from the k likeliest tokens only."""
    top_p: Annotated[float | None, _default("all")] = None
    """Draw from the fewest tokens that together have this probability."""

    def __post_init__(self) -> None:
        """ValueError for values that leave nothing to draw."""
        _at_least(self, "temperature", 0)
        if self.top_k is not None:
            _at_least(self, "top_k", 1)
        if self.top_p is not None:
            _require(0 < self.top_p <= 1, f"top_p is {self.top_p}, but must be in (0, 1]")


@dataclass(frozen=True)
class SampleConfig:
    """Let a trained GPT continue a text, on standard output."""

    prompt: Annotated[str, _default("none: the model begins by itself")] = ""
    """Text to continue."""
    checkpoint: Annotated[Path | None, _default("the newest run's best")] = None
    """A checkpoint, or a run directory (its best)."""
    max_new_tokens: int = 500
    """Tokens to draw."""
    num_samples: int = 1
    """How many continuations; each has the next seed."""
    seed: int = 1337
    """Same seed, same text."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    kernels: Kernels = "plain"
    """On a GPU: CuPy's operations, or our own in CUDA C++."""
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        """ValueError for values that cannot be."""
        for name in ("max_new_tokens", "num_samples"):
            _at_least(self, name, 1)
        _valid_seed(self.seed)


@dataclass(frozen=True)
class ReportConfig:
    """Write a page that shows a trained GPT from inside, for any browser."""

    run: Annotated[Path | None, tyro.conf.Positional, _default("the newest run")] = None
    """A run directory (its best), or a checkpoint."""
    prompt: Annotated[str, _default("the beginning of the validation text")] = ""
    """Text whose attention is shown, and which the sample continues."""
    data: Annotated[Path | None, _default("where the run had it")] = None
    """The text that the run learned."""
    out: Annotated[Path | None, _default("report.html beside the checkpoint")] = None
    """The page."""


# the video trains with AdamW's own settings, at a constant learning rate
_VIDEO: dict[str, Any] = {
    "max_iters": 5000, "eval_interval": 500, "eval_iters": 200,
    "warmup_iters": 0, "beta2": 0.999, "weight_decay": 0.01, "grad_clip": 0.0,
}  # fmt: skip
PRESETS = {
    "nanogpt-cpu": TrainConfig(),  # nanoGPT's recipe for a CPU: minutes on a laptop
    "video": TrainConfig(  # the scaled-up model at the end of the video: work for a GPU
        **_VIDEO, batch_size=64, learning_rate=3e-4, min_lr=3e-4,
        model=GPTConfig(block_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.2),
    ),
    "notebook": TrainConfig(  # the last cell of the video's notebook
        **_VIDEO, batch_size=16, learning_rate=1e-3, min_lr=1e-3,
        model=GPTConfig(block_size=32, n_layer=4, n_head=4, n_embd=64),
    ),
}  # fmt: skip


def to_record(config: TrainConfig) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    record = dataclasses.asdict(config)
    for name in ("data", "out"):
        record[name] = None if record[name] is None else str(record[name])
    return record


def from_record(record: dict[str, Any]) -> TrainConfig:
    """The configuration back from `to_record`'s JSON values."""
    paths = {name: record[name] and Path(record[name]) for name in ("data", "out")}
    return TrainConfig(**record | paths | {"model": GPTConfig(**record["model"])})
