"""The list of cases has every name, and sees an error that is planted in any gradient."""

import functools
import importlib
import sys

import numpy as np
import pytest

import tensorlib
from tensorlib import autograd, nn, optim
from tensorlib.autograd import operation
from tensorlib.gradcheck import cases, table
from tensorlib.gradcheck.case import find
from tensorlib.kernels import cpu

command = importlib.import_module("tensorlib.gradcheck.__main__")
CASES = [case for section in cases.SECTIONS.values() for case in section]


# ---- the list of cases --------------------------------------------------------------------------

NOT_DIFFERENTIABLE = {
    "integers or bools": "all any argmax argmin bitwise_and bitwise_not bitwise_or eq"
    " ge gt le logical_and logical_not logical_or lt ne nn.functional.one_hot Tensor.__eq__"
    " Tensor.__ne__ Tensor.bool Tensor.int Tensor.long Tensor.__len__ Tensor.__bool__"
    " Tensor.__float__ Tensor.__int__ Tensor.__index__ Tensor.__hash__ Tensor.item Tensor.tolist"
    " Tensor.numpy Tensor.__array__ Tensor.__format__ Tensor.__repr__",
    "attributes": "Tensor.device Tensor.dim Tensor.dtype Tensor.is_contiguous Tensor.is_leaf"
    " Tensor.is_floating_point Tensor.ndim Tensor.numel Tensor.shape Tensor.size",
    "the tape itself": "Tensor.backward Tensor.requires_grad Tensor.requires_grad_ Tensor.detach"
    " Tensor.data Tensor.retain_grad Tensor.retains_grad",
    "in place, outside a graph": "Tensor.__setitem__ Tensor.add_ Tensor.sub_ Tensor.mul_"
    " Tensor.div_ Tensor.copy_ Tensor.fill_ Tensor.zero_",
    "bases and containers": "Tensor nn.Module nn.ModuleList nn.Parameter optim.Optimizer",
    "needs a GPU; the case of Tensor.cpu moves there and back": "Tensor.cuda",
}
MATHEMATICS = tuple(f"tensorlib.{part}" for part in ("ops", "tensor", "nn", "optim", "utils"))


def public_names():
    """{object: its names} for everything public that can be called, or read from a tensor, and that
    comes from where the mathematics is."""
    spaces = {
        "": tensorlib,
        "nn.": nn,
        "nn.functional.": nn.functional,
        "Tensor.": tensorlib.Tensor,
        "optim.": optim,
        "utils.checkpoint.": tensorlib.utils.checkpoint,
    }
    found = {}
    for prefix, space in spaces.items():
        for name in getattr(space, "__all__", vars(space)):
            thing = getattr(space, name)
            special = isinstance(space, type) and name in vars(space) and name.endswith("__")
            home = getattr(thing, "__module__", "") or ""
            computes = isinstance(thing, property) or (
                callable(thing) and home.startswith(MATHEMATICS)
            )
            if (name[0] != "_" or special) and computes:
                found.setdefault(thing, []).append(prefix + name)
    return found


def test_every_public_differentiable_name_has_a_case_and_every_case_a_name():
    excluded = {find(tensorlib, n) for names in NOT_DIFFERENTIABLE.values() for n in names.split()}
    covered = {find(tensorlib, case.name) for case in CASES}
    names = public_names()
    assert [names[thing] for thing in names if thing not in covered | excluded] == []
    assert covered <= set(names)
    assert not covered & excluded


def test_every_operation_of_the_tape_is_in_a_case():
    """Private ones, too: all that `@operation` made, but those through which nothing flows."""
    modules = [module for name, module in sys.modules.items() if name.startswith("tensorlib.")]
    operations = {
        f.__wrapped__.__name__.strip("_")
        for module in modules
        for f in vars(module).values()
        if getattr(f, "__code__", None) is tensorlib.add.__code__
    }
    nothing_flows = {"argmax", "argmin", "all", "any", "eq", "ne", "lt", "le", "gt", "ge",
                     "logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or",
                     "bitwise_not", "topk_indices"}  # fmt: skip
    flows = {name for name, _ in seen()}
    assert operations - flows - nothing_flows == {"to_device"}
    assert not flows & nothing_flows


def test_labels_are_unique():
    labels = [case.label for _, case in command.all_cases()]
    assert len(set(labels)) == len(labels)


# ---- planted errors -----------------------------------------------------------------------------


def plant(monkeypatch, fault):
    """Have each gradient of each operation go through `fault(operation, input, gradient)`."""
    original = autograd.Node.__init__

    def spoil(name, gradients):
        if callable(gradients):
            return lambda grad, needed: [
                fault(name, k, g) if wanted else g
                for k, (g, wanted) in enumerate(zip(gradients(grad, needed), needed))
            ]
        return tuple(
            f and (lambda grad, f=f, k=k: fault(name, k, f(grad))) for k, f in enumerate(gradients)
        )

    def planted(self, name, edges, gradients, *rest, **options):
        original(self, name, edges, spoil(name, gradients), *rest, **options)

    monkeypatch.setattr(autograd.Node, "__init__", planted)


@functools.cache
def seen():
    """{(operation, input): the first case in which a gradient flows there}, from running all."""
    found = {}
    for case in CASES:
        with pytest.MonkeyPatch.context() as patch:
            plant(patch, lambda name, k, g, case=case: found.setdefault((name, k), case) and g)
            case.results(tensorlib)
    return found


def negated(gradient, flat_index):
    gradient = np.array(gradient, order="C")
    gradient.reshape(-1)[flat_index] *= -1
    return gradient


PLANTED = {
    "scale": lambda g: 1.001 * g,
    "sign of one element": lambda g: negated(g, np.abs(g).argmax()),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_an_error_planted_in_any_gradient_of_any_operation_is_seen(monkeypatch, fault):
    missed = []
    for place, case in seen().items():
        with monkeypatch.context() as patch:
            plant(patch, lambda n, k, g, at=place: PLANTED[fault](g) if (n, k) == at else g)
            ours = case.results(tensorlib)
        tolerance = 1e-7 * case.slack
        if table.compare("", case.label, "differences", ours, case.slopes(), tolerance).passed:
            missed.append(place)
    assert missed == []
    assert len(seen()) > 80


@pytest.mark.parametrize("name", ["exp", "abs", "sqrt", "neg", "softmax", "cumsum", "relu"])
def test_the_place_of_a_planted_error(monkeypatch, name, capsys):
    plant(monkeypatch, lambda n, k, g: negated(g, -1) if n == name else g)
    assert command.main(["--op", name]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("  FAIL")]
    assert lines
    for line in lines:
        assert "d x[2, 3]" in line or "d x[1, 2, 3]" in line
        numbers = line.split("]")[1].split()
        assert float(numbers[0]) == pytest.approx(-float(numbers[1]))


def test_a_sum_over_a_broadcast_dimension_that_is_missing(monkeypatch, capsys):
    def first(gradient, shape):
        return gradient[(0,) * (gradient.ndim - len(shape))].reshape(shape)

    monkeypatch.setattr(autograd, "unbroadcast", first)
    assert command.main(["--op", "mul", "--op", "exp"]) == 1
    out = capsys.readouterr().out
    assert out.count("  FAIL\n") == 2  # mul, by both witnesses
    assert "FAIL  mul(3×4, 4)\n" in out
    assert out.count(" d y[") >= 2


def test_a_kernel_that_forgets_the_sum_of_the_bias(monkeypatch, capsys):
    def linear_backward(dy, x, weight, needed, *dtypes):
        dx, dw, db = original(dy, x, weight, needed, *dtypes)
        return dx, dw, dy.reshape(-1, dy.shape[-1])[0] if needed[2] else db

    original = cpu.linear_backward
    monkeypatch.setattr(cpu, "linear_backward", linear_backward)
    assert command.main(["--op", "Linear"]) == 1
    assert " d bias[" in capsys.readouterr().out


def test_a_gradient_that_does_not_come_and_one_that_raises(monkeypatch, capsys):
    def raising(name, k, gradient):
        raise ValueError("planted")

    monkeypatch.setattr(tensorlib, "exp", operation(lambda x: (np.exp(x), None)))
    assert command.main(["--op", "exp"]) == 1
    monkeypatch.undo()
    plant(monkeypatch, raising)
    assert command.main(["--op", "exp"]) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: backward of exp, inputs (3, 4): planted" in out


def test_a_wrong_value_is_seen_by_pytorch_alone(monkeypatch, capsys):
    """A forward and a backward that agree with each other, and are both wrong."""
    wrong = operation(lambda x: (np.exp(x) + x, (lambda grad: grad * (np.exp(x) + 1),)))
    monkeypatch.setattr(tensorlib, "exp", wrong)
    assert command.main(["--op", "exp"]) == 1
    differences, pytorch = capsys.readouterr().out.splitlines()[3:5]
    assert differences.endswith("ok")
    assert pytorch.endswith("FAIL")


def test_a_wrong_shape(monkeypatch, capsys):
    monkeypatch.setattr(
        tensorlib, "exp", operation(lambda x: (np.exp(x).T, (lambda grad: grad.T,)))
    )
    assert command.main(["--op", "exp"]) == 1
    assert "value has shape (4, 3), expected (3, 4)" in capsys.readouterr().out
