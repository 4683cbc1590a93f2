"""tensorlib.draw_graph: its edges are those of PyTorch's graph, its boxes those of the modules."""

import re

import numpy as np
import pytest
import torch

import tensorlib
from gpt import GPT, GPTConfig
from tensorlib import nn


def loss_of_a_gpt(layers=2, watch=True, **options):
    tensorlib.manual_seed(0)
    model = GPT(GPTConfig(65, block_size=8, n_layer=layers, n_head=2, n_embd=16, **options))
    idx = tensorlib.randint(0, 65, (3, 9))
    if not watch:
        return model(idx[:, :-1], idx[:, 1:])[1]
    with tensorlib.trace():
        return model(idx[:, :-1], idx[:, 1:])[1]


def edges_of(graph):
    """(what computes, with what, with which of its results) for each arrow; "leaf" for a leaf."""
    return sorted(
        (item.label, source.label if source.operations else "leaf", output)
        for item in graph.items
        for source, output in item.inputs
    )


def edges_in_pytorch(tensor):
    found, stack, seen = set(), [tensor.grad_fn], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for source, output in node.next_functions:
            if source is not None:
                found.add((node, source, output))
                stack.append(source)
    return sorted((name_of(node), name_of(source), output) for node, source, output in found)


def name_of(node):
    name = node.name().removesuffix("Backward0").lower()
    return {"torch::autograd::accumulategrad": "leaf", "mm": "matmul"}.get(name, name)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, y: (x * y + x).sum(),
        lambda x, y: (x @ y.exp()).tanh().sum(),
        lambda x, y: x.unbind(0)[1] * y.unbind(0)[2] - y.unbind(0)[0].detach(),
        lambda x, y: (x.log() / x.sqrt()).relu().sum(),
    ],
)
def test_edges_are_those_of_pytorchs_graph(fn):
    arrays = [np.full((3, 3), 2, np.float32), np.ones((3, 3), np.float32)]
    theirs = fn(*(torch.tensor(a, requires_grad=True) for a in arrays))
    ours = fn(*(tensorlib.tensor(a, requires_grad=True) for a in arrays))
    graph = tensorlib.draw_graph(ours)
    assert edges_of(graph) == edges_in_pytorch(theirs)


def test_text_of_a_small_graph():
    a = tensorlib.rand(2, 3).requires_grad_()
    b = tensorlib.rand(3).requires_grad_()
    text = str(tensorlib.draw_graph((a * b + a).sum()))
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert lines[:3] == [
        ["1 mul", "2×3", "← leaf 1 (2×3), leaf 2 (3)"],
        ["2 add", "2×3", "← 1, leaf 1 (2×3)"],
        ["3 sum", "()", "← 2"],
    ]
    assert "with tensorlib.trace()" in lines[3][0]  # what to do for boxes


def test_a_gpt_with_its_blocks_folded():
    graph = tensorlib.draw_graph(loss_of_a_gpt(layers=3))
    titles = [item.title for item in graph.items]
    assert titles[:8] == [
        "wte: Embedding", "wpe: Embedding", "add",
        *(f"h.{i}: Block, 15 operations" for i in range(3)),  # as test_counts.py counts them
        "ln_f: LayerNorm", "lm_head: Linear",
    ]  # fmt: skip
    assert sum(item.operations for item in graph.items) == 11 + 3 * 15
    assert all(len(item.boxes) == 1 for item in graph.items)
    assert [item.size for item in graph.items[:4]] == ["3×8×16", "8×16", "3×8×16", "3×8×16"]
    assert graph.sources == []  # every parameter belongs to a module that is folded


@pytest.mark.parametrize(("depth", "items"), [(0, 1), (1, 11 + 2), (2, 11 + 2 * 6), (None, 41)])
def test_depth(depth, items):
    """A block has six parts: two norms, attention, MLP, two additions; and 15 operations."""
    graph = tensorlib.draw_graph(loss_of_a_gpt(), depth=depth)
    assert len(graph.items) == items
    assert sum(item.operations for item in graph.items) == 41


def test_one_block():
    """It fits on a page, with what comes in from outside, and the residual stream beside it."""
    graph = tensorlib.draw_graph(loss_of_a_gpt(), "h.1", depth=2)
    assert len(graph.items) == 15
    assert [source.label for source in graph.sources] == ["input 1"]
    users = [item.title for item in graph.items if (graph.sources[0], 0) in item.inputs]
    assert users == ["ln_1: LayerNorm", "add"]
    lines = str(graph).splitlines()
    assert len(lines) <= 60
    assert lines[0].split() == ["┌", "h.1:", "Block"]
    assert len(graph.mermaid().splitlines()) <= 60


def test_a_shared_weight_is_seen_where_its_module_is_another():
    graph = tensorlib.draw_graph(loss_of_a_gpt(tied_head=True))
    assert [source.label for source in graph.sources] == ["wte.weight"]
    users = [item.title for item in graph.items if (graph.sources[0], 0) in item.inputs]
    assert users == ["lm_head: Linear"]


def test_own_parameters_of_an_open_module_have_their_names():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(tensorlib.ones(3))

        def forward(self, x):
            return (x * self.gain).sum()

    with tensorlib.trace():
        loss = Scale()(tensorlib.rand(2, 3))
    assert "← gain (3)" in str(tensorlib.draw_graph(loss))


@pytest.mark.parametrize("depth", [0, 1, 2, None])
@pytest.mark.parametrize("module", ["", "h.0", "h.1.attn"])
def test_the_diagram_is_well_formed(module, depth):
    """Boxes begin and end in pairs, every name is defined once and before it is used, and its
    arrows are those of the text."""
    graph = tensorlib.draw_graph(loss_of_a_gpt(), module, depth)
    style, diagram = graph.mermaid().split("}%%\n")
    assert style.startswith("%%{init: ")
    first, *lines = (line.strip() for line in diagram.splitlines())
    assert first == "flowchart TB"
    defined, arrows, opened = set(), 0, 0
    for line in lines:
        if match := re.fullmatch(r'subgraph (b\d+)\["[^"]+"\]', line):
            opened += 1
        elif line in ("end", "direction TB"):
            opened -= line == "end"
            continue
        elif match := re.fullmatch(r'(n\d+)\["[^"]+"\]|(s\d+)\(\["[^"]+"\]\)', line):
            pass
        else:
            source, target = re.fullmatch(r"(\w+) -->(?:\|\d+\|)? (\w+)", line).groups()
            assert {source, target} <= defined
            arrows += 1
            continue
        assert opened >= 0
        name = match[1] or match[2]
        assert name not in defined
        defined.add(name)
    assert opened == 0
    assert arrows == len(edges_of(graph))
    assert graph._repr_markdown_() == f"```mermaid\n{graph.mermaid()}\n```"


def test_lines_fit_into_a_terminal():
    for depth in (1, None):
        text = str(tensorlib.draw_graph(loss_of_a_gpt(layers=3), depth=depth))
        assert max(map(len, text.splitlines())) <= 100
    many = [tensorlib.rand(2, 2).requires_grad_() for _ in range(30)]
    text = str(tensorlib.draw_graph(tensorlib.stack(many)))
    assert max(map(len, text.splitlines())) <= 100


def test_after_backward_and_without_a_trace():
    loss = loss_of_a_gpt(watch=False)
    loss.backward()
    graph = tensorlib.draw_graph(loss)
    assert len(graph.items) == 41
    assert not any(item.boxes for item in graph.items)


def test_what_cannot_be_drawn():
    with pytest.raises(RuntimeError, match="no recorded operation"):
        tensorlib.draw_graph(tensorlib.rand(3))
    with pytest.raises(KeyError, match=r"no module 'h\.7' ran here under a trace"):
        tensorlib.draw_graph(loss_of_a_gpt(), "h.7")
