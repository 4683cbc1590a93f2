"""The ladder: every model of the video, trained with the video's settings on several seeds.

Its losses are noisy: one seed says little at these sizes, so a row has their mean and their range.
All but the scaled-up model run as they are on a CPU; that one is trained at a stated smaller size
there, with the hours that the full one would take.
"""

from __future__ import annotations

import dataclasses
import difflib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorlib as torch
from gpt.config import UserError
from lessons import common
from lessons.model import (
    BigramLanguageModel,
    FeedForward,
    Head,
    LanguageModel,
    MultiHeadAttention,
    blocks,
)
from tensorlib import nn


@dataclass(frozen=True)
class Rung:
    """A model and how the video trains it.

    build: from the size of the vocabulary, in the video's order of construction. video: the
        validation loss that is said there, where one is.
    """

    name: str
    build: Callable[[int], nn.Module]
    video: float | None = None
    learning_rate: float = 1e-3
    max_iters: int = 5000
    eval_interval: int = 500
    eval_iters: int = 200
    batch_size: int = 32
    block_size: int = 8


def small(body: Callable[[], nn.Module], position: bool = True) -> Callable[[int], nn.Module]:
    """A model of 32 channels that sees 8 characters."""
    return lambda V: LanguageModel(V, n_embd=32, block_size=8, body=body, position=position)


def three_blocks(**switches) -> Callable[[int], nn.Module]:
    """Three blocks of four heads, with the switches of `model.Block`."""
    return small(lambda: blocks(3, n_embd=32, n_head=4, block_size=8, **switches))


def scaled(n_layer: int, n_embd: int, n_head: int, block_size: int) -> Callable[[int], nn.Module]:
    """The model at the end of the video, of a given size."""
    return lambda V: LanguageModel(
        V, n_embd, block_size, lambda: blocks(n_layer, n_embd, n_head, block_size, dropout=0.2)
    )


def start_small(build: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """The same model with all weights from N(0, 0.02), as the video's repository has them later."""

    def init(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    return lambda V: build(V).apply(init)


def _sa() -> nn.Module:
    return MultiHeadAttention(32, 4, 8, projection=False)


_FIRST: dict[str, Any] = {"learning_rate": 1e-2, "max_iters": 3000, "eval_interval": 300}
LADDER = [
    Rung("bigram", BigramLanguageModel, 2.5, **_FIRST),
    Rung("lm_head", small(nn.Identity, position=False), **_FIRST),
    Rung("position", small(nn.Identity), **_FIRST),
    Rung("one-head", small(lambda: Head(32, 32, 8)), 2.4),
    Rung("multi-head", small(_sa), 2.28),
    Rung(
        "feed-forward",
        small(lambda: nn.Sequential(_sa(), FeedForward(32, widen=1, projection=False))),
        2.24,
    ),
    Rung(
        "blocks",
        three_blocks(residual=False, projection=False, widen=1, norm=None, final_norm=False),
    ),
    Rung("residual", three_blocks(projection=False, widen=1, norm=None, final_norm=False)),
    Rung("projection", three_blocks(widen=1, norm=None, final_norm=False)),
    Rung("widen", three_blocks(norm=None, final_norm=False), 2.08),
    Rung("layer-norm", three_blocks(), 2.06),
    Rung("head-size", three_blocks(scale=8**-0.5)),  # the later repository's scaling
    Rung("small-init", start_small(three_blocks(scale=8**-0.5))),  # and its initialisation
]
FULL = Rung("scaled-up", scaled(6, 384, 6, 256), 1.48, 3e-4, batch_size=64, block_size=256)
CPU = Rung(
    "scaled-up-cpu",  # 4 layers of 4 heads, 128 channels, 64 characters of context
    scaled(4, 128, 4, 64),
    max_iters=1000,
    eval_iters=50,
    batch_size=16,
    block_size=64,
)


def rungs(device: str) -> list[Rung]:
    """All that this device can train in minutes."""
    return [*LADDER, CPU if device == "cpu" else FULL]


def find(name: str) -> Rung:
    """The rung of this name. UserError if there is none."""
    every = {rung.name: rung for rung in [*LADDER, CPU, FULL]}
    if name not in every:
        near = difflib.get_close_matches(name, every, n=1) or [", ".join(every)]
        raise UserError(f"there is no rung {name!r}; did you mean {near[0]}?")
    return every[name]


@dataclass(frozen=True)
class Trained:
    """What a rung came to with one seed."""

    model: nn.Module
    loss: float  # on random batches of the validation split, as in the video
    seconds: float


def climb(
    rung: Rung, seed: int = 1337, device: str = "cpu", steps: int | None = None, verbose=False
) -> Trained:
    """Train a rung as the video does, or for `steps` steps."""
    vocab_size = common.corpus().vocab_size
    torch.manual_seed(seed)
    model = rung.build(vocab_size).to(device)
    settings = dataclasses.asdict(rung)
    for name in ("name", "build", "video"):
        del settings[name]
    if steps is not None:
        settings["max_iters"] = steps
    start = time.perf_counter()
    losses = common.train(model, **settings, device=device, verbose=verbose)
    return Trained(model, losses["val"], time.perf_counter() - start)


def hours(rung: Rung) -> float:
    """How long all of a rung would take on this machine's CPU, from a step and an evaluation batch
    of it: the faster of two each."""
    model = rung.build(common.corpus().vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rung.learning_rate)
    xb, yb = common.corpus().get_batch("train", rung.batch_size, rung.block_size)

    def step() -> None:
        optimizer.zero_grad()
        model(xb, yb)[1].backward()
        optimizer.step()

    @torch.no_grad()
    def forward() -> None:
        model(xb, yb)

    training, evaluation = (min(_seconds(work) for _ in range(2)) for work in (step, forward))
    evaluations = rung.max_iters // rung.eval_interval + 1
    return (rung.max_iters * training + evaluations * 2 * rung.eval_iters * evaluation) / 3600


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def table(
    chosen: Sequence[Rung], seeds: Sequence[int], device: str, steps: int | None
) -> Iterator[str]:
    """The lines of a Markdown table, each when it is ready, and a sample of each rung after it."""
    yield "| rung | parameters | video | ours: mean (lowest to highest) | seconds a seed |"
    yield "|---|---|---|---|---|"
    samples = []
    for rung in chosen:
        results = []
        for seed in seeds:
            print(f"{rung.name}, seed {seed} …", file=sys.stderr, flush=True)
            results.append(climb(rung, seed, device, steps))
        losses = [result.loss for result in results]
        spread = f"{statistics.mean(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})"
        said = "" if rung.video is None else f"{rung.video:g}"
        seconds = statistics.median(result.seconds for result in results)
        count = common.parameters(results[0].model)
        yield f"| {rung.name} | {count:,} | {said} | {spread} | {seconds:.0f} |"
        torch.manual_seed(seeds[0])
        samples.append((rung.name, common.sample(results[0].model, 200, rung.block_size)))
    for name, text in samples:
        yield f"\n{name} writes:\n{text}"
    if CPU in chosen and not common.options.quick:
        yield (
            f"\n{CPU.name} has 4 layers of 4 heads, 128 channels, a context of 64, and 1,000 steps "
            f"of 16 sequences.\nThe video's scaled-up model would take {hours(FULL):.0f} hours a "
            "seed on this CPU; on a GPU this command trains it."
        )
