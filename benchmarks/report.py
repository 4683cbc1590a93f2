"""Tables in Markdown, and the file that keeps the latest one of each kind."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.contest import Times, ratios
from gpt.fast.machine import cores
from tensorlib.devices import library

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


def comparison(
    where: list[str], times: dict[str, Times], names: dict[str, str], number: Callable[[float], str]
) -> Iterator[list[str]]:
    """A row for ours and one for each of theirs: `where`, who, the time as `number` writes it, and
    the ratio."""
    ours = times["ours"]
    for who, name in {"ours": "ours", **names}.items():
        ratio = "1" if who == "ours" else ratio_of(ours, times[who])
        yield [*where, name, median(times[who], number), times[who].failure or ratio]


def ratio_of(ours: Times, theirs: Times) -> str:
    """Ours over theirs; or why there is no such ratio."""
    failure = theirs.failure or (ours.failure and "nothing to compare with")
    return failure or spread(ratios(ours, theirs))


def median(times: Times, number: Callable[[float], str]) -> str:
    """The median as `number` writes it."""
    return "—" if times.failure else number(times.median)


def milliseconds(seconds: float) -> str:
    """Three digits, or all before the point."""
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def machine(device: str) -> str:
    """Date, command, versions, processor: what a figure means nothing without."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return (
        f"{date.today()}, `python -m {shlex.join(['benchmarks', *sys.argv[1:]])}`; "
        f"{_gpu() if device == 'gpu' else ''}{processor()}, {cores()} cores; "
        f"Python {platform.python_version()}, "
        f"NumPy {np.__version__} ({blas['name']} {blas['version']}), "
        f"PyTorch {importlib.metadata.version('torch')}"
    )


def _gpu() -> str:
    cupy = library("cuda")
    runtime = cupy.cuda.runtime
    name, version = runtime.getDeviceProperties(0)["name"].decode(), runtime.runtimeGetVersion()
    return f"{name}, CUDA {version // 1000}.{version % 1000 // 10}, CuPy {cupy.__version__}; "


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
