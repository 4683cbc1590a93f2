"""Text to tokens and back."""

import json
import pickle
import re
import time

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Tokenizer

from gpt.config import UserError
from gpt.text import bpe
from gpt.tokenizer import (
    END_OF_TEXT,
    BPETokenizer,
    BytesTokenizer,
    CharTokenizer,
    gpt2_tokenizer,
    gpt2_tokenizer_from_files,
    tokenizer_from_record,
)

SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TEXT = "It is a truth universally acknowledged, that a truth is a truth; isn't it?  Überall 42.\n"
MERGED = bpe.train(bpe.count_pre_tokens([TEXT * 3]), 300)
UTF_8 = st.text(st.characters(codec="utf-8")) | st.text(TEXT) | st.just("a<|endoftext|>b")
OF_ANY_TEXT = [BytesTokenizer(), BPETokenizer(MERGED), BPETokenizer(MERGED, END_OF_TEXT)]


def test_the_videos_numbers():
    tokenizer = CharTokenizer(SHAKESPEARE)
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode("hii there").tolist() == [46, 47, 47, 1, 58, 46, 43, 56, 43]
    assert tokenizer.decode([46, 47, 47, 1, 58, 46, 43, 56, 43]) == "hii there"


@given(UTF_8)
def test_round_trip(text):
    own = [CharTokenizer.from_text(text)] if text else []
    for kind in own + OF_ANY_TEXT:
        tokens = kind.encode(text)
        assert kind.decode_bytes(tokens) == text.encode()
        assert kind.decode(tokens) == text
        assert tokens.dtype == kind.dtype


@pytest.mark.parametrize("kind", [CharTokenizer.from_text(TEXT), *OF_ANY_TEXT])
def test_from_a_record_and_from_a_pickle(kind):
    tokens = kind.encode(TEXT)
    again = tokenizer_from_record(json.loads(json.dumps(kind.to_record())))
    for copy in (again, pickle.loads(pickle.dumps(kind))):
        assert (copy.name, copy.tokens) == (kind.name, kind.tokens)
        assert copy.encode(TEXT).tolist() == tokens.tolist()


@given(UTF_8)
def test_what_a_token_is(text):
    if text:
        char = CharTokenizer.from_text(text)
        assert char.vocab_size == len(set(text))
        assert [sorted(set(text))[i] for i in char.encode(text)] == list(text)
    assert BytesTokenizer().encode(text).tolist() == list(text.encode())
    reference = tiktoken.Encoding(
        "reference",
        pat_str=r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        mergeable_ranks={token: i for i, token in enumerate(MERGED)},
        special_tokens={END_OF_TEXT: len(MERGED)},
    )
    expected = reference.encode(text, disallowed_special=())  # special ones are ordinary text
    assert [t.encode(text).tolist() for t in OF_ANY_TEXT[1:]] == [expected, expected]


def test_names_and_sizes():
    assert [t.name for t in OF_ANY_TEXT] == ["bytes", f"bpe:{len(MERGED)}", "gpt2"]
    assert [t.vocab_size for t in OF_ANY_TEXT] == [256, len(MERGED), len(MERGED) + 1]
    assert OF_ANY_TEXT[2].decode([len(MERGED)]) == END_OF_TEXT


def test_tokens_take_little_memory():
    assert CharTokenizer("abc").encode("cab").dtype == np.uint8
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    assert CharTokenizer(many).encode(many).dtype == np.uint16
    assert BytesTokenizer().encode("cab").dtype == np.uint8
    assert BPETokenizer(MERGED).encode("cab").dtype == np.uint16


@pytest.mark.parametrize("unknown", ["é", "€", "\x00", "😀", "\udcff"])
def test_unknown_characters_are_named(unknown):
    with pytest.raises(UserError) as error:
        CharTokenizer.from_text("abc z").encode(f"ab{unknown}c")
    assert repr(unknown) in str(error.value)
    assert repr("a") not in str(error.value)


def test_of_many_unknown_characters_some_are_named():
    with pytest.raises(UserError, match=r"'Ͽ'|…") as error:
        CharTokenizer("abc").encode("".join(map(chr, range(0x300, 0x400))))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("tokenizer", OF_ANY_TEXT)
def test_half_a_character(tokenizer):
    with pytest.raises(UserError, match="dcff"):
        tokenizer.encode("ab\udcffc")
    euro = list("€".encode())
    assert tokenizer.decode(euro[:2]) == "\ufffd"
    assert tokenizer.decode_bytes(euro[:2]) + tokenizer.decode_bytes(euro[2:]) == "€".encode()


@pytest.mark.parametrize("tokenizer", [CharTokenizer("abc"), *OF_ANY_TEXT])
def test_a_token_that_does_not_exist(tokenizer):
    for token in (tokenizer.vocab_size, -1):
        with pytest.raises(IndexError):
            tokenizer.decode([0, token])


# ------------------------------------------------------------------------------------------ GPT-2


@pytest.fixture
def folder(tmp_path):
    """A small GPT-2 as Hugging Face stores it; the pairs by hand, from the words of WORDS."""
    pairs = ["h e", "he r", "Ġ t", "Ġt he", "Ã ¼", "' s", "e r"]
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = [chr(b) for b in shown] + [chr(0x100 + i) for i in range(256 - len(shown))]
    tokens = characters + [pair.replace(" ", "") for pair in pairs] + [END_OF_TEXT]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *pairs]) + "\n"
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    return tmp_path


def test_a_hugging_face_folder(folder):
    theirs, ours = GPT2Tokenizer.from_pretrained(folder), gpt2_tokenizer_from_files(folder)
    assert ours.vocab_size == len(theirs) == 264

    @given(UTF_8 | st.text("her tü's\n"))
    def same_tokens(text):
        if END_OF_TEXT not in text:  # theirs takes it for the special token
            assert ours.encode(text).tolist() == theirs(text)["input_ids"]
        assert ours.decode_bytes(ours.encode(text)) == text.encode()

    same_tokens()
    assert ours.decode([263]) == theirs.decode([263]) == END_OF_TEXT


def test_a_hugging_face_folder_that_is_not_gpt2s(folder):
    path = folder / "vocab.json"
    whole = path.read_text(encoding="utf-8")
    for damaged in (whole[:-9], "[]", "{}", "7", whole.replace("260", "999"), '{"a": "b", "c": 3}'):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match=re.escape(str(folder))) as error:
            gpt2_tokenizer_from_files(folder)
        assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match=r"vocab\.json: No such file"):
        gpt2_tokenizer_from_files(folder)


def test_gpt2_by_tiktoken(monkeypatch):
    """With tiktoken's vocabulary played by a small one: names, numbers, the record."""
    small = tiktoken.Encoding(
        "gpt2", pat_str=bpe.PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(MERGED)},
        special_tokens={END_OF_TEXT: len(MERGED)},
    )  # fmt: skip
    monkeypatch.setattr(tiktoken, "get_encoding", {"gpt2": small}.__getitem__)
    ours = gpt2_tokenizer()
    assert (ours.name, ours.vocab_size) == ("gpt2", small.n_vocab)
    assert ours.encode(TEXT).tolist() == small.encode_ordinary(TEXT)


def test_gpt2_without_a_network(monkeypatch):
    def hang(name):
        time.sleep(5)

    monkeypatch.setattr(tiktoken, "get_encoding", hang)
    with pytest.raises(UserError, match=r"TimeoutError.*bpe:1024.*TIKTOKEN_CACHE_DIR"):
        gpt2_tokenizer(timeout=0.05)


# ---------------------------------------------------------------------------------------- records

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
BYTES = BPETokenizer(MERGED).to_record()["merged"]


@given(JSON, st.sampled_from(["char", "bpe", "gpt2", "wordpiece"]), JSON)
@settings(max_examples=50)
def test_a_record_of_something_else(anything, kind, value):
    for record in (anything, {"kind": kind}, {"kind": kind, "chars": value, "merged": value}):
        if kind == "char" and isinstance(value, str):
            continue  # a string may be an alphabet
        with pytest.raises(UserError, match="tokenizer is damaged") as error:
            tokenizer_from_record(record)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "char", "chars": "ba"},
        {"kind": "char", "chars": "aab"},
        {"kind": "char", "chars": "a\ud800"},
        {"kind": "bpe", "merged": BYTES[:255]},
        {"kind": "bpe", "merged": BYTES[1:]},
        {"kind": "bpe", "merged": [*BYTES, BYTES[-5]]},
        {"kind": "bpe", "merged": [*BYTES, ""]},
        {"kind": "bpe", "merged": [*BYTES, "€"]},
        {"kind": "bpe", "merged": [*BYTES, 7]},
        {"kind": "bpe", "merged": [*BYTES, ["a", "b"]]},
        {"kind": "bpe", "merged": dict.fromkeys(BYTES)},
        {"kind": "gpt2", "merged": [*BYTES, END_OF_TEXT]},
        {"kind": ["bpe"], "merged": BYTES},
    ],
)
def test_a_damaged_record(record):
    with pytest.raises(UserError, match="tokenizer is damaged"):
        tokenizer_from_record(record)
