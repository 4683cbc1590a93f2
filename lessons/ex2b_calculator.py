# %% [markdown]
# # EX2b · A calculator with a scratchpad
#
# The second half of the exercise: a calculator for + − × ÷, which, the video's author warns, is not
# easy and may need steps written out on the way. Here one model does all four, and before it
# answers it writes down what one writes on paper. The steps are part of what it is trained on; the
# exam looks at the answer alone.
#
# 154,260 parameters, 3,000 steps, 4 minutes on one thread of an AMD EPYC (Zen 4);
# `python -m lessons ex2b`. Right, of the problems that it was never trained on:
#
# | | numbers up to 9 | up to 99 |
# |---|---|---|
# | + | 15 of 15 | 927 of 927 |
# | − | 10 of 10 | 973 of 973 |
# | × | 7 of 7 | 1,015 of 1,017 |
# | ÷ | 8 of 8 | 845 of 992 |
#
# Division is the hardest: a digit of its quotient has to be guessed in one go, where the other
# three need no more than the tables. `python -m lessons ex2b --ask` then answers what one types:
#
# ```text
# 47*58=56,37;35,23;06,12,07,02>2726   (right)
# 87/12=008,601>6r1   (wrong: it is 7r3)
# ```

# %%
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tensorlib as torch
from gpt import GPT, GPTConfig, UserError
from gpt.commands import cli
from gpt.tokenizer import CharTokenizer
from lessons import common
from lessons.exercise import Exercise, fit, settings
from tensorlib import Tensor
from tensorlib.nn import functional as F
from tensorlib.optim.lr_scheduler import warmup_cosine
from tensorlib.serialization import load_file, save_file

# %% [markdown]
# ## On paper
#
# The question has its zeros in front, so that each digit has its place: `07+58=`. Then come the
# steps, from the ones on, and after `>` the answer as one writes it.
#
# | | question, steps | each step |
# |---|---|---|
# | + | `47+58=15,10>105` | carry and digit: 7+8 = 15, 4+5+1 = 10 |
# | − | `52-17=15,03>35` | borrow and digit: 12−7 = 5 with 1 borrowed, 5−1−1 = 3 |
# | − | `47-58=-01,01>-11` | a sign first, where the second number is the larger |
# | × | `47*58=56,37;35,23;06,12,07,02>2726` | 8 · 47, then 5 · 47, then their sum |
# | ÷ | `91/07=102,300>13r0` | a digit, and what remains: 9 = 1·7 + 02, 21 = 3·7 + 00 |

# %%
OPERATORS = "+-*/"
DIGITS = 2
TOKENIZER = CharTokenizer.from_text("0123456789+-*/=,;>r\n")
END = "\n"


def digits(number: int, count: int = DIGITS) -> list[int]:
    """Ones first, with zeros up to `count`."""
    return [number // 10**i % 10 for i in range(count)]


def column_sum(*numbers: int, count: int) -> list[str]:
    """The steps of an addition column by column: carry and digit of each."""
    steps, carry = [], 0
    for column in zip(*(digits(n, count) for n in numbers)):
        carry += sum(column)
        steps.append(f"{carry:02}")
        carry //= 10
    return steps


def column_difference(a: int, b: int) -> list[str]:
    """The steps of a − b, where a is the larger: borrow and digit of each column."""
    steps, borrow = [], 0
    for x, y in zip(digits(a), digits(b)):
        difference = x - y - borrow
        borrow = int(difference < 0)
        steps.append(f"{borrow}{difference + 10 * borrow}")
    return steps


def times_digit(a: int, digit: int) -> list[str]:
    """The steps of a · digit: carry and digit of each column."""
    steps, carry = [], 0
    for x in digits(a):
        carry += x * digit
        steps.append(f"{carry:02}")
        carry //= 10
    return steps


def long_division(a: int, b: int) -> list[str]:
    """The steps of a ÷ b: a digit of the quotient, and the remainder, from the highest digit on."""
    steps, rest = [], 0
    for x in reversed(digits(a)):
        quotient, rest = divmod(10 * rest + x, b)
        steps.append(f"{quotient}{rest:02}")
    return steps


def worked(a: int, operator: str, b: int) -> tuple[str, str, str]:
    """(question, steps, answer) as the table above shows them."""
    question = f"{a:02}{operator}{b:02}="
    if operator == "+":
        return question, ",".join(column_sum(a, b, count=DIGITS)), str(a + b)
    if operator == "-":
        sign = "-" if a < b else ""
        return question, sign + ",".join(column_difference(max(a, b), min(a, b))), str(a - b)
    if operator == "*":
        rows = [times_digit(a, digit) for digit in digits(b)]
        partial = [a * digit * 10**i for i, digit in enumerate(digits(b))]
        rows.append(column_sum(*partial, count=2 * DIGITS))
        return question, ";".join(map(",".join, rows)), str(a * b)
    return question, ",".join(long_division(a, b)), f"{a // b}r{a % b}"


BLOCK = max(len("".join(worked(99, o, 99))) for o in OPERATORS) + 1  # with > and END, less one

# %% [markdown]
# ## Problems
#
# Numbers of one and of two digits, equally often. Of each operator a tenth of all problems is held
# out.


# %%
class Problems:
    """Which problems are held out, and random ones that are not."""

    def __init__(self) -> None:
        self.numbers = 10**DIGITS
        self.is_held_out = torch.rand(4, self.numbers, self.numbers).numpy() < 0.1
        self.is_held_out[OPERATORS.index("/"), :, 0] = False  # nobody divides by zero

    def draw(self, count: int) -> list[tuple[int, str, int]]:
        which = torch.randint(4, (2 * count,)).numpy()
        lengths = torch.randint(DIGITS, (2 * count, 2)).numpy() + 1
        a, b = (torch.rand(2 * count, 2).numpy() * 10**lengths).astype(int).T
        b = np.where((which == OPERATORS.index("/")) & (b == 0), 1, b)
        known = np.flatnonzero(~self.is_held_out[which, a, b])[:count]
        return [(int(a[i]), OPERATORS[which[i]], int(b[i])) for i in known]

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, BLOCK), and what follows each, −1 in the question and after the end."""
        tokens = np.zeros((count, BLOCK + 1), np.int64)
        asked = np.zeros((count, BLOCK + 1), bool)
        for i, problem in enumerate(self.draw(count)):
            question, steps, answer = worked(*problem)
            text = f"{question}{steps}>{answer}{END}"
            tokens[i, : len(text)] = TOKENIZER.encode(text)
            asked[i, len(question) : len(text)] = True
        targets = np.where(asked, tokens, -1)[:, 1:].copy()
        return torch.from_numpy(tokens[:, :-1].copy()), torch.from_numpy(targets)


# %% [markdown]
# ## Training, the exam, and a prompt


# %%
def new_model() -> GPT:
    config = GPTConfig(TOKENIZER.vocab_size, block_size=BLOCK, n_layer=3, n_head=4, n_embd=64)
    return GPT(config)


def train(model: GPT, problems: Problems, max_iters: int) -> None:
    def batch_loss() -> Tensor:
        x, targets = problems.batch(128)
        logits, _ = model(x)  # (B, T, V)
        V = TOKENIZER.vocab_size
        return F.cross_entropy(logits.view(-1, V), targets.view(-1), ignore_index=-1)

    schedule = warmup_cosine(100, max_iters, final=0.02)
    last = common.steps(max_iters)
    for step in fit(model, batch_loss, max_iters, 3e-3, schedule, 0.1, 0.99, grad_clip=1.0):
        if step % 500 == 0 or step == last:
            print(f"step {step}: loss {batch_loss().item():.4f}", file=sys.stderr)


def answers(model: GPT, questions: list[str]) -> list[str]:
    """What the model writes after each question up to the end: steps, > and the answer."""
    tokens = np.stack([TOKENIZER.encode(q) for q in questions]).astype(np.int64)
    room = BLOCK + 1 - tokens.shape[1]
    written = model.generate(torch.from_numpy(tokens), room, temperature=0)
    texts = [TOKENIZER.decode(row) for row in written[:, tokens.shape[1] :].tolist()]
    return [text.split(END)[0] for text in texts]


def exam(model: GPT, problems: Problems, operator: str, length: int) -> tuple[int, int]:
    """How many answers are right, and of how many: held-out problems with a number of `length`
    digits, and none longer."""
    pairs = np.argwhere(problems.is_held_out[OPERATORS.index(operator)])
    longest = 1 + (pairs.max(axis=1) > 9)
    asked = [worked(int(a), operator, int(b)) for a, b in pairs[longest == length]]
    asked = asked[: common.steps(len(asked))]
    written = answers(model, [question for question, _, _ in asked]) if asked else []
    right = [
        text.split(">")[-1] == answer for text, (_, _, answer) in zip(written, asked, strict=True)
    ]
    return sum(right), len(right)


def solve(model: GPT, line: str) -> str:
    """The model's steps and answer for a line such as "7 + 58". UserError for anything else."""
    form = r"\s*(\d{1,2})\s*([-+*/])\s*(\d{1,2})\s*=?\s*"
    parts = re.fullmatch(form, line.translate(str.maketrans("×÷−", "*/-")))
    if parts is None:
        raise UserError(f"{line!r}: write two numbers up to 99 with + - * or / between them")
    a, operator, b = int(parts[1]), parts[2], int(parts[3])
    if operator == "/" and b == 0:
        raise UserError(f"{line!r}: nothing can be divided by 0")
    question, _, answer = worked(a, operator, b)
    (text,) = answers(model, [question])
    verdict = "right" if text.split(">")[-1] == answer else f"wrong: it is {answer}"
    return f"{question}{text}   ({verdict})"


@dataclass
class Calculator(Exercise):
    """Learn to calculate, take an exam, and answer questions."""

    max_iters: int = 3000  # training steps
    seed: int = 1337
    file: Path = Path("runs/calculator.safetensors")  # where the model is kept
    ask: bool = False  # do not train: take the model from the file, and read questions

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ask and not self.file.exists():
            raise UserError(f"there is no {self.file}: train first, without --ask")


def main() -> None:
    chosen = settings(Calculator)
    torch.manual_seed(chosen.seed)
    problems, model = Problems(), new_model()
    if chosen.ask:
        model.load_state_dict({k: Tensor(v) for k, v in load_file(chosen.file)[0].items()})
        for line in sys.stdin:
            try:
                print(solve(model, line.strip()), flush=True)
            except UserError as error:
                print(error, file=sys.stderr)
        return
    print(f"{model.num_parameters():,} parameters", file=sys.stderr)
    train(model, problems, chosen.max_iters)
    chosen.file.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), chosen.file, {})
    print("| | numbers up to 9 | up to 99 |\n|---|---|---|")
    for operator in OPERATORS:
        marks = [exam(model, problems, operator, length) for length in (1, 2)]
        print(f"| {operator} | " + " | ".join(f"{right} of {n}" for right, n in marks) + " |")
    print(f"\nTry it: python lessons/{Path(__file__).name} --ask")


if __name__ == "__main__":
    cli.run(main)
