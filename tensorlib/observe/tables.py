"""Numbers and shapes in few characters, and lines that fit into a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

WIDTH = 100


def shape_text(shape: tuple[int, ...]) -> str:
    """12×64×128, or () for a single number."""
    return "×".join(map(str, shape)) or "()"


def digits(x: float) -> str:
    """A number to three digits or more, in about five characters; "-" for 0."""
    if not x:
        return "-"
    places = 3 if x < 10 else 2 if x < 100 else 1 if x < 1000 else 0
    return f"{x:.{places}f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: int) -> Iterator[str]:
    """Lines of at most WIDTH characters; column `right` and those after it stand on the right.

    What is too long loses its head: the widest of the columns before.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    excess = sum(widths) + len(widths) - 1 - WIDTH
    if excess > 0:
        widths[max(range(right), key=widths.__getitem__)] -= excess
    for row in (header, *rows):
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths)):
            cell = cell if len(cell) <= width else "…" + cell[len(cell) - width + 1 :]
            cells.append(cell.rjust(width) if i >= right else cell.ljust(width))
        yield " ".join(cells).rstrip()
