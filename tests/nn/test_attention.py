"""scaled_dot_product_attention beside PyTorch: masks, lengths, scales, dropout."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import check, check_error, leaf, mask, tensorlib, to_array

from tensorlib.kernels import cpu_attention

OURS = pytest.mark.skipif(tensorlib is torch, reason="PyTorch does not do this")
SHAPES = {  # query, key, value
    "3-D": [(2, 4, 8), (2, 4, 8), (2, 4, 8)],
    "4-D": [(2, 3, 4, 8), (2, 3, 4, 8), (2, 3, 4, 8)],
    "2-D": [(4, 8), (4, 8), (4, 8)],
    "fewer-queries": [(2, 3, 2, 8), (2, 3, 5, 8), (2, 3, 5, 8)],
    "more-queries": [(2, 3, 5, 8), (2, 3, 2, 8), (2, 3, 2, 8)],
    "one-query": [(1, 2, 1, 4), (1, 2, 6, 4), (1, 2, 6, 4)],
    "one-of-all": [(1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)],
    "wider-values": [(2, 3, 4, 8), (2, 3, 4, 8), (2, 3, 4, 5)],
    "long": [(1, 2, 70, 16), (1, 2, 70, 16), (1, 2, 70, 16)],
}
SELF = SHAPES["4-D"]
TRIANGLE = np.tril(np.ones((4, 4), bool))
EMPTY_ROW = TRIANGLE.copy()
EMPTY_ROW[1] = False
BOOL_MASKS = {
    "triangle": TRIANGLE,
    "empty-row": EMPTY_ROW,
    "nothing": np.zeros((4, 4), bool),
    "everything": np.ones((4, 4), bool),
    "per-head": mask(3, 4, 4),
    "per-batch": mask(2, 1, 4, 4),
    "per-key": mask(2, 1, 1, 4),
    "per-query": mask(2, 3, 4, 1),
    "full": mask(2, 3, 4, 4),
}
REFUSED = (RuntimeError, ValueError)  # PyTorch: the one here, the other in dropout
FLOAT_MASKS = [(4, 4), (1, 4), (3, 4, 4), (2, 1, 4, 4), (2, 1, 1, 4), (2, 3, 4, 4)]


def attention(**options):
    """scaled_dot_product_attention with these options, for check; a fourth input is the mask."""
    return lambda t, *inputs: t.nn.functional.scaled_dot_product_attention(*inputs, **options)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_attention(shapes, causal):
    check(attention(is_causal=causal), *shapes)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 1.0, 0.25, 2.0])
def test_scale(scale, causal):
    check(attention(scale=scale, is_causal=causal), *SELF)


@pytest.mark.parametrize("m", BOOL_MASKS.values(), ids=BOOL_MASKS)
def test_bool_mask(m):
    """True takes part. A row where nothing does gives zeros and zero gradients."""
    check(attention(), *SELF, m)


@pytest.mark.parametrize("shapes", ["fewer-queries", "more-queries"])
def test_bool_mask_between_lengths(shapes):
    query, key, value = SHAPES[shapes]
    check(attention(), query, key, value, mask(query[-2], key[-2]))


@pytest.mark.parametrize("m", BOOL_MASKS.values(), ids=BOOL_MASKS)
def test_float_mask_of_zero_and_minus_infinity(m):
    """What masked_fill writes: the same as the boolean mask, empty rows included."""
    check(attention(), *SELF, np.where(m, 0.0, -math.inf).astype(np.float32), dtypes=["float32"])


@pytest.mark.parametrize("shape", FLOAT_MASKS, ids=str)
def test_float_mask_is_added(shape):
    values = np.random.default_rng(0).standard_normal(shape)

    def fn(t, q, k, v):
        m = t.tensor(values, device=q.device).to(q.dtype)
        return t.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=m)

    check(fn, *SELF)


def test_float_mask_with_3d_inputs():
    check(attention(scale=0.5), *SHAPES["3-D"], np.triu(np.full((4, 4), -1e9, "f4"), 1)[None] * 1.0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [30.0, 1000.0])
def test_large_logits(size, causal):
    """Products of ±1000 and beyond saturate the softmax and never overflow it."""
    q, k = (np.random.default_rng(s).choice([-1.0, 1.0], (2, 4, 2)) * size for s in (0, 1))
    fn = attention(scale=1.0, is_causal=causal)
    check(fn, q, k, (2, 4, 2), dtypes=["float64"], finite=False)
    q, k = q.astype(np.float32), k.astype(np.float32)  # whose own gradients are rounding here

    def constant(t, v):
        return fn(t, leaf(t, q, False), leaf(t, k, False), v)

    check(constant, (2, 4, 2), dtypes=["float32"], finite=False)


def test_self_attention_adds_up_the_three_gradients():
    check(lambda t, x: attention(is_causal=True)(t, x, x, x), (2, 4, 8))


def test_heads_as_transposed_views():
    """The layout of a GPT: (B, T, C) split, viewed as heads and transposed."""

    def heads(t, x):
        q, k, v = (y.view(2, 5, 2, 4).transpose(1, 2) for y in x.split(8, dim=2))
        y = t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(2, 5, 8)

    check(heads, (2, 5, 24))


def test_batch_dimensions_broadcast():
    check(attention(), (2, 1, 4, 8), (2, 3, 4, 8), (2, 3, 4, 8))


@pytest.mark.parametrize(
    ("exception", "inputs", "options", "match"),
    [
        (RuntimeError, [(2, 4, 8), (2, 4, 6), (2, 4, 8)], {}, None),
        (RuntimeError, [(8,), (8,), (8,)], {}, "2"),
        (RuntimeError, [*SELF[:2], np.ones(SELF[2], np.float32)], {}, "float64.*float32"),
        (RuntimeError, [*SELF, np.ones((3, 4), bool)], {}, None),
        (RuntimeError, [*SELF, np.ones((4, 4), int)], {}, "bool"),
        (REFUSED, SELF, {"dropout_p": 1.5}, "1.5"),
        (REFUSED, SELF, {"dropout_p": -0.5}, None),
    ],
    ids=["width", "1-D", "dtype", "mask-shape", "mask-dtype", "p-high", "p-low"],
)
def test_refusals(exception, inputs, options, match):
    check_error(exception, attention(**options), *inputs, match=match)


@OURS
def test_key_and_value_of_different_lengths_are_refused():
    """PyTorch's CPU kernel reads past the end here; ours says so."""
    q, k, v = (tensorlib.ones(1, 2, n, 4) for n in (4, 4, 3))
    with pytest.raises(RuntimeError):
        tensorlib.nn.functional.scaled_dot_product_attention(q, k, v)


# ---- dropout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_at_the_ends(p):
    check(attention(dropout_p=p), *SELF)


def dropped(t_, n=64, seed=3, p=0.25, causal=False, values=None, leaves=()):
    t_.manual_seed(seed)
    q, k = leaves or (t_.zeros(4, n, 8), t_.zeros(4, n, 8))
    v = t_.eye(n).expand(4, n, n) if values is None else values
    return t_.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=causal)


def test_dropout_drops_weights_and_scales_the_rest():
    """With equal scores and v the identity, the output is the weights themselves."""
    n, p = 64, 0.25
    weights = dropped(tensorlib, n, p=p).cpu().numpy() * n
    assert set(np.unique(weights)) == {np.float32(0), np.float32(1 / (1 - p))}
    bound = 5 * math.sqrt(p * (1 - p) * weights.size)
    assert abs((weights == 0).sum() - p * weights.size) < bound
    causal = dropped(tensorlib, n, p=p, causal=True).cpu().numpy()
    assert (causal[:, ~np.tril(np.ones((n, n), bool))] == 0).all()


def test_dropout_follows_the_seed():
    first, again, other = (dropped(tensorlib, seed=s).cpu().numpy() for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@OURS
def test_dropout_is_a_function_inside_a_counter():
    results = []
    for seed, step in [(1, 7), (2, 7), (3, 8)]:  # dropped() seeds the other generator, in vain
        with tensorlib.random.counter(0, 0, step):
            results.append(dropped(tensorlib, seed=seed).cpu().numpy())
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()


@pytest.mark.parametrize("causal", [False, True])
def test_dropout_gradients_use_the_mask(causal):
    """Forward and gradients equal those of the composition in PyTorch with the same mask."""
    n, p, rng = 16, 0.25, np.random.default_rng(0)
    q, k, v, up = (rng.standard_normal((4, n, 8)) for _ in range(4))

    # The mask does not depend on the values, so one extra call reads it off.
    keep = dropped(tensorlib, n, p=p).cpu().numpy() != 0
    ours = [tensorlib.tensor(a, requires_grad=True) for a in (q, k, v)]
    out = dropped(tensorlib, n, p=p, causal=causal, leaves=ours[:2], values=ours[2])
    out.backward(tensorlib.tensor(up))

    theirs = [torch.tensor(a, requires_grad=True) for a in (q, k, v)]
    scores = theirs[0] @ theirs[1].mT / math.sqrt(8)
    if causal:
        scores = scores.masked_fill(~torch.ones(n, n).tril().bool(), -math.inf)
    expected = (torch.softmax(scores, -1) * torch.tensor(keep) / (1 - p)) @ theirs[2]
    expected.backward(torch.tensor(up))
    np.testing.assert_allclose(to_array(out), to_array(expected), rtol=1e-10)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(to_array(a.grad), to_array(b.grad), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("length", "positions"), [(150, 150), (200, 129), (130, 300), (129, 129)])
def test_long_causal_attention_in_blocks(length, positions):
    shapes = (2, length, 4), (2, positions, 4), (2, positions, 3)
    check(attention(is_causal=True), *shapes, finite=False)


def test_dropout_in_blocks_is_dropout_of_the_whole():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 150, 4)) for _ in range(3))
    with tensorlib.random.counter(1, 2, 3):
        bits = tensorlib.random.dropout_bits(2 * 150 * 150).reshape(2, 150, 150)
    kept = torch.from_numpy((bits >= 16384) * (65536 / (65536 - 16384)))
    theirs = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
    ours = [tensorlib.tensor(x).requires_grad_() for x in (q, k, v)]
    scores = theirs[0] @ theirs[1].mT / 2
    future = torch.ones(150, 150).triu(1).bool()
    expected = (scores.masked_fill(future, -torch.inf).softmax(-1) * kept) @ theirs[2]
    with tensorlib.random.counter(1, 2, 3):
        y = attention(is_causal=True, dropout_p=0.25)(tensorlib, *ours)
    upstream = rng.standard_normal(y.shape)
    expected.backward(torch.from_numpy(upstream))
    y.backward(tensorlib.tensor(upstream))
    np.testing.assert_allclose(to_array(y), to_array(expected), rtol=1e-10)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(to_array(a.grad), to_array(b.grad), rtol=1e-9, atol=1e-12)


# ---- in pieces -----------------------------------------------------------------------------------


@pytest.fixture
def in_pieces(monkeypatch):
    """Attention in pieces as at a large size: some matrices at once, and of these some rows."""
    monkeypatch.setattr(cpu_attention, "_ROWS", 2)
    weights = 2 * 3 * 2 * 7  # of two of five, in heads, rows and positions
    monkeypatch.setattr(cpu_attention, "_WEIGHTS", weights)


@OURS
@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(7, 7), (7, 4), (4, 7)])
def test_in_pieces(lengths, causal):
    queries, positions = lengths
    shapes = [(5, 3, queries, 4), (5, 3, positions, 4), (5, 3, positions, 4)]

    def attend(t, q, k, v):
        return t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    check(attend, *shapes)


@OURS
@pytest.mark.cpu("the pieces of its kernel")
@pytest.mark.usefixtures("in_pieces")
def test_dropout_in_pieces():
    """PyTorch's softmax, product and sums, with the weights dropped that the bits say."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((5, 3, 7, 4)) for _ in range(3)]
    bits = rng.integers(0, 65536, (5, 3, 7, 7), dtype=np.uint16)
    threshold = 20000
    draw = SimpleNamespace(bits=lambda n, device: bits.reshape(n))
    y, saved = cpu_attention.attention(*arrays, None, True, 0.3, draw, threshold)
    assert len(saved) > 1
    assert len(saved[0]) > 1
    upstream = rng.standard_normal(y.shape)
    gradients = cpu_attention.attention_backward(upstream, *arrays, saved, True, 0.3, threshold)[:3]
    q, k, v = (torch.tensor(x, requires_grad=True) for x in arrays)
    scores = (q @ k.mT * 0.3).masked_fill(~torch.ones(7, 7).tril().bool(), -torch.inf)
    kept = torch.tensor((bits >= threshold) * (65536 / (65536 - threshold)))
    expected = (scores.softmax(-1) * kept) @ v
    expected.backward(torch.tensor(upstream))
    np.testing.assert_allclose(y, to_array(expected), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients, (q, k, v), strict=True):
        np.testing.assert_allclose(ours, to_array(theirs.grad), rtol=1e-12, atol=1e-12)
