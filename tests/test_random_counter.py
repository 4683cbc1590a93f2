"""Randomness as a function: Philox beside the paper's, counters, bits for dropout."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import compare_position, seeded  # noqa: F401

import tensorlib.random as ours

WORD = 2**64


def philox4x64_10(counter, key):
    """One block, from Salmon et al. 2011, section 3.3, on Python's integers."""
    (a, b, c, d), (j, k) = counter, key
    for _ in range(10):
        high_a, low_a = divmod(a * 0xD2E7470EE14C6C93, WORD)
        high_c, low_c = divmod(c * 0xCA5A826395121157, WORD)
        a, b, c, d = high_c ^ b ^ j, low_c, high_a ^ d ^ k, low_a
        j, k = (j + 0x9E3779B97F4A7C15) % WORD, (k + 0xBB67AE8584CAA73B) % WORD
    return [a, b, c, d]


def words_of(seed, stream, step, draw, n):
    """The contract: word i is word i % 4 of block (i // 4, draw, step, 0), key (seed, stream)."""
    return [philox4x64_10((i // 4, draw, step, 0), (seed, stream))[i % 4] for i in range(n)]


VECTORS = """
    0000000000000000 0000000000000000 0000000000000000 0000000000000000
    0000000000000000 0000000000000000
    16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b

    ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff
    ffffffffffffffff ffffffffffffffff
    87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0

    243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89
    452821e638d01377 be5466cf34e90c6c
    a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6
"""


def test_the_published_vectors():
    """Random123's kat_vectors for philox4x64 10: a counter, a key, and the block they give."""
    words = [int(word, 16) for word in VECTORS.split()]
    for at in range(0, len(words), 10):
        assert philox4x64_10(words[at : at + 4], words[at + 4 : at + 6]) == words[at + 6 : at + 10]
    assert ours.philox(0, 0, 0, 0, 4).tolist() == words[6:10]  # the counter that ours can name


words = st.integers(0, 3) | st.integers(0, WORD - 1) | st.just(WORD - 1)


@settings(max_examples=100, deadline=None)
@given(seed=words, stream=words, step=words, draw=words, n=st.integers(0, 21))
def test_philox_is_the_papers(seed, stream, step, draw, n):
    actual = ours.philox(seed, stream, step, draw, n)
    assert actual.dtype == np.uint64
    assert actual.tolist() == words_of(seed, stream, step, draw, n)


def test_philox_takes_numpys_integers():
    expected = ours.philox(1, 2, 3, 4, 5)
    np.testing.assert_array_equal(ours.philox(*np.arange(1, 5), 5), expected)
    np.testing.assert_array_equal(ours.philox(*np.arange(1, 5, dtype=np.int32), 5), expected)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    ("word", "error"), [(-1, ValueError), (WORD, ValueError), (0.5, TypeError)]
)
def test_philox_refuses(place, word, error):
    arguments = [0, 0, 0, 0]
    arguments[place] = word
    with pytest.raises(error):
        ours.philox(*arguments, 1)


def halves_of_words(seed, stream, step, draw, n):
    """The 16-bit integers of a draw, lowest first, by Python's arithmetic."""
    words = words_of(seed, stream, step, draw, n)
    return [word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)][:n]


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 16, 33])
def test_dropout_bits_are_the_words_in_16s(n):
    with ours.counter(5, 6, 7):
        for draw in range(3):
            bits = ours.dropout_bits(n)
            assert bits.dtype == np.uint16
            assert bits.tolist() == halves_of_words(5, 6, 7, draw, n)


def test_counters_nest():
    with ours.counter(1, 2, 3):
        assert ours.next_draw() == (1, 2, 3, 0)
        with ours.counter(4, 5, 6):
            assert ours.next_draw() == (4, 5, 6, 0)
            with pytest.raises(KeyError), ours.counter(7, 8, 9):
                raise KeyError
            assert ours.next_draw() == (4, 5, 6, 1)
        assert ours.next_draw() == (1, 2, 3, 1)
    compare_position()  # a counter leaves the stream alone


def test_counters_are_per_thread():
    seen = {}
    barrier = threading.Barrier(2, timeout=10)

    def work(stream):
        with ours.counter(0, stream, 0):
            barrier.wait()
            seen[stream] = [ours.dropout_bits(1000).tolist() for _ in range(20)]
            barrier.wait()

    threads = [threading.Thread(target=work, args=(stream,)) for stream in (1, 2)]
    with ours.counter(0, 0, 0):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ours.next_draw() == (0, 0, 0, 0)
    for stream in (1, 2):
        expected = [ours.philox(0, stream, 0, draw, 250).view("<u2") for draw in range(20)]
        assert seen[stream] == [bits.tolist() for bits in expected]


def test_outside_a_counter_the_default_generator_keys_dropout():
    for _ in range(2):  # PyTorch's full 64-bit integers are the stream's words
        key = torch.empty(2, dtype=torch.int64).random_(-WORD // 2, None).tolist()
        key = [word % WORD for word in key]
        assert ours.dropout_bits(40).tolist() == halves_of_words(*key, 0, 0, 40)
    compare_position()
