"""docs/see-inside.md is run, block by block, and what it shows is what comes out: all but times,
which differ from run to run, and line numbers.

`PYTHONPATH=. python tests/test_see_inside.py` writes the outputs anew.
"""

import contextlib
import io
import linecache
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "see-inside.md"
BLOCK = re.compile(
    r"```python\n(?P<code>.*?)```\n(?:\n```(?:text|mermaid)\n(?P<output>.*?)```)?", re.S
)
VARYING = {"fwd", "bwd", "time", "GFLOP/s", "of_peak"}


def run(code, names):
    """What a block prints; its line numbers are those of a file step.py."""
    linecache.cache["step.py"] = (len(code), None, code.splitlines(keepends=True), "step.py")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "step.py", "exec"), names)
    return printed.getvalue()


def comparable(text):
    """The cells of each line, without those that may differ: times, and the numbers of lines."""
    varying = set()
    for line in text.splitlines():
        cells = re.sub(r"\.py:\d+", ".py:…", line).split()
        if "operation" in cells[:2] or "module" in cells[:1]:  # the header of a table
            varying = {len(cells) - i for i, cell in enumerate(cells) if cell in VARYING}
        elif re.fullmatch(r"\d+ operations,.*", line):
            cells = re.sub(r"[\d.]+ ms of [\d.]+", "", line).split()
        elif varying and len(cells) >= max(varying):
            cells = [c for i, c in enumerate(cells) if len(cells) - i not in varying]
        yield cells


def same(cell, other):
    """Whether two cells agree; norms, as 1.2e-03, up to the order in which numbers are added."""
    norms = [re.fullmatch(r"\d\.\de[+-]\d\d", text) for text in (cell, other)]
    return float(cell) == pytest.approx(float(other), rel=0.15) if all(norms) else cell == other


@pytest.mark.cpu("the page shows what it prints")
def test_the_page_shows_what_comes_out():
    names, shown = {}, 0
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        printed = run(block["code"], names)
        expected = block["output"] or ""
        assert max(map(len, expected.splitlines()), default=0) <= 100
        ours, theirs = sorted_rows(printed), sorted_rows(expected)
        assert len(ours) == len(theirs)
        for row, expected_row in zip(ours, theirs, strict=True):
            assert len(row) == len(expected_row), (row, expected_row)
            assert all(map(same, row, expected_row)), (row, expected_row)
        shown += bool(expected)
    assert shown >= 6


def sorted_rows(text):
    """Tables are sorted by time: so compare them in another order."""
    return sorted(comparable(text))


def write_anew():
    names = {}

    def renewed(block):
        printed, text = run(block["code"], names), block[0]
        return (
            text.replace(f"\n{block['output']}```", f"\n{printed}```") if block["output"] else text
        )

    PAGE.write_text(BLOCK.sub(renewed, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_anew()
