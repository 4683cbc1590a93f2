"""Folders for Hugging Face: names, shapes, logits, and what GPT-2 cannot express."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch_gpt2 import TorchGPT2

import tensorlib
from gpt import GPT, GPTConfig
from gpt.checkpoint import Checkpoint
from gpt.config import TrainConfig, UserError
from gpt.export import merges, write
from gpt.text import bpe
from gpt.tokenizer import BPETokenizer, CharTokenizer
from gpt.weights.pretrained import load

SHAPE = GPTConfig(32, 16, 2, 3, 12)
CHARS = CharTokenizer("".join(map(chr, range(97, 129))))
X = torch.randint(0, 32, (3, 16), generator=torch.Generator().manual_seed(1))
VARIANTS = {
    "GPT-2's": {"activation": "gelu_tanh", "qkv_bias": True, "tied_head": True},
    "nanoGPT's": {"activation": "gelu", "bias": False, "tied_head": True},
    "no bias of query, key, value": {"tied_head": True},
    "a head of its own": {"bias": False, "activation": "gelu"},
}


def saved(path, tokenizer=CHARS, **changes):
    """(model, checkpoint's path) of a model with weights that are larger than a fresh one's."""
    config = dataclasses.replace(SHAPE, vocab_size=tokenizer.vocab_size, **changes)
    model = GPT(config)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.array[...] = rng.normal(0, 0.3, p.shape)
    tensors = dict(model.state_dict())
    train = TrainConfig(model=config, batch_size=1)
    Checkpoint(train, tokenizer, 7, None, "", tensors).save(path)
    return model, path


def logits(model):
    with tensorlib.no_grad():
        return model(tensorlib.from_numpy(X.numpy()))[0].numpy()


def from_files(folder):
    """The model of a folder, by the test's own GPT-2: names and shapes must be exactly those."""
    config = json.loads((folder / "config.json").read_text())
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    model = TorchGPT2(
        config["vocab_size"], config["n_positions"], config["n_layer"], config["n_head"],
        config["n_embd"], activation=config["activation_function"],
        tied=config["tie_word_embeddings"],
    )  # fmt: skip
    shapes = {name: p.shape for name, p in model.hugging_face_tensors().items()}
    assert {name: p.shape for name, p in tensors.items()} == shapes
    state = {}
    for name, p in tensors.items():
        state[name] = p.T if p.dim() == 2 and ".h." in name else p
    if model.tied:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_logits_of_the_files(variant, tmp_path):
    model, path = saved(tmp_path / "a", **VARIANTS[variant])
    write(load(path), tmp_path)
    assert np.abs(from_files(tmp_path)(X).numpy() - logits(model)).max() <= 1e-5
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    again = load(tmp_path)  # our own reader gives the model back, alphabet included
    assert np.abs(logits(again.model()) - logits(model)).max() <= 1e-6
    assert again.tokenizer.to_record() == CHARS.to_record()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_loads_the_folder(variant, tmp_path):
    """The real thing, where it is installed."""
    transformers = pytest.importorskip("transformers")
    model, path = saved(tmp_path / "a", **VARIANTS[variant])
    write(load(path), tmp_path)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found = theirs.eval()(X).logits.numpy()
    assert np.abs(found - logits(model)).max() <= 1e-5


def test_what_gpt2_cannot_express_is_named(tmp_path):
    _, path = saved(tmp_path / "a")
    with pytest.raises(UserError, match="head has a bias") as error:
        write(load(path), tmp_path)
    assert "\n" not in str(error.value)


def test_a_head_whose_bias_is_zero(tmp_path):
    model, path = saved(tmp_path / "a")
    checkpoint = Checkpoint.load(path)
    zeros = checkpoint.tensors | {"lm_head.bias": np.zeros(32, np.float32)}
    dataclasses.replace(checkpoint, tensors=zeros).save(path)
    model.lm_head.bias.array[...] = 0
    write(load(path), tmp_path)
    assert np.abs(from_files(tmp_path)(X).numpy() - logits(model)).max() <= 1e-5


TEXT = "the quick brown fox jumps over the lazy dog, and the dog doesn't mind: é 🦊\n" * 3


@pytest.mark.parametrize("special", [None, "<|endoftext|>"])
def test_a_tokenizer_by_byte_pairs_travels(special, tmp_path):
    merged = bpe.train(bpe.count_pre_tokens([TEXT]), 300)
    tokenizer = BPETokenizer(merged, special)
    _, path = saved(tmp_path / "a", tokenizer, **VARIANTS["GPT-2's"])
    write(load(path), tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(tokenizer.vocab_size))
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 300 - 256
    assert all("".join(line.split(" ")) in vocabulary for line in lines[1:])
    assert load(tmp_path).tokenizer.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("special", [None, "<|endoftext|>"])
def test_transformers_tokenizer_agrees(special, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = BPETokenizer(bpe.train(bpe.count_pre_tokens([TEXT]), 300), special)
    _, path = saved(tmp_path / "a", tokenizer, **VARIANTS["GPT-2's"])
    write(load(path), tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(TEXT) == tokenizer.encode(TEXT).tolist()
    assert theirs.decode(theirs.encode(TEXT)) == TEXT


def test_the_pairs_that_were_merged():
    assert merges(["a", "b", "c", "bc", "abc", "aa", "aabc"]) == [
        ("b", "c"), ("a", "bc"), ("a", "a"), ("a", "abc"),
    ]  # fmt: skip
