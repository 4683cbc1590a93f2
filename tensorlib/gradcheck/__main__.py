"""Check every gradient, and print a table: `python -m tensorlib.gradcheck`, and `--help`.

Two witnesses: finite differences in float64, and PyTorch; where that is not installed, the values
that `--record` kept of it in `pytorch.npz`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import tensorlib

from .. import devices
from ..kernels import use_fused
from . import table
from .case import Case, Results, Training, short
from .cases import SECTIONS

PURPOSE = "Check every gradient of tensorlib and of the GPT, and print a table."
RECORDED = Path(__file__).with_name("pytorch.npz")
# A central difference with a step of 1e-6 is right to about 1e-9; float32 itself to 1e-7.
TOLERANCE = {
    ("float64", "differences"): 1e-7,
    ("float64", "PyTorch"): 1e-10,
    ("float32", "differences"): 1e-4,
    ("float32", "PyTorch"): 1e-4,
}


class UsageError(Exception):
    """The user's: one line that says what is wrong and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if every gradient is right, 1 if one is not, 2 after a user's mistake."""
    try:
        options = parse(arguments)
        if options.record:
            return record()
        return check(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m tensorlib.gradcheck", description=PURPOSE)
    add = parser.add_argument
    text = "a name, such as softmax or Linear; may be repeated (default: all)"
    add("--op", action="append", metavar="NAME", help=text)
    text = "where to compute (default: cpu)"
    add("--device", choices=["cpu", "gpu", "cuda"], default="cpu", help=text)
    text = "what to compute in; the witnesses always take float64 (default: float64)"
    add("--dtype", choices=["float64", "float32"], default="float64", help=text)
    text = "on a GPU: array operations, or our own kernels, in float32 (default: plain)"
    add("--kernels", choices=["plain", "fused"], default="plain", help=text)
    add("--markdown", action="store_true", help="print the table in Markdown")
    text = f"keep PyTorch's values in {RECORDED.name}, for machines without it"
    add("--record", action="store_true", help=text)
    return parser.parse_args(arguments)


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line, and names the nearest flag."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            if not unknown[0].startswith("-"):
                raise UsageError(f"unknown {unknown[0]!r}; did you mean --op {unknown[0]}?")
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise UsageError(f"unknown {unknown[0]!r}{_nearest(unknown[0].split('=')[0], flags)}")
        return options

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "; see --help"


# ------------------------------------------------------------------------------------- checking


def check(options: argparse.Namespace) -> int:
    """Check the chosen cases and print the table; 1 if one fails."""
    cases = chosen(all_cases(), options.op)
    try:
        devices.check(device := devices.canonical(options.device))
    except RuntimeError as error:
        raise UsageError(f"--device {options.device}: {error}") from None
    if options.kernels == "fused":
        if device == "cpu" or options.dtype != "float32":
            raise UsageError("--kernels fused needs --device gpu --dtype float32")
        use_fused()
    where = f"{device}, by fused kernels" if options.kernels == "fused" else device
    pytorch = PyTorch()
    start = time.perf_counter()
    rows: list[table.Row] = []
    for i, (section, case) in enumerate(cases):
        if sys.stderr.isatty():
            print(f"\r{i + 1} of {len(cases)}", end="\r", file=sys.stderr, flush=True)
        rows += examine(section, case, pytorch, options.dtype, device)
    seconds = time.perf_counter() - start
    print("\n".join(table.markdown(rows) if options.markdown else table.text(rows)))
    failed = list(dict.fromkeys(row.case for row in rows if not row.passed))
    differences, theirs = (_allowed(options.dtype, w) for w in ("differences", "PyTorch"))
    print(
        f"\n{len(cases)} case{'s' * (len(cases) != 1)}, {len(failed)} failed, in {seconds:.1f} s. "
        f"Ours: {options.dtype} on {where}; expected: finite differences in float64, and "
        f"{pytorch.title}.\nEach line shows its worst element: d x[1, 2] is the gradient of "
        f"x[1, 2]. Allowed is {differences} for differences\n(in training {Training.slack} times "
        f"that), {theirs} for PyTorch."
    )
    for label in failed:
        print(f"FAIL  {label}")
    return 1 if failed else 0


def _allowed(dtype: str, witness: str) -> str:
    return f"{TOLERANCE[dtype, witness]:g} · (1 + |expected|)"


def all_cases() -> list[tuple[str, Case | Training]]:
    """Every case with its section; the GPT's where that package is installed."""
    sections = dict(SECTIONS)
    try:  # tensorlib never needs gpt: here it is one more thing to check
        sections |= importlib.import_module("gpt.gradcheck").SECTIONS
    except ModuleNotFoundError as error:
        print(f"without the GPT: there is no module {error.name}", file=sys.stderr)
    return [(section, case) for section, cases in sections.items() for case in cases]


def chosen(
    cases: list[tuple[str, Case | Training]], names: list[str] | None
) -> list[tuple[str, Case | Training]]:
    """The cases of the names asked for: softmax is also F.softmax, nn.Softmax is Softmax."""
    known = {alias for _, case in cases for alias in _aliases(case)}
    for name in names or ():
        if name not in known:
            raise UsageError(f"there is no {name!r} to check{_nearest(name, sorted(known))}")
    return [(s, c) for s, c in cases if not names or _aliases(c) & set(names)]


def _aliases(case: Case | Training) -> set[str]:
    return {case.name, case.name.rpartition(".")[2], short(case.name)}


def examine(
    section: str, case: Case | Training, pytorch: PyTorch, dtype: str, device: str
) -> Iterator[table.Row]:
    """What both witnesses say; an exception is a failure, too."""
    label, ours = case.label, None
    for witness in ("differences", "PyTorch"):
        try:
            if witness == "PyTorch" and case.theirs is None:
                yield table.Row(section, label, witness, "draws other random numbers", share=0)
                continue
            ours = ours or case.results(tensorlib, dtype, device)
            tolerance = TOLERANCE[dtype, witness]
            if witness == "differences":
                expected, tolerance = case.slopes(device), tolerance * case.slack
            else:
                expected = pytorch.results(case)
            yield table.compare(section, label, witness, ours, expected, tolerance)
        except Exception as error:  # whatever the operation under test raises
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            yield table.Row(section, label, witness, text)


class PyTorch:
    """What PyTorch computes: now, or where it is not installed, what was recorded of it."""

    def __init__(self) -> None:
        try:
            self.torch: Any = importlib.import_module("torch")
            self.title = f"PyTorch {self.torch.__version__}"
            return
        except ModuleNotFoundError:
            self.torch = None
        with np.load(RECORDED) as file:
            self.title = f"values recorded from PyTorch {file['version']}, which is not installed"
            self.recorded = _unpack(file["names"], file["values"])

    def results(self, case: Case | Training) -> Results:
        if self.torch is not None:
            return case.results(self.torch)
        if case.label not in self.recorded:
            raise LookupError("nothing recorded: run with --record where PyTorch is installed")
        return self.recorded[case.label]


def record() -> int:
    """Write the results of every case in PyTorch, in float64, to a file for machines without it."""
    pytorch = PyTorch()
    if pytorch.torch is None:
        raise UsageError("--record needs PyTorch: pip install torch")
    names, values = [], []
    for _, case in all_cases():
        for name, array in pytorch.results(case).items() if case.theirs else ():
            names.append("\n".join([case.label, name, *map(str, array.shape)]))
            values.append(array.ravel().astype(np.float64))
    version = pytorch.torch.__version__.partition("+")[0]
    np.savez_compressed(RECORDED, version=version, names=names, values=np.concatenate(values))
    print(f"{sum(map(len, values)):,} numbers of PyTorch {version} in {RECORDED}")
    return 0


def _unpack(names: np.ndarray, values: np.ndarray) -> dict[str, Results]:
    recorded: dict[str, Results] = {}
    for line in names.tolist():
        label, name, *sizes = line.split("\n")
        shape = tuple(map(int, sizes))
        n = int(np.prod(shape))
        recorded.setdefault(label, {})[name], values = values[:n].reshape(shape), values[n:]
    return recorded


if __name__ == "__main__":
    try:
        try:
            sys.exit(main())
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to flush
        if not isinstance(error, BrokenPipeError):  # of which the reader, `head`, has seen enough
            print(f"error: cannot write to standard output: {error.strerror}", file=sys.stderr)
            sys.exit(2)
