"""Text to tokens and back."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.config import UserError
from gpt.tokenizer import CharTokenizer, tokenizer_from_record

SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_the_videos_numbers():
    tokenizer = CharTokenizer(SHAKESPEARE)
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode("hii there").tolist() == [46, 47, 47, 1, 58, 46, 43, 56, 43]
    assert tokenizer.decode([46, 47, 47, 1, 58, 46, 43, 56, 43]) == "hii there"


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_round_trip(text):
    tokenizer = CharTokenizer.from_text(text)
    tokens = tokenizer.encode(text)
    assert tokenizer.vocab_size == len(set(text))
    assert tokens.shape == (len(text),)
    assert [sorted(set(text))[i] for i in tokens] == list(text)
    assert tokenizer.decode(tokens) == text
    again = tokenizer_from_record(json.loads(json.dumps(tokenizer.to_record())))
    assert again.encode(text).tolist() == tokens.tolist()


def test_tokens_take_little_memory():
    assert CharTokenizer("abc").encode("cab").dtype == np.uint8
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    assert CharTokenizer(many).encode(many).dtype == np.uint16


@pytest.mark.parametrize("unknown", ["é", "€", "\x00", "😀", "\udcff"])
def test_unknown_characters_are_named(unknown):
    with pytest.raises(UserError) as error:
        CharTokenizer.from_text("abc z").encode(f"ab{unknown}c")
    assert repr(unknown) in str(error.value)
    assert repr("a") not in str(error.value)


def test_a_token_that_does_not_exist():
    with pytest.raises(IndexError):
        CharTokenizer("abc").decode([3])
