"""All pages point at what exists: files, functions, headings, lessons.

A link whose text is code, such as [`Block.forward`](../gpt/model.py), names something that the
file defines.
"""

import ast
import re
from pathlib import Path

import pytest

import tensorlib as torch
from gpt import GPT, GPTConfig

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "study-guide.md"
PAGES = [*sorted((REPOSITORY / "docs").glob("*.md")), *sorted(REPOSITORY.glob("*.md"))]
EXERCISES = sorted((REPOSITORY / "lessons").glob("ex[0-9]*_*.py"))
LINKS = [
    (page, text, target)
    for page in [*PAGES, *EXERCISES]
    for text, target in re.findall(r"\[([^\]\n]+)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    if not target.startswith("http")
]


def defined(path):
    """The functions, classes, methods ("Class.method") and constants of a Python file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{m.name}" for m in inner if isinstance(m, ast.FunctionDef)}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def anchors(path):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize(
    ("page", "text", "target"), LINKS, ids=[f"{p.stem}: {t}" for p, t, _ in LINKS]
)
def test_a_link_leads_somewhere(page, text, target):
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve()
    assert path.exists()
    assert REPOSITORY in path.parents
    if anchor:
        assert anchor in anchors(path)
    symbol = text.strip("`")
    if path.suffix == ".py" and text.startswith("`") and not symbol.endswith(".py"):
        assert symbol in defined(path)


def test_every_formula_ends_at_the_function_that_computes_it():
    parts = re.split(r"```math\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)
    for formula, after in zip(parts[1::2], parts[2::2], strict=True):
        if r"\tag" in formula:
            assert re.search(r"Computed\s+by\s+\[`", after), formula


def test_formulas_within_a_sentence_stand_on_one_line():
    """GitHub renders no others."""
    prose = re.sub(r"```.*?```", "", text(), flags=re.S)
    assert [line for line in prose.splitlines() if line.count("$") % 2] == []


def test_the_times_are_in_order():
    headings = re.findall(r"^## ([\d:]+) · ", GUIDE.read_text(encoding="utf-8"), re.M)
    seconds = [sum(60**i * int(n) for i, n in enumerate(reversed(t.split(":")))) for t in headings]
    assert len(seconds) > 24
    assert seconds == sorted(seconds)


def test_the_lessons_that_the_guide_runs_exist():
    asked = set(re.findall(r"python -m lessons (\w+)", GUIDE.read_text(encoding="utf-8")))
    names = {path.name.split("_")[0] for path in (REPOSITORY / "lessons").glob("*_*.py")}
    numbers = {name.lstrip("0") or "0" for name in names}
    assert asked - {"table"} <= numbers


def test_what_decays():
    """The table of nanoGPT's parameters has all of ours, their shapes, and whether they decay."""
    rows = re.findall(r"^\| .*? \| `([\w.]+)`.*?\| (\([^|]+\)) \| (yes|no) \|$", text(), re.M)
    V, T, C = 11, 5, 4
    config = GPTConfig(V, block_size=T, n_layer=1, n_head=2, n_embd=C, qkv_bias=True)
    model = GPT(config)
    decays = {name for names in model.parameter_groups()[:1] for name in names}
    sizes = {"V": V, "T": T, "C": C, "3C": 3 * C, "4C": 4 * C}
    table = {
        name: (tuple(sizes[n] for n in re.findall(r"\w+", shape)), decay == "yes")
        for name, shape, decay in rows
    }
    assert table == {n: (tuple(p.shape), n in decays) for n, p in model.named_parameters()}


def test_the_numbers_of_the_toy_matrices():
    """14 16; 2 7, 8 11, 14 16; 4, 5.5: seed 42, as at 47:11."""
    torch.manual_seed(42)
    b = torch.randint(0, 10, (3, 2)).float()
    a = torch.tril(torch.ones(3, 3))
    assert (torch.ones(3, 3) @ b).tolist() == [[14, 16]] * 3
    assert (a @ b).tolist() == [[2, 7], [8, 11], [14, 16]]
    assert ((a / a.sum(1, keepdim=True)) @ b)[1].tolist() == [4, 5.5]


def text():
    return GUIDE.read_text(encoding="utf-8")
