"""What is compared, and how it is shown: one line per case and witness, with the worst element."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .case import Results
from .numerical import place


@dataclass(frozen=True)
class Row:
    """What one witness says of one case, and where it is worst: the element that takes the largest
    `share` of the difference allowed it, atol + rtol · |expected|."""

    section: str
    case: str
    witness: str  # "differences" or "PyTorch"
    where: str  # "d x[1, 2]"; or, where no number can be shown, why
    share: float = np.inf
    numbers: tuple[float, float, float] | None = None  # ours, expected, allowed

    @property
    def passed(self) -> bool:
        return self.share <= 1

    def cells(self) -> list[str]:
        verdict = "ok" if self.passed else "FAIL"
        if self.numbers is None:
            verdict = "—" if self.passed else "FAIL"
            return [self.case, self.witness, "", "", self.where, "", "", "", verdict]
        ours, expected, allowed = self.numbers
        error = abs(ours - expected)
        relative = 0.0 if error == 0 else error / abs(expected) if expected else np.inf
        errors = [_error(error), _error(relative)]
        values = [f"{ours:.8g}", f"{expected:.8g}", _error(allowed)]
        return [self.case, self.witness, *errors, self.where, *values, verdict]


HEADER = ["case", "against", "abs err", "rel err", "worst at", "ours", "expected", "allowed", ""]
RIGHT = (2, 3, 5, 6, 7)  # columns of numbers


def compare(
    section: str, case: str, witness: str, ours: Results, expected: Results, tolerance: float
) -> Row:
    """The worst element of all that `expected` names, with atol = rtol = `tolerance`."""
    worst = None
    for name, theirs in expected.items():
        mine = ours.get(name, np.zeros(0))
        if mine.shape != theirs.shape:
            text = f"{name} has shape {mine.shape}, expected {theirs.shape}"
            return Row(section, case, witness, text)
        with np.errstate(all="ignore"):
            a, b = mine.astype(np.float64), theirs.astype(np.float64)
            allowed = tolerance * (1 + np.abs(b))
            share = np.where(a == b, 0, np.abs(a - b) / allowed)
        share = np.where(np.isnan(share), np.inf, share)
        if share.size:
            i = np.unravel_index(share.argmax(), share.shape)
            if worst is None or share[i] > worst.share:
                where = name + place(i)
                worst = Row(section, case, witness, where, share[i], (a[i], b[i], allowed[i]))
    return worst or Row(section, case, witness, "nothing to compare")


def _error(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


# ---------------------------------------------------------------------------------------- printing


def text(rows: list[Row]) -> Iterable[str]:
    """The lines of a table for each section in the terminal; a case has its name in one line, its
    arguments in the next."""
    for section, group in itertools.groupby(rows, key=lambda row: row.section):
        table, case = [[section, *HEADER[1:]]], None
        for row in group:
            name, arguments = _split(row.case)
            table.append(["  " + arguments if row.case == case else name, *row.cells()[1:]])
            case = row.case
        shown = [cells for cells in table if cells[2]]  # a message may be longer than its column
        widths = [max(map(len, column)) for column in zip(*shown)]
        widths[0] = max(len(cells[0]) for cells in table)
        header, *lines = (_line(cells, widths) for cells in table)
        yield from ("", header, "─" * (sum(widths) + 2 * len(widths) - 2), *lines)


def _split(label: str) -> tuple[str, str]:
    """The name of a case and its arguments in brackets."""
    name, _, arguments = label.partition("(")
    return name, f"({arguments}" if arguments else ""


def _line(cells: list[str], widths: list[int]) -> str:
    return "  ".join(
        cell.rjust(width) if i in RIGHT else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths))
    ).rstrip()


def markdown(rows: Iterable[Row]) -> Iterable[str]:
    """The same as a table in Markdown."""
    yield f"| {' | '.join([*HEADER[:-1], 'verdict'])} |"
    yield f"|{'|'.join('--:' if i in RIGHT else '---' for i in range(len(HEADER)))}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '∣') for cell in row.cells())} |"
