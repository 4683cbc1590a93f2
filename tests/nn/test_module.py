"""Module: walking the tree, attributes, state dicts, moving; containers."""

import copy

import numpy as np
import pytest
import torch
from both import BOTH, arrays, assert_close, same
from harness import check_error, memory, tensorlib, to_array


def net(t):
    """A tree with all that can hang on it: shared and absent parameters, all kinds of buffers."""

    class Inner(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = t.nn.Linear(3, 3, bias=False)
            self.act = t.nn.ReLU()

        def forward(self, x, scale=1.0):
            return self.act(self.proj(x)) * scale

    class Net(t.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = t.nn.Embedding(5, 3)
            self.blocks = t.nn.ModuleList([Inner() for _ in range(2)])
            self.net = t.nn.Sequential(t.nn.Linear(3, 4), t.nn.Dropout(0.5), t.nn.Linear(4, 3))
            self.head = t.nn.Linear(3, 5)
            self.head.weight = self.embed.weight  # tied
            self.again = self.blocks[0]  # one module under two names
            self.gain = t.nn.Parameter(t.ones(3))
            self.register_parameter("absent", None)
            self.register_buffer("tril", t.tril(t.ones(2, 2)))
            self.register_buffer("cache", t.zeros(2))
            self.register_buffer("nothing", None)
            self.steps = 7

        def forward(self, idx):
            x = self.embed(idx) * self.gain
            for block in self.blocks:
                x = x + block(x, scale=0.5)
            return self.head(self.net(x))

    t.manual_seed(0)
    return Net()


# ---- walking the tree ---------------------------------------------------------------------------

WALKS = {
    "parameters": lambda m: [tuple(p.shape) for p in m.parameters()],
    "named_parameters": lambda m: [name for name, _ in m.named_parameters()],
    "buffers": lambda m: [tuple(b.shape) for b in m.buffers()],
    "named_buffers": lambda m: [name for name, _ in m.named_buffers()],
    "children": lambda m: [type(c).__name__ for c in m.children()],
    "named_children": lambda m: [(name, type(c).__name__) for name, c in m.named_children()],
    "modules": lambda m: [type(c).__name__ for c in m.modules()],
    "named_modules": lambda m: [(name, type(c).__name__) for name, c in m.named_modules()],
    "prefix": lambda m: [name for name, _ in m.named_modules(prefix="outer")],
    "state_dict": lambda m: list(m.state_dict()),
    "repr": repr,
    "numel": lambda m: sum(p.numel() for p in m.parameters()),
}


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
def test_walk(walk):
    assert same(lambda t: walk(net(t)))


def test_apply_goes_children_first_and_returns_the_module():
    def visited(t):
        names, m = [], net(t)
        assert m.apply(lambda c: names.append(type(c).__name__)) is m
        return names

    assert same(visited)[-1] == "Net"


def test_train_and_eval_reach_every_module():
    def modes(t):
        m = net(t)
        seen = [[c.training for c in m.modules()]]
        assert m.eval() is m
        seen.append([c.training for c in m.modules()])
        m.blocks.train()
        seen.append([c.training for c in m.modules()])
        assert m.train() is m
        return [*seen, [c.training for c in m.modules()], m.train(False).training]

    same(modes)


def test_requires_grad_and_zero_grad():
    def run(t):
        m = net(t)
        m(t.tensor([0, 1])).sum().backward()
        grads = [[p.grad is None for p in m.parameters()]]
        m.zero_grad(set_to_none=False)
        grads.append([float(p.grad.abs().sum()) for p in m.parameters()])
        m.zero_grad()
        grads.append([p.grad is None for p in m.parameters()])
        assert m.requires_grad_(False) is m
        return *grads, [p.requires_grad for p in m.parameters()], m(t.tensor([0])).requires_grad

    same(run)


# ---- attributes ---------------------------------------------------------------------------------


def test_assignment_replaces_and_deletion_forgets():
    def run(t):
        m = net(t)
        m.gain = t.nn.Parameter(t.zeros(2))
        m.tril = t.zeros(3, 3)
        m.head = t.nn.Linear(2, 1, bias=False)
        m.net[0].bias = None
        m.absent = t.nn.Parameter(t.zeros(1))
        m.late = t.nn.Tanh()
        del m.blocks, m.cache
        del m.embed.weight
        names = list(m.state_dict()), [n for n, _ in m.named_buffers()], repr(m)
        return *names, hasattr(m, "blocks"), hasattr(m, "cache"), m.nothing is None, m.steps

    same(run)


def test_parameter_assigned_over_a_plain_attribute_is_registered():
    def run(t):
        m = t.nn.Module()
        m.x = 3
        m.x = t.nn.Parameter(t.zeros(2))
        m.y = t.zeros(2)  # a plain tensor is neither parameter nor buffer
        m.child = None
        m.child = t.nn.Linear(1, 1)
        return list(m.state_dict()), [n for n, _ in m.named_parameters()], repr(m)

    same(run)


def assign(name, value):
    return lambda t: setattr(net(t), name, value(t))


def plain_init(body):
    """A module class that forgets super().__init__()."""
    return lambda t: type("Forgetful", (t.nn.Module,), {"__init__": lambda self: body(t, self)})()


REFUSALS = {
    "missing": (AttributeError, lambda t: net(t).wrong, "Net.*wrong"),
    "delete": (AttributeError, lambda t: delattr(net(t), "wrong"), "wrong"),
    "tensor-as-parameter": (TypeError, assign("gain", lambda t: t.zeros(3)), "gain"),
    "number-as-module": (TypeError, assign("head", lambda t: 3), "head"),
    "number-as-buffer": (TypeError, assign("tril", lambda t: 3), "tril"),
    "buffer-exists": (KeyError, lambda t: net(t).register_buffer("head", t.zeros(1)), "head"),
    "buffer-dot": (KeyError, lambda t: net(t).register_buffer("a.b", t.zeros(1)), "name"),
    "buffer-list": (TypeError, lambda t: net(t).register_buffer("a", [1]), "a"),
    "parameter-tensor": (TypeError, lambda t: net(t).register_parameter("a", t.ones(1)), "a"),
    "parameter-dot": (KeyError, lambda t: net(t).register_parameter("a.b", None), "name"),
    "parameter-exists": (KeyError, lambda t: net(t).register_parameter("steps", None), "steps"),
    "parameter-integer": (RuntimeError, lambda t: t.nn.Parameter(t.zeros(2).long()), "float"),
    "to-integer": (TypeError, lambda t: net(t).to(t.int64), "float"),
    "no-forward": (NotImplementedError, lambda t: t.nn.Module()(1), "forward"),
    "list-forward": (NotImplementedError, lambda t: net(t).blocks(1), "forward"),
    "no-super-module": (
        AttributeError,
        plain_init(lambda t, self: setattr(self, "x", t.nn.ReLU())),
        "__init__",
    ),
    "no-super-parameter": (
        AttributeError,
        plain_init(lambda t, self: setattr(self, "x", t.nn.Parameter(t.ones(1)))),
        "__init__",
    ),
    "no-super-buffer": (
        AttributeError,
        plain_init(lambda t, self: self.register_buffer("x", t.ones(1))),
        "__init__",
    ),
    "no-super-parameters": (
        AttributeError,
        plain_init(lambda t, self: list(self.parameters())),
        "__init__",
    ),
    "no-super-train": (AttributeError, plain_init(lambda t, self: self.train()), "__init__"),
    "no-attribute": (AttributeError, lambda t: t.nn.Tanh().weight, "weight"),
    "sequence-of-list": (TypeError, lambda t: t.nn.Sequential([t.nn.ReLU()]), "unpack"),
    "list-of-number": (TypeError, lambda t: t.nn.ModuleList([3]), "int"),
    "sequence-of-number": (TypeError, lambda t: t.nn.Sequential(3), "int"),
    "list-index": (IndexError, lambda t: net(t).blocks[2], "range"),
    "sequence-index": (IndexError, lambda t: net(t).net[-4], "range"),
    "dropout": (ValueError, lambda t: t.nn.Dropout(1.5), "1.5"),
}


@pytest.mark.parametrize(("exception", "fn", "match"), REFUSALS.values(), ids=REFUSALS)
def test_refusal(exception, fn, match):
    check_error(exception, fn, match=match)


@pytest.mark.skipif(tensorlib is torch, reason="PyTorch's error speaks of the property")
def test_an_error_in_a_property_is_told():
    class Net(tensorlib.nn.Module):
        @property
        def device(self):
            return self.wte.device

    with pytest.raises(AttributeError, match="wte"):
        print(Net().device)


def test_call_passes_arguments_and_keywords_to_forward():
    def run(t):
        class Scale(t.nn.Module):
            def forward(self, x, times, plus=0):
                return x * times + plus

        m = Scale()
        return m(t.tensor([1.0, 2.0]), 3, plus=1).tolist(), m(2, times=5)

    same(run)


def test_parameter():
    def run(t):
        source = t.tensor([1.0, 2.0])
        p, frozen = t.nn.Parameter(source), t.nn.Parameter(source * 2, requires_grad=False)
        source[0] = 5.0  # a parameter shares the memory of its tensor
        facts = p.requires_grad, p.is_leaf, frozen.requires_grad, isinstance(p, t.Tensor)
        return *facts, p.tolist(), type(p * 1) is t.Tensor

    same(run)


@pytest.mark.cpu("the text does not name it")
@pytest.mark.parametrize("trained", [True, False])
def test_a_parameter_as_text(trained):
    same(lambda t: repr(t.nn.Parameter(t.tensor([1.0, 2.0]), requires_grad=trained)))


# ---- containers ---------------------------------------------------------------------------------


def test_sequential():
    def run(t):
        s = t.nn.Sequential(t.nn.Linear(2, 3), t.nn.ReLU())
        s.append(t.nn.Linear(3, 1))
        kinds = [type(m).__name__ for m in s]
        return len(s), kinds, type(s[0]).__name__, s[-1].out_features, repr(s), list(s.state_dict())

    same(run)


def test_module_list():
    def run(t):
        ms = t.nn.ModuleList([t.nn.Linear(2, 2), t.nn.Linear(2, 2)])
        ms.append(t.nn.ReLU())
        kinds = [type(m).__name__ for m in ms]
        return len(ms), kinds, ms[-3].in_features, ms[1] in ms, repr(ms), list(ms.state_dict())

    same(run)


def test_containers_are_two_kinds():
    def run(t):
        ms, s = t.nn.ModuleList([t.nn.ReLU(), t.nn.Tanh()]), t.nn.Sequential(t.nn.ReLU())
        kinds = isinstance(s, t.nn.ModuleList), isinstance(ms, t.nn.Sequential)
        return *kinds, repr(ms[:1]), repr(s[:1]), repr(s[1:])

    same(run)


def test_parameter_of_a_number():
    with pytest.raises((TypeError, AttributeError), match="float"):  # PyTorch's is the second
        tensorlib.nn.Parameter(2.0)


def test_empty_containers():
    same(lambda t: (len(t.nn.Sequential()), len(t.nn.ModuleList()), t.nn.Sequential()(3)))


# ---- state dicts --------------------------------------------------------------------------------


def test_state_dict_shares_memory_and_has_no_gradient():
    m = net(tensorlib)
    state = m.state_dict()
    assert not any(value.requires_grad for value in state.values())
    with tensorlib.no_grad():
        m.gain += 1.0
    assert state["gain"].tolist() == [2.0] * 3


def test_load_copies_in_place():
    m, other = net(tensorlib), net(tensorlib)
    with tensorlib.no_grad():
        for p in other.parameters():
            p += 2.0
    before = dict(m.named_parameters())
    where = {name: memory(p) for name, p in m.named_parameters()}
    state = other.state_dict()
    result = m.load_state_dict(state)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert str(result) == "<All keys matched successfully>"
    for name, p in m.named_parameters():
        assert p is before[name]
        assert p.requires_grad
        assert memory(p) is where[name]
        np.testing.assert_array_equal(to_array(p), to_array(state[name]))
        assert not np.may_share_memory(memory(p), memory(state[name]))
    assert m.head.weight is m.embed.weight


def test_load_casts_to_the_dtype_of_the_parameter():
    m = tensorlib.nn.Linear(2, 2)
    m.load_state_dict({k: v.to(tensorlib.float64) + 1 for k, v in m.state_dict().items()})
    assert m.weight.dtype == tensorlib.float32


def broken(t, *changes):
    """A state dict with something missing, unexpected and of another shape."""
    state = dict(net(t).state_dict())
    if "missing" in changes:
        del state["gain"], state["net.0.weight"], state["tril"]
    if "unexpected" in changes:
        state["zz"] = state["net.9.weight"] = t.zeros(1)
    if "shape" in changes:
        state["net.2.weight"], state["head.bias"] = t.zeros(2, 3), t.zeros(5, 1)
    return state


@pytest.mark.parametrize(
    "changes",
    [("missing",), ("unexpected",), ("shape",), ("missing", "unexpected", "shape")],
    ids="+".join,
)
def test_strict_load_names_every_fault(changes):
    texts = []
    for t in BOTH:
        with pytest.raises(RuntimeError) as error:
            net(t).load_state_dict(broken(t, *changes))
        texts.append(str(error.value))
    theirs, ours = texts
    names = ["gain", "net.0.weight", "tril", "zz", "net.9.weight", "net.2.weight", "head.bias"]
    assert [name in ours for name in names] == [name in theirs for name in names]
    assert "Net" in ours
    if "shape" in changes:
        for shape in ("2, 3", "3, 4", "5, 1"):
            assert shape in ours


def test_lenient_load_returns_the_lists_and_loads_the_rest():
    def run(t):
        m = net(t)
        result = m.load_state_dict(broken(t, "missing", "unexpected"), strict=False)
        return list(result.missing_keys), list(result.unexpected_keys)

    same(run)


def test_lenient_load_still_refuses_a_wrong_shape():
    check_error(
        RuntimeError,
        lambda t: net(t).load_state_dict(broken(t, "shape"), strict=False),
        match="net.2.weight",
    )


def test_load_refuses_what_is_no_dict():
    check_error(TypeError, lambda t: net(t).load_state_dict([1]), match="dict")


def test_state_dicts_travel_between_the_libraries():
    theirs, ours = net(torch), net(tensorlib)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.rand(p.shape))
    state = {k: tensorlib.from_numpy(to_array(v).copy()) for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    assert_close(arrays(ours.state_dict()), arrays(theirs.state_dict()), 0, 0)
    back = net(torch)
    back.load_state_dict({k: torch.from_numpy(to_array(v)) for k, v in ours.state_dict().items()})
    assert_close(arrays(back.state_dict()), arrays(theirs.state_dict()), 0, 0)


def test_to_dtype_keeps_parameters_and_leaves_integers_alone():
    def run(t):
        m = net(t)
        m.register_buffer("counts", t.zeros(2, dtype=t.long))
        weight = m.embed.weight
        assert m.to(t.float64) is m
        tied = m.head.weight is m.embed.weight is weight
        return tied, {k: str(v.dtype).split(".")[-1] for k, v in m.state_dict().items()}

    same(run)


def test_to_device_returns_the_module():
    same(lambda t: (lambda m: m.to("cpu") is m)(net(t)))
    same(lambda t: (lambda m: m.cpu() is m)(net(t)))


def test_deep_copy_is_independent():
    def run(t):
        m = net(t)
        twin = copy.deepcopy(m)
        with t.no_grad():
            twin.gain += 1.0
        kinds = isinstance(twin.gain, t.nn.Parameter), twin.head.weight is twin.embed.weight
        return *kinds, m.gain.tolist(), twin.gain.tolist(), list(twin.state_dict())

    same(run)


def test_whole_net_forward_and_backward():
    """The tied weight gets the sum of its two gradients."""
    results = []
    for t in BOTH:
        m = net(t).eval()
        loss = (m(t.tensor([[0, 1, 2], [1, 1, 4]])) ** 2).mean()
        loss.backward()
        grads = {k: to_array(p.grad) for k, p in m.named_parameters()}
        results.append({"loss": to_array(loss), **grads})
    assert_close(results[1], results[0], 1e-4, 1e-6)


def test_initialisation_of_a_whole_tree_draw_for_draw():
    theirs, ours = (arrays(net(t).state_dict()) for t in BOTH)
    assert_close(ours, theirs, rtol=0, atol=1e-6)
