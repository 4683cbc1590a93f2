"""An index out of range on a GPU: nobody waits for it, and whoever waits next hears of it."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import emulator
import fake_cupy
import numpy as np
import pytest

import tensorlib
from gpt import GPTConfig
from gpt.config import TrainConfig
from gpt.data import Corpus
from gpt.fast.cuda_graph import GraphUpdate
from gpt.runs.run import Run
from gpt.tokenizer import CharTokenizer
from gpt.training import Trainer
from tensorlib import bounds, kernels
from tensorlib.nn import functional as F

needs_compiler = pytest.mark.skipif(emulator.missing is not None, reason=str(emulator.missing))


@pytest.fixture(autouse=True, params=["plain", pytest.param("fused", marks=needs_compiler)])
def _kernels(request, machine, monkeypatch):
    monkeypatch.setattr(kernels, "_gpu", kernels.cpu)  # put back
    kernels.use_fused(request.param == "fused")
    yield
    if machine == "stand-in":
        fake_cupy.fake_graph.Stream.null.use()


@pytest.fixture
def without_waiting(machine):
    """A context in which the host must not wait for the device."""
    return fake_cupy.no_synchronisation if machine == "stand-in" else nullcontext


def ones(*shape):
    return tensorlib.ones(*shape, device="cuda")


def integers(*values):
    return tensorlib.tensor(values, device="cuda")


def assign(x, index):
    x[index] = 0


MISTAKES = {
    "embedding": (
        lambda: F.embedding(integers(0, 5, 2, 7), ones(5, 3)),
        IndexError("embedding: index 7 is out of range for 5 rows"),
    ),
    "negative": (
        lambda: F.embedding(integers(0, -2, 9, -7), ones(5, 3)),
        IndexError("embedding: index -2 is out of range for 5 rows"),
    ),
    "cross_entropy": (
        lambda: F.cross_entropy(ones(3, 4), integers(0, 4, 1)),
        IndexError("cross_entropy: target 4 is out of range for 4 classes"),
    ),
    "nll_loss": (
        lambda: F.nll_loss(ones(2, 4), integers(-1, 0)),
        IndexError("nll_loss: target -1 is out of range for 4 classes"),
    ),
    "x[i]": (
        lambda: ones(3, 4)[integers(0, -3, 3)],
        IndexError("index 3 is out of range for 3 elements along dim 0"),
    ),
    "x[:, None, i]": (
        lambda: ones(3, 4)[:, None, integers(-5)],
        IndexError("index -5 is out of range for 4 elements along dim 1"),
    ),
    "x[i] = y": (
        lambda: assign(ones(3, 4), integers(5)),
        IndexError("index 5 is out of range for 3 elements along dim 0"),
    ),
    "gather": (
        lambda: ones(2, 3).gather(1, integers([0], [-1])),
        RuntimeError("gather: index -1 is out of range for 3 elements along dim 1"),
    ),
    "one_hot": (
        lambda: F.one_hot(integers(0, 3), 3),
        RuntimeError("one_hot: class 3 is out of range for 3 classes"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_who_waits_next_is_told_once(name, without_waiting):
    mistake, error = MISTAKES[name]
    x = ones(1)
    mistake()  # what is made once and kept
    with pytest.raises(type(error)):
        tensorlib.cuda.synchronize()
    with without_waiting():
        mistake()
        x = x + 1
    with pytest.raises(type(error)) as found:
        x.item()
    assert str(found.value) == f"{error}, in an earlier call on the GPU"
    assert x.item() == 2


def test_beside_a_mask():
    """To count its elements the host waits, but not for the integers."""
    x, mask = ones(2, 3, 4, 5), tensorlib.eye(4, 5, device="cuda") == 1
    x[..., integers(0, -3, 2, 1), mask]
    tensorlib.cuda.synchronize()
    x[..., integers(0, -3, 3, 1), mask]
    with pytest.raises(IndexError, match=r"^index 3 is out of range for 3 elements along dim 1,"):
        tensorlib.cuda.synchronize()


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        float,
        bool,
        repr,
        lambda x: range(2)[x.long()],
        lambda x: ones(2)[x.long()],
        lambda x: tensorlib.cuda.synchronize(),
    ],
)
def test_whatever_waits(wait):
    x = ones(1).sum()
    F.embedding(integers(5), ones(5, 3))
    with pytest.raises(IndexError, match="embedding"):
        wait(x)
    wait(x)


def test_what_is_ignored_may_be_anything():
    F.cross_entropy(ones(2, 4), integers(1, -100)).item()
    F.nll_loss(ones(2, 4), integers(9, 1), ignore_index=9).item()
    assert np.isnan(F.cross_entropy(ones(1, 4), integers(9), ignore_index=9).item())


def test_a_fused_kernel_takes_no_launch_more(machine):
    if machine == "GPU":
        pytest.skip("nobody counts")
    index, table = integers(1, 2), ones(5, 3)
    F.embedding(index, table)
    fake_cupy.count.launches.clear()
    F.embedding(index, table)
    fused = kernels.gpu_kernels() is not kernels.cpu
    plain = {"x[…]": 1, "max": 1, "maximum": 1}
    assert fake_cupy.count.launches == ({"embedding": 1} if fused else plain)


def test_any_number_of_checks():
    n, right = 2 * bounds._TABLE, integers(0).array
    checks = [bounds.Bounds(f"check {i}:", 10 + i, "things") for i in range(n)]
    for check in checks:
        check.check(right)
    bounds.raise_kept()
    for check in (checks[3], checks[-1]):
        check.check(right + check.size)
        with pytest.raises(IndexError, match=rf"^{check.what} {check.size} is out of range"):
            bounds.raise_kept()


# ---- in training ---------------------------------------------------------------------------------

V = 29


def trainer(tokens, **changes):
    model = GPTConfig(V, block_size=8, n_layer=1, n_head=1, n_embd=16)
    corpus = Corpus("", "", CharTokenizer(""), tokens, tokens)
    config = TrainConfig(batch_size=2, max_iters=20, model=model)
    return Trainer(dataclasses.replace(config, **changes), corpus, Run(Path("unused")), "cuda")


def test_a_step_does_not_wait_to_complain(without_waiting):
    run = trainer(np.full(100, V))
    run.update()  # what is made once and kept
    with without_waiting():
        losses = [run.update() for _ in range(2)]
    with pytest.raises(IndexError, match=f"^embedding: index {V} is out of range for {V} rows"):
        losses[0].item()


def test_a_graph_complains_too():
    if kernels.gpu_kernels() is kernels.cpu:
        pytest.skip("a graph is for fused kernels")
    run = trainer(np.arange(100) % V, dtype="bfloat16")
    update = GraphUpdate(run)
    for _ in range(4):
        assert np.isfinite(update().item())
    assert update.graph is not None
    run.team.share.batch.tokens[...] = V
    for _ in range(2):
        loss = update()
        with pytest.raises(IndexError, match=f"^embedding: index {V} is out of range for {V} rows"):
            loss.item()
