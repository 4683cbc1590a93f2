"""Tables in Markdown, and the file that keeps the latest one of each kind."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

from gpt.machine import cores

HEAD = """# Ours beside PyTorch

Written by `python -m benchmarks`. Every contender has a process of its own, they take turns in
short blocks, and only one works at a time. Times are medians over all steps. A ratio is ours over
theirs, so below 1 ours takes less: the median over the blocks, and in brackets the smallest and the
largest.
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        for line in lines
    )


def spread(values: Sequence[float]) -> str:
    """The median, the smallest and the largest: 0.73 (0.70–0.75)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def machine() -> str:
    """Date, command, versions, processor: what a figure means nothing without."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return (
        f"{date.today()}, `python -m {shlex.join(['benchmarks', *sys.argv[1:]])}`; "
        f"{processor()}, {cores()} cores; Python {platform.python_version()}, "
        f"NumPy {np.__version__} ({blas['name']} {blas['version']}), "
        f"PyTorch {importlib.metadata.version('torch')}"
    )


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows the name
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write(path: Path, titles: Sequence[str], title: str, text: str) -> None:
    """Put a section into the file, in place of the one of its title, in the order of `titles`."""
    old = path.read_text(encoding="utf-8").split("\n## ")[1:] if path.exists() else []
    sections = dict(section.split("\n", 1) for section in old)
    sections[title] = f"\n{text}\n"
    parts = [f"## {name}\n{sections[name]}" for name in titles if name in sections]
    path.write_text("\n".join([HEAD, *parts]), encoding="utf-8")
