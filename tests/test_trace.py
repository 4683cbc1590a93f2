"""tensorlib.trace: expected values are formulas (the GPT's FLOPs, what a block keeps) and PyTorch's
(FlopCounterMode, the gradients of inner results)."""

import contextlib
import inspect
import math
import sys
import threading
from pathlib import Path

import fake_cupy
import numpy as np
import pytest
import torch
from harness import to_array
from torch.utils.flop_counter import FlopCounterMode

import tensorlib
from gpt import GPT, GPTConfig
from tensorlib import nn
from tensorlib.kernels import gpu_attention
from tensorlib.nn import functional as F
from tensorlib.observe import flops


@pytest.fixture(autouse=True)
def _no_peak_of_a_stand_in(request, monkeypatch):
    """Which would take minutes for what a GPU shows in a second."""
    if request.config.getoption("--device") == "cuda-emulated":
        measured = flops.peak
        monkeypatch.setattr(
            flops, "peak", lambda d, dtype: measured(d, dtype) if d == "cpu" else 1e9
        )


def gpt(layers=2, T=32, C=64, H=4, **options):
    tensorlib.manual_seed(0)
    return GPT(GPTConfig(65, block_size=T, n_layer=layers, n_head=H, n_embd=C, **options))


def traced_step(model, B=2, T=32):
    idx = tensorlib.randint(0, 65, (B, T + 1))
    inputs, targets = idx[:, :-1], idx[:, 1:]
    with tensorlib.trace() as t:
        _, loss = model(inputs, targets)
        loss.backward()
    return t


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ours(array):
    return tensorlib.tensor(array, requires_grad=True)


def here():
    """The line that calls this."""
    return inspect.currentframe().f_back.f_lineno


# ------------------------------------------------------------------------------- while it is off


def calls(function):
    """What this library's code calls while `function` runs, as pairs of file and name; functions
    that are not written in Python stand with the one that calls them."""
    found = []

    def note(frame, event, argument):
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
        if "tensorlib" not in path.parts or name == "<listcomp>":  # no call since Python 3.12
            return
        if event == "call":
            found.append((path.name, name))
        elif event == "c_call":
            found.append((path.name, f"{name} {argument.__name__}"))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.cpu("the calls of an operation there")
def test_off_it_adds_no_call_to_an_operation():
    """Nothing in this list is an observer's."""
    x, y = ours(normal(2, 3)), ours(normal(2, 3))
    operand = ["run isinstance", "run append", "run append"]
    assert [name for _, name in calls(lambda: x * y)] == [
        "run", *operand, *operand, "promote", "promote getattr", "promote getattr",
        "run get", "run run", "mul", "__init__", "__init__",
    ]  # fmt: skip


def test_off_it_adds_no_call_to_a_module():
    layer, x = nn.ReLU(), ours(normal(2, 3))
    assert [name for _, name in calls(lambda: layer(x))[:3]] == ["__call__", "forward", "run"]


def test_off_nothing_of_it_runs():
    model = gpt()
    idx = tensorlib.randint(0, 65, (2, 33))
    files = {file for file, _ in calls(lambda: model(idx[:, :-1], idx[:, 1:])[1].backward())}
    assert "autograd.py" in files
    assert not files & {"observer.py", "trace.py", "anomaly.py", "flops.py", "graph.py"}


def test_the_numbers_are_the_same_with_it():
    grads = []
    for watch in (contextlib.nullcontext(), tensorlib.trace()):
        model = gpt(dropout=0.2)
        idx = tensorlib.randint(0, 65, (2, 33))
        with watch, tensorlib.random.counter(0, 1, 2):
            model(idx[:, :-1], idx[:, 1:])[1].backward()
        grads.append([to_array(p.grad) for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_array_equal(a, b)


# ----------------------------------------------------------------------------------------- FLOPs


@pytest.mark.parametrize("options", [{}, {"tied_head": True}, {"activation": "gelu_tanh"}])
@pytest.mark.parametrize(("layers", "T", "C", "H"), [(1, 8, 16, 2), (3, 128, 32, 4)])
def test_flops_of_a_gpt(layers, T, C, H, options):
    """6 N + 12 L H Q T for each token, N the weights of the matrices, Q = C / H."""
    t = traced_step(gpt(layers, T, C, H, **options), B=2, T=T)
    N = layers * (3 * C * C + C * C + 4 * C * C + 4 * C * C) + 65 * C
    assert sum(r.flops for r in t.operations) == 2 * T * (6 * N + 12 * layers * C * T)


@pytest.mark.cpu("its attention leaves half of the scores out")
@pytest.mark.parametrize("T", [192, 200])
def test_flops_of_a_gpt_where_the_masked_half_is_left_out(T):
    """Blocks of 64 rows compute the columns up to their end: 64² (1 + 2 + 3) and so on."""
    layers, C, H, B = 2, 16, 2, 1
    t = traced_step(gpt(layers, T, C, H), B=B, T=T)
    whole = T // 64
    pairs = 64**2 * whole * (whole + 1) // 2 + (T - 64 * whole) * T
    N = layers * 12 * C * C + 65 * C
    assert sum(r.flops for r in t.operations) == B * (6 * N * T + 12 * layers * C * pairs)
    assert pairs < 0.7 * T * T


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (lambda t, x, y: x @ y, [(3, 4), (4, 5)]),
        (lambda t, x, y: x @ y, [(2, 3, 4), (4, 5)]),
        (lambda t, x, y: x @ y, [(2, 3, 4), (2, 4, 5)]),
        (lambda t, x, y: x @ y.transpose(-2, -1), [(2, 6, 3, 4), (2, 6, 5, 4)]),
        (lambda t, x, y: t.nn.functional.linear(x, y), [(2, 3, 4), (5, 4)]),
        (lambda t, x, y: (x * y).exp().sum(-1), [(2, 3), (2, 3)]),
        (lambda t, x, w: t.nn.functional.linear(x.detach(), w), [(2, 3, 4), (5, 4)]),
        (
            lambda t, x, y: t.nn.functional.scaled_dot_product_attention(x, y, y),
            [(2, 3, 7, 4), (2, 3, 5, 4)],
        ),
    ],
)
def test_flops_are_those_that_pytorch_counts(fn, shapes):
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    math_only = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math_only, FlopCounterMode(display=False) as counter:
        fn(torch, *leaves).sum().backward()
    with tensorlib.trace() as t:
        fn(tensorlib, *map(ours, arrays)).sum().backward()
    assert sum(r.flops for r in t.operations) == counter.get_total_flops()


def test_flops_of_arguments_by_keyword_in_any_order():
    x, weight, bias = ours(normal(5, 7)), ours(normal(4, 7)), ours(normal(4))
    with tensorlib.trace() as t:
        F.linear(bias=bias, weight=weight, input=x).sum().backward()
    assert sum(r.flops for r in t.operations) == 3 * 2 * 5 * 7 * 4


def test_flops_of_flash_attention(monkeypatch):
    """Its kernels leave out what is masked, in blocks of 64 rows, at any length."""
    monkeypatch.setattr(gpu_attention, "_flash", lambda q, k, v, scale: True)
    x = np.zeros((1, 1, 72, 16), np.float16)
    assert gpu_attention.attention_pairs(x, x, x, None, True, 1.0) == 64 * 64 + 8 * 72
    assert gpu_attention.attention_pairs(x, x, x, None, False, 1.0) == 72 * 72
    assert gpu_attention.attention_pairs(x, x, x, np.ones((72, 72), bool), True, 1.0) == 72 * 72


def test_flops_of_an_operation_of_ones_own_that_has_a_known_name():
    @tensorlib.autograd.operation
    def attention(x):
        return x * 2, (lambda grad: grad * 2,)

    with tensorlib.trace() as t:
        attention(ours(normal(3)))
    assert [(r.name, r.flops) for r in t.operations] == [("attention", 0)]


def test_flops_of_what_nobody_wants_are_not_counted():
    x, y = ours(normal(3, 4)), ours(normal(4, 5))
    with tensorlib.trace() as t:
        z = (x @ y).sum()
        tensorlib.autograd.grad(z, x)
    assert sum(r.flops for r in t.operations) == 2 * (2 * 3 * 4 * 5)
    with tensorlib.trace() as t, tensorlib.no_grad():
        x @ y
    assert [r.flops for r in t.operations] == [2 * 3 * 4 * 5]


# ------------------------------------------------------------------------------- memory, gradients


def test_bytes_that_a_block_keeps():
    """As test_counts.py finds by measuring memory: 12 C + H T numbers for each position, and for
    both LayerNorms 1 / √variance."""
    B, T, C, H = 2, 32, 64, 4
    one, two = (sum(r.kept for r in traced_step(gpt(n), B, T).operations) for n in (1, 2))
    assert two - one == 4 * B * T * (12 * C + H * T + 2)


def test_bytes_are_counted_once_and_parameters_not():
    w = nn.Parameter(tensorlib.rand(3, 4))
    x = tensorlib.rand(3, 4)
    with tensorlib.trace() as t:
        y = (x * w).exp()  # mul keeps x for w, of w nothing that was not there; exp its result
        y * y  # keeps y again
    assert [r.kept for r in t.operations] == [4 * 12, 4 * 12, 0]
    with tensorlib.trace() as t, tensorlib.no_grad():
        (x * w).exp()
    assert [r.kept for r in t.operations] == [0, 0]


def test_norms_of_gradients_are_pytorchs():
    arrays = normal(3, 4), normal(4, 5, seed=1)
    x, w = (torch.tensor(a, requires_grad=True) for a in arrays)
    a = x @ w
    b = a.tanh()
    c = b * a
    for inner in (a, b, c):
        inner.retain_grad()
    c.sum().backward()
    theirs = [inner.grad.norm().item() for inner in (a, b, c)] + [1.0]
    x, w = map(ours, arrays)
    with tensorlib.trace() as t:
        a = x @ w
        b = a.tanh()
        (b * a).sum().backward()
    assert [r.name for r in t.operations] == ["matmul", "tanh", "mul", "sum"]
    np.testing.assert_allclose([r.gradient for r in t.operations], theirs, rtol=1e-5)


def test_norm_over_several_results_and_of_none():
    x = ours(np.ones((2, 3), np.float32))
    with tensorlib.trace() as t:
        a, b = x.unbind(0)
        (3 * a + 4 * b).sum().backward()
        x.detach().gt(0)
    records = {r.name: r for r in t.operations}
    assert records["unbind"].gradient == pytest.approx(math.sqrt(3 * 9 + 3 * 16))
    assert records["gt"].gradient is None
    assert records["gt"].backward == 0


# -------------------------------------------------------------------------------- what ran where


def test_each_operation_has_its_line_module_shapes_and_dtype():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 3), nn.ReLU())

        def forward(self, x):
            self.line = here() + 1
            return self.body(x).double().unbind(0)

    net = Net()
    x = tensorlib.rand(2, 4)
    with tensorlib.trace() as t:
        net(x)
        line = here() + 1
        x.sum()
    assert [(r.name, r.origin.module, r.origin.line) for r in t.operations] == [
        ("linear", "body.0", net.line),
        ("relu", "body.1", net.line),
        ("cast", "Net", net.line),
        ("unbind", "Net", net.line),
        ("sum", "", line),
    ]
    assert all(r.origin.file == __file__ for r in t.operations)
    assert [r.shapes for r in t.operations] == [[(2, 3)], [(2, 3)], [(2, 3)], [(3,), (3,)], [()]]
    assert [r.dtype.name for r in t.operations] == ["float32"] * 2 + ["float64"] * 2 + ["float32"]


def test_a_module_that_is_in_no_tree_has_its_class_for_a_name():
    class Net(nn.Module):
        def forward(self, x):
            return nn.ReLU()(x)

    with tensorlib.trace() as t:
        Net()(tensorlib.rand(2))
        nn.Sequential(Net())(tensorlib.rand(2))
    assert [r.origin.module for r in t.operations] == ["ReLU", "0.ReLU"]


def test_parameters_without_a_gradient_are_listed():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.forgotten = nn.Linear(2, 2), nn.Linear(2, 2)
            self.frozen = nn.Linear(2, 2).requires_grad_(False)
            self.cut = nn.Linear(2, 2)

        def forward(self, x):
            return self.frozen(self.used(x) + self.cut(x).detach())

    net = Net()
    for _ in range(2):  # also if an old gradient is still there
        with tensorlib.trace() as t:
            net(tensorlib.rand(3, 2)).sum().backward()
        expected = ["forgotten.weight", "forgotten.bias", "cut.weight", "cut.bias"]
        assert t.missing_gradients() == expected
        assert str(t).endswith("parameters without a gradient: " + ", ".join(expected))
        for p in net.parameters():
            p.grad = tensorlib.zeros_like(p)
    with tensorlib.trace() as t:
        net(tensorlib.rand(3, 2))
    assert t.missing_gradients() == []  # there was no backward


def test_backward_of_what_was_not_watched():
    y = (ours(normal(3)) * 2).exp()
    with tensorlib.trace() as t:
        y.sum().backward()
    assert [r.name for r in t.operations] == ["sum", "exp", "mul"]
    assert str(t)


def test_another_thread_is_not_watched_and_an_error_ends_it():
    x = tensorlib.rand(3)
    t = tensorlib.trace()

    def watched():
        with t:
            other = threading.Thread(target=x.exp)
            other.start()
            other.join()
            x.log()
            x + tensorlib.rand(4)

    with pytest.raises(RuntimeError, match="shapes"):
        watched()
    assert [r.name for r in t.operations] == ["log"]
    x.exp()
    assert len(t.operations) == 1


def test_one_inside_the_other():
    x = ours(normal(3))
    with tensorlib.trace() as outer:
        with tensorlib.trace() as inner:
            y = x.exp()
        y.sum().backward()
    assert [r.name for r in outer.operations] == ["exp", "sum"]
    assert [r.name for r in inner.operations] == ["exp"]
    assert outer.operations[0].gradient == pytest.approx(math.sqrt(3))
    assert inner.operations[0].gradient is None


def test_of_a_gpus_arrays_it_sees_the_same():
    """Seen on the stand-in for CuPy; there may be a GPU elsewhere."""
    ours = traced_step(gpt())
    with fake_cupy.installed():
        model = gpt()
        model.to("cuda")
        idx = tensorlib.randint(0, 65, (2, 33)).to("cuda")
        with tensorlib.trace() as t, tensorlib.autograd.detect_anomaly():
            model(idx[:, :-1], idx[:, 1:])[1].backward()
    assert {r.device for r in t.operations} == {"cuda"}
    for r, other in zip(t.operations[2:], ours.operations, strict=True):  # without the getitems
        assert (r.name, r.shapes, r.flops) == (other.name, other.shapes, other.flops)
        assert (r.gradient is None) == (other.gradient is None)
        assert r.gradient is None or r.gradient == pytest.approx(other.gradient, rel=1e-3)


# --------------------------------------------------------------------------------------- totals


def test_totals_are_the_sums(monkeypatch):
    monkeypatch.setattr(flops, "peak", lambda device, dtype: 1e9)
    t = traced_step(gpt(layers=2))
    totals = t.totals()
    count = sum(r.flops for r in t.operations)
    assert sum(total.flops for total in totals.by_operation.values()) == count
    assert sum(total.calls for total in totals.by_operation.values()) == len(t.operations)
    assert totals.by_module["GPT"].flops == count
    C, tokens = 64, 2 * 32
    for block in ("h.0", "h.1"):
        assert totals.by_module[f"{block}.mlp"].flops == 6 * tokens * 8 * C * C
        inside = [totals.by_module[f"{block}.{name}"] for name in ("ln_1", "attn", "ln_2", "mlp")]
        assert totals.by_module[block].calls == sum(total.calls for total in inside) + 2
    seconds = sum(r.forward + r.backward for r in t.operations)
    assert sum(total.seconds for total in totals.by_operation.values()) == pytest.approx(seconds)
    assert seconds < t.seconds
    mlp = totals.by_module["h.0.mlp"]
    row = next(line for line in str(totals).splitlines() if line.startswith("linear ")).split()
    linear = totals.by_operation["linear"]
    assert row[-1] == f"{linear.flops / linear.seconds / 1e9:.0%}"
    assert mlp.best_seconds == pytest.approx(mlp.flops / 1e9)


def test_the_peak_is_measured_once():
    first = flops.peak("cpu", np.dtype("float32"))
    assert first > 1e8
    assert flops.peak("cpu", np.dtype("float32")) == first


@pytest.mark.parametrize("layers", [1, 12])
def test_every_line_fits_into_a_terminal(layers):
    t = traced_step(gpt(layers, T=16, C=384, H=6), B=12, T=16)
    text = f"{t}\n{t.totals()}"
    assert max(map(len, text.splitlines())) <= 100
    assert len(str(t).splitlines()) == 1 + len(t.operations) + 2
    assert len(str(t.totals()).splitlines()) < 50  # the blocks stand in it once
    assert "h.*.mlp.c_proj" in text


def test_it_can_be_printed_while_it_runs_and_empty():
    with tensorlib.trace() as t:
        assert str(t)
        assert str(t.totals())
        F.relu(tensorlib.rand(3))
        assert "relu" in str(t.totals())
