"""Readers on damaged input: each case is read, or refused with one line; nothing else may happen.

`python -m pytest tests/gpt/test_fuzz.py --fuzz 100000` draws more cases than the usual number.
"""

import json
import random
import sys

import numpy as np
import pytest
from fuzzing import bounded, damaged_bytes, damaged_record

from gpt.checkpoint import Checkpoint
from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.model import GPT
from gpt.tokenizer import CharTokenizer
from tensorlib.serialization import load_file, save_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory as Linux does")

MODEL = GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)


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


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "good.safetensors"
    tensors = GPT(MODEL).state_dict()
    Checkpoint(TrainConfig(model=MODEL), CharTokenizer("\n abc"), 3, 1.5, "0" * 64, tensors).save(
        path
    )
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

    attack(read, damaged)
