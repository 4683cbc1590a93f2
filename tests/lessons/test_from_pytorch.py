"""docs/from-pytorch.md is true: its lists are the package's, both ways, and its examples run.

`PYTHONPATH=tests python tests/lessons/test_from_pytorch.py` writes the lists anew.
"""

import importlib
import inspect
import re
import textwrap
import types
from pathlib import Path

import pytest
import torch
from examples import run_examples

import tensorlib

PAGE = Path(__file__).parents[2] / "docs" / "from-pytorch.md"
NAMESPACES = [
    "torch",
    "torch.Tensor",
    "torch.nn",
    "torch.nn.Module",
    "torch.nn.functional",
    "torch.nn.init",
    "torch.nn.utils",
    "torch.optim",
    "torch.optim.Optimizer",
    "torch.optim.lr_scheduler",
    "torch.autograd",
    "torch.cuda",
    "torch.utils.checkpoint",
]
OWN = {  # what no list can hold, because PyTorch has no such name; the page tells of each
    "torch.Tensor": {"array", "node", "output"},
    "torch.nn.functional": {"dropout_add", "masked_softmax"},
    "torch.optim.lr_scheduler": {"warmup_cosine"},
}


def resolve(library, namespace):
    """The object that `namespace` ("torch.nn.init") means in `library`, "torch" or "tensorlib"."""
    found = importlib.import_module(library)
    for part in namespace.split(".")[1:]:
        found = getattr(found, part)
    return found


def public(namespace):
    """The names that tensorlib offers there: what is defined in tensorlib, dtypes and constants."""
    ours = resolve("tensorlib", namespace)
    names = set()
    for name in dir(ours):
        value = getattr(ours, name)
        if name.startswith("_") or (isinstance(value, types.ModuleType) and not exported(value)):
            continue
        origin = getattr(value, "__module__", None) or "tensorlib"
        home = ours.__name__ if isinstance(value, type) else ("tensorlib", "numpy")
        if isinstance(ours, type) or origin.startswith(home):  # and not what it imports itself
            names.add(name)
    return names


def exported(module):
    return f"torch.{module.__name__.removeprefix('tensorlib.')}" in NAMESPACES


def shared(namespace):
    theirs = resolve("torch", namespace)
    return sorted(
        (n for n in public(namespace) if hasattr(theirs, n)), key=lambda n: (n.lower(), n)
    )


def listed():
    """The lists of the page: namespace to names."""
    sections = re.findall(r"^### `([\w.]+)`\n\n```text\n(.*?)```", PAGE.read_text(), re.M | re.S)
    return {namespace: text.split() for namespace, text in sections}


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_the_list_is_the_package(namespace):
    """Every name on the page is in both packages, and every name in both is on the page."""
    assert listed().get(namespace) == shared(namespace), f"run: python {Path(__file__).name}"


def test_there_is_no_other_list():
    assert list(listed()) == NAMESPACES


@pytest.mark.parametrize("namespace", OWN)
def test_names_of_our_own_are_told(namespace):
    """What a viewer may call and PyTorch does not have is on the page too."""
    theirs, ours = resolve("torch", namespace), resolve("tensorlib", namespace)
    defined_here = {
        name
        for name in public(namespace)
        if not hasattr(theirs, name)
        and (isinstance(ours, type) or getattr(ours, name).__module__ == ours.__name__)
    }
    assert defined_here == OWN[namespace]
    text = PAGE.read_text().split("## The names")[0]
    assert all(f".{name}`" in text for name in defined_here)


@pytest.mark.parametrize("namespace", ["torch.nn", "torch.nn.init", "torch.optim"])
def test_arguments_have_the_names_and_defaults_of_pytorch(namespace):
    for name in shared(namespace):
        ours, theirs = (getattr(resolve(t, namespace), name) for t in ("tensorlib", "torch"))
        if isinstance(ours, types.ModuleType):
            continue
        defaults = {p.name: p.default for p in inspect.signature(theirs).parameters.values()}
        for p in inspect.signature(ours).parameters.values():
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                assert p.name in defaults, f"{namespace}.{name}({p.name}=…)"
                if p.default is not p.empty and isinstance(defaults[p.name], (int, float, str)):
                    assert p.default == defaults[p.name], f"{namespace}.{name}({p.name}=…)"


def test_what_to_write_instead():
    """Names that PyTorch has and we have not: the error says what we have."""
    for name, remedy in tensorlib._INSTEAD.items():
        assert hasattr(torch, name)
        with pytest.raises(AttributeError, match=re.escape(f"'{name}': write {remedy}")):
            getattr(tensorlib, name)
    x = torch.rand(2, 3, dtype=torch.float64)
    ours = tensorlib.from_numpy(x.numpy())
    assert torch.allclose(torch.norm(x), torch.from_numpy((ours * ours).sum().sqrt().numpy()))
    assert torch.equal(torch.t(x), torch.from_numpy(ours.T.numpy()))
    with pytest.raises(AttributeError, match=r"'fft': see docs/from-pytorch\.md"):
        tensorlib.fft  # noqa: B018


def test_the_examples_run():
    result = run_examples(PAGE)
    assert result.attempted > 10
    assert result.failed == 0


def write():
    """Put the lists of the package into the page."""
    lists = [
        f"### `{namespace}`\n\n```text\n{textwrap.fill(' '.join(shared(namespace)), 100)}\n```\n"
        for namespace in NAMESPACES
    ]
    before = PAGE.read_text().split("### `torch`")[0]
    PAGE.write_text(before + "\n".join(lists))


if __name__ == "__main__":
    write()
