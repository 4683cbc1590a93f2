"""The text from a file, a directory or a server; its splits; its batches."""

import hashlib
import http.server
import threading
import time

import numpy as np
import pytest

from gpt import network
from gpt import text as texts
from gpt.config import Stream, UserError
from gpt.data import Batches, Corpus
from gpt.text import load_text, tiny_shakespeare

# ---------------------------------------------------------------------------------------- the text


def test_a_file_a_mark_and_line_ends(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\nend\n")
    assert load_text(path) == (str(path), "naïve\nend\n")


def test_a_directory_is_all_its_texts_in_order(tmp_path):
    (tmp_path / "below").mkdir()
    for name, text in (("b.txt", "second"), ("below/c.txt", "third"), ("a.txt", "first")):
        (tmp_path / name).write_text(text)
    (tmp_path / "picture.png").write_bytes(b"\xff")
    assert load_text(tmp_path)[1] == "first\nsecond\nthird"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "empty"), (b" \n", "empty"), (b"caf\xe9 !", "UTF-8.*byte 3")],
)
def test_what_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_text(path)
    assert str(path) in str(error.value)


def test_a_directory_without_text(tmp_path):
    with pytest.raises(UserError, match=r"no file \*\.txt or \*\.md"):
        load_text(tmp_path)


# ------------------------------------------------------------------------------------ the download


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(texts.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "tensorlib" / "tinyshakespeare.txt"


@pytest.fixture
def server():
    """A server on this machine: (its URL, the list of paths it was asked for)."""
    asked, leave = [], threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/slow":
                leave.wait(10)
            self.send_response(404 if self.path == "/missing" else 200)
            self.end_headers()
            self.wfile.write(b"To be, or not to be")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        leave.set()
        httpd.shutdown()


RIGHT = hashlib.sha256(b"To be, or not to be").hexdigest()


def test_downloaded_once_and_again_when_damaged(server, cache):
    url, asked = server
    for _ in range(2):
        assert tiny_shakespeare(url, RIGHT) == b"To be, or not to be"
    assert (cache.read_bytes(), len(asked)) == (b"To be, or not to be", 1)
    cache.write_bytes(b"To be, or not to b")
    assert tiny_shakespeare(url, RIGHT) == b"To be, or not to be"
    assert (cache.read_bytes(), len(asked)) == (b"To be, or not to be", 2)
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_something_else_is_refused_and_not_kept(server, cache):
    with pytest.raises(OSError, match="something else"):
        tiny_shakespeare(server[0], sha256="0" * 64)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_obstacle(server, cache, capsys):
    cache.parent.write_text("a file where the directory should be")
    assert tiny_shakespeare(server[0], RIGHT) == b"To be, or not to be"
    assert "cannot keep it" in capsys.readouterr().err


def test_no_answer_is_noticed_in_time(server, cache):
    start = time.monotonic()
    with pytest.raises(OSError, match=r"time|within"):
        tiny_shakespeare(server[0] + "/slow", RIGHT, timeout=0.5)
    assert time.monotonic() - start < 3


def test_a_name_look_up_that_hangs_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(network.urllib.request, "urlopen", lambda *a, **k: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(OSError, match="no answer within 0 seconds"):
        tiny_shakespeare("https://127.0.0.1", RIGHT, timeout=0.1)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("path", ["/missing", None])
def test_without_a_network_python_has_a_text(server, cache, capsys, monkeypatch, path):
    url = server[0] + path if path else "http://127.0.0.1:9"
    monkeypatch.setattr(texts, "tiny_shakespeare", lambda: tiny_shakespeare(url))
    name, text = load_text(None)
    assert "Python" in name
    assert len(text) > 100_000
    message = capsys.readouterr().err
    assert "cannot download" in message
    assert "--data" in message


# -------------------------------------------------------------------------------------- its tokens


def test_nine_tenths_to_learn_from(text):
    corpus = Corpus.from_text("text", text, block_size=8)
    assert len(corpus.train) == int(0.9 * len(text))
    tokens = np.concatenate([corpus.train, corpus.val])
    assert corpus.tokenizer.decode(tokens) == text


@pytest.mark.parametrize("block_size", [1, 8])
def test_the_shortest_text(block_size):
    shortest = "x" * (10 * (block_size + 1))
    corpus = Corpus.from_text("text", shortest, block_size)
    x, y = Batches(corpus.val, 2, block_size, 0, Stream.TRAIN_BATCH)(0)
    assert x.shape == y.shape == (2, block_size)
    with pytest.raises(UserError, match=str(len(shortest))):
        Corpus.from_text("text", shortest[1:], block_size)


def test_a_batch_is_a_function_of_seed_stream_and_step():
    tokens = np.arange(1000)
    batch = Batches(tokens, 4, 8, 7, Stream.TRAIN_BATCH)
    x, y = batch(5)
    assert x.dtype == y.dtype == np.int64
    np.testing.assert_array_equal(x.numpy(), x.numpy()[:, :1] + np.arange(8))
    np.testing.assert_array_equal(y.numpy(), x.numpy() + 1)
    batch(6)
    again, _ = Batches(tokens, 4, 8, 7, Stream.TRAIN_BATCH)(5)
    assert again.tolist() == x.tolist()
    others = [
        batch(6),
        Batches(tokens, 4, 8, 8, Stream.TRAIN_BATCH)(5),
        Batches(tokens, 4, 8, 7, Stream.EVALUATION_BATCH)(5),
    ]
    assert all(other.tolist() != x.tolist() for other, _ in others)


def test_every_place_is_drawn_and_none_beyond():
    batch = Batches(np.arange(12), 64, 4, 0, Stream.TRAIN_BATCH)
    starts = {int(start) for step in range(10) for start in batch(step)[0].numpy()[:, 0]}
    assert starts == set(range(12 - 4))  # the last one's targets end with the last token


@pytest.mark.parametrize("length", [5, 9, 10, 37])
def test_windows_have_each_token_once_as_a_target(length):
    batches = Batches(np.arange(length), 2, 4, 0, Stream.EVALUATION_BATCH)
    pairs = [batches.window(i) for i in range(len(batches.windows))]
    targets = [token for _, y in pairs for token in y.numpy().ravel()]
    assert targets == list(range(1, length))
    assert all((y.numpy() == x.numpy() + 1).all() for x, y in pairs)
