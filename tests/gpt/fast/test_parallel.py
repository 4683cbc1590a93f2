"""A batch shared by several processes is the batch of one."""

import dataclasses
import multiprocessing

import numpy as np
import pytest

from gpt.config import UserError
from gpt.fast import machine
from gpt.fast.parallel import Team
from gpt.model import GPT
from gpt.runs.run import Run
from gpt.training import Trainer


@pytest.fixture
def setting(setting):
    config, corpus = setting
    return dataclasses.replace(config, batch_size=5), corpus


@pytest.fixture
def teams(setting):
    """A team of one process and one of three, with the same weights."""
    config, corpus = setting
    models = [GPT(config.model) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    return [Team(config, corpus, m, n) for m, n in zip(models, (1, 3), strict=True)]


def test_gradients_losses_and_dropout_are_those_of_one_process(teams):
    alone, shared = teams
    for step in range(3):
        losses = [team.gradient(step).item() for team in teams]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        np.testing.assert_allclose(shared.grad.array, alone.grad.array, rtol=1e-4, atol=1e-6)
    assert shared.losses("val", range(4)) == pytest.approx(alone.losses("val", range(4)), rel=1e-6)
    assert shared.losses("val", range(2), windows=True) == alone.losses(
        "val", range(2), windows=True
    )


def test_workers_see_every_update(teams):
    alone, shared = teams
    before = shared.losses("train", range(3))
    for team in teams:
        team.matrices.array[...] *= 1.5
        team.vectors.array[...] += 0.1
    assert shared.losses("train", range(3)) == pytest.approx(
        alone.losses("train", range(3)), rel=1e-6
    )
    assert shared.losses("train", range(3)) != before


def test_the_same_bits_twice(setting):
    config, corpus = setting
    weights = []
    for name in "ab":
        run = Run.create(dataclasses.replace(config, out=config.out / name))
        trainer = Trainer(dataclasses.replace(config, processes=2), corpus, run, share_work=True)
        for _ in range(5):
            trainer.update()
        weights.append(trainer.team.matrices.array.copy())
    np.testing.assert_array_equal(*weights)


def test_an_error_of_a_worker_is_told(teams):
    with pytest.raises(KeyError, match="nothing"):
        teams[1].losses("nothing", range(3))


def test_a_worker_that_dies_is_told_in_one_line(teams):
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    for _ in range(2):  # the first question may still find an open pipe
        with pytest.raises(UserError, match="a worker process has died"):
            teams[1].gradient(0)


def test_how_many_processes(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert machine.processes(batch_size=64, flops=1e12) == 8
    assert machine.processes(batch_size=3, flops=1e12) == 3
    assert machine.processes(batch_size=64, flops=1e6) == 1
