"""The layers beside PyTorch's: printed, initialised draw for draw, computed."""

import numpy as np
import pytest
from both import BOTH, arrays, assert_close, same
from harness import check, integers, tensorlib, to_array
from streams import NORMAL

LAYERS = {  # how to build it, its input (a shape, or indices)
    "Linear": (lambda nn: nn.Linear(3, 5), (2, 4, 3)),
    "Linear-no-bias": (lambda nn: nn.Linear(3, 5, bias=False), (4, 3)),
    "Linear-1x1": (lambda nn: nn.Linear(1, 1), (1, 1)),
    "Linear-17": (lambda nn: nn.Linear(17, 3), (2, 17)),
    "Embedding-15": (lambda nn: nn.Embedding(5, 3), integers(5, 2, 4)),
    "Embedding-16": (lambda nn: nn.Embedding(8, 2), integers(8, 2, 4)),
    "Embedding-17": (lambda nn: nn.Embedding(17, 1), integers(17, 3)),
    "Embedding-65": (lambda nn: nn.Embedding(65, 65), integers(65, 4, 8)),
    "LayerNorm": (lambda nn: nn.LayerNorm(6), (2, 3, 6)),
    "LayerNorm-2d": (lambda nn: nn.LayerNorm((3, 4), eps=1e-3), (2, 3, 4)),
    "LayerNorm-no-bias": (lambda nn: nn.LayerNorm(6, bias=False), (2, 6)),
    "LayerNorm-plain": (lambda nn: nn.LayerNorm([6], elementwise_affine=False), (2, 6)),
    "RMSNorm": (lambda nn: nn.RMSNorm(6), (2, 3, 6)),
    "RMSNorm-2d": (lambda nn: nn.RMSNorm((3, 4), eps=1e-6), (2, 3, 4)),
    "RMSNorm-plain": (lambda nn: nn.RMSNorm(6, elementwise_affine=False), (2, 6)),
    "Dropout": (lambda nn: nn.Dropout(0.2).eval(), (3, 4)),
    "Dropout-default": (lambda nn: nn.Dropout().eval(), (3, 4)),
    "Dropout-0": (lambda nn: nn.Dropout(0.0), (3, 4)),
    "Dropout-1": (lambda nn: nn.Dropout(p=1.0), (3, 4)),
    "ReLU": (lambda nn: nn.ReLU(), (3, 4)),
    "GELU": (lambda nn: nn.GELU(), (3, 4)),
    "GELU-tanh": (lambda nn: nn.GELU(approximate="tanh"), (3, 4)),
    "SiLU": (lambda nn: nn.SiLU(), (3, 4)),
    "Tanh": (lambda nn: nn.Tanh(), (3, 4)),
    "Sigmoid": (lambda nn: nn.Sigmoid(), (3, 4)),
    "Softmax": (lambda nn: nn.Softmax(dim=1), (3, 4, 2)),
    "Identity": (lambda nn: nn.Identity(), (3, 4)),
    "Identity-arguments": (lambda nn: nn.Identity(54, unused=True), (3, 4)),
    "Sequential": (lambda nn: nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)), (5, 3)),
    "MLP": (
        lambda nn: nn.Sequential(
            nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 16), nn.GELU()),
            nn.Sequential(nn.Linear(16, 4), nn.Identity()),
        ),
        (2, 3, 4),
    ),
}
LOSSES = {
    "CrossEntropyLoss": (lambda nn: nn.CrossEntropyLoss(), [(4, 5), integers(5, 4)]),
    "CrossEntropyLoss-all": (
        lambda nn: nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.1, reduction="sum"),
        [(2, 5, 3), integers(5, 2, 3)],
    ),
    "MSELoss": (lambda nn: nn.MSELoss(), [(3, 4), (3, 4)]),
    "MSELoss-none": (lambda nn: nn.MSELoss(reduction="none"), [(3, 4), (3, 4)]),
}


@pytest.mark.parametrize("name", [*LAYERS, *LOSSES])
def test_layer_repr(name):
    build = {**LAYERS, **LOSSES}[name][0]
    same(lambda t: repr(build(t.nn)))


@pytest.mark.parametrize("seed", [0, 1337])
@pytest.mark.parametrize("name", LAYERS)
def test_default_initialisation_draw_for_draw(name, seed):
    """The same seed gives PyTorch's weights, and leaves the stream where PyTorch's stands."""
    states = []
    for t in BOTH:
        t.manual_seed(seed)
        state = arrays(LAYERS[name][0](t.nn).state_dict())
        states.append({**state, "next": t.rand(3).cpu().numpy()})
    theirs, ours = states
    assert_close(ours, theirs, rtol=0, atol=NORMAL)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, dtype):
    """With PyTorch's weights: outputs, gradients of the weights and of the input."""
    build, source = LAYERS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(source).astype(dtype) if isinstance(source, tuple) else source
    weights = None
    results = []
    for t in BOTH:
        m = build(t.nn).to(getattr(t, dtype))
        weights = weights or {k: rng.standard_normal(p.shape) for k, p in m.state_dict().items()}
        m.load_state_dict({k: t.tensor(w.astype(dtype)) for k, w in weights.items()})
        leaf = t.tensor(x, requires_grad=isinstance(source, tuple))
        out = m(leaf)
        out.backward(t.tensor(np.random.default_rng(1).standard_normal(out.shape).astype(dtype)))
        grads = {k: to_array(p.grad) for k, p in m.named_parameters()}
        grads |= {"input": to_array(leaf.grad)} if isinstance(source, tuple) else {}
        results.append({"output": to_array(out), **grads})
    tolerance = (1e-4, 1e-5) if dtype == "float32" else (1e-10, 1e-10)
    assert_close(results[1], results[0], *tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_module(name):
    build, inputs = LOSSES[name]
    check(lambda t, *xs: build(t.nn)(*xs), *inputs)


@pytest.mark.parametrize("attribute", ["in_features", "out_features"])
def test_linear_tells_its_sizes(attribute):
    same(lambda t: getattr(t.nn.Linear(3, 5), attribute))


def test_other_attributes():
    same(lambda t: (t.nn.Embedding(5, 3).num_embeddings, t.nn.Embedding(5, 3).embedding_dim))
    same(lambda t: (tuple(t.nn.LayerNorm(4).normalized_shape), t.nn.LayerNorm(4).eps))
    same(lambda t: (t.nn.Dropout(0.3).p, t.nn.Linear(2, 3, bias=False).bias is None))


def test_dropout_module_follows_the_mode():
    m = tensorlib.nn.Dropout(0.5)
    x = tensorlib.ones(1000)
    assert set(m(x).tolist()) == {0.0, 2.0}
    assert m.eval()(x).tolist() == x.tolist()
