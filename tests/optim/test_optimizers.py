"""SGD, Adam and AdamW beside PyTorch: the same gradients give the same weights, step after step."""

import numpy as np
import pytest
import torch
from harness import check_error, memory, tensorlib, to_array

from tensorlib.kernels import cpu

BOTH = (torch, tensorlib)
SHAPES = [(3, 4), (5,), (), (1, 1), (40, 30)]
RECIPES = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-default": ("SGD", {}),
    "sgd-momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd-decay": ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    "sgd-nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd-all": ("SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.01, "nesterov": True}),
    "adam": ("Adam", {}),
    "adam-lr": ("Adam", {"lr": 0.05}),
    "adam-betas": ("Adam", {"lr": 0.05, "betas": (0.5, 0.7)}),
    "adam-no-memory": ("Adam", {"lr": 0.05, "betas": (0.0, 0.0)}),
    "adam-eps": ("Adam", {"lr": 0.05, "eps": 0.5}),  # large: its place in the formula shows
    "adam-decay": ("Adam", {"lr": 0.05, "weight_decay": 0.3}),  # into the gradient
    "adamw": ("AdamW", {}),
    "adamw-gpt": ("AdamW", {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}),
    "adamw-decay": ("AdamW", {"lr": 0.05, "weight_decay": 0.3}),  # beside the gradient
    "adamw-eps": ("AdamW", {"lr": 0.05, "eps": 0.5, "weight_decay": 0.0}),
}
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def draw(seed, dtype, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def parameters(t, dtype="float64", shapes=SHAPES):
    return [t.nn.Parameter(t.tensor(a)) for a in draw(0, dtype, shapes)]


def make(t, recipe, params):
    name, options = RECIPES[recipe]
    return getattr(t.optim, name)(params, **options)


def train(t, params, optimizer, steps, dtype="float64", start=0, scale=1.0):
    """Steps with given gradients of changing size; the weights after each."""
    history = []
    for step in range(start, start + steps):
        optimizer.zero_grad()
        for p, g in zip(params, draw(1 + step, dtype), strict=True):
            p.grad = t.tensor(np.asarray(g * scale * 10.0 ** (step % 3 - 1), dtype))
        optimizer.step()
        history.append([to_array(p).copy() for p in params])
    return history


def assert_together(ours, theirs, rtol):
    """Every weight within rtol of PyTorch, relative to the largest its parameter has had."""
    scales = [max(np.abs(y).max() for y in history) for history in zip(*theirs, strict=True)]
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert x.dtype == y.dtype
            assert x.shape == y.shape
            error = np.abs(x - y).max() / scales[i]
            assert error <= rtol, f"step {step}, parameter {i}: {error:.2e}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("recipe", RECIPES)
def test_steps_together(recipe, dtype):
    histories = []
    for t in BOTH:
        params = parameters(t, dtype)
        histories.append(train(t, params, make(t, recipe, params), 25, dtype))
    assert_together(histories[1], histories[0], TOLERANCE[dtype])


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e6])
@pytest.mark.parametrize("recipe", ["sgd-all", "adam", "adamw"])
def test_gradients_of_any_size(recipe, scale):
    histories = []
    for t in BOTH:
        params = parameters(t)
        histories.append(train(t, params, make(t, recipe, params), 5, scale=scale))
    assert_together(histories[1], histories[0], 1e-12)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("recipe", ["sgd-all", "sgd-momentum", "adam-decay", "adamw-gpt"])
def test_a_real_loss_together(recipe, set_to_none):
    """Gradients that depend on the weights, new ones or added up in place: a small regression."""
    losses = []
    for t in BOTH:
        w, b = params = parameters(t, shapes=[(4, 3), (3,)])
        x, y = (t.tensor(a) for a in draw(5, "float64", [(8, 4), (8, 3)]))
        optimizer, history = make(t, recipe, params), []
        for _ in range(25):
            loss = t.nn.functional.mse_loss(t.tanh(x @ w + b), y)
            optimizer.zero_grad(set_to_none=set_to_none)
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-10)
    assert losses[1][-1] < losses[1][0]


@pytest.mark.parametrize("recipe", ["sgd-all", "adam", "adamw"])
def test_weights_are_updated_in_place_outside_the_graph(recipe):
    params = parameters(tensorlib)
    arrays = [memory(p) for p in params]
    before = [to_array(p).copy() for p in params]
    grads = draw(1, "float64")
    optimizer = make(tensorlib, recipe, params)
    for p, g in zip(params, grads, strict=True):
        p.grad = tensorlib.tensor(g)
    optimizer.step()
    for p, array, old, g in zip(params, arrays, before, grads, strict=True):
        assert memory(p) is array
        assert (to_array(p) != old).any()
        assert p.requires_grad
        assert p.is_leaf
        np.testing.assert_array_equal(to_array(p.grad), g)  # the gradient stays as it was


@pytest.mark.parametrize("recipe", ["sgd-all", "adam-decay", "adamw-decay"])
def test_a_parameter_without_gradient_is_left_alone(recipe):
    """Not even decayed; its state begins when its first gradient comes."""
    results = []
    for t in BOTH:
        params = parameters(t, shapes=[(3,), (4,)])
        optimizer = make(t, recipe, params)
        for step in range(6):
            optimizer.zero_grad()
            grads = draw(step, "float64", [(3,), (4,)])
            params[0].grad = t.tensor(grads[0])
            if step >= 3:
                params[1].grad = t.tensor(grads[1])
            optimizer.step()
            if step == 2:
                results.append([to_array(p).copy() for p in params])
        results.append([to_array(p).copy() for p in params])
    assert_together(results[2:], results[:2], 1e-12)
    np.testing.assert_array_equal(results[2][1], draw(0, "float64", [(3,), (4,)])[1])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none):
    p = tensorlib.nn.Parameter(tensorlib.ones(2))
    p.grad = tensorlib.ones(2)
    tensorlib.optim.SGD([p]).zero_grad(set_to_none=set_to_none)
    assert p.grad is None if set_to_none else p.grad.tolist() == [0.0, 0.0]


# ---- parameter groups ---------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["sgd-all", "adam", "adamw-gpt"])
def test_groups_have_their_own_settings(recipe):
    histories, settings = [], []
    for t in BOTH:
        params = parameters(t)
        groups = [
            {"params": params[:2], "weight_decay": 0.5},
            {"params": iter(params[2:4]), "lr": 0.01},
        ]
        optimizer = make(t, recipe, groups)
        optimizer.add_param_group({"params": params[4], "lr": 0.2, "weight_decay": 0.0})
        histories.append(train(t, params, optimizer, 10))
        optimizer.param_groups[0]["lr"] = 0.007  # as a schedule does
        histories.append(train(t, params, optimizer, 10, start=10))
        settings.append([(g["lr"], g["weight_decay"]) for g in optimizer.param_groups])
        settings.append([len(g["params"]) for g in optimizer.param_groups])
    assert_together(histories[2] + histories[3], histories[0] + histories[1], 1e-12)
    assert settings[2:] == settings[:2]


def test_parameters_may_come_from_a_generator_and_by_name():
    m = tensorlib.nn.Linear(2, 3)
    assert len(tensorlib.optim.AdamW(m.parameters()).param_groups[0]["params"]) == 2


# ---- state dicts --------------------------------------------------------------------------------


def convert(value, t):
    """A state dict of one library with its tensors turned into those of the other."""
    if isinstance(value, dict):
        return {key: convert(item, t) for key, item in value.items()}
    if isinstance(value, list):
        return [convert(item, t) for item in value]
    return t.tensor(to_array(value).copy()) if hasattr(value, "detach") else value


def shape_of(value):
    """The skeleton of a state: keys, and the shapes of tensors."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    return tuple(value.shape) if hasattr(value, "shape") else "number"


STATEFUL = ["sgd", "sgd-all", "adam-decay", "adamw-gpt"]


@pytest.mark.parametrize("recipe", STATEFUL)
def test_state_dict_has_the_structure_of_pytorch(recipe):
    states = []
    for t in BOTH:
        params = parameters(t)
        optimizer = make(t, recipe, params)
        train(t, params, optimizer, 2)
        states.append(optimizer.state_dict())
    theirs, ours = states
    assert set(ours) == set(theirs) == {"state", "param_groups"}
    ours["state"] = {i: state for i, state in ours["state"].items() if state}
    assert set(ours["state"]) == set(theirs["state"])
    for i, state in ours["state"].items():
        assert set(state) == set(theirs["state"][i])
        for key in set(state) - {"step"}:
            assert shape_of(state[key]) == shape_of(theirs["state"][i][key])
    for a, b in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert set(a) <= set(b)
        assert {k: b[k] for k in a} == a


@pytest.mark.parametrize("direction", [(torch, tensorlib), (tensorlib, torch), (tensorlib,) * 2])
@pytest.mark.parametrize("recipe", STATEFUL)
def test_a_run_continues_in_either_library(recipe, direction):
    """Ten steps here, ten there, equal twenty steps of PyTorch."""
    source, target = direction
    params = parameters(torch)
    expected = train(torch, params, make(torch, recipe, params), 20)

    params = parameters(source)
    optimizer = make(source, recipe, params)
    history = train(source, params, optimizer, 10)
    moved = [target.nn.Parameter(target.tensor(to_array(p).copy())) for p in params]
    other = make(target, recipe, moved)
    other.load_state_dict(convert(optimizer.state_dict(), target))
    history += train(target, moved, other, 10, start=10)
    assert_together(history, expected, 1e-12)


def test_loading_takes_over_the_settings_and_keeps_the_parameters():
    def run(t):
        params, others = parameters(t), parameters(t)
        first = t.optim.AdamW(params, lr=0.5, betas=(0.1, 0.2), weight_decay=0.3)
        second = t.optim.AdamW(others)
        second.load_state_dict(first.state_dict())
        group = second.param_groups[0]
        assert all(p is q for p, q in zip(group["params"], others, strict=True))
        second.param_groups[0]["lr"] = 9.0
        assert first.param_groups[0]["lr"] == 0.5
        return tuple(group["betas"]), group["weight_decay"], group["eps"]

    assert run(tensorlib) == run(torch)


def fresh(t, *sizes):
    return t.optim.AdamW([{"params": parameters(t)[:n]} for n in sizes])


@pytest.mark.parametrize("sizes", [(2, 2), (3,)], ids=["groups", "parameters"])
def test_loading_refuses_another_shape_of_groups(sizes):
    check_error(
        ValueError,
        lambda t: fresh(t, 2).load_state_dict(fresh(t, *sizes).state_dict()),
        match="group",
    )


# ---- refusals -----------------------------------------------------------------------------------


def one(t):
    return t.nn.Parameter(t.zeros(2))


REFUSALS = {
    "sgd-lr": (ValueError, lambda t: t.optim.SGD([one(t)], lr=-1.0), "-1"),
    "sgd-momentum": (ValueError, lambda t: t.optim.SGD([one(t)], momentum=-0.5), "-0.5"),
    "sgd-decay": (ValueError, lambda t: t.optim.SGD([one(t)], weight_decay=-0.5), "-0.5"),
    "sgd-nesterov": (ValueError, lambda t: t.optim.SGD([one(t)], nesterov=True), "momentum"),
    "adam-lr": (ValueError, lambda t: t.optim.Adam([one(t)], lr=-1.0), "-1"),
    "adam-beta-0": (ValueError, lambda t: t.optim.Adam([one(t)], betas=(1.0, 0.9)), "1.0"),
    "adam-beta-1": (ValueError, lambda t: t.optim.Adam([one(t)], betas=(0.9, -0.5)), "-0.5"),
    "adam-eps": (ValueError, lambda t: t.optim.Adam([one(t)], eps=-1.0), "-1"),
    "adam-decay": (ValueError, lambda t: t.optim.Adam([one(t)], weight_decay=-1.0), "-1"),
    "adamw-lr": (ValueError, lambda t: t.optim.AdamW([one(t)], lr=-1.0), "-1"),
    "adamw-decay": (ValueError, lambda t: t.optim.AdamW([one(t)], weight_decay=-1.0), "-1"),
    "empty": (ValueError, lambda t: t.optim.AdamW([]), "ModuleList|param"),
    "one-tensor": (TypeError, lambda t: t.optim.AdamW(one(t)), None),
    "module": (TypeError, lambda t: t.optim.AdamW(t.nn.Linear(2, 2)), "parameters|iterable"),
    "number": (TypeError, lambda t: t.optim.AdamW([3]), "int"),
    "state-of-a-model": (
        (KeyError, ValueError),
        lambda t: t.optim.SGD([one(t)]).load_state_dict(t.nn.Linear(2, 2).state_dict()),
        "of a model",
    ),
    "not-a-leaf": (ValueError, lambda t: t.optim.AdamW([one(t) * 2]), "leaf|result"),
    "twice": (
        ValueError,
        lambda t: (lambda p: t.optim.SGD([{"params": [p]}, {"params": [p]}]))(one(t)),
        "group",
    ),
    "added-twice": (
        ValueError,
        lambda t: (lambda p: t.optim.SGD([p]).add_param_group({"params": [p]}))(one(t)),
        "group",
    ),
}


@pytest.mark.parametrize(("exception", "fn", "match"), REFUSALS.values(), ids=REFUSALS)
def test_refusal(exception, fn, match):
    check_error(exception, fn, match=match)


@pytest.mark.cpu("the blocks of its kernel")
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_a_long_vector_is_updated_in_blocks(name, monkeypatch):
    """By several threads, every element once."""
    monkeypatch.setattr(cpu, "_BLOCK", 100)
    rng = np.random.default_rng(0)
    start = rng.standard_normal(1037)
    weights = [t.from_numpy(start.copy()).requires_grad_() for t in BOTH]
    both = [getattr(t.optim, name)([p], lr=0.05, weight_decay=0.1) for t, p in zip(BOTH, weights)]
    for _ in range(3):
        gradient = rng.standard_normal(1037)
        for t, p, optimizer in zip(BOTH, weights, both, strict=True):
            p.grad = t.from_numpy(gradient.copy())
            optimizer.step()
    theirs, ours = (to_array(p) for p in weights)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
