"""The stream behind manual_seed, beside PyTorch's: the same numbers, at the same pace."""

import math
import runpy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import NORMAL, Theirs, compare, compare_position, kind, seeded  # noqa: F401

import tensorlib.random as ours

DTYPES = [np.float32, np.float64]
SIZES = [0, 1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 32, 33, 160, 1000, 4099]
SHAPES = [(), 5, 20, (0,), (3, 0), (2, 3), (4, 5, 6)]
SEEDS = [0, 1, 1337, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**63, 2**64 - 1, -1, -5, -(2**63)]


# --- The stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds(seed):
    generator = ours.manual_seed(seed)
    torch.manual_seed(seed)
    assert generator is ours.default_generator
    assert generator.initial_seed() == torch.initial_seed()
    compare("randint", 0, 2**27, 1500)  # past two refills of the twister's 624 words


def test_a_new_generator_starts_from_the_default_seed():
    mine, theirs = ours.Generator(), torch.Generator()
    assert mine.initial_seed() == theirs.initial_seed()
    np.testing.assert_array_equal(
        ours.rand(9, generator=mine), torch.rand(9, generator=theirs).numpy()
    )


def test_a_generator_of_ones_own_leaves_the_default_alone():
    mine, theirs = ours.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    probs = np.array([0.1, 0.2, 0.7], np.float32)
    calls = [
        ("rand", 5),
        ("randn", 5),
        ("randn", 50),
        ("uniform", -1, 1, 5),
        ("normal", 2, 3, 5),
        ("randint", 0, 9, 5),
        ("randperm", 9),
        ("multinomial", probs, 2),
        ("multinomial", probs, 5, True),
    ]
    for name, *args in calls:
        actual = getattr(ours, name)(*args, generator=mine)
        expected = getattr(Theirs, name)(*args, generator=theirs)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6, err_msg=name)
    compare_position()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_unseeded_programs_differ():
    first, second = (runpy.run_module(ours.__name__)["default_generator"] for _ in range(2))
    assert first.initial_seed() != second.initial_seed()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_sizes(n, dtype):
    for name in ("rand", "randn"):
        compare(name, n, dtype)
        compare_position()


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape):
    compare("rand", shape)
    compare("randn", shape)
    compare("uniform", -2, 3, shape)
    compare("normal", -2, 3, shape)
    compare("randint", -2, 3, shape)
    compare_position()


def test_the_waiting_normal():
    compare("randn", 3)  # leaves one waiting
    compare("rand", 4)  # which other draws do not touch,
    compare("randn", 0)
    compare("randn", 16)  # nor blocks of 16,
    compare("randn", 1, np.float64)  # and which serves either dtype
    compare("randn", 5)
    compare("manual_seed", 7)  # seeding forgets it
    compare("randn", 1)
    compare_position()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (-0.1, 0.1), (5, 5), (-3.3, 1e-5), (1e-30, 1e30), (0, 1e38), (1, 1 + 2**-23)]
    + [(1, 1 + 2**-52), (-1 / math.sqrt(3), 1 / math.sqrt(3)), (1e6, 1e6 + 1)],
)
def test_uniform(low, high, dtype):
    compare("uniform", low, high, 5000, dtype)
    compare_position()


def test_uniform_of_the_largest_numbers():
    compare("uniform", -8e307, 8e307, 1000, np.float64)
    compare("uniform", -1.7e38, 1.7e38, 1000, np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [5, 15, 16, 100])
def test_normal(n, dtype):
    for mean, std in [(0, 1), (3, 0), (-1.5, 0.02), (100, 10)]:
        compare("normal", mean, std, n, dtype)
    compare_position()


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0, 2), (0, 65), (-10, 10), (-7, -3), (0, 2**28 - 1), (0, 2**28), (-5, 2**28 - 5)]
    + [(0, 2**32 - 1), (0, 2**32), (-(2**31), 2**31), (-3, 2**40), (0, 2**63 - 1)]
    + [(-(2**63), 2**63 - 1), (-(2**63), 0), (2**62, 2**63 - 1)],
)
def test_randint(low, high):
    compare("randint", low, high, 200)
    compare_position()


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 256, np.uint8), (-128, 128, np.int8), (-5, 5, np.int16), (0, 2**31 - 1, np.int32)]
    + [(-(2**31), 5, np.int32), (0, 10, np.float32), (-(2**24), 2**24, np.float32)]
    + [(0, 2**53, np.float64)],
)
def test_randint_dtypes(low, high, dtype):
    compare("randint", low, high, 200, dtype)
    compare_position()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 623, 5000])
def test_randperm(n):
    compare("randperm", n)
    compare_position()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (2,), (65,), (9999,), (3, 5), (1, 65), (40, 65), (0, 4)])
def test_multinomial(shape, dtype):
    probs = np.random.default_rng(0).random(shape).astype(dtype) ** 4
    categories = shape[-1]
    for k in sorted({1, min(2, categories), categories}):
        compare("multinomial", probs, k)
    for k in (1, 2, 100):
        compare("multinomial", probs, k, True)
    compare_position()


def test_multinomial_of_a_vocabulary():
    logits = np.random.default_rng(0).normal(size=(2, 50257)).astype(np.float32)
    for _ in range(10):
        compare("multinomial", np.exp(logits), 1)
        compare("multinomial", np.exp(logits), 3)
        compare("multinomial", np.exp(logits), 3, True)
    compare_position()


def test_multinomial_with_impossible_categories():
    probs = np.array([[0, 0, 3, 0], [1, 0, 0, 1e-30]], np.float32)
    for _ in range(20):
        compare("multinomial", probs, 1)
        compare("multinomial", probs, 9, True)
    probs[0, 0] = 2
    compare("multinomial", probs, 2)
    compare_position()


def test_multinomial_of_a_transposed_matrix():
    probs = np.random.default_rng(0).random((5, 7)).astype(np.float32).T
    for args in [(1,), (3,), (4, True)]:
        compare("multinomial", probs, *args)
    compare_position()


# --- Any mixture of calls stays in step -----------------------------------------------------------

sizes = st.integers(0, 40) | st.integers(0, 1500)
dtypes = st.sampled_from(DTYPES)
reals = st.integers(-(10**6), 10**6).map(lambda i: i / 1000)


@st.composite
def multinomials(draw):
    shape = draw(st.sampled_from([(1,), (6,), (30,), (1, 7), (4, 9), (3, 1)]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    probs = (rng.random(shape) + 0.01).astype(draw(dtypes))
    replacement = draw(st.booleans())
    return probs, draw(st.integers(1, 20 if replacement else shape[-1])), replacement


def ordered(elements):
    return st.tuples(elements, elements).map(sorted).filter(lambda pair: pair[0] < pair[1])


calls = st.one_of(
    st.tuples(st.just("manual_seed"), st.integers(-(2**63), 2**64 - 1)),
    st.tuples(st.just("rand"), sizes, dtypes),
    st.tuples(st.just("randn"), sizes, dtypes),
    st.tuples(st.just("uniform"), ordered(reals), sizes, dtypes),
    st.tuples(st.just("normal"), st.tuples(reals, st.floats(0, 1e3)), sizes, dtypes),
    st.tuples(st.just("randint"), ordered(st.integers(-(2**63), 2**63 - 1)), sizes),
    st.tuples(st.just("randint"), ordered(st.integers(-300, 300)), sizes),
    st.tuples(st.just("randperm"), st.integers(0, 200)),
    multinomials().map(lambda args: ("multinomial", *args)),
)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), sequence=st.lists(calls, max_size=12))
def test_sequences(seed, sequence):
    compare("manual_seed", seed)
    for name, *args in sequence:
        if name in ("uniform", "normal", "randint"):  # their first two arguments were drawn as one
            args = [*args[0], *args[1:]]
        compare(name, *args)
    compare_position()


# --- What a model draws when it is built, and the video's own numbers -----------------------------


def linear(fan_in, fan_out, bias=True):
    """nn.Linear's default: Kaiming-uniform with a = sqrt(5), then the bias in 1/sqrt(fan_in)."""
    bound = math.sqrt(3.0) * (math.sqrt(2.0 / (1 + 5)) / math.sqrt(fan_in))
    weight = ours.uniform(-bound, bound, (fan_out, fan_in))
    if not bias:
        return [weight]
    return [weight, ours.uniform(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), fan_out)]


def test_default_initialisations():
    torch.manual_seed(1337)
    layers = [
        torch.nn.Embedding(65, 33),
        torch.nn.Embedding(3, 5),
        torch.nn.Linear(33, 17, bias=False),
        torch.nn.Linear(17, 7),
        torch.nn.Linear(1, 1),
        torch.nn.Linear(384, 65),
    ]
    ours.manual_seed(1337)
    actual = [ours.normal(0, 1, (65, 33)), ours.normal(0, 1, (3, 5))]
    actual += linear(33, 17, bias=False) + linear(17, 7) + linear(1, 1) + linear(384, 65)
    expected = [p.detach().numpy() for layer in layers for p in layer.parameters()]
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        np.testing.assert_allclose(a, e, rtol=0, atol=NORMAL if i < 2 else 0)
    compare_position()


def test_the_toy_matrices_of_the_video():
    ours.manual_seed(42)
    b = ours.randint(0, 10, (3, 2))
    assert b.tolist() == [[2, 7], [6, 4], [6, 5]]  # 42:13–51:28: its columns add up to 14 and 16


def test_the_first_letters_of_the_video():
    """The untrained bigram of 34:00: a table of normals, a softmax, a draw for each letter."""
    letters = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    ours.manual_seed(1337)
    table = np.exp(ours.randn((65, 65)))
    text, i = "", 0
    for _ in range(100):
        (i,) = ours.multinomial(table[i] / table[i].sum(), 1)
        text += letters[i]
    assert text == (
        "SKIcLT;AcELMoTbvZv C?nq-QE33:CJqkOKH-q;:la!oiywkHjgChzbQ?u!3bLIgwevmyFJGUGp\n"
        "wnYWmnxKWWev-tDqXErVKLgJ"
    )


# --- Mistakes -------------------------------------------------------------------------------------


def array(*values, dtype=np.float32):
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("manual_seed", [2**64]),
        ("manual_seed", [-(2**63) - 1]),
        ("manual_seed", ["seed"]),
        ("manual_seed", [None]),
        ("rand", [-1]),
        ("rand", [(2, -3)]),
        ("rand", [3, np.int64]),
        ("randn", [3, np.int32]),
        ("uniform", [1, 0, 3]),
        ("uniform", [0, math.inf, 3]),
        ("uniform", [math.nan, 1, 3]),
        ("uniform", [-3e38, 3e38, 3]),
        ("uniform", [0, 1e39, 0]),
        ("uniform", [0, 1, 3, np.int64]),
        ("normal", [0, -1, 3]),
        ("normal", [0, math.nan, 3]),
        ("normal", [0, -1, 0]),
        ("randint", [5, 5, 3]),
        ("randint", [5, 3, 0]),
        ("randint", [0, 2**63, 3]),
        ("randint", [-(2**63) - 1, 3, 3]),
        ("randint", [0, 300, 3, np.uint8]),
        ("randint", [-1, 3, 3, np.uint8]),
        ("randint", [0, 2.5, 3]),
        ("randperm", [-1]),
        ("multinomial", [array(0.5, 0.5), 3]),
        ("multinomial", [array(0.5, 0.5), 0]),
        ("multinomial", [array(0.5, 0.5), -1, True]),
        ("multinomial", [array(0.5, -0.5), 1]),
        ("multinomial", [array(0.5, -0.5), 3, True]),
        ("multinomial", [array(0, 0), 1]),
        ("multinomial", [array(0, 0), 3, True]),
        ("multinomial", [array([0, 0], [1, 1]), 1]),
        ("multinomial", [array(math.nan, 1), 1]),
        ("multinomial", [array(math.inf, 1), 3, True]),
        ("multinomial", [array(1, 2, dtype=np.int64), 1]),
        ("multinomial", [np.array(1, np.float32), 1]),
        ("multinomial", [np.ones((2, 2, 2), np.float32), 1]),
        ("multinomial", [np.ones((2, 0), np.float32), 1]),
        ("multinomial", [np.ones(0, np.float32), 1, True]),
    ],
)
def test_mistakes(name, args):
    with pytest.raises(Exception) as theirs:
        getattr(Theirs, name)(*args)
    with pytest.raises(theirs.type) as mine:
        getattr(ours, name)(*args)
    assert mine.type is theirs.type
    assert "\n" not in str(mine.value)
    if name != "manual_seed":
        compare_position()  # a refused call draws nothing


def test_a_seed_must_be_an_integer():
    for generator in (ours.Generator(), torch.Generator()):
        with pytest.raises(RuntimeError, match="manual_seed"):
            generator.manual_seed(3.5)


def test_more_samples_than_positive_probabilities():
    """PyTorch fills up with impossible categories, in no documented order: we refuse."""
    with pytest.raises(RuntimeError, match="a row has 1"):
        ours.multinomial(array([1, 1, 0], [0, 1, 0]), 2)
