"""The guard: which gradients it refuses, what that changes, how a run goes on after it."""

import dataclasses
import math

import numpy as np
import pytest

import tensorlib
from gpt.checkpoint import Checkpoint
from gpt.config import GPTConfig, TrainConfig, UserError
from gpt.data import Corpus
from gpt.runs.guard import FAR, IN_A_ROW, WINDOW, Guard
from gpt.runs.run import Run
from gpt.training import Trainer


def ask(guard, *norms):
    return [bool(guard.refuses(tensorlib.tensor(norm)).item()) for norm in norms]


def test_what_is_not_finite_is_refused_always():
    assert ask(Guard(), math.nan, math.inf, 1e30, math.nan) == [True, True, False, True]


def test_far_above_the_last_window_is_refused():
    guard = Guard()
    assert not any(ask(guard, 1e9, *[5.0] * (WINDOW - 1)))
    assert ask(guard, 5.0 * FAR, 5.1 * FAR, 0.0) == [False, True, False]
    assert guard.counts() == (1, 0)
    quiet = Guard()  # an overfitted model: its gradients vanish, and a spike is harmless
    assert not any(ask(quiet, *[1e-6] * WINDOW, 0.9 * FAR, 1e-3))


def test_a_refused_norm_does_not_widen_the_range():
    guard = Guard()
    ask(guard, *[2.0] * WINDOW, *[1e6] * 5, *[2.0] * WINDOW)
    assert guard.bound == 2 * FAR
    assert guard.counts() == (5, 0)


def test_several_in_a_row_are_told_with_the_advice():
    guard = Guard()
    ask(guard, 1.0, *[math.nan] * (IN_A_ROW - 1))
    guard.check(lambda: "")
    ask(guard, 1.0, *[math.nan] * IN_A_ROW)
    assert guard.counts() == (2 * IN_A_ROW - 1, IN_A_ROW)
    with pytest.raises(UserError, match=r"10 steps in a row.*nan.*; try this"):
        guard.check(lambda: "try this")


@pytest.mark.parametrize("count", [0, 3, WINDOW, 2 * WINDOW + 95])
def test_it_comes_back_from_a_checkpoint(count):
    dice = np.random.default_rng(0)
    norms = np.exp(dice.normal(size=300) * 4).tolist()
    one = Guard()
    ask(one, *norms[:count])
    other = Guard()
    other.restore({name: x.numpy() for name, x in one.tensors().items()}, "cpu")
    assert (other.bound, other.counts(), other.last_norm()) == (
        one.bound, one.counts(), one.last_norm()
    )  # fmt: skip
    assert ask(one, *norms[count:]) == ask(other, *norms[count:])
    assert one.counts() == other.counts()


# ----------------------------------------------------------------------------------- in training


@pytest.fixture
def make(tmp_path, text):
    """make(**changes): a trainer with the configuration changed, in a directory of its own."""
    corpus = Corpus.from_text("text", text, 8)
    shape = GPTConfig(corpus.tokenizer.vocab_size, 8, n_layer=1, n_head=2, n_embd=8, dropout=0.1)
    config = TrainConfig(batch_size=4, eval_iters=2, eval_interval=5, max_iters=30, model=shape)

    def trainer(name="run", **changes):
        changed = dataclasses.replace(config, out=tmp_path / name, **changes)
        return Trainer(changed, corpus, Run.create(changed))

    return trainer


def break_gradients(trainer, steps, factor=math.nan):
    """In these steps the gradient is multiplied by `factor`."""
    gradient = trainer.team.gradient

    def broken(step):
        loss = gradient(step)
        if step in steps:
            trainer.team.grad *= factor
        return loss

    trainer.team.gradient = broken
    return trainer


def state(trainer):
    tensors = trainer.checkpoint(with_moments=True).tensors
    return {name: x.numpy().copy() for name, x in tensors.items() if "guard" not in name}


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_broken_step_changes_nothing_and_is_counted(make, grad_clip, factor):
    trainer = break_gradients(make(grad_clip=grad_clip), {3}, factor)
    for _ in range(3):
        trainer.update()
    before = state(trainer)
    with np.errstate(invalid="ignore"):
        trainer.update()
    assert trainer.step == 4
    for name, x in state(trainer).items():
        np.testing.assert_array_equal(x, before[name], name)
    assert trainer.evaluate().endswith(", skipped so far: 1")
    assert trainer.run.reports()[-1]["skipped"] == 1
    assert trainer.run.reports()[-1]["grad_norm"] is None  # JSON has no nan
    trainer.update()
    assert any((x != before[name]).any() for name, x in state(trainer).items())


def test_a_run_with_skipped_steps_goes_on_bit_for_bit(make):
    broken = {2, 3, 104, 108}
    whole = break_gradients(make("whole"), broken, 1e9)
    first, second = (break_gradients(make(name), broken, 1e9) for name in ("a", "b"))
    for _ in range(120):
        whole.update()
    for _ in range(107):
        first.update()
    first.checkpoint(with_moments=True).save(first.run.last)
    second.resume(Checkpoint.load(first.run.last))
    for _ in range(13):
        second.update()
    assert whole.guard.counts() == second.guard.counts() == (2, 0)  # those of the second window
    for name, x in state(whole).items():
        np.testing.assert_array_equal(x, state(second)[name], name)


def test_ten_in_a_row_stop_the_run_at_its_last_checkpoint(make, capsys):
    trainer = break_gradients(make(), range(12, 99))
    with pytest.raises(
        UserError, match=r"10 steps in a row.*--resume --out .* --learning-rate 0\.0001"
    ):
        trainer.train()
    assert trainer.step == 22
    last = Checkpoint.load(trainer.run.last)
    assert last.step == 20  # with the weights of step 12
    assert all(np.isfinite(x).all() for name, x in last.tensors.items() if "guard" not in name)
