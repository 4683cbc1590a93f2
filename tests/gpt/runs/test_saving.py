"""Saving where it can go wrong, signals that wait, and records that are not what they should be."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from gpt.checkpoint import FORMAT, Checkpoint
from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.data import Corpus
from gpt.record import from_record, to_record
from gpt.runs import saving, signals
from gpt.runs.run import Run
from gpt.training import Trainer
from tensorlib.serialization import load_file, save_file

posix = pytest.mark.skipif(os.name != "posix", reason="no such signals, no /dev/full")


@pytest.fixture
def trainer(tmp_path, text):
    corpus = Corpus.from_text("text", text, 8)
    shape = GPTConfig(corpus.tokenizer.vocab_size, 8, n_layer=1, n_head=2, n_embd=8)
    config = TrainConfig(
        out=tmp_path / "run", batch_size=4, eval_iters=2, eval_interval=5, max_iters=7, model=shape
    )
    return Trainer(config, corpus, Run.create(config))


def test_long_after_the_last_save_it_saves_between_evaluations(trainer, monkeypatch):
    saved, save = [], Checkpoint.save
    monkeypatch.setattr(saving, "MINUTES", 0)

    def recorded(checkpoint, path):
        saved.append((path.stem, checkpoint.step))
        save(checkpoint, path)

    monkeypatch.setattr(Checkpoint, "save", recorded)
    trainer.train()
    assert [step for name, step in saved if name == "last"] == [0, 1, 2, 3, 4, 5, 5, 6, 7, 7]


@posix
def test_a_device_that_is_full(trainer, capsys):
    trainer.evaluate()
    kept = trainer.run.last.read_bytes()
    trainer.update()
    for name in ("best", "last"):  # what is written beside them goes to a disk without room
        (trainer.run.path / f".{name}.safetensors.unfinished").symlink_to("/dev/full")
    trainer.best_loss = 9.0
    trainer.evaluate()
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2].split(";")[0] for line in told] == ["No space left on device"] * 2
    assert trainer.run.last.read_bytes() == kept
    assert trainer.best_loss == 9.0  # that of the file: the next evaluation tries again
    trainer.update()
    trainer.evaluate()
    assert capsys.readouterr().err == ""
    assert Checkpoint.load(trainer.run.best).step == Checkpoint.load(trainer.run.last).step == 2
    assert Checkpoint.load(trainer.run.best).best_loss == trainer.best_loss


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_wait(name):
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    done = []

    def interrupted():
        with signals.uninterrupted():
            with signals.uninterrupted():
                signal.raise_signal(getattr(signal, name))
                done.append(1)
            done.append(2)

    try:
        signals.handle()
        with pytest.raises(signals.STOP):
            interrupted()
        with pytest.raises(signals.STOP), signals.kept_from_children():
            signal.raise_signal(getattr(signal, name))  # which waits for the end of the block
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done == [1, 2]


@posix
def test_a_child_gets_no_signals():
    command = [sys.executable, "-c", "import signal, sys; print(signal.pthread_sigmask(0, []))"]
    with signals.kept_from_children():
        masked = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(name in masked for name in ("SIGINT", "SIGTERM", "SIGHUP"))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


@posix
def test_what_nohup_ignores_stays_ignored():
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signals.handle()
        with signals.uninterrupted():
            signal.raise_signal(signal.SIGHUP)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_reports_are_mended(trainer):
    run = trainer.run
    run.report(step=0, grad_norm=float("nan"))
    with run.metrics.open("ab") as file:
        file.write(b'\0\0\0\n[1]\n{"step": 5, "a": 1}\n{"step": 10, "tr')
    assert [report["step"] for report in run.reports()] == [0, 5]
    run.rewind(10)
    first, second = run.metrics.read_text().splitlines()
    assert json.loads(first)["grad_norm"] is None
    assert json.loads(second) == {"step": 5, "a": 1}


# -------------------------------------------------------------------------------- records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_lair": 3}, "'n_lair'"),
        ({"max_iters": "many"}, "max_iters is 'many'"),
        ({"max_iters": True}, "max_iters is True"),
        ({"max_iters": 1.5}, "max_iters is 1.5"),
        ({"max_iters": 0}, "max_iters is 0"),
        ({"learning_rate": 10**400}, "learning_rate is 1000"),
        ({"learning_rate": None}, "learning_rate is None"),
        ({"preset": "big"}, "preset is 'big', but must be one of auto, "),
        ({"data": 3}, "data is 3"),
        ({"model": []}, "model is {name: value, ...}, not"),
        ({"model": {"n_embd": [8]}}, r"n_embd is \[8\]"),
    ],
)
def test_a_setting_that_cannot_be_is_named(change, message):
    with pytest.raises(UserError, match=message) as error:
        from_record(to_record(TrainConfig()) | change)
    assert "\n" not in str(error.value)


def test_what_is_missing_has_its_default_and_starting_is_no_setting():
    assert from_record({}) == TrainConfig()
    started = TrainConfig(overwrite=True, learning_rate=1, processes=2)
    assert from_record(to_record(started)) == dataclasses.replace(started, overwrite=False)


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1}, {"step": 2**63}, {"step": 1.0}, {"step": True}, {"best_loss": float("nan")},
        {"best_loss": "low"}, {"text_sha256": None}, {"tokenizer": None}, {"tokenizer": {}},
        {"tokenizer": {"kind": "characters", "chars": 7}}, {"config": None}, {"format": "2"},
        {"config": {"model": {"n_embd": 2**20, "n_head": 1}}},
        {"config": {"model": {"n_layer": 10**12, "n_head": 1, "n_embd": 1}}},
        {"config": {"model": {"vocab_size": 5}}}, {"format": FORMAT + 1}, None, 3,
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_is_one_error(trainer, tmp_path, change):
    path = tmp_path / "a"
    trainer.checkpoint().save(path)
    arrays, metadata = load_file(path)
    record = json.loads(metadata["gpt"])
    record = record | change if isinstance(change, dict) else change
    save_file(arrays, path, {"gpt": json.dumps(record)})  # its checksum is right
    with pytest.raises(UserError, match=str(path)) as error:
        Checkpoint.load(path)
    assert "\n" not in str(error.value)
    assert ("newer version" in str(error.value)) == (change == {"format": FORMAT + 1})


def test_tensors_that_are_not_the_models_are_one_error(trainer, tmp_path):
    checkpoint = trainer.checkpoint(with_moments=True)
    tensors = dict(checkpoint.tensors) | {"spare": np.zeros(9999, np.float32)}
    for name, wrong in (("wte.weight", None), ("wte.weight", np.zeros(3)), ("ln_f.bias", None)):
        changed = tensors | {name: wrong}
        changed = {name: x for name, x in changed.items() if x is not None}
        dataclasses.replace(checkpoint, tensors=changed).save(tmp_path / "a")
        with pytest.raises(UserError, match=f"does not fit its own model.*{name}"):
            Checkpoint.load(tmp_path / "a").model()
