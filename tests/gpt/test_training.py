"""The trainer: it learns, it measures what it says, and it can be stopped anywhere."""

import dataclasses
import io
import json
import math
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorlib
from gpt.checkpoint import Checkpoint
from gpt.commands.job import train
from gpt.config import GPTConfig, Stream, TrainConfig, UserError
from gpt.data import Corpus
from gpt.runs.run import Run
from gpt.training import Trainer


@pytest.fixture
def config(tmp_path, text_file):
    return TrainConfig(
        data=text_file, out=tmp_path / "run", max_iters=60, eval_interval=20, eval_iters=4,
        batch_size=8, learning_rate=1e-2, warmup_iters=5, preset="nanogpt-cpu",
        model=GPTConfig(block_size=16, n_layer=1, n_head=2, n_embd=16, dropout=0.1),
    )  # fmt: skip


@pytest.fixture
def make(config, text):
    """make(**changes): a trainer with the configuration changed, in a directory of its own."""
    corpus = Corpus.from_text("text", text, 16)
    shape = dataclasses.replace(config.model, vocab_size=corpus.tokenizer.vocab_size)

    def trainer(name="run", **changes):
        changed = dataclasses.replace(config, out=config.out.parent / name, model=shape, **changes)
        return Trainer(changed, corpus, Run.create(changed))

    return trainer


def weights(trainer):
    return {name: p.numpy().copy() for name, p in trainer.model.state_dict().items()}


def reports(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_it_learns_and_tells(config, capsys):
    run = train(config)
    lines = reports(run)
    assert [line["step"] for line in lines] == [0, 20, 40, 60, 60]
    assert lines[0]["val_loss"] == pytest.approx(math.log(33), abs=0.1)
    assert lines[3]["val_loss"] < 2
    assert lines[3]["learning_rate"] == pytest.approx(1e-4)
    assert lines[0]["tokens_per_second"] is None
    assert lines[1]["tokens_per_second"] == pytest.approx(128e3 / lines[1]["ms_per_step"])
    assert lines[0]["grad_norm"] is None
    assert lines[1]["grad_norm"] > 0
    assert [len(line["sample"]) for line in lines[:4]] == [16] * 4  # a context
    assert lines[4]["full_val_loss"] == pytest.approx(lines[3]["val_loss"], abs=0.2)
    assert {path.name for path in run.path.iterdir()} == {
        "best.safetensors", "last.safetensors", "config.json", "metrics.jsonl", "loss.png"
    }  # fmt: skip
    assert run.curve.read_bytes().startswith(b"\x89PNG")
    assert json.loads((run.path / "config.json").read_text())["learning_rate"] == 1e-2
    output = capsys.readouterr()
    assert output.err == ""  # no progress bar where there is no terminal
    for line in lines[:4]:
        told = f"step {line['step']}: train loss {line['train_loss']:.4f}, val loss "
        told += f"{line['val_loss']:.4f} ({line['val_bits_per_byte']:.4f} bits per byte)"
        assert f"\n{told}\n" in output.out
    whole = "{full_val_loss:.4f}, {full_val_bits_per_byte:.4f} bits per byte".format(**lines[4])
    assert f"whole validation split: loss {whole}" in output.out
    sample = output.out.split("sample:\n\n")[1]
    assert len(sample) == 501
    assert sample.count("jump") > 3


def test_the_same_seed_gives_the_same_weights(make):
    one, same, other = make("a"), make("b"), make("c", seed=1)
    initial = weights(one)
    for trainer in (one, same, other):
        for _ in range(3):
            trainer.update()
    for name, w in weights(one).items():
        np.testing.assert_array_equal(w, weights(same)[name])
        assert (w != initial[name]).any()
        if "ln_" not in name and "bias" not in name:
            assert (w != weights(other)[name]).any()


def test_dropout_is_drawn_anew_in_every_step(make, monkeypatch):
    drawn, counter = [], tensorlib.random.counter

    def recorded(*key, rows):
        drawn.append(key)
        return counter(*key, rows=rows)

    monkeypatch.setattr(tensorlib.random, "counter", recorded)
    trainer = make(seed=5)
    for _ in range(3):
        trainer.update()
    assert drawn == [(5, Stream.DROPOUT, step) for step in range(3)]


def test_evaluating_changes_nothing_that_follows(make):
    plain, evaluated = make("a"), make("b")
    for trainer in (plain, evaluated):
        for _ in range(3):
            trainer.update()
            if trainer is evaluated:
                trainer.evaluate()
                trainer.full_val_loss()
    assert evaluated.model.training
    for name, w in weights(plain).items():
        np.testing.assert_array_equal(w, weights(evaluated)[name])


def test_samples_disturb_nothing_and_may_be_left_out(make, capsys):
    none, many = make("none", sample_interval=0), make("many", sample_interval=7)
    for trainer in (none, many):
        trainer.train()
    for name, w in weights(none).items():
        np.testing.assert_array_equal(w, weights(many)[name])
    assert all(line["sample"] is None for line in reports(none.run))
    lines = reports(many.run)
    assert [line["step"] for line in lines if line["sample"]] == [*range(0, 60, 7), 60]
    whole = [line["val_loss"] for line in lines if "val_loss" in line]
    assert whole == [line["val_loss"] for line in reports(none.run)]
    assert capsys.readouterr().out.count("\n  ") == 10


def test_a_sample_on_the_screen_is_one_line(make):
    trainer = make(sample_prompt="the quick brown fox jumps over the ")
    sample = trainer.config.sample_prompt + "\x1b[2J\ta\nb" + 100 * "c"
    assert trainer._shown(sample) == "   fox jumps over the ·[2J·a⏎b" + 48 * "c"


def test_a_sample_prompt_the_tokenizer_does_not_know(config):
    with pytest.raises(UserError, match="'ß'"):
        train(dataclasses.replace(config, sample_prompt="große"))
    assert not config.out.exists()


def test_losses_are_estimated_without_dropout_on_the_same_batches(make):
    trainer = make()
    assert trainer.estimate_loss() == trainer.estimate_loss()
    share = trainer.team.share
    batches = [share.evaluation["val"](i) for i in range(4)]
    with trainer.model.evaluating(), tensorlib.no_grad():
        expected = np.mean([trainer.model(x, y)[1].item() for x, y in batches])
    assert trainer.estimate_loss()["val_loss"] == pytest.approx(expected, rel=1e-6)
    assert not any((share.batch(i)[0] == batches[i][0]).all() for i in range(4))


def test_the_whole_validation_split_is_measured_token_by_token(make, text):
    trainer = make(batch_size=1)
    longer = Corpus.from_text("text", 3 * text, 16)
    trainer = Trainer(trainer.config, longer, trainer.run)
    val = trainer.corpus.val
    losses = []
    with trainer.model.evaluating(), tensorlib.no_grad():
        for start in range(0, len(val) - 1, 16):
            piece = tensorlib.tensor(val[start : start + 17].astype(np.int64)[None])
            logits = trainer.model(piece[:, :-1])[0].log_softmax(-1).numpy()[0]
            losses += [-row[token] for row, token in zip(logits, val[start + 1 :], strict=False)]
    assert len(losses) == len(val) - 1
    assert trainer.full_val_loss() == pytest.approx(np.mean(losses), rel=1e-5)


def test_that_takes_a_while_for_a_long_text_so_one_sees_how_far_it_is(make, monkeypatch):
    trainer, terminal = make(), io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    trainer.full_val_loss()
    assert "whole validation split:   0%" in terminal.getvalue()


def test_ctrl_c_while_it_is_measured_costs_that_figure_only(make, monkeypatch, capsys):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    trainer = make()
    trainer.evaluate()
    monkeypatch.setattr(trainer.team, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.finish()
    told = f"stopped before the end of the validation split; {trainer.run} is saved\n"
    assert capsys.readouterr().err == told
    assert trainer.run.curve.exists()


def test_only_matrices_decay(make):
    trainer = make(weight_decay=0.3)
    decay, rest = trainer.optimizer.param_groups
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    matrices, vectors = trainer.model.parameter_groups()
    assert all(name.endswith("weight") and p.dim() == 2 for name, p in matrices.items())
    assert all(p.dim() == 1 for p in vectors.values())
    assert {*matrices, *vectors} == {name for name, _ in trainer.model.named_parameters()}
    for group, named in ((decay, matrices), (rest, vectors)):
        (flat,) = group["params"]
        assert all(np.shares_memory(flat.array, p.array) for p in named.values())
        assert flat.numel() == sum(p.numel() for p in named.values())


def test_the_learning_rate_of_each_step_reaches_the_optimizer(make):
    trainer = make(max_iters=10, warmup_iters=3, min_lr=1e-3)
    rates = []
    for _ in range(10):
        trainer.update()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    cosine = [0.0055 + 0.0045 * math.cos(math.pi * i / 7) for i in range(7)]
    np.testing.assert_allclose(rates, [0.0025, 0.005, 0.0075, *cosine])


def test_gradients_are_clipped_unless_told_otherwise(make):
    clipped, free = make("a", grad_clip=0.01), make("b", grad_clip=0.0)
    norms = []
    for trainer in (clipped, free):
        trainer.update()
        norms.append(np.linalg.norm(trainer.team.grad.numpy()))
    assert norms[0] == pytest.approx(0.01, rel=1e-3)
    assert norms[1] > 0.1


def test_best_and_last_are_what_they_say(make, monkeypatch):
    trainer = make()
    values = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(
        trainer, "estimate_loss", lambda: {"train_loss": 1.0, "val_loss": next(values)}
    )
    for _ in range(3):
        trainer.evaluate()
        trainer.update()
    best, last = Checkpoint.load(trainer.run.best), Checkpoint.load(trainer.run.last)
    assert (best.step, best.best_loss) == (1, 2.0)
    assert (last.step, last.best_loss) == (2, 2.0)


def test_divergence_is_told(make):
    trainer = make(learning_rate=1e18, warmup_iters=0, grad_clip=0.0)
    for _ in range(3):
        trainer.update()
    with np.errstate(all="ignore"), pytest.raises(UserError, match="--learning-rate"):
        trainer.evaluate()
    assert not trainer.run.metrics.exists()


# -------------------------------------------------------------------------------- stop and go on


def finished(config, capsys):
    train(config)
    capsys.readouterr()
    return Checkpoint.load(Run(config.out).last)


@pytest.mark.parametrize("stop", [0, 1, 20, 27])
def test_ctrl_c_saves_and_the_resumed_run_ends_the_same(config, capsys, monkeypatch, stop):
    expected = finished(dataclasses.replace(config, out=config.out.parent / "whole"), capsys)

    def update(self, original=Trainer.update):
        if self.step == stop:
            signal.raise_signal(signal.SIGINT)
        return original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "update", update)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert f"stopped at step {stop}" in capsys.readouterr().err
    assert Checkpoint.load(Run(config.out).last).step == stop
    last = finished(dataclasses.replace(config, resume=True), capsys)
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(last.tensors[name], tensor, name)
    lines = reports(Run(config.out))
    assert [line["step"] for line in lines] == [0, 20, 40, 60, 60]
    whole = reports(Run(config.out.parent / "whole"))
    for line, other in zip(lines, whole, strict=True):
        assert line.get("val_loss") == other.get("val_loss")


def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end(make, monkeypatch):
    trainer = make()
    step = trainer.optimizer.step

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        step()

    monkeypatch.setattr(trainer.optimizer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.update()
    assert trainer.step == 1  # weights and step agree
    same = make("same")
    same.update()
    for name, w in weights(trainer).items():
        np.testing.assert_array_equal(w, weights(same)[name])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_cannot_be_resumed(config, capsys, tmp_path, text):
    train(config)
    resume = dataclasses.replace(config, resume=True)
    with pytest.raises(UserError, match="holds a run already"):
        train(config)
    with pytest.raises(UserError, match="at step 60 already"):
        train(dataclasses.replace(resume, max_iters=59))
    with pytest.raises(UserError, match="cannot change its model"):
        train(dataclasses.replace(resume, model=dataclasses.replace(config.model, n_layer=2)))
    other = tmp_path / "other.txt"
    other.write_text(text[::-1])
    with pytest.raises(UserError, match="another text"):
        train(dataclasses.replace(resume, data=other))
    with pytest.raises(UserError, match=r"there is no run in .*nothing to go on with"):
        train(dataclasses.replace(resume, out=tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    for near in (config.out.parent, config.out / "last.safetensors"):
        with pytest.raises(UserError, match=f"perhaps --out {config.out}$"):
            train(dataclasses.replace(resume, out=near))
    with pytest.raises(UserError, match=r"--out .*other.txt is a file; a run needs a folder"):
        train(dataclasses.replace(config, out=other))
    assert finished(dataclasses.replace(resume, max_iters=70), capsys).step == 70


def test_a_torn_last_line_of_metrics_is_dropped(make):
    trainer = make()
    trainer.evaluate()
    with open(trainer.run.metrics, "a") as file:
        file.write('{"step": 20, "tra')
    trainer.run.rewind(20)
    assert [line["step"] for line in reports(trainer.run)] == [0]


def test_the_next_free_directory(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(config, out=None)
    for name in ("1", "7", "mine"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert Run.create(config).path == Path("runs", "8")
    assert Run.create(config).path == Path("runs", "9")


def test_the_newest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train\.py"):
        Run.newest("best.safetensors")
    for age, name in enumerate(["2", "10", "1"]):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "best.safetensors").touch()
        os.utime(tmp_path / "runs" / name / "best.safetensors", (1000 - age, 1000 - age))
    assert Run.newest("best.safetensors").path == Path("runs", "2")
