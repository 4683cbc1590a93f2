"""`python -m lessons` as a user types it."""

import os
import subprocess
import sys

import pytest

from gpt.commands import cli
from lessons import chapters
from lessons.__main__ import main


@pytest.fixture
def lessons(tmp_path):
    """lessons("7") runs `python -m lessons 7` without a network or a cache."""
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path),
        "HOME": str(tmp_path),
        "PYTHONIOENCODING": "utf-8",
        "https_proxy": "http://127.0.0.1:9",
    }

    def run(*arguments):
        command = [sys.executable, "-m", "lessons", *map(str, arguments)]
        options = {"cwd": chapters.HERE.parent, "env": environment, "encoding": "utf-8"}
        return subprocess.run(command, **options, capture_output=True, timeout=120, check=False)

    return run


def test_the_list(lessons):
    done = lessons()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[7].split() == ["7", "42:13", "Averaging", "the", "past"]
    assert "quoted" in done.stdout
    assert sum(line.strip()[:1].isdigit() for line in lines) == len(chapters.lessons())


def test_a_lesson_and_the_table(lessons, text_file):
    done = lessons(7, "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert "c=\ntensor([[14., 16.]" in done.stdout
    rungs = ["one-head", "widen"]
    done = lessons("table", "--quick", "--data", text_file, "--seeds", 1, 2, "--rungs", *rungs)
    assert done.returncode == 0
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[:3] for row in rows[1:]] == [
        ["| one-head", "7,553", "2.4"],
        ["| widen", "41,921", "2.08"],
    ]
    assert "widen writes:\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ex1", "--round", "3"], "unknown flag --round; did you mean --rounds?"),
        (["ex1", "--rounds", "0"], "--rounds is 0, but must be at least 1"),
        (["ex2", "--digits", "5"], "--digits is 5, but must be from 1 to 4"),
        (["ex2", "--digits", "2,5"], "--digits: '2,5' is no whole number"),
        (["ex2b", "--ask", "--file", "none"], "there is no none: train first, without --ask"),
        (["ex3", "--data", ""], "--data: the path is empty; give one, or leave the flag out"),
        (["ex4", "--variants", "rop"], "no variant is called 'rop': take some of "),
        (["ex4", "--seeds"], "--seeds is empty, but needs one at least"),
    ],
)
def test_an_exercise_tells_a_mistake_before_anything_else(arguments, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lessons", *arguments])
    with pytest.raises(SystemExit) as leave:
        cli.run(main)
    printed = capsys.readouterr()
    assert (leave.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert printed.err.startswith(f"error: {expected}")


def test_help_of_an_exercise_comes_without_its_text(lessons):
    done = lessons("ex2", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Learn to add" in done.stdout
    assert "The exercise is to train" not in done.stdout


def test_a_lesson_as_a_script_takes_no_flags():
    script = "lessons/07_averaging.py"
    command = [sys.executable, script, "--quick"]
    options = {"cwd": chapters.HERE.parent, "env": os.environ | {"PYTHONPATH": "."}}
    done = subprocess.run(command, **options, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: --quick: a lesson as a script takes no flags; see ")
    assert done.stderr.count(b"\n") == 1


def test_mistakes_are_one_line(lessons):
    for arguments, expected in [
        (["99"], "no lesson '99'"),
        (["ex9"], "no lesson 'ex9'"),
        (["table", "--rungs", "layernorm"], "layer-norm"),
        (["table", "--sedes", "1"], "--seeds"),
        (["table", "--steps", "0"], "at least 1"),
        (["table", "--seeds", "1", "a"], "--seeds: '1', 'a' cannot be read"),
        (["7", "--data", "nothing.txt", "--steps", "x"], "--steps"),
        (["1", "--data", "nothing.txt"], "nothing.txt"),
        (["3", "--data", "LICENSE"], "LICENSE is too short"),
    ]:
        done = lessons(*arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.startswith("error: ")
        assert "·" not in done.stdout  # not even the lesson's title
        assert done.stderr.count("\n") == 1
        assert expected in done.stderr
