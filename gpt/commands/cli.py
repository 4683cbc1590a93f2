"""Command lines: flags from the typed configuration; a mistake of the user's is one line.

Both scripts go through `run`, the one place where an error of the user's becomes an exit status.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import functools
import io
import itertools
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tqdm import tqdm

from gpt.checkpoint import Checkpoint
from gpt.config import PRESETS, RunConfig, SampleConfig, TrainConfig, UserError
from gpt.fast.precision import Precision
from gpt.record import read_config
from gpt.runs import signals
from gpt.runs.run import Run
from gpt.runs.saving import say
from gpt.weights import pretrained
from tensorlib import set_float32_matmul_precision
from tensorlib.devices import CuPyError, canonical, check, out_of_memory
from tensorlib.kernels import use_fused

Config = TypeVar("Config")
_MARKERS = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
_DASHES = ("-", "–", "—")  # the longer ones are from a page, or a word processor
_TYPES = tyro.constructors.ConstructorRegistry()


def run(
    main: Callable[[], None],
    smaller: str = "take a smaller --batch-size, --block-size or --n-embd",
) -> None:
    """Run a script's `main` and leave with its status: 0; 2 after a mistake of the user's, told in
    one line on standard error; 130 after Ctrl-C, 143 after SIGTERM.

    smaller: the remedy for lack of memory.
    """
    try:
        signals.handle()
        tqdm.set_lock(threading.RLock())  # for its own it starts a process, which signals reach
        with _output():
            main()
    except UserError as error:
        sys.exit(_complain(str(error)))
    except MemoryError as error:
        sys.exit(_complain(f"{out_of_memory(error)}; {smaller}"))
    except KeyboardInterrupt:
        signals.ignore()
        sys.exit(130)
    except signals.Terminated as stop:
        sys.exit(128 + stop.number)


@contextlib.contextmanager
def _output() -> Iterator[None]:
    """Inside, text on standard output is UTF-8, whatever the locale; at the end all of it is
    written. UserError if the disk is full."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: no file of ours may take its place
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
    lost = _flush(sys.stdout)
    _flush(sys.stderr)
    well = error is None or (isinstance(error, SystemExit) and not error.code)  # --help
    if well and lost and lost.errno != errno.EIO:  # which a terminal says that was closed
        error = lost
    reason = error.errno if isinstance(error, OSError) else None
    if reason == errno.ENOSPC:
        message = f"cannot write to standard output: {os.strerror(reason)}"
        raise UserError(message) from None
    if error is not None and reason != errno.EPIPE:  # who read us, `head` perhaps, has seen enough
        raise error


def _flush(stream: Any) -> OSError | None:
    """Write what waits. If that fails it goes nowhere, or Python tries again as it shuts down, and
    leaves with a status of its own, 120."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def train_config(arguments: Sequence[str] | None = None) -> TrainConfig:
    """The configuration of train.py's command line (by default this process's).

    Flags override defaults, and the defaults are those of the preset (of the model to start from,
    where there is one), of a configuration from a file, or of the run to resume.
    """
    asked = parse(RunConfig, arguments, partial=True)  # decides the defaults of all the flags
    if asked.resume and asked.init_from is not None:
        raise UserError("a run that is resumed has its weights already; leave --init-from out")
    if asked.resume and asked.overwrite:
        raise UserError("--resume goes on with a run, --overwrite replaces it: choose one")
    if asked.resume and asked.config is not None:
        raise UserError("--resume goes on as the run was set up; leave --config out")
    if asked.eval_only and asked.init_from is None:
        if asked.config is not None:
            raise UserError("--eval-only measures a run as it was set up: --out, not --config")
        measured = Run.measured(asked)
        default = dataclasses.replace(
            _recorded(measured, asked.preset), out=asked.out, resume=asked.resume
        )
        preset = default.preset
    elif asked.resume:
        begun = Run.resumable(asked.out)
        default = dataclasses.replace(_recorded(begun.last, asked.preset), out=begun.path)
        preset = default.preset
    elif asked.config is not None:
        default = read_config(asked.config)
        preset = "nanogpt-cpu" if default.preset == "auto" else default.preset
        if asked.preset not in ("auto", preset):
            raise UserError(f"{asked.config} has --preset {preset} already; give only one of them")
    else:
        preset = asked.preset
        if preset == "auto" and asked.init_from is not None:
            preset = "finetune"
        if preset == "auto":
            preset = "nanogpt-cpu" if find_device(asked.device) == "cpu" else "video"
        default = PRESETS[preset]
        if asked.init_from is not None:
            start = pretrained.load(asked.init_from)
            default = dataclasses.replace(
                default, model=start.config, tokenizer=start.tokenizer.name
            )
        elif preset == "finetune":
            raise UserError("--preset finetune is for weights to start from: --init-from PATH")
    return dataclasses.replace(parse(TrainConfig, arguments, default), preset=preset)


def _recorded(checkpoint: Path, preset: str) -> TrainConfig:
    """The configuration that a checkpoint was trained with. UserError if --preset is another."""
    config = Checkpoint.load(checkpoint).config
    if preset not in ("auto", config.preset):
        raise UserError(
            f"{checkpoint.parent} began with --preset {config.preset}, which cannot change now"
        )
    return config


def find_device(name: str) -> str:
    """The device, "cpu" or "cuda", that a --device means; UserError, with the remedy, for a GPU
    that cannot be used. "auto" says on standard error if there is a CuPy that does not work."""
    device = canonical("gpu" if name == "auto" else name)
    try:
        check(device)
    except RuntimeError as error:
        if name != "auto":
            raise UserError(f"--device {name}: {error}") from None
        if isinstance(error, CuPyError):
            _say_once(f"computing on the CPU: {error}")
        return "cpu"
    return device


@functools.cache
def _say_once(message: str) -> None:
    say(message, sys.stderr)


def prepare_device(config: RunConfig | SampleConfig) -> str:
    """The device of a configuration, with the kernels that it names switched on. UserError for what
    cannot be had."""
    device = find_device(config.device)
    if config.kernels == "fused" and device == "cpu":
        raise UserError("--kernels fused is for a GPU, this computes on the CPU: --kernels plain")
    if isinstance(config, TrainConfig) and (config.processes or 1) > 1 and device != "cpu":
        raise UserError("--processes is for a CPU, this computes on a GPU: leave it out")
    use_fused(config.kernels == "fused")
    if isinstance(config, RunConfig):
        dtype = Precision(config.dtype, device).dtype  # complains
        if isinstance(config, TrainConfig) and config.graph:
            _check_graph(config.kernels, dtype)
        set_float32_matmul_precision("high" if config.dtype == "tf32" else "highest")
    return device


def _check_graph(kernels: str, dtype: str) -> None:
    if kernels == "plain":
        raise UserError("--graph is for our own kernels on a GPU: --kernels fused, or --no-graph")
    # CuPy's products of float32 cannot be recorded; float16 looks at the gradients of each step
    if dtype in ("float32", "float16"):
        raise UserError(f"--graph is not for --dtype {dtype}: --dtype bfloat16 or tf32")


def parse(
    cls: type[Config],
    arguments: Sequence[str] | None = None,
    default: Config | None = None,
    partial: bool = False,
) -> Config:
    """A configuration from command-line flags, by default those of this process.

    partial: pass over flags that `cls` does not have, and over --help.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    given = [_name(argument) for argument in arguments if _is_flag(argument)]
    for name in _flags(cls, "Path"):  # of other flags the last one holds, as everywhere
        if given.count(name) > 1:
            raise UserError(f"--{name} is there twice, and takes one path")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config, unknown = tyro.cli(
                cls,
                prog=Path(sys.argv[0]).name,
                args=arguments,
                default=cls() if default is None else default,
                return_unknown_args=True,
                add_help=not partial,
                config=_MARKERS,
                registry=_TYPES,
            )
    except SystemExit as status:
        if not status.code:
            raise  # --help
        # tyro takes the value of an unknown flag for that of a positional argument
        for flag in () if partial else filter(_is_flag, arguments):
            if _name(flag) not in _flags(cls):
                raise UserError(_unknown(flag, cls)) from None
        raise UserError(_with_flags(_first_paragraph(complaint.getvalue()), cls)) from None
    if unknown and not partial:
        stray = unknown[0]
        is_flag = stray.startswith(_DASHES)
        raise UserError(_unknown(stray, cls) if is_flag else _stray(stray, arguments, cls))
    return config


@_TYPES.primitive_rule
def _path(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """A path is not empty: what a script makes of a variable that is not set must not mean this
    folder."""
    if info.type not in (Path, Path | None):
        return None

    def read(values: list[str]) -> Path:
        if not values[0]:
            raise ValueError("the path is empty; give one, or leave the flag out")
        return Path(values[0])

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def _first_paragraph(box: str) -> str:
    # tyro draws a box (of other characters where a terminal has no lines): title, what is wrong,
    # a rule, hints over several lines; we keep what is wrong
    rows = [line.strip(" │╭╮╰╯") for line in box.splitlines()[1:]]
    paragraphs = itertools.groupby(rows, key=lambda row: row.strip("─-") != "")
    text = " ".join(next(rows for is_text, rows in paragraphs if is_text))
    text = re.sub(r"^Error parsing (?:(--\S+:)|\S+:) ", r"\1 ", text).strip()
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is no whole number", text)
    text = re.sub(r"could not convert string to float: (.*)", r"\1 is no number", text)
    # of what may also be left out, and of lists
    text = re.sub(r"no type matching INT .* from \[(.*)\]\.", r"\1 is no whole number", text)
    text = re.sub(r"no type matching FLOAT .* from \[(.*)\]\.", r"\1 is no number", text)
    text = re.sub(r"Could not find valid parse for arguments: \[(.*)\]", r"\1 cannot be read", text)
    return text[:1].lower() + text[1:]


def _with_flags(message: str, cls: type) -> str:
    """What a configuration says of its fields, by their flags: its first word, which may be a
    field's name, and those with an underscore."""
    known = [flag(name) for name in _flags(cls)]

    def translated(word: re.Match) -> str:
        return flag(word[0]) if flag(word[0]) in known else word[0]

    return re.sub(r"^\w+|\b[a-z]+_\w+", translated, message)


def flag(field: str) -> str:
    """The flag of a configuration's field: "--max-iters" for max_iters."""
    return "--" + field.replace("_", "-")


def _is_flag(argument: str) -> bool:
    return re.fullmatch(r"--\w[\w-]*(=.*)?", argument, re.DOTALL) is not None


def _name(flag: str) -> str:
    name = flag.split("=")[0].lstrip("".join(_DASHES))
    return name.replace("_", "-").removeprefix("no-")


def _stray(value: str, arguments: list[str], cls: type) -> str:
    """What to say of a value that belongs to no flag: after which one it stands, which it wants."""
    places = (i for i, a in enumerate(arguments) if a == value or a.endswith(f"={value}"))
    flag = next((_name(a) for a in arguments[next(places, None) :: -1] if _is_flag(a)), "")
    meant = ""
    if issubclass(cls, SampleConfig):
        meant = "checkpoint" if os.path.exists(value) else "prompt"
    elif issubclass(cls, RunConfig):
        meant = "out" if os.path.isfile(os.path.join(value, "config.json")) else "data"
    told = f"unexpected argument {value!r}: "
    if meant and flag == meant:
        return told + f"--{meant} takes one value, in quotes if it has spaces"
    if meant and flag in _flags(cls, "bool") and not os.path.exists(value):
        return told + f"--{flag} takes no value, its opposite is --no-{flag}"
    perhaps = f", perhaps --{meant} {shlex.quote(value)}" if meant else ""
    return told + f"every value follows its --flag{perhaps} (see --help)"


def _unknown(flag: str, cls: type) -> str:
    name, flags = _name(flag), _flags(cls)  # all flags have the dashes: those prove nothing
    near = [flag for flag in flags if "".join(re.findall(r"\b\w", flag)) == name]  # lr
    near = near or difflib.get_close_matches(name, flags, n=1, cutoff=0.5)
    told = f"unknown flag {flag.split('=')[0]}"
    if near:
        return f"{told}; did you mean --{near[0]}?"
    paths = [f.name for f in dataclasses.fields(cls) if re.search("Path.*Positional", str(f.type))]
    hint = f"the {paths[0]} is given without a flag, " if paths else ""
    return f"{told}; {hint}see --help"


def _flags(cls: type, kind: str = "") -> list[str]:
    flags = []
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            flags += _flags(type(field.default), kind)
        elif kind in str(field.type) and not re.search("Positional|Suppress", str(field.type)):
            flags.append(field.name.replace("_", "-"))
    return flags


def _complain(message: str) -> int:
    say(f"error: {message}", sys.stderr)
    return 2
