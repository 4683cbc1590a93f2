"""Readers on damaged input: each case is read, or refused with one line; nothing else may happen.

`python -m pytest tests/gpt/test_fuzz.py --fuzz 100000` draws more cases than the usual 800 for
each reader.
"""

import json
import pickle
import random
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from damage import bounded, damaged_bytes, damaged_record
from torch_gpt2 import TorchGPT2

from gpt.checkpoint import Checkpoint
from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.model import GPT
from gpt.record import read_config, to_record
from gpt.text import bpe
from gpt.tokenizer import BPETokenizer, CharTokenizer, tokenizer_from_record
from gpt.weights.pretrained import load
from gpt.weights.unpickle import UnreadableError, unpickle
from tensorlib.serialization import load_file, save_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory as Linux does")

MODEL = GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)
LETTERS = "".join(sorted("abcdefghijklmnopqrstuvwxyz .,!?\n"))  # 32


@pytest.fixture
def attack(request):
    """attack(read, damaged) calls read(damaged(dice)) in as many cases as wished. Each returns, or
    raises a UserError of one line."""

    def run(read, damaged):
        refusals = []
        for i in range(request.config.getoption("--fuzz")):
            case = damaged(random.Random(i))
            try:
                with bounded():
                    read(case)
            except UserError as error:
                refusals.append(str(error))
            except BaseException as error:
                raise AssertionError(f"case {i}: {case!r:.2000}") from error
        assert refusals
        for message in refusals:
            assert "\n" not in message
            assert len(message) < 1000

    return run


# ----------------------------------------------------------------------------------- our own files


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "good.safetensors"
    tensors = GPT(MODEL).state_dict()
    config, tokenizer = TrainConfig(model=MODEL), CharTokenizer("\n abc")
    Checkpoint(config, tokenizer, 3, 1.5, "0" * 64, tensors).save(path)
    return path


def test_a_damaged_checkpoint(checkpoint, attack, tmp_path):
    whole, bad = checkpoint.read_bytes(), tmp_path / "bad.safetensors"

    def read(content):
        bad.write_bytes(content)
        Checkpoint.load(bad).model()

    attack(read, lambda dice: damaged_bytes(whole, dice))


def test_a_checkpoint_whose_record_is_wrong_though_its_checksum_is_right(
    checkpoint, attack, tmp_path
):
    arrays, metadata = load_file(checkpoint)
    record, bad = json.loads(metadata["gpt"]), tmp_path / "bad.safetensors"

    def read(record):
        save_file(arrays, bad, {"gpt": json.dumps(record)})
        Checkpoint.load(bad).model()

    attack(read, lambda dice: damaged_record(record, dice))


def test_a_checkpoint_with_other_tensors(checkpoint, attack, tmp_path):
    arrays, metadata = load_file(checkpoint)
    bad = tmp_path / "bad.safetensors"

    def damaged(dice):
        changed = dict(arrays)
        for name in dice.sample(sorted(changed), dice.choice((1, 1, 2, 5))):
            array = changed.pop(name)
            shape = tuple(dice.choice((0, 1, 2, 4, 5, 20)) for _ in range(dice.randrange(4)))
            dtype = dice.choice((np.float32, np.float64, np.int64, np.uint8, np.bool_, np.float16))
            match dice.randrange(4):
                case 0:
                    changed[name] = np.zeros(shape, dtype)
                case 1:
                    changed[name] = array.astype(dtype)
                case 2:
                    changed[name + "_"] = array
        return changed

    def read(tensors):
        save_file(tensors, bad, {"gpt": metadata["gpt"]})
        Checkpoint.load(bad).model()
        load(bad).model()  # the way of sample.py and --init-from

    attack(read, damaged)


def test_a_damaged_configuration(attack, tmp_path):
    good, bad = to_record(TrainConfig()), tmp_path / "config.json"

    def read(record):
        bad.write_text(json.dumps(record))
        read_config(bad)

    attack(read, lambda dice: damaged_record(good, dice))


def test_a_configuration_file_with_damaged_bytes(attack, tmp_path):
    good, bad = json.dumps(to_record(TrainConfig())).encode(), tmp_path / "config.json"

    def read(content):
        bad.write_bytes(content)
        read_config(bad)

    attack(read, lambda dice: damaged_bytes(good, dice))


@pytest.mark.parametrize("kind", ["char", "bpe", "gpt2"])
def test_a_damaged_tokenizer(kind, attack):
    merged = bpe.train(bpe.count_pre_tokens(["ab abc bc cab abba the then than"]), 270)
    good = {
        "char": CharTokenizer(LETTERS),
        "bpe": BPETokenizer(merged),
        "gpt2": BPETokenizer(merged, "<|endoftext|>"),
    }[kind].to_record()

    def read(record):
        tokenizer = tokenizer_from_record(record)
        text = "the ab"
        assert tokenizer.decode(tokenizer.encode(text)) == text

    def damaged(dice):
        return damaged_record(good, dice)

    attack(read, damaged)


# -------------------------------------------------------------------------------- files of others


@pytest.fixture
def few_tokens(monkeypatch):
    """GPT-2's tokenizer is not needed here: 32 tokens will do."""

    class Tokenizer:
        name, vocab_size = "gpt2", 32

    monkeypatch.setattr("gpt.weights.pretrained.gpt2_tokenizer", lambda instead: Tokenizer())


def test_a_damaged_nanogpt_checkpoint(attack, tmp_path, few_tokens):
    path = tmp_path / "ckpt.pt"
    torch.save(TorchGPT2(V=32, n_layer=1, activation="gelu").nanogpt_checkpoint(), path)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"itos": dict(enumerate(LETTERS))}))
    whole = path.read_bytes()

    def read(content):
        path.write_bytes(content)
        load(path).model()

    attack(read, lambda dice: damaged_bytes(whole, dice))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_damaged_pickle(protocol, attack):
    saved = {"model": OrderedDict(a=1, b=[2.5, "x", None, (True, -7)]), "n": {1: "y" * 300}}
    good = pickle.dumps(saved, protocol)

    def read(program):
        try:
            unpickle(program)
        except UnreadableError as error:  # which the reader of the file makes a UserError
            raise UserError(str(error)) from None

    attack(read, lambda dice: damaged_bytes(good, dice))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_of_hugging_faces(name, attack, tmp_path, few_tokens):
    TorchGPT2(V=32, n_layer=1).save_hugging_face(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()

    def read(content):
        path.write_bytes(content)
        load(tmp_path / "model.safetensors").model()

    attack(read, lambda dice: damaged_bytes(whole, dice))
