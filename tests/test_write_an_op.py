"""docs/write-an-op.md, followed literally in a copy of the repository: each block is typed where it
says, each command is run and prints what the page shows (numbers may differ)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "write-an-op.md").read_text()
BLOCKS = re.findall(r"^```(python)?\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cpu("the page shows what it prints"),
    pytest.mark.skipif(sys.platform == "win32", reason="its commands are for a POSIX shell"),
]


def type_in(folder, block, typed):
    """What a reader does with a block whose first line says where it belongs."""
    where, code = block.split("\n", 1)
    name, _, place = where.removeprefix("# ").partition(", ")
    path = folder / name
    before = path.read_text() if place else ""
    if place.startswith("after `"):
        line = next(x for x in before.splitlines() if place.split("`")[1] in x)
        assert before.count(line) == 1
        after = before.replace(line, f"{line}\n{code.rstrip()}")
    elif place == "instead of the function":
        assert before.count(typed[name]) == 1
        after = before.replace(typed[name], code)
    else:
        assert place in ("", "at the end"), place
        after = f"{before}\n\n{code}" if before else code
    path.write_text(after)
    typed[name] = code


def run(folder, session):
    """Run the commands of a block; each must print what stands below it."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TENSORLIB")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE):
        result = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert words(result.stdout) == words(shown), result.stdout + result.stderr


def words(text):
    """The text without numbers, folders, rules and spaces, which may differ."""
    text = re.sub(r"\S*/(?=pytorch.npz)|─+", " ", text)
    text = re.sub(r"\[[\d, ]*\]|-?\d[\d.,e+-]*|value|d [xy]", "#", text)
    return re.sub(r"(# *)+", "# ", " ".join(text.split()))


def test_the_page_as_a_reader_follows_it(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("tensorlib", "gpt", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    typed = {}
    assert len(BLOCKS) == 14
    for language, block in BLOCKS:
        if language:
            type_in(tmp_path, block, typed)
        else:
            run(tmp_path, block)
