"""The trainer against the textbook's, and the encoding of its merges against the textbook's."""

import itertools
from collections import Counter

import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt.text import bpe
from gpt.tokenizer import BPETokenizer

# as OpenAI's encoder.py has it
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = st.text("ab ", max_size=60) | st.text("aab é'\n", max_size=40)
ANY = st.text(st.characters(codec="utf-8"), max_size=60)


def merged(tokens, pair):
    """The tokens with each `pair`, from the left, made one."""
    out = []
    while tokens:
        width = 2 if tuple(tokens[:2]) == pair else 1
        out.append(b"".join(tokens[:width]))
        tokens = tokens[width:]
    return out


def textbook(text, vocab_size):
    """The vocabulary, and the text as tokens: every pair counted anew for each merge."""
    words = [[bytes([b]) for b in word.encode()] for word in regex.findall(GPT2_PATTERN, text)]
    vocabulary = [bytes([b]) for b in range(256)]
    while len(vocabulary) < vocab_size:
        counts = Counter(pair for word in words for pair in itertools.pairwise(word))
        number = vocabulary.index  # among equally frequent pairs, the smaller numbers come first
        best = min(counts, key=lambda p: (-counts[p], number(p[0]), number(p[1])), default=None)
        if best is None or counts[best] < 2:
            break
        words = [merged(word, best) for word in words]
        vocabulary.append(b"".join(best))
    return vocabulary, [token for word in words for token in word]


@given(WORDS | ANY, st.integers(256, 300))
@example("aaaaaaa aaaaaaa", 300)
@example("low low lower newest newest widest", 300)
def test_the_vocabulary_and_the_tokens_are_the_textbooks(text, vocab_size):
    vocabulary, tokens = textbook(text, vocab_size)
    assert bpe.train(bpe.count_pre_tokens([text]), vocab_size) == vocabulary
    assert [vocabulary[token] for token in BPETokenizer(vocabulary).encode(text)] == tokens


def test_a_known_example():
    """aaabdaaabac, the example of Wikipedia's article, as one word: Z = aa, Y = ab, X = ZY."""
    vocabulary = bpe.train({"aaabdaaabac": 1}, 259)
    assert vocabulary[256:] == [b"aa", b"ab", b"aaab"]
    assert len(bpe.train({"aaabdaaabac": 1}, 1000)) == 259  # then no pair occurs twice


def test_how_often_a_pre_token_occurs_counts():
    assert bpe.train({"ab": 2, "cd": 3}, 257)[256:] == [b"cd"]
    assert bpe.train({"ab": 4, "cd": 3}, 257)[256:] == [b"ab"]
    assert bpe.train({"ab": 1}, 257)[256:] == []


@given(ANY | st.text(" \n\x1c\u3000a'!9", max_size=30))
def test_pre_tokens_are_gpt2s(text):
    assert regex.findall(bpe.PATTERN, text) == regex.findall(GPT2_PATTERN, text)


@given(st.lists(st.sampled_from(["a", "bc!", " ", "  ", "\n", "'s", "9", "é", "\x1c"])), st.data())
@settings(max_examples=200)
def test_a_text_can_be_cut_where_a_word_ends(parts, data):
    text = "".join(parts)
    start = data.draw(st.integers(0, len(text)))
    cut = bpe.last_word_end(text, start, len(text))
    if cut < len(text):
        parts = [regex.findall(GPT2_PATTERN, part) for part in (text[:cut], text[cut:])]
        assert parts[0] + parts[1] == regex.findall(GPT2_PATTERN, text)


def test_pieces_of_a_long_text():
    text = "some words, and so on\n" * 10_000
    parts = list(bpe.pieces(text))
    assert "".join(parts) == text
    assert len(parts) == 4
    assert bpe.count_pre_tokens([text]) == Counter(regex.findall(GPT2_PATTERN, text))
    nowhere = " " * 1_000_000  # tiktoken's pattern would exhaust its stack
    assert BPETokenizer(bpe.train({}, 256)).encode(nowhere).tolist() == [32] * 1_000_000
