"""What a training step costs, in counts: they tell a loss of speed that a noisy clock would hide.

A limit may be raised where the step does more for it, and should be lowered where it does less.
"""

import contextlib
import dataclasses
import tracemalloc
from collections import Counter
from pathlib import Path

import cupy_on_cpu
import emulator
import fake_cupy
import numpy as np
import pytest

import tensorlib
from gpt import GPT, GPTConfig
from gpt.config import TrainConfig
from gpt.data import Corpus
from gpt.runs.run import Run
from gpt.tokenizer import CharTokenizer
from gpt.training import Trainer
from tensorlib import kernels

B, T, C, H, V = 4, 32, 64, 4, 65


def model_and_batch(layers, dropout=0.0):
    tensorlib.manual_seed(0)
    model = GPT(GPTConfig(V, block_size=T, n_layer=layers, n_head=H, n_embd=C, dropout=dropout))
    idx = tensorlib.randint(0, V, (B, T + 1))
    return model, idx[:, :-1], idx[:, 1:]


def loss_of(layers, dropout=0.0):
    model, idx, targets = model_and_batch(layers, dropout)
    return model(idx, targets)[1]


def recorded(loss):
    """How often each operation is on the tape that ends in `loss`."""
    nodes, stack = set(), [loss.node]
    while stack:
        node = stack.pop()
        if node not in nodes:
            nodes.add(node)
            sources = [edge[0] for edge in node.edges if edge is not None]
            stack += [source for source in sources if type(source) is type(node)]
    return Counter(node.name for node in nodes)


def test_operations_of_a_block():
    """What a block adds to the tape: the fused operations, the views, the two additions."""
    counts = [
        recorded(model(idx, targets)[1]) for model, idx, targets in map(model_and_batch, (1, 2))
    ]
    assert counts[1] - counts[0] == Counter(
        layer_norm=2, linear=4, attention=1, relu=1, add=2,
        view=1, permute=1, unbind=1, transpose=1, reshape=1,
    )  # fmt: skip
    assert sum(counts[0].values()) - 15 == 11  # embeddings, last norm, head, loss


def test_dropout_adds_no_operation():
    """The attention's is fused with it, a branch's with its addition."""
    counts = [
        recorded(model(i, t)[1]) for model, i, t in (model_and_batch(1), model_and_batch(1, 0.2))
    ]
    counts[1].subtract(counts[0])
    assert +counts[1] == Counter(dropout_add=2)
    assert -counts[1] == Counter(add=2)


def peak_of(step):
    """The most that was allocated during a step, in numbers of float32, NumPy's arrays included."""
    step()  # what is made once and kept
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1] / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("backward", [False, True])
def test_memory_of_a_block(backward):
    """A block keeps, of each position: the normalised rows and the result of both LayerNorms (4 C),
    query, key and value (3 C), the attention weights (H T) and what they gathered (C), and the
    hidden layer after its ReLU (4 C); not the residual stream, nor what a bias was added to.
    Backward frees as it goes, so the whole step needs no more."""
    peaks = []
    for layers in (4, 8):
        model, idx, targets = model_and_batch(layers)

        def step(model=model, idx=idx, targets=targets):
            loss = model(idx, targets)[1]
            if backward:
                loss.backward()
            for p in model.parameters():
                p.grad = None

        peaks.append(peak_of(step))
    kept = B * T * (12 * C + H * T)
    assert kept <= (peaks[1] - peaks[0]) / 4 <= 1.04 * kept


@pytest.fixture
def counted():
    """Where launches are counted: on the stand-in for CuPy, or by CuPy itself with
    --device cuda-on-cpu."""
    with contextlib.nullcontext() if cupy_on_cpu.installed() else fake_cupy.installed():
        yield


@pytest.fixture
def fused(counted, monkeypatch):
    """The fused kernels there."""
    if emulator.missing:
        pytest.skip(emulator.missing)
    monkeypatch.setattr(kernels, "_gpu", kernels.cpu)  # put back
    kernels.use_fused()


def launches_of(step):
    step()  # what is made once and kept
    if cupy_on_cpu.installed():
        cupy_on_cpu.forget()
        step()
        assert cupy_on_cpu.waits() == 0
        assert cupy_on_cpu.uploads() <= 4  # a batch's places; where CuPy's concatenate finds parts
        return cupy_on_cpu.launches().total()
    fake_cupy.count.launches.clear()
    step()
    return fake_cupy.count.launches.total()


@pytest.mark.skipif("not cupy_on_cpu.installed()", reason="only CuPy's driver counts them")
def test_copies_to_the_device_are_counted():
    """Or `launches_of` would allow any number."""
    cupy_on_cpu.forget()
    x = tensorlib.tensor([1.0, 2.0], device="cuda")
    assert cupy_on_cpu.uploads() == 1
    x + 1
    assert cupy_on_cpu.uploads() == 1


def trainer_of(layers, dtype):
    model = GPTConfig(V, block_size=8, n_layer=layers, n_head=2, n_embd=32, dropout=0.2)
    tokens = np.arange(100) % V
    corpus = Corpus("", "", CharTokenizer(""), tokens, tokens)
    config = dataclasses.replace(TrainConfig(batch_size=2, model=model), grad_clip=1.0, dtype=dtype)
    return Trainer(config, corpus, Run(Path("unused")), "cuda")


@pytest.mark.usefixtures("fused")
def test_launches_of_a_training_step():
    """In float32, where attention is plain operations: of each block, and of all the rest."""
    counts = [launches_of(trainer_of(layers, "float32").update) for layers in (1, 2)]
    per_block = counts[1] - counts[0]
    # CuPy copies some of the operands of its products; the stand-in takes them as they lie.
    assert per_block <= (66 if cupy_on_cpu.installed() else 62)
    assert counts[0] - per_block <= 46


@pytest.mark.usefixtures("fused")
def test_launches_of_the_video_s_training_step_in_bfloat16():
    """With its six blocks, and a limit for the gradient. Sizes do not matter."""
    assert launches_of(trainer_of(6, "bfloat16").update) <= 242


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 916), ("bfloat16", 993)])
@pytest.mark.usefixtures("counted")
def test_launches_of_plain_operations(dtype, limit):
    """The same step by CuPy's own operations; the stand-in counts copies, too."""
    assert launches_of(trainer_of(6, dtype).update) <= limit


@pytest.mark.usefixtures("fused")
def test_launches_of_a_block_in_16_bits():
    """Forwards and backwards, with flash attention."""
    counts = []
    for layers in (1, 2):
        size = {"block_size": 8, "n_layer": layers, "n_head": 2, "n_embd": 32, "dropout": 0.2}
        model = GPT(GPTConfig(V, **size)).to("cuda").to(tensorlib.float16)
        idx = tensorlib.zeros(2, 9, dtype=tensorlib.long, device="cuda")

        def step(model=model, idx=idx):
            model(idx[:, :-1], idx[:, 1:])[1].backward()
            for p in model.parameters():
                p.grad = None

        counts.append(launches_of(step))
    assert counts[1] - counts[0] <= 33
