"""Every knob of the model and of its training, once: its type, its default, its line of help.

The same classes are the library's interface (`GPTConfig(n_layer=6)`), train.py's command line
(`--n-layer 6`, see `cli.py`), and what a checkpoint keeps. Knows no tensors and reads no files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import IntEnum
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

Device = Literal["auto", "cpu", "gpu", "cuda"]
Kernels = Literal["plain", "fused"]
DType = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
Activation = Literal["relu", "gelu", "gelu_tanh"]
Preset = Literal["auto", "nanogpt-cpu", "video", "notebook", "gpt2", "finetune"]


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
    _require(least <= value, f"{name} is {value}, but must be at least {least}")  # NaN is not
    most = 2**63 if isinstance(value, int) else math.inf  # as a checkpoint keeps it
    _require(value < most, f"{name} is {value}, but must be below {most}")


def _count(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    _require(isinstance(value, Integral), f"{name} is {value!r}, but must be a whole number")
    _at_least(config, name, least)


def _valid_seed(seed: int) -> None:
    _require(isinstance(seed, Integral), f"seed is {seed!r}, but must be a whole number")
    _require(0 <= seed < 2**64, f"seed is {seed}, but must be in [0, 2**64)")


def _valid_tokenizer(kind: str) -> None:
    size = re.fullmatch("bpe:([0-9]{1,7})", kind)
    _require(
        kind in ("char", "bytes", "gpt2") or (size is not None and int(size[1]) > 256),
        f"tokenizer is {kind!r}, but must be char, bytes, gpt2, or bpe:SIZE, whose SIZE is the "
        "number of tokens, 257 or more: bpe:1024",
    )


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
    activation: Activation = "relu"
    """Of the MLP; gelu is PyTorch's and nanoGPT's, gelu_tanh GPT-2's."""
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
            _count(self, name, 1)
        _fraction(self, "dropout")
        _require(
            self.activation in get_args(Activation),
            f"activation is {self.activation!r}, but must be relu, gelu or gelu_tanh",
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
    """UTF-8 text to learn: a file, a folder, or - for standard input."""
    glob: str = "*.txt *.md"
    """Which files of a folder, and of those in it: patterns with spaces between, in quotes."""
    tokenizer: str = "char"
    """What is a token: char, bytes, bpe:SIZE (learned from the text), or gpt2."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    kernels: Kernels = "plain"
    """On a GPU: CuPy's operations, or our own in CUDA C++."""
    dtype: DType = "float32"
    """Of products of matrices on a GPU; auto: bfloat16 if it has it, else float16."""
    preset: Annotated[
        Preset, _default("nanogpt-cpu; video on a GPU; finetune with --init-from")
    ] = "auto"
    """Sets what follows: nanogpt-cpu, video, notebook (the video's small model), gpt2, finetune."""
    config: Annotated[Path | None, _default("none")] = None
    """Set up as another run was: its config.json, or its directory; flags override."""
    init_from: Annotated[Path | None, _default("random weights")] = None
    """Weights to start from: a run or its checkpoint, GPT-2's folder, nanoGPT's ckpt.pt."""
    out: Annotated[Path | None, _default("the next free runs/<n>")] = None
    """Run directory."""
    resume: bool = False
    """Go on with the run in --out, or the newest in runs/, as it was set up."""
    overwrite: bool = False
    """Replace the run that --out holds."""
    eval_only: bool = False
    """Measure that run's best model (with --resume, its last) and leave; writes nothing."""
    seed: int = 1337
    """Weights, batches and dropout all follow from it."""

    def __post_init__(self) -> None:
        """ValueError for values that cannot be."""
        _valid_seed(self.seed)
        _valid_tokenizer(self.tokenizer)
        _require(bool(self.glob.split()), "glob is empty, but must have a pattern, such as *.txt")


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Train a GPT on a text and keep it in a run directory; sample.py lets it speak."""

    max_iters: int = 2000
    """Training steps."""
    eval_interval: int = 100
    """Steps between evaluations; each one reports and saves."""
    eval_iters: int = 20
    """Batches of either split that an evaluation looks at."""
    sample_interval: Annotated[int | None, _default("at each evaluation")] = None
    """Steps between lines that the model writes meanwhile; 0: none."""
    sample_prompt: Annotated[str, _default("none: the model begins by itself")] = ""
    """How those lines begin."""
    early_stop: int = 0
    """Stop after so many evaluations in a row without a better validation loss; 0: never."""
    max_time: Annotated[str | None, _default("no limit")] = None
    """Stop after 30s, 90m or 8h, to be resumed; the learning rate still heads for max-iters."""
    overfit_batch: bool = False
    """Sanity check: learn one batch by heart, without dropout, and keep nothing."""
    batch_size: int = 12
    """Sequences in a batch."""
    grad_accum: int = 1
    """Batches whose gradients make one step, as if they were one; takes no more memory."""
    checkpoint_activations: bool = False
    """Compute a block's activations twice instead of keeping them: less memory, same bits."""
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
        for name in ("max_iters", "eval_interval", "eval_iters", "batch_size", "grad_accum"):
            _count(self, name, 1)
        if self.processes is not None:
            _count(self, "processes", 1)
            _require(
                self.processes <= self.batch_size,
                f"processes is {self.processes}, but must be from 1 to batch_size",
            )
        _require(
            self.max_time is None or self.max_seconds > 0,
            f"max_time is {self.max_time!r}, but must be a number and its unit: 30s, 90m or 8h",
        )
        _require(
            not (self.overfit_batch and (self.resume or self.eval_only or self.init_from)),
            "overfit_batch has new weights: leave --resume, --eval-only and --init-from out",
        )
        for name in ("early_stop", "warmup_iters"):
            _count(self, name, 0)
        for name in ("min_lr", "weight_decay", "grad_clip"):
            _at_least(self, name, 0)
        if self.sample_interval is not None:
            _count(self, "sample_interval", 0)
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

    @property
    def rows_per_step(self) -> int:
        """Sequences whose gradients make one step."""
        return self.batch_size * self.grad_accum

    @property
    def tokens_per_step(self) -> int:
        """Tokens that a step learns from."""
        return self.rows_per_step * self.model.block_size

    @property
    def max_seconds(self) -> float:
        """`max_time` in seconds: infinite without one, 0 for what is no duration."""
        if self.max_time is None:
            return math.inf
        found = re.fullmatch(r"(\d+|\d*\.\d+)([smh])", self.max_time)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0


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
            _count(self, "top_k", 1)
        if self.top_p is not None:
            _require(0 < self.top_p <= 1, f"top_p is {self.top_p}, but must be in (0, 1]")


@dataclass(frozen=True)
class SampleConfig:
    """Let a trained GPT continue a text, on standard output."""

    prompt: Annotated[str | None, _default("none: the model begins by itself")] = None
    """Text to continue; what is piped into sample.py is one, too."""
    prompt_file: Annotated[Path | None, _default("none")] = None
    """A file with the text to continue; - is standard input."""
    interactive: bool = False
    """Ask for one prompt after another; Ctrl-C stops a text, Ctrl-D leaves."""
    checkpoint: Annotated[Path | None, _default("the newest run's best")] = None
    """A run or its checkpoint, GPT-2's folder, or nanoGPT's ckpt.pt."""
    max_new_tokens: int = 500
    """Tokens to draw."""
    stop: Annotated[str | None, _default("none")] = None
    """Text before which a continuation ends; \\n in it is a new line."""
    num_samples: int = 1
    """How many continuations, drawn in one batch; each has the next seed."""
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
            _count(self, name, 1)
        _valid_seed(self.seed)
        _require(self.stop != "", "stop is empty, but must have a character at least")
        given = (self.prompt is not None, self.prompt_file is not None, self.interactive)
        _require(sum(given) <= 1, "--prompt, --prompt-file and --interactive: only one of them")


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
    """The page, or a folder for it."""


@dataclass(frozen=True)
class ExportConfig:
    """Write a model as Hugging Face stores GPT-2, for GPT2LMHeadModel.from_pretrained."""

    checkpoint: Annotated[Path | None, tyro.conf.Positional, _default("the newest run")] = None
    """A run directory (its best), a checkpoint, or anything else that --init-from takes."""
    out: Annotated[Path | None, _default("huggingface beside the checkpoint")] = None
    """A new folder."""


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
    # the smallest GPT-2 by nanoGPT's recipe, in steps of a fortieth of its tokens and hence half
    # its learning rate: work for a GPU and days
    "gpt2": TrainConfig(
        tokenizer="gpt2",
        max_iters=600_000, eval_interval=2000, eval_iters=200, batch_size=12, warmup_iters=2000,
        learning_rate=3e-4, min_lr=3e-5, beta2=0.95,
        model=GPTConfig(
            50257, block_size=1024, n_layer=12, n_head=12, n_embd=768, activation="gelu_tanh",
            qkv_bias=True, tied_head=True, scaled_init=True,
        ),
    ),
    # nanoGPT's small constant steps away from weights that are good already; the model is theirs
    "finetune": TrainConfig(
        max_iters=200, eval_interval=20, batch_size=4, warmup_iters=0,
        learning_rate=3e-5, min_lr=3e-5,
    ),
}  # fmt: skip
