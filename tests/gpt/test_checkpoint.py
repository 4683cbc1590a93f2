"""Checkpoints: what is in them, what comes back, what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch

from gpt.checkpoint import FORMAT, Checkpoint
from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.data import Corpus
from gpt.runs.run import Run
from gpt.training import Trainer
from tensorlib.serialization import load_file, save_file

SHAPE = GPTConfig(26, 8, n_layer=2, n_head=2, n_embd=8, dropout=0.1)


@pytest.fixture
def trainer(tmp_path, text):
    """A trainer after three steps."""
    corpus = Corpus.from_text("text", text, 8)
    shape = dataclasses.replace(SHAPE, vocab_size=corpus.tokenizer.vocab_size)
    config = TrainConfig(out=tmp_path / "run", batch_size=4, eval_iters=2, model=shape)
    trainer = Trainer(config, corpus, Run.create(config))
    for _ in range(3):
        trainer.update()
    return trainer


@pytest.fixture
def path(trainer, tmp_path):
    path = tmp_path / "a.safetensors"
    trainer.checkpoint(with_moments=True).save(path)
    return path


def test_the_model_comes_back(trainer, path):
    checkpoint = Checkpoint.load(path)
    assert checkpoint.config == trainer.config
    assert checkpoint.tokenizer.chars == trainer.corpus.tokenizer.chars
    assert (checkpoint.step, checkpoint.best_loss) == (3, None)
    model = checkpoint.model()
    assert not set(model.state_dict()) ^ set(trainer.model.state_dict())
    for name, p in model.state_dict().items():
        np.testing.assert_array_equal(p.numpy(), trainer.model.state_dict()[name].numpy())


def test_moments_are_in_the_last_not_in_the_best(trainer, path):
    names = set(trainer.model.state_dict())
    moments = {f"optimizer.{m}.{name}" for m in ("exp_avg", "exp_avg_sq") for name in names}
    guard = {"guard.norms", "guard.state"}
    assert set(safetensors.torch.load_file(path)) == names | moments | guard
    trainer.evaluate()
    assert set(safetensors.torch.load_file(trainer.run.best)) == names
    assert set(safetensors.torch.load_file(trainer.run.last)) == names | moments | guard


def test_the_record_is_readable_json(path):
    record = json.loads(load_file(path)[1]["gpt"])
    assert record["format"] == FORMAT
    assert record["config"]["model"]["n_embd"] == 8
    assert record["tokenizer"]["chars"][:2] == "\n "


def test_it_goes_on_as_if_nothing_had_happened(trainer, path, tmp_path):
    config = dataclasses.replace(trainer.config, out=tmp_path / "other")
    other = Trainer(config, trainer.corpus, Run.create(config))
    other.resume(Checkpoint.load(path))
    for _ in range(3):
        assert other.update().item() == trainer.update().item()
    for name, p in other.checkpoint(with_moments=True).tensors.items():
        theirs = trainer.checkpoint(with_moments=True).tensors[name]
        np.testing.assert_array_equal(p.numpy(), theirs.numpy(), name)


def test_a_tied_head_stays_tied(tmp_path, text):
    corpus = Corpus.from_text("text", text, 8)
    shape = dataclasses.replace(SHAPE, vocab_size=corpus.tokenizer.vocab_size, tied_head=True)
    config = TrainConfig(out=tmp_path / "run", batch_size=4, model=shape)
    trainer = Trainer(config, corpus, Run.create(config))
    trainer.update()
    trainer.checkpoint(with_moments=True).save(tmp_path / "a")
    other = Trainer(config, corpus, Run.create(config))
    other.resume(Checkpoint.load(tmp_path / "a"))
    assert other.model.lm_head.weight is other.model.wte.weight
    assert other.update().item() == trainer.update().item()


# ---------------------------------------------------------------------------------------- refusals


def refusal(path):
    with pytest.raises(UserError) as error:
        Checkpoint.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_such_file(tmp_path):
    assert "No such file" in refusal(tmp_path / "a")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = refusal(path)
    assert "truncated" in message or "empty" in message


def test_a_flipped_bit_anywhere(path):
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for i in [*range(0, header, 7), *range(8 + header, len(whole), 997), len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[i] ^= 1 << i % 8
        path.write_bytes(flipped)
        refusal(path)


def test_another_file(tmp_path):
    (tmp_path / "a").write_text("This is a text, and no safetensors file at all.")
    assert "not a safetensors file" in refusal(tmp_path / "a")
    save_file({"w": np.zeros(3)}, tmp_path / "b", {})
    assert "no checkpoint" in refusal(tmp_path / "b")


def test_another_format_version(path, monkeypatch):
    monkeypatch.setattr("gpt.checkpoint.FORMAT", FORMAT + 1)
    message = refusal(path)
    assert f"format {FORMAT}," in message
    assert f"reads {FORMAT + 1}" in message


def test_a_place_that_cannot_be_written(trainer, tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        trainer.checkpoint().save(tmp_path / "missing" / "a")
