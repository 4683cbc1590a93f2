"""`autograd.gradcheck` and `python -m tensorlib.gradcheck`: right gradients pass, and a planted
error is named with its place."""

import functools
import importlib
import inspect
import subprocess
import sys

import fake_cupy
import numpy as np
import pytest
import torch

import tensorlib
from tensorlib import autograd, nn, optim
from tensorlib.autograd import operation
from tensorlib.gradcheck import GradcheckError, cases, table
from tensorlib.gradcheck.case import find
from tensorlib.kernels import cpu

command = importlib.import_module("tensorlib.gradcheck.__main__")
CASES = [case for section in cases.SECTIONS.values() for case in section]
pytestmark = pytest.mark.cpu


# ---- the function, beside PyTorch's -------------------------------------------------------------


def leaf(*shape, t=tensorlib):
    values = np.random.default_rng(0).uniform(0.5, 2, shape)
    return t.tensor(values, dtype=t.float64, requires_grad=True)


def double_backward(t, wrong):
    """x · y in library t, with the gradients that `wrong` makes of the right ones."""
    if t is tensorlib:

        @operation
        def product(x, y):
            return x * y, lambda grad, needed: wrong(grad * y, (grad * x).sum(0))

        return product

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(context, x, y):
            context.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(context, grad):
            x, y = context.saved_tensors
            return wrong(grad * y, (grad * x).sum(0))

    return Product.apply


def times(factor, gradient, *index):
    gradient = 1 * gradient
    gradient[index] *= factor
    return gradient


FAULTS = {  # what is done to the gradients of x (3, 4) and y (4,); the input and the element named
    "none": (lambda dx, dy: (dx, dy), None),
    "scale": (lambda dx, dy: (dx, 1.01 * dy), r"input 1\["),
    "small, within rtol": (lambda dx, dy: (dx, 1.0005 * dy), None),
    "sign": (lambda dx, dy: (-dx, dy), r"input 0\["),
    "sign of one": (lambda dx, dy: (times(-1, dx, 1, 2), dy), r"input 0\[1, 2\]"),
    "swapped": (lambda dx, dy: (dx * 0 + dy, dx.sum(0)), "input"),
    "nan": (lambda dx, dy: (times(float("nan"), dx, 2, 3), dy), r"input 0\[2, 3\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_verdict_is_pytorchs_and_the_place_is_named(fault):
    wrong, place = FAULTS[fault]
    for t in (torch, tensorlib):
        product, inputs = double_backward(t, wrong), (leaf(3, 4, t=t), leaf(4, t=t))
        check = t.autograd.gradcheck
        assert check(product, inputs, raise_exception=False) is (place is None)
        if place and t is tensorlib:
            with pytest.raises(GradcheckError, match=place):
                check(product, inputs)


def test_the_message_says_what_was_expected():
    product = double_backward(tensorlib, lambda dx, dy: (times(-1, dx, 1, 2), dy))
    x, y = leaf(3, 4), leaf(4)
    with pytest.raises(GradcheckError) as error:
        autograd.gradcheck(product, (x, y))
    slope = y.tolist()[2]
    assert str(error.value) == (
        f"gradcheck: the gradient of output 0[1, 2] with respect to input 0[1, 2] is {-slope:.8g} "
        f"by backward, expected {slope:.8g} by finite differences; allowed is a difference of "
        "1e-05 + 0.001 · |expected|; 1 input element is wrong"
    )


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x: (x.exp(), x.sum(0)), [(2, 3)]),
        (lambda x, y: x @ y, [(2, 3), (3, 2)]),
        (lambda x: x.max(1), [(2, 3)]),  # indices, too, through which nothing flows
        (lambda x: x * x.detach().sum() if x.numel() > 9 else x, [()]),
        (lambda x: x[:0], [(2,)]),
    ],
)
def test_functions_that_are_right_in_both(function, shapes):
    for t in (torch, tensorlib):
        assert t.autograd.gradcheck(function, [leaf(*shape, t=t) for shape in shapes])


@pytest.mark.parametrize("function", [lambda x: x * x.detach(), lambda x: x.detach() * 2])
def test_a_path_that_is_cut_is_found_in_both(function):
    for t in (torch, tensorlib):
        with pytest.raises(RuntimeError):
            t.autograd.gradcheck(function, leaf(3, t=t))


def test_tolerances_and_step_are_pytorchs():
    product = double_backward(tensorlib, lambda dx, dy: (1.01 * dx, dy))
    inputs = (leaf(3, 4), leaf(4))
    assert autograd.gradcheck(product, inputs, rtol=0.02)
    assert autograd.gradcheck(product, inputs, atol=0.1)
    parameters = inspect.signature(torch.autograd.gradcheck).parameters
    for name, ours in inspect.signature(autograd.gradcheck).parameters.items():
        assert (ours.default, ours.kind) == (parameters[name].default, parameters[name].kind)


def test_a_model_and_its_parameters():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)).to(tensorlib.float64)
    x, before = leaf(4, 3), [p.tolist() for p in model.parameters()]
    assert autograd.gradcheck(lambda x, *_: model(x), (x, *model.parameters()))
    assert [p.tolist() for p in model.parameters()] == before
    assert x.grad is None


def test_a_strided_input():
    x = tensorlib.Tensor(np.random.default_rng(0).uniform(0.5, 2, (4, 3)).T[:, ::2])
    assert autograd.gradcheck(lambda x: x.log(), x.requires_grad_())


def test_what_cannot_be_checked():
    for t in (torch, tensorlib):
        with pytest.raises(ValueError):
            t.autograd.gradcheck(lambda x: x, t.zeros(3))
        single = t.zeros(3, requires_grad=True)
        with pytest.warns(UserWarning, match="(?i)input #?0.*double"):
            t.autograd.gradcheck(lambda x: x.sin(), single, raise_exception=False)
        shared = t.zeros(1, dtype=t.float64).expand(3).requires_grad_()
        with pytest.raises((ValueError, RuntimeError)):
            t.autograd.gradcheck(lambda x: x * 1, shared)


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
    " Tensor.data",
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


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_command_finds_nothing_wrong(capsys):
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert "0 failed" in out
    assert "GPT, the video's: 3 steps of AdamW" in out
    assert f"PyTorch {torch.__version__}" in out


def test_in_float32(capsys):
    names = [word for case in CASES for word in ("--op", case.name)]
    assert command.main([*names, "--dtype", "float32"]) == 0
    assert "Ours: float32" in capsys.readouterr().out


def test_on_a_gpu(capsys):
    with fake_cupy.installed():
        names = ["softmax", "Linear", "cat", "Tensor.half", "Tensor.cpu", "AdamW", "cross_entropy"]
        assert command.main([w for n in names for w in ("--op", n)] + ["--device", "gpu"]) == 0
    assert "on cuda" in capsys.readouterr().out


def test_without_a_gpu(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    tensorlib.device._cupy.cache_clear()
    assert command.main(["--device", "gpu"]) == 2
    assert capsys.readouterr().err.startswith("error: --device gpu: no GPU support")


def test_a_name_is_also_that_of_its_layer_and_function(capsys):
    assert command.main(["--op", "softmax", "--op", "nn.Tanh"]) == 0
    out = capsys.readouterr().out
    assert "3 cases" in out
    assert "nn.Tanh" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "sofmax"], "error: there is no 'sofmax' to check; did you mean softmax?"),
        (["--devise", "cpu"], "error: unknown '--devise'; did you mean --device?"),
        (["--dtype", "float8"], "invalid choice: 'float8'"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_markdown(capsys):
    assert command.main(["--op", "mul", "--markdown"]) == 0
    header, rule, differences, pytorch = capsys.readouterr().out.splitlines()[:4]
    assert header.startswith("| case | against |")
    assert {line.count("|") for line in (header, rule, differences, pytorch)} == {10}
    assert differences.startswith("| mul(3×4, 4) | differences |")


def test_without_pytorch_its_recorded_values_take_its_place(monkeypatch, capsys):
    compared = [case for _, case in command.all_cases() if case.theirs is not None]
    live = {case.label: command.PyTorch().results(case) for case in compared}
    monkeypatch.setitem(sys.modules, "torch", None)
    recorded = command.PyTorch().recorded
    assert recorded.keys() == live.keys(), "run python -m tensorlib.gradcheck --record"
    for label, results in live.items():
        assert results.keys() == recorded[label].keys()
        for name, value in results.items():
            np.testing.assert_allclose(recorded[label][name], value, rtol=1e-11, atol=1e-12)
    assert command.main(["--op", "exp"]) == 0
    assert "values recorded from PyTorch 2.13.0, which is not" in capsys.readouterr().out


def test_recording(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "RECORDED", tmp_path / "pytorch.npz")
    monkeypatch.setattr(command, "all_cases", lambda: [("", cases.op("exp", (2,)))])
    assert command.main(["--record"]) == 0
    monkeypatch.setitem(sys.modules, "torch", None)
    assert command.main(["--op", "exp"]) == 0
    monkeypatch.setattr(command, "all_cases", lambda: [("", cases.op("exp", (5,)))])
    assert command.main(["--op", "exp"]) == 1
    assert "nothing recorded" in capsys.readouterr().out
    assert command.main(["--record"]) == 2


def test_without_the_gpt(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gpt.gradcheck", None)
    assert len(command.all_cases()) == len(CASES)
    assert "without the GPT" in capsys.readouterr().err


def test_importing_tensorlib_imports_neither_gpt_nor_pytorch_nor_the_cases():
    code = (
        "import sys, tensorlib; tensorlib.autograd.gradcheck; "
        "sys.exit(any(m in sys.modules for m in ('gpt', 'torch', 'tensorlib.gradcheck.cases')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
