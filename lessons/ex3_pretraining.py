# %% [markdown]
# # EX3 · Pretraining, then fine-tuning
#
# The exercise: pretrain on a text so large that training and validation loss do not come apart,
# then go on with tiny Shakespeare, for fewer steps and at a lower learning rate. Does that give a
# lower validation loss than tiny Shakespeare alone?
#
# Every Python carries some megabytes of text: the reference behind `help()`, and the sources of the
# standard library, with much English in docstrings and comments. Any other text is better:
# `--text FILE`, or a directory of .txt files.
#
# Measured with the model of the video's notebook (4 layers, 64 channels, a context of 32
# characters), 5.2 million characters of Python 3.11 and tiny Shakespeare; loss on its whole
# validation split, three seeds; `python -m lessons ex3`:
#
# | steps on the large text | on tiny Shakespeare | learning rate | validation loss |
# |---|---|---|---|
# | 0 | 1,000 | 0.001 | 2.0929 ± 0.0123 |
# | 0 | 2,000 | 0.001 | 1.9615 ± 0.0044 |
# | 0 | 5,000 | 0.001 | 1.8145 ± 0.0086 |
# | 4,000 | 0 | – | 2.8087 ± 0.0078 |
# | 4,000 | 1,000 | 0.0005 | 1.8899 ± 0.0039 |
#
# On the large text the two losses end at 1.58 (train) and 1.59 (validation): no gap. What it
# teaches saves more than half of the steps on Shakespeare: a thousand after it beat two thousand
# from scratch. It does not beat training from scratch where the steps on both texts are counted
# together: five thousand steps of Shakespeare alone are better.

# %%
import copy
import string
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tensorlib as torch
from gpt import GPT, GPTConfig
from gpt.commands import cli
from gpt.text.reading import load_text
from gpt.tokenizer import CharTokenizer
from lessons import common
from lessons.exercise import Exercise, fit, settings, spread, whole_loss
from tensorlib import Tensor

# %% [markdown]
# ## Two texts, one vocabulary
#
# The tokens must mean the same in both: the characters are those of tiny Shakespeare and all that
# an English keyboard writes. What else there is in the large text is left out of it.


# %%
def python_text() -> str:
    """The language reference that every Python carries, and the modules of its standard library."""
    from pydoc_data.topics import topics

    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    sources = [module.read_text(encoding="utf-8", errors="ignore") for module in modules]
    return "\n".join([*topics.values(), *sources])


@dataclass
class Split:
    """A text as tokens: to learn from, and to validate on."""

    train: Tensor
    val: Tensor
    seen: Tensor  # as much of `train` as there is of `val`


def first_nine_tenths(data: Tensor) -> Split:
    """The video's split."""
    n = int(0.9 * len(data))
    return Split(data[:n], data[n:], seen=data[: len(data) - n])


def every_tenth_page(data: Tensor, page: int = 1000) -> Split:
    """For a collection, whose end may be about something else than its beginning."""
    tens = data[: len(data) // (10 * page) * 10 * page].view(-1, 10, page)
    train, val, seen = tens[:, :9], tens[:, 9], tens[:, 0]
    return Split(*(part.reshape(part.numel()) for part in (train, val, seen)))


Texts = tuple[int, Split, Split]  # the size of the vocabulary, the large text, the small one


def load(path: Path | None) -> Texts:
    small = common.corpus().text
    large = python_text() if path is None else load_text(path)[1]
    tokenizer = CharTokenizer.from_text(small + string.printable)
    known = set(tokenizer.chars)
    large = "".join(filter(known.__contains__, large))
    print(f"{len(large):,} characters to pretrain on, {len(small):,} to fine-tune on")
    data = [torch.from_numpy(tokenizer.encode(text).astype(np.int64)) for text in (large, small)]
    return tokenizer.vocab_size, every_tenth_page(data[0]), first_nine_tenths(data[1])


# %% [markdown]
# ## Training, watched at a few steps


# %%
def learn(
    model: GPT, split: Split, learning_rate: float, watched: list[int], batch_size: int = 16
) -> list[float]:
    """Train up to the last of the steps `watched`; the loss on the validation split at each."""
    T = model.config.block_size

    def batch_loss() -> Tensor:
        starts = torch.randint(len(split.train) - T, (batch_size, 1))
        places = starts + torch.arange(T)  # (B, T)
        return model(split.train[places], split.train[places + 1])[1]

    losses = []
    for step in fit(model, batch_loss, watched[-1], learning_rate):
        if step in watched:
            losses.append(whole_loss(model, split.val))
    return losses


@dataclass
class Pretraining(Exercise):
    """Does pretraining on another text help with tiny Shakespeare?"""

    text: Path | None = None  # to pretrain on; None: what Python carries
    pretrain_iters: int = 4000  # steps on it, at a learning rate of 1e-3
    tune_iters: int = 1000  # steps on tiny Shakespeare after that
    tune_rate: float = 5e-4  # their learning rate
    seeds: tuple[int, ...] = (1337, 1338, 1339)


Row = tuple[int, int, float]  # steps on the large text, steps on the small one, their rate


def compare(chosen: Pretraining, texts: Texts, seed: int) -> dict[Row, float]:
    """The loss on tiny Shakespeare's validation split after each way to learn it."""
    vocab_size, large, small = texts
    before, tune = (common.steps(n) for n in (chosen.pretrain_iters, chosen.tune_iters))
    torch.manual_seed(seed)
    scratch = GPT(GPTConfig(vocab_size, block_size=32, n_layer=4, n_head=4, n_embd=64))
    pretrained = copy.deepcopy(scratch)  # the same initial weights
    watched = [tune, 2 * tune, before + tune]
    losses = learn(scratch, small, 1e-3, watched)
    results = {(0, steps, 1e-3): loss for steps, loss in zip(watched, losses)}
    learn(pretrained, large, 1e-3, [before])
    train, val = (whole_loss(pretrained, part) for part in (large.seen, large.val))
    print(f"seed {seed}, large text: train loss {train:.4f}, val loss {val:.4f}", flush=True)
    results[before, 0, 0.0] = whole_loss(pretrained, small.val)
    (results[before, tune, chosen.tune_rate],) = learn(pretrained, small, chosen.tune_rate, [tune])
    for (steps, more, rate), loss in results.items():
        print(f"  {steps} + {more} steps at {rate:g}: {loss:.4f}", flush=True)
    return results


def main() -> None:
    chosen = settings(Pretraining)
    texts = load(chosen.text)
    runs = [compare(chosen, texts, seed) for seed in chosen.seeds]
    print("\n| steps on the large text | on tiny Shakespeare | learning rate | validation loss |")
    print("|---|---|---|---|")
    for before, after, rate in runs[0]:
        losses = [run[before, after, rate] for run in runs]
        print(f"| {before:,} | {after:,} | {rate:g} | {spread(losses)} |")


if __name__ == "__main__":
    cli.run(main)
