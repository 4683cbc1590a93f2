"""Ways to train and not to train: a step of several batches, recomputed activations, stopping early
or in time, one batch by heart, measuring alone; and bits per byte."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import safetensors.numpy

from gpt.config import TrainConfig, UserError
from gpt.data import Corpus
from gpt.fast.parallel import Team
from gpt.model import GPT
from gpt.runs.ending import Ending
from gpt.runs.evaluation import bits_per_byte, lowest_loss
from gpt.runs.run import Run
from gpt.training import Trainer


def files(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


def tensors(run):
    return safetensors.numpy.load_file(run / "last.safetensors")


def reports(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


# ------------------------------------------------------------ several batches to a step, and memory


@pytest.mark.parametrize("processes", [1, 2])
def test_several_batches_make_the_gradient_of_one_long_one(setting, processes):
    """Dropout included: every row sees the tokens and the bits that it sees in the long batch."""
    config, corpus = setting
    model = GPT(config.model)
    found = []
    for size, n in ((12, 1), (3, 4)):
        changed = dataclasses.replace(config, batch_size=size, grad_accum=n)
        other = GPT(config.model)
        other.load_state_dict(model.state_dict())
        team = Team(changed, corpus, other, 1 if n == 1 else processes)
        found.append([(team.gradient(i).item(), team.grad.numpy().copy()) for i in range(2)])
    for (loss, gradient), (expected, whole) in zip(found[1], found[0], strict=True):
        assert loss == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(gradient, whole, rtol=1e-4, atol=1e-6)


def test_recomputed_activations_give_the_same_bits(setting):
    config, corpus = setting
    model = GPT(config.model)
    found = []
    for again in (False, True):
        other = GPT(config.model)
        other.load_state_dict(model.state_dict())
        changed = dataclasses.replace(config, checkpoint_activations=again, grad_accum=2)
        team = Team(changed, corpus, other, 1)
        assert other.checkpoint_activations is again
        found.append([(team.gradient(i).item(), team.grad.numpy().copy()) for i in range(2)])
    for (loss, gradient), (expected, plain) in zip(*found, strict=True):
        assert loss == expected
        np.testing.assert_array_equal(gradient, plain)


@pytest.mark.slow
def test_commands_that_need_less_memory(script, text_file, tmp_path):
    shape = "--n-layer 2 --n-head 2 --n-embd 16 --block-size 16 --dropout 0.2 --eval-iters 2"
    flags = ["--data", text_file, "--max-iters", 20, "--eval-interval", 20, *shape.split()]
    flags += ["--processes", 2]

    def run(name, *more):
        done = script("train.py", *flags, "--out", name, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout, tmp_path / name

    _, whole = run("whole", "--batch-size", 8)
    _, recomputed = run("recomputed", "--batch-size", 8, "--checkpoint-activations")
    assert_same_bits(tensors(recomputed), tensors(whole))
    told, parts = run("parts", "--batch-size", 2, "--grad-accum", 4)
    assert "4 x 2 x 16 = 128 tokens" in told
    losses = [reports(path)[-1]["full_val_loss"] for path in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    speed = reports(parts)[1]
    assert speed["tokens_per_second"] == pytest.approx(128e3 / speed["ms_per_step"])


# ------------------------------------------------------------------------------------ bits per byte


def test_a_uniform_model_over_bytes_has_eight_bits_per_byte():
    text = "".join(map(chr, range(128))) * 20
    corpus = Corpus.from_text("ascii", text, 8)
    assert bits_per_byte(math.log(256), corpus) == pytest.approx(8)
    double = Corpus.from_text("é", "éà" * 500, 8)  # two bytes to a character
    assert double.val_bytes == 2 * len(double.val)
    assert bits_per_byte(math.log(2), double) == pytest.approx(0.5)


def test_the_bits_of_a_model_that_knows_nothing(tmp_path, setting, capsys):
    config, _ = setting
    text = "aé" * 600  # on average 1.5 bytes to a character, of which there are 2
    corpus = Corpus.from_text("text", text, 8)
    shape = dataclasses.replace(config.model, vocab_size=2)
    config = dataclasses.replace(config, model=shape)
    trainer = Trainer(config, corpus, Run.create(config))
    for p in trainer.model.lm_head.parameters():
        p.array[...] = 0
    told = trainer.evaluate()
    trainer.finish()
    first, last = reports(config.out)
    expected = pytest.approx(1 / 1.5, rel=1e-6)
    assert first["val_bits_per_byte"] == last["full_val_bits_per_byte"] == expected
    assert "val loss 0.6931 (0.6667 bits per byte)\n" in told
    assert "whole validation split: loss 0.6931, 0.6667 bits per byte" in capsys.readouterr().out


# ------------------------------------------------------------------------------------- when it ends


@pytest.fixture
def worse(tmp_path):
    """A text whose validation split breaks the rule that the rest teaches: the longer it trains,
    the worse it gets."""
    path = tmp_path / "worse.txt"
    path.write_text("ab" * 540 + "aabb" * 30)
    return path


@pytest.mark.slow
def test_early_stop_counts_on_after_a_resume(script, worse, tiny, tmp_path):
    flags = ["--data", worse, *tiny, "--eval-interval", 2, "--warmup-iters", 0]
    flags += ["--learning-rate", 0.01, "--out", "run", "--early-stop", 3]
    done = script("train.py", *flags, "--max-iters", 4)
    assert (done.returncode, done.stderr) == (0, "")
    done = script("train.py", *flags, "--max-iters", 100, "--resume")
    assert done.returncode == 0
    changed, stopped = done.stderr.splitlines()
    assert changed == "from here on: --max-iters was 4, is 100 now"
    assert stopped.startswith("stopped at step 6: 3 evaluations without a better")
    assert [r["step"] for r in reports(tmp_path / "run")] == [0, 2, 4, 6, 6]
    assert "best.safetensors, of step 0)" in done.stdout


@pytest.mark.parametrize(
    ("losses", "n", "stops"),
    [
        ([3, 2, 1], 1, False),
        ([3, 2, 2], 1, True),  # no better
        ([3, 2, 2.5], 2, False),
        ([3, 2, 2.5, 2.1], 2, True),
        ([3, 2, 2.5, 1.9, 2.5], 2, False),
        ([1, 2, 3, 4], 0, False),
    ],
)
def test_early_stop(tmp_path, capsys, losses, n, stops):
    run = Run(tmp_path)
    for step, loss in enumerate(losses):
        run.report(step=step, val_loss=loss)
    assert Ending(TrainConfig(early_stop=n)).after(7, run) is stops
    assert ("stopped at step 7" in capsys.readouterr().err) is stops


@pytest.mark.slow
def test_max_time_ends_a_run_properly_and_it_can_be_resumed(script, text_file, tiny, tmp_path):
    constant = "--learning-rate 1e-3 --min-lr 1e-3 --warmup-iters 0 --eval-interval 1000000"
    flags = ["--data", text_file, *tiny, *constant.split(), "--dropout", 0.1]
    done = script("train.py", *flags, "--max-iters", 10**7, "--max-time", "1.5s", "--out", "run")
    assert done.returncode == 0
    told = re.fullmatch(r"stopped at step (\d+), after 1.5s; --resume goes on\n", done.stderr)
    step = int(told[1])
    run = tmp_path / "run"
    assert [r["step"] for r in reports(run)] == [0, step, step]
    assert "val_loss" in reports(run)[1]
    assert "full_val_loss" in reports(run)[2]
    assert "sample:" in done.stdout
    assert (run / "loss.png").exists()
    more = ["--max-iters", step + 3, "--max-time", "1h"]
    done = script("train.py", "--resume", "--out", "run", *more)
    assert done.returncode == 0
    assert done.stderr.startswith("from here on: ")
    assert f"from step {step} to {step + 3:,}\n" in done.stdout
    assert script("train.py", *flags, "--max-iters", step + 3, "--out", "whole").returncode == 0
    assert_same_bits(tensors(run), tensors(tmp_path / "whole"))


@pytest.mark.parametrize("time", ["8", "8x", "-1s", "0m", "1h30", ""])
def test_what_is_no_duration(time):
    with pytest.raises(UserError, match="30s, 90m or 8h"):
        TrainConfig(max_time=time)


def test_durations():
    seconds = [
        TrainConfig(max_time=x).max_seconds for x in ("30s", "90m", "8h", ".5h", "1.5s", None)
    ]
    assert seconds == [30, 5400, 28800, 1800, 1.5, math.inf]


# --------------------------------------------------------------------------------- a batch by heart


def test_the_lowest_loss_of_a_batch():
    x, y = np.array([[0, 1], [0, 2]]), np.array([[1, 5], [2, 5]])
    assert lowest_loss(x, y) == pytest.approx(math.log(2) / 2)  # 2 of 4 are a coin toss
    assert lowest_loss(x, y[:, ::-1]) == 0  # both go on with 5, then each in its way
    three = np.array([[7], [7], [7]]), np.array([[1], [1], [2]])
    assert lowest_loss(*three) == pytest.approx(-(2 * math.log(2 / 3) + math.log(1 / 3)) / 3)
    assert lowest_loss(np.zeros((9, 5)), np.zeros((9, 5))) == 0


def test_overfitting_one_batch(script, text_file, tmp_path):
    flags = ["--data", text_file, "--overfit-batch", "--n-layer", 2, "--n-head", 2, "--n-embd", 32]
    flags += ["--block-size", 16, "--batch-size", 4, "--learning-rate", 0.01, "--dropout", 0.5]
    before = set(tmp_path.iterdir())
    done = script("train.py", *flags, "--max-iters", 300, "--eval-interval", 50)
    assert (done.returncode, done.stderr) == (0, "")
    goal, lowest = map(
        float, re.search(r"falls below ([\d.]+): ([\d.]+) if every", done.stdout).groups()
    )
    assert goal == pytest.approx(lowest + 0.02, abs=1e-4)
    losses = [float(loss) for loss in re.findall(r"^step \d+: loss ([\d.]+)$", done.stdout, re.M)]
    assert losses[0] == pytest.approx(math.log(33), abs=0.2)
    assert lowest <= losses[-1] <= goal
    assert done.stdout.endswith("reached: this model can learn; nothing is kept of it\n")

    done = script("train.py", *flags, "--max-iters", 3)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the loss of one batch is ")
    assert "after 3 steps" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"cache", "matplotlib"}


# ---------------------------------------------------------------------------------- measuring alone


@pytest.mark.slow
def test_eval_only_measures_and_writes_nothing(script, worse, tiny, tmp_path):
    flags = ["--data", worse, *tiny, "--eval-interval", 2, "--warmup-iters", 0]
    done = script("train.py", *flags, "--max-iters", 4, "--learning-rate", 0.01)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "1"
    first, _, last, whole = reports(run)
    before, around = files(run), set(tmp_path.rglob("*"))
    for arguments, of in (
        ([], first),
        (["--out", run], first),
        (["--out", run / "last.safetensors"], last),
        (["--resume"], last),
    ):
        done = script("train.py", "--eval-only", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"of step {of['step']}\n" in done.stdout
        told = "train loss {train_loss:.4f}, val loss {val_loss:.4f} ({val_bits_per_byte:.4f} bits"
        assert told.format(**of) in done.stdout
        if of is first:
            whole_told = "loss {full_val_loss:.4f} ({full_val_bits_per_byte:.4f} bits per byte)\n"
            assert done.stdout.endswith("whole validation split: " + whole_told.format(**whole))
    for arguments, message in (
        (["--config", run], "--eval-only measures a run as it was set up: --out, not --config\n"),
        (["--preset", "video"], "began with --preset nanogpt-cpu, which cannot change now\n"),
    ):
        done = script("train.py", "--eval-only", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith(message)
    other = tmp_path / "other.txt"
    other.write_text(worse.read_text()[::-1])
    done = script("train.py", "--eval-only", "--data", other, "--out", run)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"to measure its model on this one: --init-from {run}\n")
    other.unlink()
    assert files(run) == before
    assert set(tmp_path.rglob("*")) - around <= set((tmp_path / "matplotlib").rglob("*"))


@pytest.mark.slow
def test_mistakes(script, text_file):
    for arguments, *expected in (
        (["--eval-only"], "train a model first"),
        (["--eval-only", "--out", "nothing"], "nothing/best.safetensors", "No such file"),
        (["--overfit-batch", "--eval-only"], "train a model first"),
        (["--data", text_file, "--max-time", "8"], "--max-time is '8'", "90m"),
    ):
        done = script("train.py", *arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        for text in expected:
            assert text in done.stderr
