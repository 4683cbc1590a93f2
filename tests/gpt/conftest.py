"""What the tests of gpt share: a text, a tiny model, and the scripts as a user runs them."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt.config import TrainConfig
from gpt.data import Corpus

REPOSITORY = Path(__file__).parents[2]
TINY = "--n-layer=1 --n-head=2 --n-embd=8 --block-size=8 --batch-size=4 --eval-iters=2"
WORDS = "quick brown fox lazy dog vex bad mad cat zip"


@pytest.fixture
def text():
    """A text with a pattern to learn: 1,300 characters, 33 different."""
    words = WORDS.split()
    return "".join(f"the {word} jumps over {word} {i}\n" for i in range(5) for word in words)


@pytest.fixture
def text_file(tmp_path, text):
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def setting(tmp_path, text):
    """(configuration, corpus) of a tiny model with dropout, three sequences to a batch."""
    corpus = Corpus.from_text("text", text, 8)
    config = TrainConfig(out=tmp_path / "run", batch_size=3, eval_iters=3)
    shape = dataclasses.replace(
        config.model, vocab_size=corpus.tokenizer.vocab_size, block_size=8, n_layer=2, n_head=2,
        n_embd=8, dropout=0.25,
    )  # fmt: skip
    return dataclasses.replace(config, model=shape), corpus


@pytest.fixture(scope="session")
def matplotlib_cache(tmp_path_factory):
    """Its list of fonts takes a while to make."""
    return tmp_path_factory.mktemp("matplotlib")


@pytest.fixture
def script(tmp_path, matplotlib_cache):
    """script("train.py", "--seed", 3) runs it in a directory of its own, and returns what it did;
    `start=True` returns the running process instead. A name without .py is a module's. Standard
    input is empty but for `input`; other names are of environment variables."""
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # --device auto is the CPU: test_scripts.py has the GPU's runs
        "COLUMNS": "80",
        "MPLCONFIGDIR": str(matplotlib_cache),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",  # nobody answers there: no network in tests
    }

    def run(name, *arguments, start=False, input=None, **variables):
        program = [str(REPOSITORY / name)] if name.endswith(".py") else ["-m", name]
        command = [sys.executable, *program, *map(str, arguments)]
        options = {"cwd": tmp_path, "env": environment | variables, "encoding": "utf-8"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if start:
            return subprocess.Popen(command, **options, **pipes, stdin=subprocess.DEVNULL)
        source = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        return subprocess.run(command, **options, **pipes, **source, timeout=120, check=False)

    return run


@pytest.fixture
def tiny():
    """Flags of a model so small that a run takes a second."""
    return TINY.split()
