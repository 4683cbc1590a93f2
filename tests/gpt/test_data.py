"""A text as tokens, its splits, where they are kept; its batches; whether it suits the model."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt import data
from gpt.commands.advice import advice
from gpt.config import Stream, UserError
from gpt.data import Batches, Corpus, load_corpus
from gpt.text import cache
from gpt.text import reading as text_module
from gpt.text.reading import Text

KINDS = ["char", "bytes", "bpe:300"]


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


# ---------------------------------------------------------------------------- tokens of every kind


@pytest.mark.parametrize("kind", KINDS)
def test_splits_and_their_bytes(text, kind):
    text += "naïve €\n" * 20
    corpus = Corpus.from_text("text", text, 8, kind)
    assert corpus.tokenizer.name.split(":")[0] == kind.split(":")[0]
    tokens = np.concatenate([corpus.train, corpus.val])
    assert len(corpus.train) == int(0.9 * len(tokens))
    assert corpus.tokenizer.decode_bytes(tokens) == text.encode()
    train_bytes = len(corpus.tokenizer.decode_bytes(corpus.train))
    assert train_bytes + corpus.val_bytes == len(text.encode())


def test_another_runs_tokenizer(text):
    first = Corpus.from_text("text", text, 8, "bpe:300")
    second = Corpus.from_text("text", "jumps over" * 10, 1, first.tokenizer)
    assert second.tokenizer is first.tokenizer
    with pytest.raises(UserError, match="never saw"):
        Corpus.from_text("text", "é" * 100, 8, Corpus.from_text("text", text, 8).tokenizer)


def test_a_text_that_runs_out_of_pairs(capsys):
    corpus = Corpus.from_text("text", "ab " * 20, 1, "bpe:1000")
    assert corpus.tokenizer.vocab_size == 258  # ab, and ␣ab
    assert "258 tokens, not 1,000" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- the cache


@pytest.fixture
def large(text, tmp_path, monkeypatch):
    """large() is a text that counts as large; its tokens are kept in tmp_path."""
    monkeypatch.setattr(text_module, "SMALL", 1000)
    monkeypatch.setattr(text_module, "_BLOCK", 300)
    monkeypatch.setattr(text_module.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    return lambda more="": Text.from_string("text", text + more)


def read(large, kind="bpe:300", more=""):
    return load_corpus(large(more), kind, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_text_has_the_tokens_of_a_small_one(large, text, kind, monkeypatch):
    mapped = [read(large, kind), read(large, kind)]
    monkeypatch.setattr(text_module, "SMALL", 1_000_000)
    small = read(large, kind)
    for corpus in [*mapped, *(pickle.loads(pickle.dumps(corpus)) for corpus in mapped)]:
        for split in ("train", "val"):
            tokens, expected = getattr(corpus, split), getattr(small, split)
            assert isinstance(tokens, np.memmap)
            assert tokens.dtype == expected.dtype
            np.testing.assert_array_equal(tokens, expected)
        assert corpus.sha256 == small.sha256
        assert corpus.val_bytes == small.val_bytes
    x, _ = Batches(mapped[0].train, 4, 8, 0, Stream.TRAIN_BATCH)(3)
    assert x.tolist() == Batches(small.train, 4, 8, 0, Stream.TRAIN_BATCH)(3)[0].tolist()
    assert len(pickle.dumps(mapped[0])) < len(pickle.dumps(small))


@pytest.fixture
def encoded(monkeypatch):
    """How often a text was tokenized."""
    times = []
    plain = data._encoded
    monkeypatch.setattr(data, "_encoded", lambda *both: times.append(0) or plain(*both))
    return times


def test_once_for_each_text_and_tokenizer(large, encoded, capsys):
    for times, kind, more in (
        (1, "bpe:300", ""), (1, "bpe:300", ""), (2, "bpe:301", ""), (3, "bpe:300", "."),
        (3, "bpe:301", ""), (4, "bytes", ""), (5, "char", ""),
    ):  # fmt: skip
        corpus = read(large, kind, more)
        assert len(encoded) == times
        assert corpus.tokenizer.decode([*corpus.train, *corpus.val]) == large(more).read()
    assert capsys.readouterr().err.count("kept for the next run") == 5
    read(large, read(large).tokenizer)  # as a resumed run does
    assert len(encoded) == 5


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:9], lambda c: b"", None])
@pytest.mark.parametrize("kind", ["tokens", "tokenizer"])
def test_a_damaged_file_is_made_again(large, encoded, tmp_path, damage, kind):
    flipped = damage or (lambda c: bytes([c[0] ^ 1]) + c[1:])
    before = np.array(read(large).train)  # whoever has it mapped must not see it cut
    (path,) = (tmp_path / "texts").glob(f"*.{kind}")
    whole = path.read_bytes()
    path.write_bytes(flipped(whole))
    again = read(large)
    np.testing.assert_array_equal(again.train, before)
    assert len(encoded) == (2 if kind == "tokens" else 1)
    assert path.read_bytes() == whole
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".tokenizer", ".tokens"]


def test_a_bar_on_a_terminal_only(large, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal := Terminal())
        read(large)
    shown = terminal.getvalue()
    assert all(f"{doing}: 100%" in shown for doing in ("reading", "counting words", "tokenizing"))
    read(large, "bpe:301")
    assert capsys.readouterr().err.count("\n") == 1  # where the tokens are kept


def test_no_room_for_the_cache(large, tmp_path, monkeypatch, capsys):
    (tmp_path / "texts").write_text("a file where the directory should be")
    corpus = read(large)
    assert not isinstance(corpus.train, np.memmap)
    assert corpus.tokenizer.decode([*corpus.train, *corpus.val]) == large().read()
    message = capsys.readouterr().err
    assert "they stay in memory" in message
    assert message.count("\n") == 1


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path):
    def content():
        yield b"some"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        cache.keep(tmp_path / "file", content())
    assert list(tmp_path.iterdir()) == []
    left = tmp_path / "file.abc.unfinished"  # by a process that was killed
    left.write_bytes(b"so")
    cache.keep(tmp_path / "file", [b"some"])
    assert left.exists()  # it may be at work
    os.utime(left, (0, 0))
    cache.keep(tmp_path / "file", [b"some"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_workers_map_the_same_file(large):
    corpus = read(large)
    code = "import pickle, sys; c = pickle.load(sys.stdin.buffer); print(type(c.val), c.val.sum())"
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(corpus), capture_output=True, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(data.__file__).parents[1])},
    )  # fmt: skip
    assert done.stdout.decode().split("'")[1] == "numpy.memmap"
    assert int(done.stdout.split()[-1]) == corpus.val.sum()


@pytest.mark.slow
def test_two_runs_at_once_and_a_cache_that_was_cut_off(script, text, tmp_path, tiny):
    (tmp_path / "large.txt").write_text(text * (11_000_000 // len(text)))
    # what ends a run when the tokens are there: to measure the whole of such a split takes long
    flags = ["--data", "large.txt", "--sample-prompt", "é", *tiny]
    both = [script("train.py", *flags, "--out", out, start=True) for out in "ab"]
    for process in both:
        _, errors = process.communicate(timeout=60)
        assert "never saw these characters: 'é'" in errors
    (kept,) = (tmp_path / "cache/tensorlib/texts").glob("*.tokens")
    whole = kept.read_bytes()
    assert len(whole) == (tmp_path / "large.txt").stat().st_size + cache.DIGEST
    for damaged in (whole, whole[:5_000_000]):
        kept.write_bytes(damaged)
        done = script("train.py", *flags)
        assert kept.read_bytes() == whole
        assert ("kept for the next run" in done.stderr) == (damaged is not whole)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
def test_200_megabytes_in_less_than_300(script, tmp_path, tiny):
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"etaoin shrdlu, and no vowels\n" + "é".encode(), np.uint8)[:-2]
    with open(tmp_path / "large.txt", "wb") as file:
        for _ in range(100):
            file.write(rng.choice(letters, 2_000_000).tobytes())
    flags = ["--data", "large.txt", "--max-iters", 100_000, *tiny, "--device", "cpu"]
    process = script("train.py", *flags, "--eval-interval", 20, "--processes", 2, start=True)
    lines = [process.stdout.readline() for _ in range(20) if process.poll() is None]
    status = Path(f"/proc/{process.pid}/status").read_text()
    process.kill()
    errors = process.communicate()[1]
    assert any(line.startswith("step 40:") for line in lines), errors
    assert "180,000,000 tokens to learn, 20,000,000 to validate" in "".join(lines)
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 300_000, peak  # kB: the whole process, since it began


# --------------------------------------------------------------------------- what suits the model


def test_a_plain_word():
    def notes(*sizes):
        return advice(*sizes)[1:]

    assert advice(1_003_854, 816_705, 2000 * 12 * 64) == [
        "1.23 tokens per parameter; the run reads the text 1.53 times"
    ]  # tiny Shakespeare and the default model: nothing to warn of
    assert "0.093 tokens" in advice(1_003_854, 10_788_929, 5000 * 64 * 256)[0]
    (line,) = notes(1_003_854, 10_788_929, 5000 * 64 * 256)
    assert "text is small" in line
    assert "--dropout" in line
    assert "--dropout" not in notes(1_003_854, 10_788_929, 5000 * 64 * 256, 0.2)[0]
    # Hoffmann et al., table 3: Chinchilla's 70 billion parameters, 1.4 trillion tokens
    assert notes(1_400_000_000_000, 70_000_000_000, 1_400_000_000_000) == []
    # as much computing as Chinchilla's in a model of 7 billion: it should have been larger
    (line,) = notes(14_000_000_000_000, 7_000_000_000, 14_000_000_000_000)
    assert "model is small" in line
    assert "70,000,000,000 parameters" in line
    assert notes(10**9, 10**6, 10**6) == []
    assert "0.10% of the text" in advice(10**9, 10**6, 10**6)[0]
