"""train.py --dtype on a GPU: it learns as in float32, does not wait, and goes on bit for bit."""

import dataclasses
import sys

import emulator
import fake_cupy
import numpy as np
import pytest

from gpt import GPTConfig, UserError
from gpt.checkpoint import Checkpoint
from gpt.commands import cli
from gpt.config import TrainConfig
from gpt.data import Corpus
from gpt.fast.precision import Precision
from gpt.runs.run import Run
from gpt.training import Trainer
from tensorlib import devices, kernels
from tensorlib.kernels import cublas

TOLERANCE = {"bfloat16": 2e-2, "float16": 2e-3}

pytestmark = pytest.mark.usefixtures("machine")


TEXT = "".join(f"the {word} jumps over {i}\n" for i in range(60) for word in ("fox", "dog", "cat"))


def trainer(path, dtype, device="cuda", **changes):
    corpus = Corpus.from_text("text", TEXT, block_size=8)
    size = {"block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.1}
    model = GPTConfig(**size, vocab_size=corpus.tokenizer.vocab_size, activation="gelu_tanh")
    config = TrainConfig(batch_size=4, eval_iters=2, warmup_iters=2, model=model, dtype=dtype)
    config = dataclasses.replace(config, out=path / f"run-{len(list(path.iterdir()))}", **changes)
    return Trainer(config, corpus, Run.create(config), device)


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16", "float16"])
def test_training_learns_as_in_float32(dtype, tmp_path, monkeypatch):
    if dtype == "tf32":
        monkeypatch.setattr(cublas, "_tf32", True)
    narrow, wide = (trainer(tmp_path, d, learning_rate=1e-2) for d in (dtype, "float32"))
    assert narrow.estimate_loss() == pytest.approx(wide.estimate_loss(), abs=1e-2)
    for _ in range(20):
        narrow.update()
        wide.update()
    losses = narrow.estimate_loss()
    assert losses["val_loss"] < 3.0 < np.log(narrow.config.model.vocab_size)
    assert losses == pytest.approx(wide.estimate_loss(), abs=0.1)
    checkpoint = narrow.checkpoint(with_moments=True)
    assert {x.dtype.name for x in checkpoint.tensors.values()} == {"float32"}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_fused_kernels_in_16_bits(dtype, machine, tmp_path, monkeypatch):
    if machine == "stand-in" and emulator.missing:
        pytest.skip(emulator.missing)
    monkeypatch.setattr(kernels, "_gpu", kernels.cpu)  # which is put back
    losses = []
    for fused in (True, False):
        kernels.use_fused(fused)
        run = trainer(tmp_path, dtype)
        losses.append([run.update().item() for _ in range(3)])
    np.testing.assert_allclose(*losses, atol=TOLERANCE[dtype])


def test_a_step_in_bfloat16_does_not_wait(machine, tmp_path):
    if machine == "GPU":
        pytest.skip("CuPy does not see what our own cuBLAS waits for")
    run = trainer(tmp_path, "bfloat16", grad_clip=0.5)
    run.update()
    with fake_cupy.no_synchronisation():
        run.update()


def test_float16_goes_on_bit_for_bit(tmp_path):
    run = trainer(tmp_path, "float16")
    run.precision.scaler.update(2.0**127)  # so that a few steps are skipped
    for _ in range(4):
        run.update()
    checkpoint = run.checkpoint(with_moments=True)
    assert run.precision.scaler.get_scale() == 2.0**123
    assert "optimizer.step" not in checkpoint.tensors  # all steps have been skipped until now
    run.precision.scaler.update(2.0**16)
    for _ in range(5):
        run.update()
    path = tmp_path / "last.safetensors"
    run.checkpoint(with_moments=True).save(path)
    assert Checkpoint.load(path).tensors["optimizer.step"] == 5
    other = trainer(tmp_path, "float16")
    other.resume(Checkpoint.load(path))
    assert other.precision.scaler.state_dict() == run.precision.scaler.state_dict()
    for _ in range(3):
        assert other.update().item() == run.update().item()
    for name, x in run.model.state_dict().items():
        assert other.model.state_dict()[name].tolist() == x.tolist()


def test_auto_takes_what_the_gpu_has(machine, monkeypatch):
    if machine == "GPU":
        pytest.skip("there is one GPU, not two")
    for capability, dtype in (("75", "float16"), ("80", "bfloat16"), ("90", "bfloat16")):
        monkeypatch.setattr(fake_cupy.cupy.cuda.Device, "compute_capability", capability)
        devices.compute_capability.cache_clear()
        assert Precision("auto", "cuda").dtype == dtype
    monkeypatch.setattr(fake_cupy.cupy.cuda.Device, "compute_capability", "75")
    devices.compute_capability.cache_clear()
    for dtype in ("bfloat16", "tf32"):
        with pytest.raises(UserError, match=f"^--dtype {dtype} needs a GPU .* --dtype float16$"):
            Precision(dtype, "cuda")


def test_bfloat16_needs_ml_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(UserError, match=r"pip install ml_dtypes$"):
        Precision("bfloat16", "cuda")


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16", "float16"])
def test_a_cpu_has_float32_only(dtype):
    message = f"^--dtype {dtype} is for a GPU, this computes on the CPU: --dtype float32$"
    with pytest.raises(UserError, match=message):
        cli.prepare_device(cli.train_config(["--device", "cpu", "--dtype", dtype]))
    assert Precision("auto", "cpu").dtype == "float32"


def test_the_flag_switches_tf32(monkeypatch):
    monkeypatch.setattr(cublas, "_tf32", False)
    for dtype in ("tf32", "float32"):
        cli.prepare_device(cli.train_config(["--device", "gpu", "--dtype", dtype]))
        assert cublas._tf32 == (dtype == "tf32")
