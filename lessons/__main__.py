"""`python -m lessons`: the chapters; `python -m lessons 7`: one; `--help` for the rest."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gpt.commands import cli
from gpt.config import Device, UserError
from gpt.fast import machine
from lessons import chapters, common, exercise, ladder


def _default(text: str) -> object:
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


@dataclass(frozen=True)
class Lessons:
    """The video, chapter by chapter. Without arguments: the list of lessons."""

    what: tyro.conf.Positional[str] = ""
    """A lesson's number; or ex1 and so on, an exercise, with its own flags after it; or table, the
    ladder of models; or notebooks, to write them anew."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """A few steps of everything: whether it runs, not whether it learns."""
    data: Annotated[Path | None, _default("tiny Shakespeare, downloaded once")] = None
    """UTF-8 text to learn instead of the video's."""
    device: Device = "auto"
    """Where table trains."""
    rungs: Annotated[tuple[str, ...], _default("all")] = ()
    """Which models table trains."""
    seeds: tuple[int, ...] = (1337, 1338, 1339)
    """With which seeds table trains each."""
    steps: Annotated[int | None, _default("the video's")] = None
    """For how many steps table trains."""

    def __post_init__(self) -> None:
        """ValueError for values with which nothing can be trained."""
        if not self.seeds:
            raise UserError("seeds is empty, but table needs at least one")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps is {self.steps}, but must be at least 1")


def main() -> None:
    if sys.argv[1:2] and sys.argv[1].startswith("ex"):
        path = chapters.find(sys.argv[1])
        sys.argv[:] = [str(path), *sys.argv[2:]]  # an exercise has flags of its own
        exercise.check_flags(path)
        chapters.run(path)
        return
    config = cli.parse(Lessons)
    common.options.quick, common.options.data = config.quick, config.data
    if config.what == "":
        print(chapters.listing())
    elif config.what == "table":
        table(config)
    elif config.what == "notebooks":
        try:
            from lessons import export
        except ImportError as error:
            message = f'{error.name} is missing: pip install -e ".[lessons]"'
            raise UserError(message) from None
        export.write(chapters.lessons())
    else:
        path = chapters.find(config.what)
        if config.data is not None:
            common.corpus()  # complains before the lesson's text
        print(f"(Its code, to be read beside this: lessons/{path.name})")
        if config.quick:
            print("(--quick: after so few steps the figures are not those of the text.)")
        chapters.run(path)


def table(config: Lessons) -> None:
    device = cli.find_device(config.device)
    chosen = [ladder.find(name) for name in config.rungs] or ladder.rungs(device)
    if device == "cpu":
        machine.prepare(threads=machine.cores())
    for line in ladder.table(chosen, config.seeds, device, config.steps):
        print(line, flush=True)


if __name__ == "__main__":
    cli.run(main)
