"""A training configuration as a file keeps it: JSON values, and back, with every value looked at.

It is in config.json and in checkpoints, which may come from anyone.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import os
import reprlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gpt.config import PRESETS, GPTConfig, TrainConfig, UserError

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_LONGEST = 2**20  # bytes
_OF_ONE_RUN = ("out", "resume", "overwrite", "config")


def to_record(config: TrainConfig) -> dict[str, Any]:
    """A configuration as plain JSON values; not how the run was started (resume, overwrite)."""
    record = dataclasses.asdict(config) | {"resume": False, "overwrite": False}
    return {name: str(x) if isinstance(x, Path) else x for name, x in record.items()}


def from_record(record: Any) -> TrainConfig:
    """The configuration back from `to_record`'s JSON values.

    What the record does not have, it has from its preset: a person may write down a few settings,
    and an older version knew fewer. UserError, naming the setting, for all that cannot be.
    """
    preset = record.get("preset") if isinstance(record, dict) else None
    return _build(PRESETS.get(str(preset), TrainConfig()), record, "")


def alike(config: TrainConfig) -> TrainConfig:
    """The same settings, without those that concern one run alone: for another one."""
    kept = {f.name: f.default for f in dataclasses.fields(config) if f.name in _OF_ONE_RUN}
    return dataclasses.replace(config, **kept)  # type: ignore[arg-type]


def read_config(path: Path) -> TrainConfig:
    """The settings in a config.json, or in that of a run directory, for another run.

    UserError, naming the file, if it cannot be read, or names what is no setting.
    """
    path = path / "config.json" if path.is_dir() else path
    try:
        with open(path, "rb") as file:
            content = file.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise UserError("more than a configuration can be long")
        return alike(from_record(json.loads(content, object_pairs_hook=_without_twins)))
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twin = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise UserError(f"{twin!r:.50} is there twice")
    return values


def _build(default: Any, record: Any, prefix: str) -> Any:
    """A dataclass: `default` with the values of `record`; prefix: what stands before its names."""
    if not isinstance(record, dict):
        what = f"{prefix[:-1]} is" if prefix else "a configuration is"
        raise UserError(f"{what} {{name: value, ...}}, not {reprlib.repr(record)}")
    types = _types(type(default))
    values = {}
    for name, value in record.items():
        if name not in types:
            raise UserError(_unknown(prefix + name))
        if dataclasses.is_dataclass(types[name]):
            values[name] = _build(getattr(default, name), value, f"{name}.")
        else:
            values[name] = _value(types[name], value, prefix + name)
    return dataclasses.replace(default, **values)


_types: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)


def _value(kind: Any, value: Any, name: str) -> Any:
    """A value from JSON as the type `kind` of the field `name` has it."""
    shown = f"{name} is {reprlib.repr(value)}, but must be"
    choices = get_args(kind)
    if get_origin(kind) is Literal:
        if value not in choices:
            raise UserError(f"{shown} one of {', '.join(choices)}")
        return value
    if choices:  # such as `int | None`
        return None if value is None else _value(choices[0], value, name)
    if not _fits(kind, value):
        raise UserError(f"{shown} {_WORDS.get(kind, 'a path')}")
    return kind(value)


def _fits(kind: Any, value: Any) -> bool:
    if kind is int:
        return type(value) is int and abs(value) < 2**64
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # NaN is not
    if kind is Path:
        return type(value) is str and min(value, default=" ") >= " " and _encodable(value)
    return type(value) is kind


def _encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _unknown(name: str) -> str:
    known = {f.name: f"model.{f.name}" for f in dataclasses.fields(GPTConfig)}
    known |= {f.name: f.name for f in dataclasses.fields(TrainConfig)}
    near = difflib.get_close_matches(name.split(".")[-1], known, n=1)
    hint = f"did you mean {known[near[0]]}?" if near else "a newer version may know it"
    return f"there is no setting {reprlib.repr(name)}; {hint}"
