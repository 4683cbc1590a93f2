"""What the tests of the lessons share: a text that needs no network, and lessons run in-process."""

import numpy as np
import pytest

from gpt.text import reading
from lessons import chapters, common

LETTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """A text with tiny Shakespeare's 65 characters, and some English in it."""
    words = ["the", "king", "hath", "said", "that", "what", "is", "here", "thine", "there", "it"]
    rng = np.random.default_rng(0)
    text = LETTERS + "".join(
        f"{w}{' ' if i % 9 else '.'}" for i, w in enumerate(rng.choice(words, 4000))
    )
    path = tmp_path_factory.mktemp("lessons") / "text.txt"
    path.write_text(text + LETTERS, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_shakespeare(tmp_path_factory):
    """The video's text as a file, if an earlier download is in the cache: no test has a network."""
    nowhere = (tmp_path_factory.mktemp("nowhere") / "input.txt").as_uri()
    try:
        content = reading.tiny_shakespeare(url=nowhere)  # the cached one, with its sha256 checked
    except OSError:
        pytest.skip("tiny Shakespeare is not in the cache; python -m lessons 1 downloads it")
    path = tmp_path_factory.mktemp("tiny") / "input.txt"
    path.write_bytes(content)
    return path


@pytest.fixture
def lesson(monkeypatch, capsys):
    """lesson(7, data, limit) runs a lesson, at most `limit` steps of anything, and returns what it
    printed."""

    def run(number, data, limit):
        monkeypatch.setattr(common.options, "data", data)
        monkeypatch.setattr(common.options, "quick", True)
        monkeypatch.setattr(common, "HANDFUL", limit)
        chapters.run(chapters.find(str(number)))
        return capsys.readouterr().out

    return run
