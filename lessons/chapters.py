"""The lessons as files: `NN_name.py`, in cells that `# %%` begins.

A lesson is a script like any other (`python lessons/07_averaging.py` prints its results); `run`
also prints the text between the code.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt.config import UserError

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Cell:
    """kind: "markdown" or "code"; line: where its source begins in the file, from 0."""

    kind: str
    source: str
    line: int


def lessons() -> list[Path]:
    """The files of the video's chapters, in the order of their numbers."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def exercises() -> list[Path]:
    """The files of the video's exercises, such as `ex1_name.py`."""
    return sorted(HERE.glob("ex[0-9]*_*.py"))


def find(name: str) -> Path:
    """The file of a lesson, "7", or of an exercise, "ex1". UserError if there is none."""
    for path in [*lessons(), *exercises()]:
        if path.stem.split("_")[0] == (name.zfill(2) if name.isdecimal() else name):
            return path
    last, more = int(lessons()[-1].name[:2]), [path.stem.split("_")[0] for path in exercises()]
    raise UserError(f"there is no lesson {name!r}: take 0 to {last}, {', '.join(more)}, or table")


def cells(path: Path) -> Iterator[Cell]:
    """The cells of a lesson; a markdown cell's text without its comment signs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# %%")]
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        body = lines[start + 1 : end]
        kind = "markdown" if "[markdown]" in lines[start] else "code"
        if kind == "markdown":
            body = [re.sub(r"^# ?", "", line) for line in body]
        yield Cell(kind, "\n".join(body).strip("\n"), start + 1)


def title(path: Path) -> str:
    """A lesson's first line: number, name, time, as in "7 · Averaging the past · 42:13"."""
    return next(cells(path)).source.splitlines()[0].lstrip("# ")


def listing() -> str:
    """Number, the video's timestamp and name of each lesson and exercise."""
    lines = []
    for path in [*lessons(), *exercises()]:
        _, name, *time = title(path).split(" · ")
        number = path.stem.split("_")[0].lstrip("0") or "0"
        lines.append(f"{number:>4}  {time[0] if time else 'exercise':>10}  {name}")
    return "\n".join(
        [
            *lines,
            "",
            "The middle column is the video's time (quoted from its chapters and transcript).",
            "python -m lessons 7 runs one, python -m lessons table trains the ladder of models.",
        ]
    )


def run(path: Path) -> None:
    """Run a lesson in this process: its text, and what its code prints, in turn."""
    namespace = {"__name__": "__main__", "__file__": str(path)}
    for cell in cells(path):
        if cell.kind == "markdown":
            print("\n" + _wrapped(cell.source) + "\n", flush=True)
        else:  # the empty lines make a traceback name the right one
            source = "\n" * cell.line + cell.source
            exec(compile(source, str(path), "exec", dont_inherit=True), namespace)


def _wrapped(markdown: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)  # links as their text
    paragraphs = plain.split("\n\n")
    return "\n\n".join(
        p if re.match(r"#|\||[*-] |    ", p) else textwrap.fill(p, 80, break_on_hyphens=False)
        for p in paragraphs
    )
