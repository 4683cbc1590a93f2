"""Device "cuda": on the stand-in for CuPy on any machine, and on a GPU where there is one.

Every operation's own tests run there, too: `python -m pytest --device cuda-emulated`, or `cuda`.
"""

import dataclasses
import sys
import types
import warnings
from contextlib import contextmanager

import fake_cupy
import numpy as np
import pytest
import torch
from harness import check, integers, mask

import tensorlib
from gpt import GPT, GPTConfig, UserError
from gpt.checkpoint import Checkpoint
from gpt.commands import cli
from gpt.config import TrainConfig
from gpt.data import Corpus
from gpt.runs.run import Run
from gpt.training import Trainer
from tensorlib import devices, kernels, nn, optim, random
from tensorlib.nn import functional as F

TEXT = "".join(f"the {word} jumps over {i}\n" for i in range(20) for word in ("fox", "dog", "cat"))

pytestmark = pytest.mark.usefixtures("machine")


@contextmanager
def no_synchronisation(machine):
    """Inside, what copies from the device raises."""
    if machine == "stand-in":
        with fake_cupy.no_synchronisation():
            yield
        return
    import cupyx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may miss one, and says so
        with cupyx.allow_synchronize(False):
            yield


# ---- operations, against PyTorch -----------------------------------------------------------------

OPERATIONS = {
    "arithmetic": (lambda t, x, y: (x + y) * x - y / 3 + 2 / (x * x + 1), (3, 4), (4,)),
    "power": (lambda t, x: (x * x + 1) ** 1.5 + x**3, (3, 4)),
    "functions": (lambda t, x: x.exp().sin() + x.tanh() * x.sigmoid() + x.cos(), (3, 4)),
    "roots": (lambda t, x: (x * x + 1).sqrt() + (x * x + 1).rsqrt() + (x * x + 1).log(), (3, 4)),
    "zeroth power": (lambda t, x: x**0 * x, (3, 4)),
    "power of a tensor": (lambda t, x, y: (x * x) ** y, (3, 4), (3, 4)),
    "relu": (lambda t, x: x.relu(), (3, 4)),
    "choices": (lambda t, x, y: t.where(x > y, x, y) + t.minimum(x, y).clamp(-1, 1), (3, 4), (4,)),
    "masked_fill": (lambda t, x, m: x.masked_fill(m, -1.5), (3, 4), mask(3, 4)),
    "number in where": (lambda t, x, m: t.where(m, x, 0.0), (3, 4), mask(3, 4)),
    "matmul": (lambda t, x, y: x @ y, (2, 3, 4), (4, 5)),
    "batched matmul": (lambda t, x, y: x @ y, (2, 3, 4), (2, 4, 5)),
    "sums": (lambda t, x: x.sum(1) + x.mean(1) + x.var(1) + x.logsumexp(1), (3, 4)),
    "several paths": (lambda t, x: x.sum() + x.mean() + (x * x + x.expand(2, 3, 4)).sum(), (3, 4)),
    "extremes": (lambda t, x: x.amax(0) + x.max(0).values + x.min(), (3, 4)),
    "argmax": (lambda t, x: x.argmax(1), (3, 4)),
    "topk": (lambda t, x: x.topk(2).values, (3, 5)),
    "softmax": (lambda t, x: x.softmax(-1) * x.log_softmax(0), (3, 4)),
    "cumsum": (lambda t, x: x.cumsum(1), (3, 4)),
    "views": (lambda t, x: x.reshape(4, 3).T[1:, None].expand(2, 5, 4)[..., 1:], (2, 6)),
    "joins": (lambda t, x, y: t.cat([x, y, x], 1) + t.stack([x, x], 1).sum(), (2, 3), (2, 2)),
    "split": (lambda t, x: x.split([1, 3], 1)[1] * x.unbind(1)[0][:, None], (2, 4)),
    "triangle": (lambda t, x: x.tril() + x.triu(1).repeat(1, 1), (3, 3)),
    "index": (lambda t, x, i: x[i] + x[0, i, None] + x[:, -1], (3, 3), [2, 0, 2]),
    "mask": (lambda t, x, m: x[m], (3, 4), mask(3, 4)),
    "gather": (lambda t, x, i: x.gather(1, i), (3, 4), integers(4, 3, 2)),
    "linear": (lambda t, x, w, b: t.nn.functional.linear(x, w, b), (2, 3, 4), (5, 4), (5,)),
    "one row": (lambda t, x, w: t.nn.functional.linear(x, w), (1, 4), (5, 4)),
    "embedding": (lambda t, i, w: t.nn.functional.embedding(i, w), integers(9, 4, 5), (9, 3)),
    "many rows": (lambda t, i, w: t.nn.functional.embedding(i, w), integers(300, 7), (300, 2)),
    "layer_norm": (lambda t, x, *w: t.nn.functional.layer_norm(x, (4,), *w), (3, 4), (4,), (4,)),
    "rms_norm": (lambda t, x, w: t.nn.functional.rms_norm(x, (4,), w), (3, 4), (4,)),
    "gelu": (lambda t, x: t.nn.functional.gelu(x), (3, 4)),
    "gelu, tanh": (lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), (3, 4)),
    "attention": (
        lambda t, *x: t.nn.functional.scaled_dot_product_attention(*x, is_causal=True),
        *[(2, 2, 5, 4)] * 3,
    ),
    "attention, mask": (
        lambda t, *x: t.nn.functional.scaled_dot_product_attention(*x),
        *[(2, 3, 4)] * 3,
        mask(3, 3),
    ),
    "cross_entropy": (
        lambda t, x, y: t.nn.functional.cross_entropy(x, y, label_smoothing=0.1, ignore_index=2),
        (6, 5),
        integers(5, 6),
    ),
    "nll_loss": (lambda t, x, y: t.nn.functional.nll_loss(x, y), (6, 5), integers(5, 6)),
    "mse_loss": (lambda t, x, y: t.nn.functional.mse_loss(x, y), (3, 4), (3, 4)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    function, *inputs = OPERATIONS[name]
    check(function, *inputs)


@pytest.mark.parametrize(("n", "rows"), [(1, range(1)), (30, range(2, 5)), (4096, range(1))])
def test_dropout_bits_are_those_of_the_cpu(n, rows):
    drawn = []
    for device in ("cpu", "cuda"):
        with random.counter(2**64 - 1, 3, 2**63, rows):
            bits = [random.dropout_bits(n, device) for _ in range(2)]
        drawn.append([devices.move(b, "cpu") for b in bits])
    np.testing.assert_array_equal(*drawn)


def test_dropout_of_everything():
    assert F.dropout(tensorlib.ones(100, device="cuda"), 1.0).tolist() == [0] * 100


def test_philox_is_numpy_s():
    for place in ((1, 2, 3, 4, 30, 0), (2**64 - 1, 5, 2**64 - 1, 2**63, 9, 2**40 + 3)):
        ours = random.philox(*place, device="cuda")
        assert devices.device_of(ours) == "cuda"
        np.testing.assert_array_equal(devices.move(ours, "cpu"), random.philox(*place))


# ---- the model, and training it ------------------------------------------------------------------


def gradients(model, x, y, device):
    model.to(device)
    with random.counter(1, 2, 3):
        _, loss = model(x.to(device), y.to(device))
    loss.backward()
    found = {name: p.grad.cpu().numpy().copy() for name, p in model.named_parameters()}
    model.zero_grad()
    return loss.item(), found


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
def test_gpt_agrees_with_the_cpu(activation):
    size = {"block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 300}
    tensorlib.manual_seed(0)
    model = GPT(GPTConfig(**size, dropout=0.2, activation=activation))
    x, y = tensorlib.randint(300, (3, 8)), tensorlib.randint(300, (3, 8))
    loss, expected = gradients(model, x, y, "cpu")
    loss_there, found = gradients(model, x, y, "cuda")
    assert model.device == "cuda"
    assert abs(loss - loss_there) < 1e-5
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def trainer(path, device, **changes):
    corpus = Corpus.from_text("text", TEXT, block_size=8)
    size = {"block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.1}
    model = GPTConfig(**size, vocab_size=corpus.tokenizer.vocab_size)
    config = TrainConfig(batch_size=4, eval_iters=2, warmup_iters=2, model=model, **changes)
    config = dataclasses.replace(config, out=path / f"run-{len(list(path.iterdir()))}")
    return Trainer(config, corpus, Run.create(config), device)


def test_training_agrees_with_the_cpu(tmp_path):
    there, here = (trainer(tmp_path, device, grad_clip=0.5) for device in ("cuda", "cpu"))
    for _ in range(5):
        assert there.update().item() == pytest.approx(here.update().item(), abs=1e-5)
    assert there.estimate_loss() == pytest.approx(here.estimate_loss(), abs=1e-5)
    assert there.full_val_loss() == pytest.approx(here.full_val_loss(), abs=1e-5)
    for name, x in there.checkpoint(with_moments=True).tensors.items():
        assert x.device == "cuda" or name.startswith("guard.")
        expected = here.checkpoint(with_moments=True).tensors[name].numpy()
        np.testing.assert_allclose(x.cpu().numpy(), expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_two_runs_give_the_same_bits(tmp_path):
    one, other = (trainer(tmp_path, "cuda") for _ in range(2))
    for _ in range(3):
        assert one.update().item() == other.update().item()


def test_a_step_does_not_wait_for_the_device(machine, tmp_path):
    run = trainer(tmp_path, "cuda", grad_clip=0.5)
    run.update()  # warms the caches up
    uploads = fake_cupy.count.uploads
    with no_synchronisation(machine):
        loss = run.update()
        run.update()
    if machine == "stand-in":
        assert fake_cupy.count.uploads == uploads + 2  # the places of a batch, per step
        with no_synchronisation(machine), pytest.raises(AssertionError, match="wait"):
            loss.item()
    assert np.isfinite(loss.item())


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_checkpoint_goes_on_on_the_other_device(tmp_path, first, then):
    run = trainer(tmp_path, first)
    for _ in range(3):
        run.update()
    path = tmp_path / "last.safetensors"
    run.checkpoint(with_moments=True).save(path)
    other = trainer(tmp_path, then)
    other.resume(Checkpoint.load(path))
    for _ in range(3):
        assert other.update().item() == pytest.approx(run.update().item(), abs=1e-5)


def test_there_and_back():
    layer = nn.Linear(3, 2)
    assert layer.cuda().weight.device == "cuda"
    assert layer.cpu().weight.device == "cpu"


@pytest.mark.parametrize("optimizer", [optim.AdamW, optim.SGD])
def test_an_optimizer_takes_its_state_to_the_parameters(optimizer):
    options = {"momentum": 0.9} if optimizer is optim.SGD else {}
    layers = [nn.Linear(3, 2).to(device) for device in ("cpu", "cuda")]
    there = optimizer(layers[1].parameters(), lr=0.1, **options)
    here = optimizer(layers[0].parameters(), lr=0.1, **options)
    layers[0](tensorlib.ones(2, 3)).sum().backward()
    here.step()
    there.load_state_dict(here.state_dict())
    layers[1].load_state_dict(layers[0].state_dict())
    for layer, steps in zip(layers, (here, there)):
        layer.zero_grad()
        layer(tensorlib.ones(2, 3, device=layer.weight.device)).sum().backward()
        steps.step()
    np.testing.assert_allclose(layers[1].weight.tolist(), layers[0].weight.tolist(), rtol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_adam_does_nothing_where_found_inf_is_set(device, machine):
    p = nn.Parameter(tensorlib.tensor([1.0, -2.0, 3.0], device=device))
    adam = optim.AdamW([p], lr=0.1, weight_decay=0.1)
    theirs = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    their_adam = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.1)
    for gradient in ([0.1, 0.2, -0.3], [np.nan, 1.0, np.inf], [0.5, -0.1, 0.0]):
        p.grad = tensorlib.tensor(gradient, device=device)
        bad = not np.isfinite(gradient).all()
        adam.found_inf = tensorlib.tensor(bad, device=device)
        adam.step()
        if bad:
            for state in their_adam.state.values():
                state["step"] += 1  # a skipped step counts
        else:
            theirs.grad = torch.tensor(gradient)
            their_adam.step()
    np.testing.assert_allclose(p.tolist(), theirs.tolist(), rtol=1e-6)


def test_generated_text_is_that_of_the_cpu():
    tensorlib.manual_seed(0)
    model = GPT(GPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=16, vocab_size=11))
    prompt = tensorlib.tensor([[1, 2, 3]])
    expected = model.generate(prompt, 12, top_k=5).tolist()
    assert model.to("cuda").generate(prompt.to("cuda"), 12, top_k=5).tolist() == expected


@pytest.mark.parametrize("max_norm", [0.1, 1e3])
def test_clip_grad_norm(max_norm, machine):
    found = []
    for device in ("cpu", "cuda"):
        p = tensorlib.tensor([1.0, -2.0, 3.0], device=device, requires_grad=True)
        (p * p).sum().backward()
        waits = no_synchronisation(machine) if device == "cuda" else warnings.catch_warnings()
        with waits:
            norm = nn.utils.clip_grad_norm_(p, max_norm)
        found.append([norm.item(), *p.grad.tolist()])
    np.testing.assert_allclose(*found, rtol=1e-6)


# ---- devices -------------------------------------------------------------------------------------


def test_a_tensor_moves_and_computes_where_it_is():
    x = tensorlib.tensor([[1.0, 2.0]], device="gpu", requires_grad=True)
    assert (x.device, x.cpu().device, x.cuda() is x) == ("cuda", "cpu", True)
    assert tensorlib.tensor(x.detach()).device == "cuda"
    assert tensorlib.arange(3, device="cuda").device == "cuda"
    assert tensorlib.zeros_like(x).device == "cuda"
    (x.cpu() * 2).sum().backward()
    assert (x.grad.device, x.grad.tolist()) == ("cuda", [[2.0, 2.0]])
    assert repr(x) == "tensor([[1., 2.]], device='cuda:0', requires_grad=True)"


def test_in_place_on_the_device():
    x = tensorlib.zeros(2, 3, device="cuda")
    x[0] = 1
    x[:, tensorlib.tensor([2], device="cuda")] = 5
    x[1, [0, 1]] += 2  # a list goes to the device
    x.copy_(x.cpu() * 2)
    assert x.tolist() == [[2, 2, 10], [4, 4, 10]]


def test_mistakes_name_the_devices():
    here, there = tensorlib.ones(2, 2), tensorlib.ones(2, 2, device="cuda")
    mixed = r"device 'cpu' and another on 'cuda'"
    for function in (
        lambda: here + there,
        lambda: there * here,
        lambda: there @ here,
        lambda: tensorlib.where(here > 0, there, there),
        lambda: F.linear(here, there),
        lambda: F.embedding(tensorlib.tensor([1], device="cuda"), here),
        lambda: tensorlib.cat([here, there]),
    ):
        with pytest.raises(RuntimeError, match=mixed):
            function()
    with pytest.raises(RuntimeError, match=r"index.*\.cpu\(\)"):
        here[tensorlib.tensor([1], device="cuda")]
    with pytest.raises(TypeError, match=r"\.cpu\(\)"):
        there.numpy()
    for change in (there.__iadd__, lambda x: there.__setitem__(0, x)):
        with pytest.raises(RuntimeError, match="in place on device 'cuda' with a tensor on 'cpu'"):
            change(here)
    with pytest.raises(RuntimeError, match=r"gradient is on device 'cpu', the tensor on 'cuda'"):
        (there.requires_grad_() * 2).backward(here)
    with pytest.raises(RuntimeError, match="unknown device 'tpu': use 'cpu' or 'cuda'"):
        here.to("tpu")


def test_the_fused_kernels_are_off_until_they_are_asked_for(monkeypatch):
    array = tensorlib.ones(2, device="cuda").array
    fused = types.ModuleType("tensorlib.kernels.gpu")
    monkeypatch.setitem(sys.modules, fused.__name__, fused)
    monkeypatch.setattr(kernels, "_gpu", kernels.cpu)  # whatever the tests run with; put back
    assert kernels.kernels(array) is kernels.gpu_kernels() is kernels.cpu
    kernels.use_fused()
    assert kernels.kernels(array) is kernels.gpu_kernels() is fused
    assert kernels.kernels(array.astype(np.float64)) is kernels.cpu
    assert kernels.kernels(np.ones(2)) is kernels.cpu
    kernels.use_fused(False)
    assert kernels.kernels(array) is kernels.cpu


# ---- what can be wrong with a GPU ----------------------------------------------------------------


@pytest.fixture
def stand_in(machine):
    if machine != "stand-in":
        pytest.skip("needs a machine on which something is wrong")
    return fake_cupy.cupy


def fails_to(error):
    def fail(*_arguments, **_options):
        raise error

    return fail


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'cupy'", name="cupy"), "not installed; run pip"),
        (ImportError("libnvrtc.so.13: cannot open\nshared object"), "not work .libnvrtc.* uninst"),
        (PermissionError(13, "Permission denied", "/.cupy"), r"cupy'\); set CUPY_CACHE_DIR"),
    ],
)
def test_a_cupy_that_cannot_be_imported(monkeypatch, capsys, error, message):
    class Finder:
        find_spec = staticmethod(fails_to(error))

    del sys.modules["cupy"]
    monkeypatch.setattr(sys, "meta_path", [Finder])
    with pytest.raises(UserError, match=rf"^--device gpu: .*{message}[^\n]*'cpu'$"):
        cli.find_device("gpu")
    assert cli.find_device("auto") == "cpu"
    assert ("does not work" in capsys.readouterr().err) != (type(error) is ModuleNotFoundError)
    assert not tensorlib.cuda.is_available()


def test_a_driver_that_does_not_answer(monkeypatch, stand_in):
    monkeypatch.setattr(stand_in.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"--device gpu: no GPU found: .*nvidia-smi"):
        cli.find_device("gpu")
    assert cli.find_device("auto") == "cpu"


def test_a_cupy_for_another_cuda(monkeypatch, capsys, stand_in):
    error = RuntimeError("nvrtc: error: invalid value for --gpu-architecture")
    monkeypatch.setattr(stand_in, "matmul", fails_to(error))
    monkeypatch.setattr(stand_in.ndarray, "__matmul__", fails_to(error))
    with pytest.raises(UserError, match=r"does not work \(nvrtc.*nvidia-smi.*pip install"):
        cli.find_device("cuda")
    assert cli.find_device("auto") == "cpu"
    assert capsys.readouterr().err.startswith("computing on the CPU: CuPy is installed, but")


def test_auto_takes_the_gpu():
    assert cli.find_device("auto") == cli.find_device("gpu") == "cuda"
    assert cli.train_config([]).preset == "video"


def test_fused_kernels_need_a_gpu():
    with pytest.raises(UserError, match="--kernels fused is for a GPU"):
        cli.prepare_device(cli.train_config(["--device", "cpu", "--kernels", "fused"]))


def test_processes_are_for_a_cpu():
    config = cli.train_config(["--device", "gpu", "--processes", "2"])
    with pytest.raises(UserError, match=r"^--processes is for a CPU, .*: leave it out$"):
        cli.prepare_device(config)
