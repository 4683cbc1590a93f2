"""detect_anomaly: planted errors are named with their place; the culprits are PyTorch's."""

import inspect
import re
import warnings

import numpy as np
import pytest
import torch

import tensorlib
from gpt import GPT, GPTConfig
from tensorlib import nn
from tensorlib.autograd import detect_anomaly, operation


def gpt():
    tensorlib.manual_seed(0)
    return GPT(GPTConfig(65, block_size=8, n_layer=3, n_head=2, n_embd=16))


def step(model):
    idx = tensorlib.randint(0, 65, (2, 9))
    model(idx[:, :-1], idx[:, 1:])[1].backward()


def found_in(function, *arguments):
    """What detect_anomaly says."""
    with pytest.raises(RuntimeError) as caught, detect_anomaly():
        function(*arguments)
    return str(caught.value)


def line_of(function, text):
    """FILE:LINE, as messages have it, of the line of a function that contains `text`."""
    lines, first = inspect.getsourcelines(function)
    line = next(i for i, code in enumerate(lines) if text in code)
    return f"{inspect.getsourcefile(function).rpartition('/')[2]}:{first + line}"


# ------------------------------------------------------------------------- planted in a real GPT


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_of_a_gpt(value):
    model = gpt()
    with tensorlib.no_grad():
        model.h[1].mlp.c_fc.weight[5, 3] = value
    message = found_in(step, model)
    place = line_of(type(model.h[1].mlp).forward, "self.c_fc(x)")
    assert message.startswith(
        f"linear was given {value}: h.1.mlp.c_fc.weight, of shape (64, 16), at [5, 3]\n"
    )
    assert f"{place}, in h.1.mlp.c_fc:\n    return self.c_proj(" in message


def test_an_activation_of_a_gpt():
    class Log(nn.Module):
        def forward(self, x):
            return x.log()

    model = gpt()
    model.h[2].mlp.act = Log()
    message = found_in(step, model)
    assert message.startswith("log made nan: its result, of shape (2, 8, 64), at [")
    assert f"{line_of(Log.forward, 'x.log()')}, in h.2.mlp.act:\n    return x.log()" in message


def test_a_gradient_in_a_gpt():
    """√relu(x) is finite; its gradient at 0 is 1 / (2 √0)."""

    class Root(nn.Module):
        def forward(self, x):
            return x.relu().sqrt()

    model = gpt()
    model.h[0].mlp.act = Root()
    message = found_in(step, model)
    assert re.match(r"the backward of sqrt made -?inf: the gradient of its argument 0, of", message)
    assert (
        f"{line_of(Root.forward, 'sqrt')}, in h.0.mlp.act:\n    return x.relu().sqrt()" in message
    )


def test_a_healthy_gpt_and_the_masks_of_the_video_pass():
    step_outside = gpt()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with detect_anomaly():
            step(step_outside)
            mask = tensorlib.tril(tensorlib.ones(4, 4)) == 0
            scores = tensorlib.rand(4, 4).requires_grad_()
            scores.masked_fill(mask, float("-inf")).softmax(-1).sum().backward()
            added = tensorlib.zeros(4, 4).masked_fill(mask, float("-inf"))
            (scores + added).softmax(-1).sum().backward()


# ------------------------------------------------------------------------------- as in PyTorch


@pytest.mark.filterwarnings("ignore:Error detected in")  # PyTorch's, besides the exception
@pytest.mark.parametrize(
    "fn",
    [
        lambda x: (x.sqrt() * 0).sum(),
        lambda x: (x / x).sum(),
        lambda x: (x.log() * 0).sum(),
        lambda x: (x**0.5 * 0).sum(),
    ],
)
def test_the_culprit_is_pytorchs(fn):
    """PyTorch sees NaN in backward; ours sees it there, or already in forward."""
    values = np.array([1.0, 0.0, 2.0], np.float32)
    loss = fn(torch.tensor(values, requires_grad=True))
    with (
        pytest.warns(UserWarning, match="Anomaly"),
        torch.autograd.detect_anomaly(),
        pytest.raises(RuntimeError) as theirs,
    ):
        loss.backward()
    name = re.search(r"'(\w+)Backward0'", str(theirs.value))[1].lower()
    message = found_in(lambda: fn(tensorlib.tensor(values, requires_grad=True)).backward())
    assert re.match(
        rf"(the backward of )?{name} made (nan|-?inf): .*, of shape \(3,\), at \[1\]\n", message
    )


@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_the_first_infinity_or_nan_is_the_one_that_is_named(kind):
    x = tensorlib.tensor([[1.0, 2.0], [0.0, 3.0]], requires_grad=True)
    if kind == "inf":
        message = found_in(lambda: (1 / x).exp())
        assert message.startswith("div made inf: its result, of shape (2, 2), at [1, 0]\n")
    else:
        message = found_in(lambda: (x - 1).log())
        assert message.startswith("log made nan: its result, of shape (2, 2), at [1, 0]\n")


def test_nan_made_of_infinities_that_were_given():
    mask = tensorlib.full((2,), float("inf"))
    message = found_in(lambda: mask - mask)
    assert message.startswith("sub made nan: its result, of shape (2,), at [0]\n")


def test_data_and_upstream_gradients_that_are_none_of_ours():
    x = tensorlib.tensor([1.0, float("nan")])
    assert found_in(lambda: x * 2).startswith("mul was given nan: its argument 0, of shape (2,)")
    y = tensorlib.rand(2).requires_grad_() * 3
    with detect_anomaly():
        y.backward(tensorlib.tensor([1.0, float("inf")]))  # given, not made
    nothing = tensorlib.zeros(2).requires_grad_() * tensorlib.zeros(2)
    message = found_in(nothing.backward, tensorlib.tensor([1.0, float("inf")]))
    assert message.startswith("the backward of mul made nan: ")  # of 0 times infinity


def test_a_forward_that_was_not_watched():
    y = tensorlib.zeros(2).requires_grad_().sqrt().sum()
    message = found_in(y.backward)
    assert message.startswith("the backward of sqrt made inf: the gradient of its argument 0, of")
    assert "its forward was not watched" in message


# -------------------------------------------------------------------------- errors in a backward


@operation
def broken(x):
    def grad_x(grad):
        raise ValueError("out of ideas")

    return x * 1, (grad_x,)


@pytest.mark.parametrize("watch", [detect_anomaly, tensorlib.trace])
def test_an_exception_in_a_backward_shows_where_its_forward_ran(watch):
    class Net(nn.Module):
        def forward(self, x):
            return broken(x).sum()

    with watch(), pytest.raises(RuntimeError) as caught:
        Net()(tensorlib.rand(3).requires_grad_()).backward()
    place = line_of(Net.forward, "broken(x)")
    expected = rf"backward of broken \(its forward ran at .*{place}, in Net\)"
    assert re.match(expected, str(caught.value))
    assert str(caught.value).endswith("inputs (3,): out of ideas")


def test_a_gradient_of_a_wrong_shape_and_a_change_in_place_show_it_too():
    @operation
    def wrong(x):
        return x * 1, (lambda grad: np.ones((5, 7), np.float32),)

    x = tensorlib.rand(3).requires_grad_()
    with detect_anomaly(), pytest.raises(RuntimeError, match=r"of wrong \(.*test_anomaly.py:"):
        wrong(x).sum().backward()
    factor = tensorlib.rand(3)
    with detect_anomaly():
        y = x * factor
        factor += 1
        with pytest.raises(RuntimeError, match=r"mul \(.*test_anomaly.py:\d+\).*in place"):
            y.sum().backward()


def test_without_it_the_message_is_what_it_was():
    with pytest.raises(RuntimeError, match=r"^backward of broken, inputs \(3,\): out of ideas$"):
        broken(tensorlib.rand(3).requires_grad_()).sum().backward()


def test_parameters_without_a_gradient_are_warned_about():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.register_parameter("extra", nn.Parameter(tensorlib.zeros(1)))
    with (
        pytest.warns(UserWarning, match="^parameters without a gradient: extra$"),
        detect_anomaly(),
    ):
        model(tensorlib.rand(1, 2)).sum().backward()
