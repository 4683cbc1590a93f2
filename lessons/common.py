"""What the lessons share: the text and its batches, the training loop, evaluation, generation, and
heat maps for a terminal.

The names are the video's. Every draw comes from PyTorch's stream behind `manual_seed`, in the order
in which the video draws, so that a lesson prints the video's numbers.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tensorlib as torch
from gpt.config import UserError
from gpt.text.reading import TINY_SHAKESPEARE_SHA256, load_text
from gpt.tokenizer import CharTokenizer
from tensorlib import Tensor, nn
from tensorlib.nn import functional as F


@dataclass
class Options:
    """What the command line of `python -m lessons` sets for all lessons."""

    quick: bool = False  # a few steps instead of thousands: does it run, not does it learn
    data: Path | None = None  # the text; None: tiny Shakespeare


options = Options()
HANDFUL = 4
SHORTEST = 10 * (256 + 1)  # characters: a tenth of them holds one context of the scaled-up model


def _refuse_flags(script: Path, arguments: Sequence[str]) -> None:
    """Leave if a lesson, as `script`, was given flags: it reads none, and who mistyped or expected
    one should not wait for results without it."""
    if arguments and script.name[:2].isdecimal() and script.parent.samefile(Path(__file__).parent):
        number = int(script.name[:2])
        reason = f"a lesson as a script takes no flags; see python -m lessons {number} --help"
        print(f"error: {arguments[0]}: {reason}", file=sys.stderr)
        sys.exit(2)


_refuse_flags(Path(sys.argv[0]), sys.argv[1:])


def steps(count: int) -> int:
    """`count`, or with --quick a handful."""
    return min(count, HANDFUL) if options.quick else count


# ------------------------------------------------------------------------------ text and batches


class Corpus:
    """A text as one long tensor of integers, a token per character, and its split.

    text (str), chars (its characters, sorted), data, train and val (int64 tensors, 1-D).
    """

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self.tokenizer = CharTokenizer.from_text(text)
        self.chars, self.vocab_size = self.tokenizer.chars, self.tokenizer.vocab_size
        self.data = self.encode(text)
        n = int(0.9 * len(self.data))  # the first nine tenths to learn from, the rest to validate
        self.train, self.val = self.data[:n], self.data[n:]
        self.is_the_videos = hashlib.sha256(text.encode()).hexdigest() == TINY_SHAKESPEARE_SHA256

    def encode(self, text: str) -> Tensor:
        """int64 (len(text),); UserError for characters that the text does not have."""
        return torch.from_numpy(self.tokenizer.encode(text).astype(np.int64))

    def decode(self, ids: Tensor) -> str:
        """The text of a 1-D tensor of tokens."""
        return self.tokenizer.decode(ids.tolist())

    def get_batch(self, split: str, batch_size: int, block_size: int) -> tuple[Tensor, Tensor]:
        """(B, T) tokens from random places of "train" or "val", and the (B, T) that follow each."""
        data = self.train if split == "train" else self.val
        ix = torch.randint(len(data) - block_size, (batch_size,))
        places = ix.view(batch_size, 1) + torch.arange(block_size)  # (B, T)
        return data[places], data[places + 1]


def corpus() -> Corpus:
    """Tiny Shakespeare (or the text of --data), read once; UserError if it is too short."""
    return _corpus(options.data)


@functools.cache
def _corpus(path: Path | None) -> Corpus:
    loaded = Corpus(*load_text(path))
    if len(loaded.text) < SHORTEST:
        raise UserError(
            f"{loaded.name} is too short: {len(loaded.text):,} characters, where the lessons need "
            f"{SHORTEST:,}; take a longer text"
        )
    if not loaded.is_the_videos:
        print(f"(The text is {loaded.name}, not the video's: its numbers will differ.)\n")
    return loaded


# --------------------------------------------------------------------------- training, evaluation


@torch.no_grad()
def estimate_loss(
    model: nn.Module, batch_size: int, block_size: int, eval_iters: int, device: str = "cpu"
) -> dict[str, float]:
    """The mean loss over `eval_iters` random batches, for each split; far less noisy than one."""
    model.eval()
    out = {}
    for split in ("train", "val"):
        losses = torch.zeros(eval_iters)
        for k in range(eval_iters):
            X, Y = corpus().get_batch(split, batch_size, block_size)
            _, loss = model(X.to(device), Y.to(device))
            losses[k] = loss.item()
        out[split] = losses.mean().item()
    model.train()
    return out


def train(
    model: nn.Module,
    *,
    learning_rate: float = 1e-3,
    max_iters: int = 5000,
    eval_interval: int = 500,
    eval_iters: int = 200,
    batch_size: int = 32,
    block_size: int = 8,
    device: str = "cpu",
    verbose: bool = True,
) -> dict[str, float]:
    """The video's loop: AdamW at a constant rate, and now and then the loss on both splits.

    Prints a line per evaluation and returns the last one. With --quick a few steps, whatever
    `max_iters` says.
    """
    max_iters, eval_iters = steps(max_iters), steps(eval_iters)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for step in range(max_iters):
        if step % eval_interval == 0 or step == max_iters - 1:
            losses = estimate_loss(model, batch_size, block_size, eval_iters, device)
            if verbose:
                print(
                    f"step {step}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}"
                )
        xb, yb = corpus().get_batch("train", batch_size, block_size)
        _, loss = model(xb.to(device), yb.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return losses


@torch.no_grad()
def generate(model: nn.Module, idx: Tensor, max_new_tokens: int, block_size: int) -> Tensor:
    """`idx` (B, T) with `max_new_tokens` more tokens; the model sees the last `block_size`."""
    model.eval()
    for _ in range(steps(max_new_tokens)):
        logits, _ = model(idx[:, -block_size:])
        probs = F.softmax(logits[:, -1, :], dim=-1)  # (B, V): only the last position counts
        idx = torch.cat((idx, torch.multinomial(probs.cpu(), num_samples=1).to(idx.device)), dim=1)
    model.train()
    return idx


def sample(model: nn.Module, length: int = 300, block_size: int = 8, prompt: str = "\n") -> str:
    """The text that the model writes after `prompt`, drawn from the stream as it stands.

    Characters of the prompt that the text does not have are left out.
    """
    prompt = "".join(c for c in prompt if c in corpus().chars) or corpus().chars[0]
    start = corpus().encode(prompt).view(1, -1).to(next(model.parameters()).device)
    return corpus().decode(generate(model, start, length, block_size)[0])


def words(english: str) -> str:
    """`english`, or if the text lacks a letter of it, as many characters of the text's own."""
    text = corpus().text
    return english if set(english) <= set(text) else text[: len(english)]


def parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(p.numel() for p in model.parameters())


# ------------------------------------------------------------------------------------- heat maps


SHADES = " ░▒▓█"


def heat_map(
    weights: Tensor, rows: Sequence[object] | None = None, columns: Sequence[object] | None = None
) -> str:
    """A matrix (T, S) as shades: the largest entry is black, 0 and −inf are blank. Where there are
    negative entries, the smallest is the lightest shade."""
    w = np.array(weights.detach().cpu().tolist())
    finite = np.isfinite(w)
    low, high = w.min(initial=0, where=finite), w.max(initial=0, where=finite)
    share = (np.where(finite, w, low) - low) / ((high - low) or 1)
    level = np.ceil(share * (len(SHADES) - 1)).astype(int)
    level = np.where(finite, level.clip(int(low < 0)), 0)
    row_names = [str(r) for r in (range(len(w)) if rows is None else rows)]
    names = [str(c) for c in (range(w.shape[1]) if columns is None else columns)]
    cell = max(2, *(len(name) + 1 for name in names))
    margin = max(map(len, row_names))
    lines = [" " * margin + "".join(name.rjust(cell) for name in names)]
    for name, row in zip(row_names, level):
        lines.append(name.rjust(margin) + "".join(" " + SHADES[i] * (cell - 1) for i in row))
    return "\n".join(line.rstrip() for line in lines)
