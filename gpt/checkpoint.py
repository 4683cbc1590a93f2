"""A checkpoint: one safetensors file that holds all it takes to sample from a model, or to go on.

Tensors by the names of the state dict; in the last checkpoint also the optimizer's moments, as
`optimizer.exp_avg.<name>`. In the metadata, as JSON: configuration, tokenizer, position.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorlib
from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.model import GPT
from gpt.record import from_record, to_record
from gpt.tokenizer import Tokenizer, tokenizer_from_record
from tensorlib.nn.utils import parameters_to_vector
from tensorlib.serialization import CHECKSUM, load_file, save_file

FORMAT = 2
_MOMENTS = ("exp_avg", "exp_avg_sq")
# what comes of a record that is not what it should be
_UNSOUND = (ValueError, TypeError, LookupError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stood after `step` steps.

    best_loss: the lowest validation loss so far, None before the first evaluation.
    text_sha256: of the text it learns.
    tensors: the model's state dict, and perhaps the optimizer's moments.
    """

    config: TrainConfig
    tokenizer: Tokenizer
    step: int
    best_loss: float | None
    text_sha256: str
    tensors: Mapping[str, Any] = field(repr=False)

    def save(self, path: Path) -> None:
        """Write the file; UserError if that cannot be done: what was there before stays."""
        record = {
            "format": FORMAT,
            "config": to_record(self.config),
            "tokenizer": self.tokenizer.to_record(),
            "step": self.step,
            "best_loss": self.best_loss,
            "text_sha256": self.text_sha256,
        }
        try:
            save_file(self.tensors, path, {"gpt": json.dumps(record)})
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint; UserError if it is not there, not whole, or of another format. If the
        run's other checkpoint is whole, the message says what that one is good for."""
        try:
            return cls._load(path)
        except UserError as error:
            raise UserError(f"{error}; {_instead_of(path)}") from None

    @classmethod
    def _load(cls, path: Path) -> Checkpoint:
        try:
            arrays, metadata = load_file(path)
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"cannot read the checkpoint {path}: {why}") from None
        except ValueError as error:
            raise UserError(str(error)) from None
        if "gpt" not in metadata or CHECKSUM not in metadata:
            raise UserError(f"{path} is a safetensors file, but no checkpoint of train.py")
        try:
            record = json.loads(metadata["gpt"])
            version = _number(record, "format", int)
            if version == FORMAT:
                return cls._from_record(record, arrays)
        except _UNSOUND as error:
            raise UserError(f"{path} is no sound checkpoint: {_line(error)}") from None
        age = "a newer" if version > FORMAT else "an older"
        raise UserError(
            f"{path} is of checkpoint format {version}, from {age} version of this program; "
            f"this one reads {FORMAT}"
        )

    @classmethod
    def _from_record(cls, record: dict[str, Any], arrays: Mapping[str, Any]) -> Checkpoint:
        """One of _UNSOUND if the record is not what `save` writes."""
        config = from_record(record["config"])
        tokenizer = tokenizer_from_record(record["tokenizer"])
        if tokenizer.vocab_size > config.model.vocab_size:
            raise ValueError("its tokenizer has more tokens than its model")
        if _fewest_numbers(config.model) > sum(x.size for x in arrays.values()):
            raise ValueError("its tensors are too few for its model")
        best_loss = None if record["best_loss"] is None else _number(record, "best_loss", float)
        step, sha256 = _number(record, "step", int), record["text_sha256"]
        if not isinstance(sha256, str):
            raise ValueError("text_sha256 is no text")
        return cls(config, tokenizer, step, best_loss, sha256, arrays)

    def model(self) -> GPT:
        """The model, with its weights."""
        model = GPT(self.config.model)
        self.restore(model)
        return model

    def restore(self, model: GPT, optimizer: Any = None) -> None:
        """Put the weights into `model` and, where given, the moments into `optimizer`. UserError if
        these are not the model's."""
        try:
            self._restore(model, optimizer)
        except _UNSOUND as error:
            raise UserError(f"the checkpoint does not fit its own model: {_line(error)}") from None

    def _restore(self, model: GPT, optimizer: Any) -> None:
        tensors = {k: tensorlib.from_numpy(x).to(model.device) for k, x in self.tensors.items()}
        model.load_state_dict({name: tensors[name] for name in model.state_dict()})
        if optimizer is None or not any(name.startswith("optimizer.") for name in tensors):
            return  # before the first step there are no moments
        step = int(tensors["optimizer.step"]) if "optimizer.step" in tensors else self.step
        state = optimizer.state_dict()
        for i, named in enumerate(model.parameter_groups()):
            state["state"][i] = {"step": step} | {
                m: parameters_to_vector(
                    tensors[f"optimizer.{m}.{name}"].view(p.shape) for name, p in named.items()
                )
                for m in _MOMENTS
            }
        optimizer.load_state_dict(state)


def optimizer_tensors(model: GPT, optimizer: Any) -> dict[str, Any]:
    """AdamW's two moments of every parameter, by the parameter's name.

    The optimizer has the parameters as two vectors, of matrices and of the others, see `Team`.
    """
    tensors: dict[str, Any] = {}
    for i, moments in optimizer.state_dict()["state"].items():
        named = model.parameter_groups()[i]
        sizes = [p.numel() for p in named.values()]
        for m in _MOMENTS:
            for (name, p), part in zip(named.items(), moments[m].split(sizes)):
                tensors[f"optimizer.{m}.{name}"] = part.view(p.shape)
    return tensors


def _number(record: Any, name: str, kind: Any) -> Any:
    """A number from a record: an integer from 0 to 2⁶³, or a finite float."""
    value: Any = record[name]
    if type(value) is not kind or not (0 <= value < 2**63 if kind is int else math.isfinite(value)):
        raise ValueError(f"{name} is {str(value)[:40]!r}")
    return value


def _line(error: Exception) -> str:
    said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return " ".join(said.split())[:300]


def _fewest_numbers(config: GPTConfig) -> int:
    """How many numbers such a model has at least: asked before it is built, since a file may claim
    a model of any size."""
    C = config.n_embd
    return (config.vocab_size + config.block_size) * C + 12 * config.n_layer * C * C


def _instead_of(path: Path) -> str:
    """What to do without the checkpoint at `path`."""
    others = {
        "last.safetensors": ("best.safetensors", "train.py --init-from"),
        "best.safetensors": ("last.safetensors", "sample.py --checkpoint"),
    }
    if path.name in others:
        name, command = others[path.name]
        other = path.with_name(name)
        with contextlib.suppress(UserError):
            step = Checkpoint._load(other).step
            return f"{other} of step {step} is whole: {command} {other}"
    return runs_in(path.parent) or "take another checkpoint, or train anew"


def runs_in(folder: Path) -> str:
    """What to say of a folder of runs, where one of them is wanted: which are there, the newest
    first. Empty if there is none."""
    files = sorted(folder.glob("*/best.safetensors"), key=lambda file: -file.stat().st_mtime)
    runs = [str(file.parent) for file in files[:5]]
    if not runs:
        return ""
    runs[0] += " (the newest)"
    more = ", …" if len(files) > len(runs) else ""
    return f"{folder} is a folder of runs, take one of them: {', '.join(runs)}{more}"
