"""A training step as a CUDA graph: bit for bit the eager step, in one launch; or eager, and why."""

import dataclasses
import re
import zlib
from pathlib import Path

import cupy_on_cpu
import emulator
import fake_cupy
import numpy as np
import pytest

import tensorlib
from gpt import GPTConfig, UserError
from gpt.commands import cli
from gpt.config import TrainConfig
from gpt.data import Corpus
from gpt.fast.cuda_graph import GraphUpdate
from gpt.runs.run import Run
from gpt.tokenizer import CharTokenizer
from gpt.training import Trainer
from tensorlib import kernels
from tensorlib.kernels import cublas, gpu

pytestmark = [
    pytest.mark.skipif(emulator.missing is not None, reason=str(emulator.missing)),
    pytest.mark.usefixtures("machine"),
]


@pytest.fixture(autouse=True)
def _fused(machine, monkeypatch):
    monkeypatch.setattr(kernels, "_gpu", kernels.cpu)  # put back
    kernels.use_fused()
    yield
    if machine == "stand-in":
        fake_cupy.fake_graph.Stream.null.use()


def trainer(dtype="bfloat16", **changes):
    model = GPTConfig(29, block_size=8, n_layer=1, n_head=1, n_embd=16, dropout=0.2)
    tokens = np.random.default_rng(0).integers(0, 29, 300)
    corpus = Corpus("", "", CharTokenizer(""), tokens, tokens)
    settings = {
        "batch_size": 2,
        "eval_iters": 3,
        "max_iters": 20,
        "warmup_iters": 4,
        "learning_rate": 1e-2,
    }
    config = TrainConfig(**settings, model=model, dtype=dtype)
    return Trainer(dataclasses.replace(config, **changes), corpus, Run(Path("unused")), "cuda")


def state(run):
    """All that a step changes, arrays as the checksum of their bytes."""
    tensors = run.checkpoint(with_moments=True).tensors
    steps = [moments["step"] for moments in run.optimizer.state.values()]
    return (
        run.step,
        steps,
        {k: zlib.crc32(np.asarray(x.cpu()).tobytes()) for k, x in tensors.items()},
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "tf32"])
def test_a_graph_computes_what_the_steps_compute(dtype, monkeypatch):
    """Five steps by the graph, after three eager ones; with dropout, the warm-up of the learning
    rate, and a limit for the gradient."""
    monkeypatch.setattr(cublas, "_tf32", dtype == "tf32")
    eager, graphed = trainer(dtype), trainer(dtype)
    expected = [eager.update().item() for _ in range(8)]
    update = GraphUpdate(graphed)
    losses = [update().item() for _ in range(8)]
    assert losses == expected
    assert len(set(losses)) == 8
    assert update.graph is not None
    assert state(graphed) == state(eager)
    assert graphed.step == 8
    assert graphed.guard.last_norm() == eager.guard.last_norm()
    for _ in range(2):  # and without the graph it goes on from there
        assert graphed.update().item() == eager.update().item()
    assert state(graphed) == state(eager)


def test_a_step_is_one_launch_and_nothing_else(machine):
    """But for a copy of the norm, for the guard."""
    if machine == "GPU" and not cupy_on_cpu.installed():
        pytest.skip("nobody counts")
    update = GraphUpdate(trainer())
    for _ in range(3):
        update()
    if machine == "GPU":
        cupy_on_cpu.forget()
        update()
        assert cupy_on_cpu.launches() == {"graph": 1, "cupy_copy__float32_float32": 1}
        assert cupy_on_cpu.waits() == 0
    else:
        fake_cupy.count.launches.clear()
        uploads = fake_cupy.count.uploads
        with fake_cupy.no_synchronisation():
            update()
        assert fake_cupy.count.launches == {"graph": 1, "copy": 1}
        assert fake_cupy.count.uploads == uploads


def test_a_step_that_the_guard_refuses():
    eager, graphed = trainer(), trainer()
    update = GraphUpdate(graphed)
    for step in range(6):
        if step == 4:
            before = state(graphed)[2]
            for run in (eager, graphed):
                run.guard.norms += [run.guard.norms[-1]] * (100 - len(run.guard.norms))
                run.guard.make_room()
                run.guard.bound = 1e-9
                run.guard._limit[...] = 1e-9
        assert update().item() == eager.update().item()
        if step >= 4:
            after = state(graphed)[2]
            assert all(after[k] == before[k] for k in before if not k.startswith("guard."))
    assert graphed.guard.counts() == eager.guard.counts() == (2, 2)
    assert state(graphed) == state(eager)


def test_an_evaluation_between_two_launches_changes_nothing():
    eager, graphed = trainer(), trainer()
    update = GraphUpdate(graphed)
    for step in range(6):
        assert update().item() == eager.update().item()
        if step >= 2:
            assert graphed.estimate_loss() == eager.estimate_loss()


@pytest.mark.parametrize("why", ["a look at the loss", "sorting"])
def test_what_cannot_be_recorded_goes_on_without(why, capsys, machine, monkeypatch):
    if (machine, why) == ("GPU", "sorting"):
        pytest.skip("Thrust does it, and the stand-in does not know what that says")
    eager, graphed = trainer(), trainer()
    if why == "sorting":  # as the gradient of an embedding with many rows does
        monkeypatch.setattr(gpu, "_FEW", 0)
    else:
        plain = graphed.update
        monkeypatch.setattr(graphed, "update", lambda: tensorlib.tensor(plain().item()))
    update = GraphUpdate(graphed)
    for _ in range(6):
        assert update().item() == eager.update().item()
    assert update.graph is None
    assert state(graphed) == state(eager)
    lines = capsys.readouterr().err.splitlines()
    reason = {
        ("stand-in", "sorting"): "argsort is not permitted",
        ("stand-in", "a look at the loss"): r"get\(\) is not permitted",
        ("GPU", "a look at the loss"): "so D2H transfers are disallowed",
    }[machine, why]
    assert len(lines) == 1
    assert re.match(rf"training without a CUDA graph: .*{reason}$", lines[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", r"^--graph is for our own kernels .*: --kernels fused, or --no-graph$"),
        ("--kernels fused --dtype float16", r"^--graph is not for --dtype float16: .*bfloat16"),
        ("--kernels fused", r"^--graph is not for --dtype float32: .*bfloat16"),
    ],
)
def test_where_there_is_no_graph(flags, message):
    config = cli.train_config(["--device", "gpu", "--graph", *flags.split()])
    with pytest.raises(UserError, match=message):
        cli.prepare_device(config)
