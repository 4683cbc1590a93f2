"""A plain word, before a run begins, on whether the text and the model suit each other.

Rules of thumb from much larger models: a given amount of computing teaches most when a model reads
about 20 tokens per parameter (Hoffmann et al. 2022, arXiv:2203.15556), and a text that is read more
than about four times teaches less and less (Muennighoff et al. 2023, arXiv:2305.16264).
"""

from __future__ import annotations

import math

TOKENS_PER_PARAMETER = 20
PASSES = 4


def advice(tokens: int, parameters: int, read: int, dropout: float = 0.0) -> list[str]:
    """One line on the sizes, and one more where they do not suit each other.

    tokens: of the text, to learn from. read: in the whole run, repetitions included.
    """
    passes = read / tokens
    amount = f"the text {passes:.3g} times" if passes >= 1 else f"{passes:.2%} of the text"
    lines = [f"{tokens / parameters:.3g} tokens per parameter; the run reads {amount}"]
    if passes > PASSES and tokens < TOKENS_PER_PARAMETER * parameters:
        help = ["a longer text", "a smaller model", "--early-stop"]
        help += [] if dropout else ["--dropout 0.2"]
        lines.append(
            "the text is small for this model, which will come to know it by heart: what helps is "
            + ", ".join(help[:-1])
            + f" or {help[-1]}"
        )
    elif read > 2 * TOKENS_PER_PARAMETER * parameters:
        better = math.sqrt(parameters * read / TOKENS_PER_PARAMETER)  # as much computing in all
        lines.append(
            f"the model is small for so much text: one of about {_rounded(better)} parameters "
            "would learn more in the same time, with fewer steps"
        )
    return lines


def _rounded(number: float) -> str:
    digits = 1 - int(math.log10(number))
    return f"{round(number, digits):,.0f}"
