"""A model that was trained before: by us, by nanoGPT, or GPT-2 as Hugging Face stores it.

`load` finds out which, and gives all of them our names and shapes. What differs:

  Hugging Face   names may begin with `transformer.`; the matrices of the blocks lie transposed
                 (in, out); buffers of the causal mask among the weights; GELU by tanh
  nanoGPT        names may begin with `_orig_mod.`; no biases, if it was told so; GELU by erf;
                 50,304 rows of token embeddings where GPT-2's tokenizer has 50,257 tokens
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tensorlib
from gpt.checkpoint import Checkpoint, runs_in
from gpt.config import Activation, GPTConfig, UserError
from gpt.model import GPT
from gpt.tokenizer import (
    Tokenizer,
    gpt2_tokenizer,
    gpt2_tokenizer_from_files,
    tokenizer_from_record,
)
from gpt.weights.stored import Stored, read_json, read_safetensors
from gpt.weights.torch_file import TorchFile, unpickle_file
from gpt.weights.unpickle import TorchTensor
from tensorlib.nn.utils import skip_init

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_BUFFERS = (".attn.bias", ".attn.masked_bias")  # the causal mask, and minus infinity
OUR_TOKENIZER = "gpt_tokenizer.json"  # in a folder of Hugging Face's that `export.py` wrote
_GPT2_TOKENS = 50_257
ACTIVATIONS: dict[str, Activation] = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
_SETTINGS = {  # of Hugging Face's GPT-2, with the only value for which ours computes the same
    "model_type": "gpt2", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
}  # fmt: skip


@dataclass(frozen=True)
class Pretrained:
    """A trained model, whose weights are still in their file.

    origin: where it comes from, in words.
    tensors: by our names, of the shapes that `config` says, or with more rows of tokens.
    """

    config: GPTConfig
    tokenizer: Tokenizer
    origin: str
    tensors: Mapping[str, Stored] = field(repr=False)

    def model(self) -> GPT:
        """The model, with its weights."""
        model = skip_init(GPT, self.config)
        self.restore(model)
        return model

    def restore(self, model: GPT) -> None:
        """Copy the weights into `model`, one tensor at a time.

        Its block_size may be another: of fewer positions the first are taken, and if it has more,
        the rest stay as they are.
        """
        with tensorlib.no_grad():
            for name, p in model.state_dict().items():
                if name == "lm_head.weight" and self.config.tied_head:
                    continue  # it is wte.weight
                value = self.tensors[name].read()
                n = min(len(p), len(value))
                p[:n].copy_(tensorlib.from_numpy(value[:n]))


def load(path: Path) -> Pretrained:
    """The model at `path`: a run directory (its best) or a checkpoint of ours; a model.safetensors
    of Hugging Face's, its index, or the folder with it; a nanoGPT ckpt.pt or the folder with it.

    UserError if there is none, if it is damaged, or has a part that our model lacks.
    """
    if not path.exists() and path.name.startswith("gpt2"):  # as nanoGPT's --init_from takes it
        raise UserError(
            f"there is no file or folder {path}; GPT-2's weights are at huggingface.co/"
            "openai-community: give the path of the folder that you download"
        )
    if path.is_dir():
        names = ("best.safetensors", "model.safetensors.index.json", "model.safetensors", "ckpt.pt")
        found = [path / name for name in names if (path / name).exists()]
        if not found:
            expected = f"there is no model in {path}: none of {', '.join(names)}"
            raise UserError(runs_in(path) or expected)
        path = found[0]
    if path.name.endswith(".index.json"):
        return _hugging_face(path)
    if path.suffix == ".pt" or _begins_as_torch(path):
        return _nanogpt(path)
    return _ours(path) if "gpt" in read_safetensors(path)[1] else _hugging_face(path)


def _begins_as_torch(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"\x80\x02\x8a\x0a")  # since 2020, and before
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of `GPT(config)`, a tied head left out."""
    V, T, C = config.vocab_size, config.block_size, config.n_embd
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, C), "wpe.weight": (T, C)}

    def layer(name: str, *shape: int, bias: bool = config.bias) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    for i in range(config.n_layer):
        layer(f"h.{i}.ln_1", C)
        layer(f"h.{i}.attn.c_attn", 3 * C, C, bias=config.qkv_bias)
        layer(f"h.{i}.attn.c_proj", C, C)
        layer(f"h.{i}.ln_2", C)
        layer(f"h.{i}.mlp.c_fc", 4 * C, C)
        layer(f"h.{i}.mlp.c_proj", C, 4 * C)
    layer("ln_f", C)
    if not config.tied_head:
        layer("lm_head", V, C)
    return shapes


def _pretrained(
    path: Path, config: GPTConfig, tokenizer: Tokenizer, origin: str, tensors: dict[str, Stored]
) -> Pretrained:
    """UserError unless `tensors` are those of `config`.

    Rows of tokens that the tokenizer does not have (nanoGPT rounds 50,257 up to 50,304) are left
    out: no text holds such a token, a logit depends on its own row only, so those of all others
    stay as they are, and what means nothing cannot be drawn.
    """
    if config.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"{path} has {config.vocab_size:,} tokens, but its tokenizer ({tokenizer.name}) "
            f"{tokenizer.vocab_size:,}: they do not belong together"
        )
    rows = {"wte.weight": config.vocab_size, "lm_head.weight": config.vocab_size}
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    expected = parameter_shapes(config)
    if config.tied_head:
        tensors = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    for name in sorted(expected.keys() ^ tensors.keys()):
        has, lacks = ("our GPT", "it") if name in expected else ("it", "our GPT")
        raise UserError(
            f"{path} is another model than our GPT: {has} has {name!r:.80}, {lacks} has not"
        )
    for name, shape in expected.items():
        found = tensors[name].shape
        if found != (rows.get(name, shape[0]), *shape[1:]):
            raise UserError(f"{path} is damaged: {name} has the shape {found}, but needs {shape}")
    return Pretrained(config, tokenizer, origin, tensors)


def _config(path: Path, tensors: Mapping[str, Stored], **settings: Any) -> GPTConfig:
    """The configuration with the sizes of the tensors. UserError if there is none."""
    try:
        (vocab_size, n_embd), (block_size, _) = (
            tensors[f"{name}.weight"].shape for name in ("wte", "wpe")
        )
    except (KeyError, ValueError):
        raise UserError(f"{path} holds no GPT: it has no wte.weight and wpe.weight") from None
    n_layer = sum(name.endswith(".ln_1.weight") for name in tensors)
    if settings["n_head"] is None:
        settings["n_head"] = max(n_embd // 64, 1)  # as in every GPT-2
    if type(settings["n_head"]) is not int or type(settings.get("dropout", 0)) not in (int, float):
        raise UserError(f"{path} is damaged: its n_head or dropout is no number")
    try:
        return GPTConfig(vocab_size, block_size, n_layer, n_embd=n_embd, **settings)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


# ------------------------------------------------------------------------------------- three kinds


def _ours(path: Path) -> Pretrained:
    checkpoint = Checkpoint.load(path)
    tensors = {
        name: Stored(array.shape, functools.partial(np.asarray, array))
        for name, array in checkpoint.tensors.items()
        if not name.startswith(("optimizer.", "scaler.", "guard."))
    }
    origin = f"{path}, of step {checkpoint.step:,}"
    return _pretrained(path, checkpoint.config.model, checkpoint.tokenizer, origin, tensors)


def _hugging_face(path: Path) -> Pretrained:
    folder = path.parent
    settings = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    for name, needed in _SETTINGS.items():
        if settings.get(name, needed) != needed:
            raise UserError(f"{folder} is no GPT-2 of ours: its {name} is {settings[name]!r:.80}")
    activation = settings.get("activation_function", "gelu_new")
    if activation not in [*ACTIVATIONS]:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"{folder}: its activation is {activation!r:.80}, which is none of {known}")
    tensors = {}
    for name, tensor in _shards(path).items():
        name = name.removeprefix("transformer.")
        if not name.endswith(_BUFFERS):
            tensors[name] = tensor.T if name.endswith(TRANSPOSED) else tensor
    tied = settings.get("tie_word_embeddings", True) or "lm_head.weight" not in tensors
    config = _config(
        path, tensors, n_head=settings.get("n_head"), activation=ACTIVATIONS[activation],
        qkv_bias=True, tied_head=tied, scaled_init=True,
    )  # fmt: skip
    record = folder / OUR_TOKENIZER
    tokenizer = (
        tokenizer_from_record(read_json(record)) if record.exists() else _gpt2_tokenizer(folder)
    )
    if not tied:  # our head has a bias: of zeros it makes no difference
        zeros = np.zeros(tokenizer.vocab_size, np.float32)
        tensors["lm_head.bias"] = Stored(zeros.shape, lambda: zeros)
    return _pretrained(path, config, tokenizer, f"{path} (GPT-2)", tensors)


def _gpt2_tokenizer(folder: Path) -> Tokenizer:
    """GPT-2's, by its files in the folder of a model, or else by tiktoken."""
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return gpt2_tokenizer_from_files(folder)
    return gpt2_tokenizer(f"copy GPT-2's vocab.json and merges.txt into {folder}")


def _shards(path: Path) -> dict[str, Stored]:
    """The tensors of a file, or of all files that an index names."""
    if path.suffix != ".json":
        return read_safetensors(path)[0]
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in names.values()
    ):
        raise UserError(f"{path} is damaged: it should say which file has which tensor")
    tensors: dict[str, Stored] = {}
    for name in sorted(set(names.values())):
        tensors |= read_safetensors(path.with_name(name))[0]
    return tensors


def _nanogpt(path: Path) -> Pretrained:
    file = TorchFile(path)
    match file.content:
        case {"model": dict(state), "model_args": dict(settings)}:
            pass
        case _:
            raise UserError(f"{path} is no checkpoint of nanoGPT: no model and model_args in it")
    found = {}
    for name, tensor in state.items():
        name = str(name).removeprefix("_orig_mod.").removeprefix("transformer.")
        if not isinstance(tensor, TorchTensor):
            raise UserError(f"{path} is no checkpoint of nanoGPT: its {name[:80]!r} is no tensor")
        if not name.endswith(_BUFFERS):
            found[name] = tensor
    tensors = file.stored(found)
    bias = "ln_f.bias" in tensors
    config = _config(
        path, tensors, n_head=settings.get("n_head"), dropout=settings.get("dropout", 0.0),
        activation="gelu", bias=bias, qkv_bias=bias, tied_head=True, scaled_init=True,
    )  # fmt: skip
    tokenizer = _nanogpt_tokenizer(path, config.vocab_size)
    return _pretrained(path, config, tokenizer, f"{path} (nanoGPT)", tensors)


def _nanogpt_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    meta = path.with_name("meta.pkl")
    if meta.exists():
        return _char_tokenizer(meta)
    if vocab_size >= _GPT2_TOKENS:
        return _gpt2_tokenizer(path.parent)
    raise UserError(
        f"{path} has {vocab_size} tokens, but not what they mean: copy meta.pkl beside it, "
        "from nanoGPT's data/<dataset>/"
    )


def _char_tokenizer(path: Path) -> Tokenizer:
    """Of nanoGPT's meta.pkl: `itos` there has the character of each number."""
    match unpickle_file(path):
        case {"itos": dict(itos)}:
            chars = [itos.get(i) for i in range(len(itos))]
            if all(isinstance(char, str) and len(char) == 1 for char in chars):
                with contextlib.suppress(UserError):
                    record = {"kind": "char", "chars": "".join(map(str, chars))}
                    return tokenizer_from_record(record)
    raise UserError(f"{path} is no meta.pkl of characters in their order, as nanoGPT writes it")
