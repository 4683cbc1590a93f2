"""The text from a file, a folder, standard input or a server, whole and in pieces."""

import hashlib
import http.server
import io
import os
import threading
import time

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.config import UserError
from gpt.data import Corpus
from gpt.text import network
from gpt.text import reading as text_module
from gpt.text.reading import Text, find_text, load_text, tiny_shakespeare

posix = pytest.mark.skipif(os.name != "posix", reason="no pipes or links as files there")


def write(folder, names):
    """Files with their names as contents."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


# ---------------------------------------------------------------------------------------- a file


def test_a_file_a_mark_and_line_ends(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\nend\n")
    assert load_text(path) == (str(path), "naïve\nend\n")


@given(st.text("a é€😀\r\n\ufeff.", min_size=1), st.integers(1, 7))
def test_in_pieces_as_at_once(text, block):
    content = ("x" + text).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "_BLOCK", block)
        found = Text("text", [io.BytesIO(content)])
        pieces = list(found.pieces())
    expected = io.TextIOWrapper(io.BytesIO(content), "utf-8").read()  # line ends translated
    assert "".join(pieces) == expected
    assert found.sha256 == hashlib.sha256(expected.encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"), (b"", "empty"), (b" \n", "empty"), (b"\xef\xbb\xbf", "empty"),
        (b"caf\xe9 !", "UTF-8.*byte 3.*latin1"), (b"\xff\xfea\0", "UTF-8.*byte 0.*utf-16"),
        (b"euros: 5 \xe2\x82\xac\n\x80", "UTF-8.*byte 13"), (b"ab\xe2\x82", "UTF-8.*byte 2"),
        (b"\xef\xbb\xbfab\xff", "UTF-8.*byte 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(tmp_path, content, message, monkeypatch):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    for block in (1 << 20, 3):
        monkeypatch.setattr(text_module, "_BLOCK", block)
        with pytest.raises(UserError, match=message) as error:
            load_text(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\0\0", b"%PDF-1.4\n%\xe2\xe3", b"PK\3\4\0\xff"])
def test_what_no_conversion_makes_a_text(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=r"not UTF-8 text.*of another kind") as error:
        load_text(tmp_path / "file")
    assert "iconv" not in str(error.value)


def test_a_text_that_changes_meanwhile(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one thing")
    text = find_text(path)
    assert text.sha256
    path.write_text("another")
    with pytest.raises(UserError, match="changed"):
        text.read()


# -------------------------------------------------------------------------------------- a folder


def test_a_folder_is_all_its_texts_in_order(tmp_path):
    write(tmp_path, ["b.txt", "below/c.md", "a.txt", "B/d.TXT", "picture.png", "z/y/x.txt"])
    write(tmp_path, [".hidden.txt", ".git/notes.md", "a.txt.bak"])
    names = ["B/d.TXT", "a.txt", "b.txt", "below/c.md", "z/y/x.txt"]
    assert load_text(tmp_path) == (str(tmp_path), "\n".join(names))


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("*.py", "a.py below/b.py"), ("*.py *.c", "a.py below/b.py below/c.c"),
        ("below/*", "below/b.py below/c.c"), ("**/*.c", "below/c.c"), ("a.*", "a.py a.txt"),
    ],
)  # fmt: skip
def test_patterns(tmp_path, patterns, names):
    write(tmp_path, ["a.py", "a.txt", "below/b.py", "below/c.c"])
    assert find_text(tmp_path, patterns).read().split("\n") == names.split()


def test_a_folder_without_text(tmp_path):
    with pytest.raises(UserError, match=r"no file \*\.txt or \*\.md in the folder .*--glob"):
        load_text(tmp_path)
    with pytest.raises(UserError, match=r"no file \*\.py in"):
        find_text(tmp_path, "*.py")


def test_a_folder_with_a_file_that_is_no_text(tmp_path):
    write(tmp_path, ["a.txt", "b.txt"])
    (tmp_path / "b.txt").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"b\.txt is not UTF-8 text \(byte 0\)"):
        load_text(tmp_path)


@posix
def test_links(tmp_path):
    folder = tmp_path / "folder"
    write(folder, ["a.txt"])
    write(tmp_path, ["elsewhere.txt"])
    (folder / "circle").symlink_to(folder)
    (folder / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    os.mkfifo(folder / "pipe.txt")  # reading it would wait for ever
    assert load_text(folder)[1] == "a.txt\nelsewhere.txt"
    (folder / "to-itself.txt").symlink_to(folder / "to-itself.txt")
    with pytest.raises(UserError, match=r"cannot read .*to-itself\.txt"):
        load_text(folder)


# -------------------------------------------------------------------------------- standard input


@posix
def test_a_pipe_can_be_read_again(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # as `--data <(zcat text.gz)` is one
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"a\r\nb",)).start()
    text = find_text(tmp_path / "pipe")
    assert (text.size, text.read(), text.read()) == (4, "a\nb", "a\nb")


@pytest.mark.slow
def test_a_run_keeps_its_tokenizer(script, text_file, tiny, tmp_path):
    flags = ["--data", text_file, "--max-iters", 1, *tiny]
    assert script("train.py", *flags, "--tokenizer", "bpe:280", "--out", "run").returncode == 0
    done = script("sample.py", "--checkpoint", "run", "--prompt", "é<|endoftext|>")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("é<|endoftext|>")
    assert script("gpt.report", "run", "--prompt", "the fox").returncode == 0
    again = ["--resume", "--out", "run", "--max-iters", 2]
    done = script("train.py", *again)
    assert "bpe:280, vocabulary 280" in done.stdout
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert '" jumps"' in page  # a token of several characters
    for mistake, *arguments in (
        ("cannot change its tokenizer", "train.py", *again, "--tokenizer", "char"),
        ("'\\udcff'", "sample.py", "--checkpoint", "run", "--prompt", "a\udcff"),
    ):
        done = script(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert mistake in done.stderr


def test_gpt2_where_its_vocabulary_cannot_be_had(script, text_file, tmp_path):
    nowhere = {"TIKTOKEN_CACHE_DIR": str(tmp_path / "nothing")}
    done = script("train.py", "--data", text_file, "--tokenizer", "gpt2", **nowhere)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "--tokenizer bpe:1024" in done.stderr


@pytest.mark.slow
def test_training_on_standard_input(script, text, tiny):
    flags = ["--max-iters", 1, "--tokenizer", "bpe:300", *tiny]
    piped = script("train.py", "--data", "-", *flags, input=text)
    assert (piped.returncode, piped.stderr) == (0, "")
    tokens = len(Corpus.from_text("text", text, 8, "bpe:300").train)
    assert f"standard input: {tokens:,} tokens to learn" in piped.stdout
    other = script("train.py", "--resume", "--out", "runs/1", "--max-iters", 2, input="x" + text)
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "this run learns another text than standard input" in other.stderr
    again = script("train.py", "--resume", "--out", "runs/1", "--max-iters", 2, input=text)
    assert again.returncode == 0, again.stderr


def test_training_on_a_folder(script, tmp_path, text, tiny):
    write(tmp_path / "notes", ["a.md"])
    flags = ["--data", "notes", "--max-iters", 1, "--tokenizer", "bytes", *tiny]
    (tmp_path / "notes" / "b.py").write_text(text)
    short = script("train.py", *flags)
    assert (short.returncode, short.stderr.count("\n")) == (2, 1)
    assert "notes is too short: 4 tokens" in short.stderr
    done = script("train.py", *flags, "--glob", "*.md *.py")
    assert done.returncode == 0, done.stderr
    assert f"{int(0.9 * (len(text) + 5)):,} tokens to learn" in done.stdout
    assert "tokens per parameter; the run reads 2.73% of the text" in done.stdout
    often = script("train.py", *flags, "--glob", "*.py", "--batch-size", 1000)
    assert "the text is small for this model" in often.stdout, often.stderr


# ------------------------------------------------------------------------------------ the download


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
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
    monkeypatch.setattr(text_module, "tiny_shakespeare", lambda: tiny_shakespeare(url))
    name, text = load_text(None)
    assert "Python" in name
    assert len(text) > 100_000
    message = capsys.readouterr().err
    assert "cannot download" in message
    assert "--data" in message
