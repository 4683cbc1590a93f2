"""Sampling: the cache changes nothing, and tokens are drawn with the right probabilities."""

import numpy as np
import pytest
from harness import to_array
from transformers import GPT2Config

import tensorlib
from gpt import GPT, GPTConfig, UserError
from gpt.config import Sampling
from gpt.fast.decode import decode
from gpt.generate import Text, draw, encode_prompt, generate, generate_text, generate_texts
from gpt.tokenizer import END_OF_TEXT, BPETokenizer, BytesTokenizer, CharTokenizer

pytestmark = pytest.mark.usefixtures("there")
GREEDY = Sampling(temperature=0)


@pytest.fixture
def model():
    """A model of 11 tokens and a context of 16, whose weights are large enough to have opinions."""
    tensorlib.manual_seed(3)
    model = GPT(GPTConfig(11, 16, n_layer=2, n_head=2, n_embd=16, dropout=0.5))
    for p in model.parameters():
        p.array *= 12
    return model


def tokens(model, start, n, sampling=GREEDY, seed=0, **options):
    idx = tensorlib.tensor(start)
    return np.hstack([to_array(t) for t in generate(model, idx, n, sampling, seed, **options)])


@pytest.mark.parametrize("length", [1, 5, 15, 16, 17, 30])
def test_greedy_text_is_the_same_without_a_cache_far_beyond_the_context(model, length):
    start = np.random.default_rng(0).integers(0, 11, (3, length)).tolist()
    cached = tokens(model, start, 40)
    np.testing.assert_array_equal(cached, tokens(model, start, 40, use_cache=False))
    assert len(np.unique(cached)) > 3  # no mere repetition, which would prove little

    idx = np.array(start)
    with model.evaluating(), tensorlib.no_grad():
        for column in cached.T:  # and it is the likeliest token each time
            logits, _ = model(tensorlib.tensor(idx[:, -16:]))
            assert (to_array(logits[:, -1].argmax(1)) == column).all()
            idx = np.hstack([idx, column[:, None]])


def test_with_a_cache_only_new_tokens_are_computed(model, monkeypatch):
    lengths, forward = [], model.forward

    def counted(idx, **options):
        lengths.append(idx.shape[1])
        return forward(idx, **options)

    def counted_decode(*args):
        lengths.append(1)
        return decode(*args)

    monkeypatch.setattr(model, "forward", counted)
    monkeypatch.setattr("gpt.generate.decode", counted_decode)
    tokens(model, [[1, 2, 3]], 16)
    assert lengths == [3] + 13 * [1] + 2 * [16]


def test_without_a_prompt_each_kind_of_model_begins_as_it_learned_to():
    for chars, start in ("\nab", 0), ("\tab", 0), ("\t\nab", 1):
        assert encode_prompt(CharTokenizer(chars), "").tolist() == [start]
    assert encode_prompt(BytesTokenizer(), "").tolist() == [ord("\n")]
    merged = [bytes([i]) for i in range(256)] + [b"%d" % i for i in range(10, 50010)]
    tokenizer = BPETokenizer(merged, END_OF_TEXT)  # as many tokens as GPT-2's
    assert encode_prompt(tokenizer, "").tolist() == [GPT2Config().bos_token_id]
    assert encode_prompt(BPETokenizer(merged), "").tolist() == [ord("\n")]


def test_generate_as_in_the_video(model):
    idx = tensorlib.zeros((2, 1), dtype=tensorlib.long)
    longer = model.generate(idx, max_new_tokens=20)
    assert longer.shape == (2, 21)
    assert longer.dtype == tensorlib.long
    assert (longer[:, :1] == idx).all()
    assert model.generate(idx, 20).tolist() == longer.tolist()
    assert model.generate(idx, 20, seed=1).tolist() != longer.tolist()
    assert longer[0].tolist() != longer[1].tolist()  # rows draw on their own
    greedy = model.generate(idx, 20, temperature=0)
    assert greedy.tolist() == model.generate(idx, 20, top_k=1).tolist()
    assert greedy.tolist() == model.generate(idx, 20, top_p=1e-9).tolist()


def test_generating_records_nothing_and_leaves_the_model_as_it_was(model):
    model.h[0].eval()
    before = [module.training for module in model.modules()]
    for _ in generate(model, tensorlib.tensor([[1]]), 3, GREEDY, 0):
        assert not any(module.training for module in model.modules())
        assert tensorlib.is_grad_enabled()  # the caller's own code may record
    assert [module.training for module in model.modules()] == before
    stopped = generate(model, tensorlib.tensor([[1]]), 3, GREEDY, 0)
    next(stopped)
    stopped.close()
    assert [module.training for module in model.modules()] == before


def test_nothing_to_continue(model):
    with pytest.raises(ValueError, match="no token"):
        tokens(model, np.zeros((1, 0), np.int64), 1)


def test_text_comes_in_pieces(model):
    tokenizer = CharTokenizer("\nabcdefghij")
    pieces = list(generate_text(model, tokenizer, "abc", 12, GREEDY, 0))
    assert len(pieces) == 12
    assert tokenizer.encode("".join(pieces)).tolist() == tokens(model, [[1, 2, 3]], 12)[0].tolist()
    from_nothing = list(generate_text(model, tokenizer, "", 12, GREEDY, 0))
    assert from_nothing == list(generate_text(model, tokenizer, "\n", 12, GREEDY, 0))
    with pytest.raises(UserError, match="'x'"):
        next(generate_text(model, tokenizer, "x", 1, GREEDY, 0))


def test_a_row_with_its_own_seed_draws_as_it_would_alone(model):
    seeds = [5, 2**64 - 1, 5, 9]
    together = tokens(model, [[1, 2, 3]] * 4, 40, Sampling(), seeds)
    for row, seed in zip(together, seeds, strict=True):
        assert row.tolist() == tokens(model, [[1, 2, 3]], 40, Sampling(), seed)[0].tolist()
    assert together[0].tolist() == together[2].tolist() != together[3].tolist()


def test_each_text_of_a_batch_ends_at_its_own_stop(model):
    tokenizer = CharTokenizer("\nabcdefghij")
    seeds, n, stop = [3, 4, 5, 6], 60, "a"
    whole = ["".join(generate_text(model, tokenizer, "abc", n, Sampling(), s)) for s in seeds]
    columns = list(generate_texts(model, tokenizer, "abc", n, Sampling(), seeds, stop))
    assert len(columns) == min(n, max((text + "a").index("a") + 1 for text in whole))
    for row, text in zip(zip(*columns, strict=True), whole, strict=True):
        told = [piece for piece in row if piece is not None]
        assert "".join(told) == text.split("a")[0]
        assert len(told) == min(n, (text + "a").index("a") + 1)  # that of the stop was drawn, too


# ------------------------------------------------------------------------------ a text that grows


class Pieces:
    """A tokenizer whose tokens are these bytes."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def decode_bytes(self, tokens):
        return b"".join(self.pieces[token] for token in tokens)


def told(pieces, stop=None):
    text, last = Text(Pieces(*pieces), stop), len(pieces) - 1
    return [text.add(i, i == last) for i in range(len(pieces))]


def test_a_character_is_told_when_it_is_complete():
    eye, accent = "👁".encode(), "é".encode()
    assert told([b"a", eye[:1], eye[1:3], eye[3:] + accent[:1], accent[1:]]) == [
        "a", "", "", "👁", "é"
    ]  # fmt: skip
    assert told([b"a\xff", b"b", eye[:3]]) == ["a\ufffd", "b", "\ufffd"]
    for cut in range(12):  # as Python decodes the whole
        noise = (eye + accent + b"\x80\xc3\xf0\x9f")[cut:]
        pieces = [noise[i : i + 1] for i in range(len(noise))]
        assert "".join(told([*pieces, b""])) == noise.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        ("the end. more", "end", "the "),
        ("the en. d", "end", "the en. d"),  # held back, but it was none
        ("the en", "end", "the en"),  # held back until the last token
        ("eeend", "end", "ee"),
        ("ababac", "abac", "ab"),  # begins anew inside a beginning
        ("end", "end", ""),
        ("one\n\ntwo", "\n\n", "one"),
        ("größe 5", "ße", "grö"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 50])  # bytes in a token: no token is a stop's own
def test_a_text_ends_before_its_stop(pieces, stop, expected, size):
    data = pieces.encode()
    got = told([data[i : i + size] for i in range(0, len(data), size)], stop)
    assert "".join(piece for piece in got if piece is not None) == expected
    so_far = ""
    for piece in got:  # and nothing that was told is taken back
        so_far += piece or ""
        assert expected.startswith(so_far)


# ---------------------------------------------------------------------------------------- the draw

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))


def shares(logits, **sampling):
    """How often each token is drawn, over evenly spread numbers in [0, 1)."""
    n = 100_000
    uniform = (np.arange(n) + 0.5) / n
    drawn = draw(np.broadcast_to(logits, (n, len(logits))), uniform, Sampling(**sampling))
    return np.bincount(drawn, minlength=len(logits)) / n


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-300}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.5}, np.square([0.1, 0.4, 0.05, 0.3, 0.15]) / 0.285),
        ({"temperature": 1e300}, [0.2] * 5),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 99}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [0, 4 / 7, 0, 3 / 7, 0]),  # of the three, 0.7 / 0.85 = 0.82
    ],
)
def test_tokens_are_drawn_with_these_probabilities(sampling, expected):
    np.testing.assert_allclose(shares(LOGITS, **sampling), expected, atol=2e-5)


def test_ties():
    logits = np.array([1, 3, 3, 3, 1], np.float32)
    assert draw(logits[None], np.zeros(1), GREEDY) == [1]
    np.testing.assert_allclose(shares(logits, top_k=2), [0, 0.5, 0.5, 0, 0], atol=2e-5)
    np.testing.assert_allclose(shares(logits, top_p=0.1), [0, 1, 0, 0, 0])
    many = np.random.default_rng(0).integers(0, 3, 1000).astype(np.float32)
    likeliest = np.flatnonzero(many == 2)[:3]  # an unstable sort would take others
    drawn = draw(np.stack([many] * 3), np.array([0.1, 0.5, 0.9]), Sampling(top_k=3))
    assert drawn.tolist() == likeliest.tolist()


def test_the_ends_of_the_unit_interval_and_extreme_logits():
    logits = np.array([[-1e30, 0, 1000, -np.inf]] * 2, np.float32)
    uniform = np.array([0.0, np.nextafter(1.0, 0)])
    assert draw(logits, uniform, Sampling()).tolist() == [2, 2]
    for seed in range(100):
        row = np.random.default_rng(seed).normal(size=30).astype(np.float32)
        likeliest, logits = np.argsort(-row), np.stack([row, row])
        drawn = draw(logits, uniform, Sampling(top_k=20)).tolist()
        assert drawn == [likeliest[0], likeliest[19]]
