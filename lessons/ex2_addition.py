# %% [markdown]
# # EX2 · Addition
#
# The exercise is to train a GPT on something else than Shakespeare, and what it proposes is sums of
# two n-digit numbers, as text. Three things make it work.
#
# - **The answer is written backwards**, ones first, as one adds on paper. A digit of a sum depends
#   on two digits above it and on a carry; written ones first, all that the carry depends on has
#   been said already.
# - **The loss is asked of the answer only.** The question is random, so there is nothing in it to
#   predict: its targets are −1, and `cross_entropy(…, ignore_index=-1)` passes over them.
# - **Problems are drawn at random**, a new batch for every step, and some are held out: neither
#   a + b nor b + a of those is ever trained on. They are the exam.
#
# Right, of the problems held out, in percent: whole answers written reversed or plain, and beside
# them the digits in the place of the ones, tens, …; on one thread of an AMD EPYC (Zen 4).
# `python -m lessons ex2 --digits 2`: 57,900 parameters, 965 problems held out, 46 seconds for each
# order of the answer's digits:
#
# | step | reversed | 1 | 10 | 100 | plain | 1 | 10 | 100 |
# |---|---|---|---|---|---|---|---|---|
# | 250 | 67.66 | 75.23 | 87.87 | 99.89 | 64.97 | 90.77 | 70.77 | 98.65 |
# | 500 | 94.81 | 99.37 | 95.33 | 100 | 97.61 | 99.17 | 98.44 | 100 |
# | 1,000 | 100 | 100 | 100 | 100 | 98.96 | 99.79 | 99.17 | 100 |
# | 2,000 | 100 | 100 | 100 | 100 | 100 | 100 | 100 | 100 |
#
# With `--seed 1` and `--seed 2` all are right from step 1,000 on, too.
#
# `python -m lessons ex2 --digits 3`: 101,964 parameters, 9,936 held out (the first 1,000 of them
# until the last step), 138 seconds for each:
#
# | step | reversed | 1 | 10 | 100 | 1,000 | plain | 1 | 10 | 100 | 1,000 |
# |---|---|---|---|---|---|---|---|---|---|---|
# | 375 | 0.9 | 8.2 | 11.3 | 67.8 | 100 | 87.8 | 99.9 | 99.8 | 87.9 | 96.9 |
# | 750 | 97.9 | 98.7 | 99.6 | 99.6 | 100 | 98.4 | 100 | 100 | 98.4 | 99.9 |
# | 1,500 | 100 | 100 | 100 | 100 | 100 | 100 | 100 | 100 | 100 | 100 |
# | 3,000 | 100 | 100 | 100 | 100 | 100 | 100 | 100 | 100 | 100 | 100 |
#
# With so many problems the order hardly matters. It does where there are few to learn from:
# `--digits 3 --problems 5000 --max-iters 2000`:
#
# | step | reversed | 1 | 10 | 100 | 1,000 | plain | 1 | 10 | 100 | 1,000 |
# |---|---|---|---|---|---|---|---|---|---|---|
# | 250 | 97.6 | 100 | 97.9 | 99.7 | 100 | 52.6 | 99.8 | 75.2 | 70.9 | 94.7 |
# | 500 | 91.9 | 97.8 | 99.0 | 95.1 | 100 | 69.5 | 97.4 | 78.5 | 92.3 | 99.5 |
# | 1,000 | 99.7 | 100 | 99.7 | 100 | 100 | 95.9 | 99.8 | 98.4 | 97.7 | 99.6 |
# | 2,000 | 100 | 100 | 100 | 100 | 100 | 99.95 | 100 | 100 | 99.95 | 100 |

# %%
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

import tensorlib as torch
from gpt import GPT, GPTConfig, UserError
from gpt.commands import cli
from lessons import common
from lessons.exercise import Exercise, fit, settings
from tensorlib import Tensor
from tensorlib.nn import functional as F
from tensorlib.optim.lr_scheduler import warmup_cosine

# %% [markdown]
# ## Problems as tokens
#
# `12+34=640`: every number has its zeros in front, so that each digit has a place of its own, and
# the sum has a digit more. The ten digits are the tokens 0 to 9.

# %%
CHARS = "0123456789+="
PLUS, EQUALS = 10, 11
NOTHING = -1  # the target where nothing is asked
PLACES = ("ones", "tens", "hundreds", "thousands", "ten thousands")


def places(numbers: np.ndarray, count: int) -> np.ndarray:
    """The last `count` digits of each number (N,), ones first: (N, count)."""
    return numbers[:, None] // 10 ** np.arange(count) % 10


class Addition:
    """Problems of `digits` digits: which are held out, and how they are written.

    problems: how many different ones there are to learn from; None: all that are not held out.
    """

    def __init__(self, digits: int, reverse: bool, problems: int | None = None) -> None:
        self.digits, self.reverse = digits, reverse
        self.question = 2 * digits + 2  # tokens: two numbers, + and =
        self.numbers = 10**digits
        self.is_held_out = np.zeros((self.numbers, self.numbers), bool)
        some = min(self.numbers**2 // 20, 5000)
        a, b = torch.randint(self.numbers, (2, some)).numpy()
        self.is_held_out[a, b] = self.is_held_out[b, a] = True
        self.held_out = np.argwhere(self.is_held_out)  # (N, 2)
        self.known: np.ndarray | None = None
        if problems is not None:
            self.known = self.draw(problems)

    def draw(self, count: int) -> np.ndarray:
        """`count` random problems (count, 2) that are not held out."""
        if self.known is not None:
            return self.known[torch.randint(len(self.known), (count,)).numpy()]
        pairs = torch.randint(self.numbers, (2 * count + 100, 2)).numpy()
        return pairs[~self.is_held_out[pairs[:, 0], pairs[:, 1]]][:count]

    def write(self, pairs: np.ndarray) -> np.ndarray:
        """Question and answer of each problem (N, 2) as tokens (N, T)."""
        n, (a, b) = self.digits, pairs.T
        tokens = np.empty((len(pairs), self.question + n + 1), np.int64)
        tokens[:, :n], tokens[:, n] = places(a, n)[:, ::-1], PLUS
        tokens[:, n + 1 : -n - 2], tokens[:, -n - 2] = places(b, n)[:, ::-1], EQUALS
        answer = places(a + b, n + 1)
        tokens[:, -n - 1 :] = answer if self.reverse else answer[:, ::-1]
        return tokens

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, T − 1) and the token that follows each, which in the question nobody asks."""
        tokens = self.write(self.draw(count))
        targets = tokens[:, 1:].copy()
        targets[:, : self.question - 1] = NOTHING
        return torch.from_numpy(tokens[:, :-1].copy()), torch.from_numpy(targets)


# %% [markdown]
# ## The exam
#
# The model writes the answer digit by digit, each time the likeliest.


# %%
def right_digits(model: GPT, task: Addition, pairs: np.ndarray) -> np.ndarray:
    """Which digits of the answers are right: bool (N, digits + 1), ones first."""
    truth = task.write(pairs)
    idx = torch.from_numpy(truth[:, : task.question].copy())
    written = model.generate(idx, task.digits + 1, temperature=0)
    right = (written.numpy() == truth)[:, task.question :]
    return right if task.reverse else right[:, ::-1]


def exam(model: GPT, task: Addition, count: int) -> np.ndarray:
    """`right_digits` for the first `count` problems that were held out."""
    pairs = task.held_out[:count]
    return np.concatenate(
        [right_digits(model, task, pairs[i : i + 500]) for i in range(0, len(pairs), 500)]
    )


# %% [markdown]
# ## Training


# %%
@dataclass
class Settings(Exercise):
    """Learn to add numbers of --digits digits."""

    digits: int = 2  # of each number
    order: Literal["both", "reversed", "plain"] = "both"  # of the answer's digits
    problems: int | None = None  # different ones to learn from; None: all that are not held out
    max_iters: int | None = None  # training steps; None: 1,000 for each digit
    seed: int = 1337

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.digits > len(PLACES) - 1:
            raise UserError(f"--digits is {self.digits}, but must be from 1 to {len(PLACES) - 1}")


def train(chosen: Settings, reverse: bool) -> Iterator[tuple[int, np.ndarray]]:
    """The exam, eight times in the course of training: (step, which digits are right)."""
    torch.manual_seed(chosen.seed)
    task = Addition(chosen.digits, reverse, chosen.problems)
    config = GPTConfig(
        vocab_size=len(CHARS),
        block_size=task.question + task.digits,  # the last token is predicted, never read
        n_layer=2,
        n_head=4,
        n_embd=16 * (chosen.digits + 1),
    )
    model = GPT(config)
    count = f"{model.num_parameters():,} parameters, {len(task.held_out):,} problems held out"
    print(count, file=sys.stderr)

    def batch_loss() -> Tensor:
        x, targets = task.batch(256)
        logits, _ = model(x)  # (B, T, V)
        return F.cross_entropy(logits.view(-1, len(CHARS)), targets.view(-1), ignore_index=NOTHING)

    max_iters = chosen.max_iters or 1000 * chosen.digits
    schedule = warmup_cosine(100, max_iters, final=0.02)
    for step in fit(model, batch_loss, max_iters, 3e-3, schedule, 0.1, 0.99, grad_clip=1.0):
        if step == common.steps(max_iters):
            yield step, exam(model, task, len(task.held_out))
        elif step % max(max_iters // 8, 1) == 0:
            yield step, exam(model, task, 1000)


def percent(share: float) -> str:
    """As a percentage, rounded down: 100 % is said of nothing less."""
    return f"{np.floor(1e4 * share) / 100:.2f} %".rjust(9)


def main() -> None:
    chosen = settings(Settings)
    for order in ("reversed", "plain") if chosen.order == "both" else (chosen.order,):
        print(f"\nAnswers {order}, right on problems that were held out:")
        print("  step      whole" + "".join(name.rjust(10) for name in PLACES[: chosen.digits + 1]))
        start = time.perf_counter()
        for step, right in train(chosen, order == "reversed"):
            shares = [right.all(axis=1).mean(), *right.mean(axis=0)]
            print(f"{step:6}  " + " ".join(map(percent, shares)), flush=True)
        print(f"{time.perf_counter() - start:.0f} seconds")


if __name__ == "__main__":
    cli.run(main)
