"""A checkpoint: one safetensors file that holds all it takes to sample from a model, or to go on.

Tensors by the names of the state dict; in the last checkpoint also the optimizer's moments, as
`optimizer.exp_avg.<name>`. In the metadata, as JSON: configuration, tokenizer, position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorlib
from gpt.config import TrainConfig, UserError, from_record, to_record
from gpt.model import GPT
from gpt.tokenizer import Tokenizer, tokenizer_from_record
from tensorlib.nn.utils import parameters_to_vector
from tensorlib.serialization import CHECKSUM, load_file, save_file

FORMAT = 1
_MOMENTS = ("exp_avg", "exp_avg_sq")


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
        """Write the file; UserError if that cannot be done."""
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
            raise UserError(f"cannot write {path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint; UserError if it is not there, not whole, or of another format."""
        try:
            arrays, metadata = load_file(path)
        except OSError as error:
            raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"{error}; take another checkpoint, or train anew") from None
        if "gpt" not in metadata or CHECKSUM not in metadata:
            raise UserError(f"{path} is a safetensors file, but no checkpoint of train.py")
        record = json.loads(metadata["gpt"])
        if record["format"] != FORMAT:
            raise UserError(
                f"{path} is of checkpoint format {record['format']}, this version reads {FORMAT}; "
                "use the version that wrote it, or train anew"
            )
        return cls(
            from_record(record["config"]),
            tokenizer_from_record(record["tokenizer"]),
            record["step"],
            record["best_loss"],
            record["text_sha256"],
            arrays,
        )

    def model(self) -> GPT:
        """The model, with its weights."""
        model = GPT(self.config.model)
        self.restore(model)
        return model

    def restore(self, model: GPT, optimizer: Any = None) -> None:
        """Put the weights into `model` and, where given, the moments into `optimizer`."""
        tensors = {k: tensorlib.from_numpy(x).to(model.device) for k, x in self.tensors.items()}
        model.load_state_dict({name: tensors[name] for name in model.state_dict()})
        if optimizer is None or not any(name.startswith("optimizer.") for name in tensors):
            return  # before the first step there are no moments
        step = int(tensors["optimizer.step"]) if "optimizer.step" in tensors else self.step
        state = optimizer.state_dict()
        for i, named in enumerate(model.parameter_groups()):
            state["state"][i] = {"step": step} | {
                m: parameters_to_vector(tensors[f"optimizer.{m}.{name}"] for name in named)
                for m in _MOMENTS
            }
        optimizer.load_state_dict(state)


def optimizer_tensors(model: GPT, optimizer: Any) -> dict[str, Any]:
    """AdamW's two moments of every parameter, by the parameter's name.

    The optimizer has the parameters as two vectors, of matrices and of the others (`gpt.parallel`).
    """
    tensors: dict[str, Any] = {}
    for i, moments in optimizer.state_dict()["state"].items():
        named = model.parameter_groups()[i]
        sizes = [p.numel() for p in named.values()]
        for m in _MOMENTS:
            for (name, p), part in zip(named.items(), moments[m].split(sizes)):
                tensors[f"optimizer.{m}.{name}"] = part.view(p.shape)
    return tensors
