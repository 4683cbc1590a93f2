"""A model as Hugging Face stores GPT-2: `python -m gpt.export runs/1` writes runs/1/huggingface.

`transformers.GPT2LMHeadModel.from_pretrained` loads that folder, and so does `pretrained.load`.
What GPT-2 always has and our model may lack is written out: biases that are not there are zeros.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from gpt.commands import cli
from gpt.config import ExportConfig, GPTConfig, UserError
from gpt.runs.run import Run
from gpt.tokenizer import BPETokenizer, Tokenizer
from gpt.weights.pretrained import (
    ACTIVATIONS,
    OUR_TOKENIZER,
    TRANSPOSED,
    Pretrained,
    load,
    parameter_shapes,
)


def main() -> None:
    config = cli.parse(ExportConfig)
    path = config.checkpoint or Run.newest("best.safetensors").path
    folder = path if path.is_dir() else path.parent
    out = config.out or folder / "huggingface"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; remove it, or choose another --out")
    model = load(path)
    beside = out.with_name(f".{out.name}.unfinished")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        write(model, beside)
        beside.replace(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(out)


def write(model: Pretrained, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files into `folder`.

    UserError if GPT-2 lacks something that the model has.
    """
    save_file(gpt2_tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in _tokenizer_files(model).items():
        (folder / name).write_text(content, encoding="utf-8")
    settings = gpt2_settings(model.config, _end_of_text(model.tokenizer))
    (folder / "config.json").write_text(_json(settings), encoding="utf-8")


def gpt2_tensors(model: Pretrained) -> dict[str, np.ndarray]:
    """The weights by GPT-2's names, in its shapes. UserError for a head with a bias."""
    config = model.config
    arrays = {}
    for name, shape in parameter_shapes(
        dataclasses.replace(config, bias=True, qkv_bias=True)
    ).items():
        array = np.zeros(shape, np.float32)
        if name in model.tensors:
            array = model.tensors[name].read()[: shape[0]]
        if name == "lm_head.bias":
            if array.any():
                raise UserError(
                    f"{model.origin} cannot be a GPT-2 of Hugging Face's: its head has a bias; "
                    "train with --tied-head, or with --no-bias"
                )
            continue
        prefix = "" if name.startswith("lm_head.") else "transformer."
        array = array.T if name.endswith(TRANSPOSED) else array
        arrays[prefix + name] = np.ascontiguousarray(array)
    return arrays


def gpt2_settings(config: GPTConfig, end_of_text: int | None) -> dict[str, Any]:
    """The contents of config.json."""
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "activation_function": names[config.activation],
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "embd_pdrop": 0.0,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


# ---------------------------------------------------------------------------------- the tokenizer


def _tokenizer_files(model: Pretrained) -> dict[str, str]:
    """GPT-2's files for a tokenizer by byte pairs, and our own for one that is not GPT-2's: of
    characters and bytes Hugging Face's GPT2Tokenizer can make nothing."""
    tokenizer = model.tokenizer
    record = tokenizer.to_record()
    files = {OUR_TOKENIZER: _json(record)}
    if not isinstance(tokenizer, BPETokenizer):
        return files
    shown = record["merged"]  # each byte of a token as a visible character, as in GPT-2's files
    special = [tokenizer.special] if tokenizer.special else []
    vocabulary = {token: i for i, token in enumerate([*shown, *special])}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges(shown))]
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": model.config.block_size,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), tokenizer.special),
    }
    return ({} if tokenizer.special else files) | {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(lines) + "\n",
        "tokenizer_config.json": _json(settings),
    }


def merges(merged: Sequence[str]) -> list[tuple[str, str]]:
    """The pair that made each token, for a vocabulary in the order of the merges: when a token was
    made, the merges before it had brought what it spells to two tokens."""
    ranks = {token: i for i, token in enumerate(merged)}
    pairs = []
    for token in merged:
        parts = list(token)
        while len(parts) > 2:
            joined = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
            i = joined.index(min(joined))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            pairs.append((parts[0], parts[1]))
    return pairs


def _end_of_text(tokenizer: Tokenizer) -> int | None:
    special = isinstance(tokenizer, BPETokenizer) and tokenizer.special
    return tokenizer.vocab_size - 1 if special else None


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2) + "\n"


if __name__ == "__main__":
    cli.run(main)
