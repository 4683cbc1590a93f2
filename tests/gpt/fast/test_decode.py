"""Decoding computes what the model does, without its calls."""

import numpy as np
import pytest

import tensorlib
from gpt import GPT, GPTConfig
from gpt.config import Sampling
from gpt.fast.decode import decode
from gpt.generate import generate
from tensorlib import nn

GREEDY = Sampling(temperature=0)


def opinionated(dtype=tensorlib.float32, **options):
    """A model whose weights and biases are all large enough to matter."""
    tensorlib.manual_seed(3)
    model = GPT(GPTConfig(11, 8, n_layer=2, n_head=2, n_embd=16, dropout=0.5, **options)).eval()
    with tensorlib.no_grad():
        for p in model.parameters():
            p += 0.3 * tensorlib.randn(p.shape)
    return model.to(dtype)


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"qkv_bias": True, "activation": "gelu"},
        {"tied_head": True},
        {"dtype": tensorlib.float64},
    ],
)
def test_the_logits_are_the_model_s(options, B):
    model = opinionated(**options)
    tokens = tensorlib.randint(11, (B, 8))
    past, other = model.new_past(), model.new_past()
    with tensorlib.no_grad():
        expected, _ = model(tokens)
        for kept in (past, other):
            model(tokens[:, :2], past=kept)
        for i in range(2, 8):
            logits = decode(model, tokens.array[:, i], past)
            cached, _ = model(tokens[:, i : i + 1], past=other)
            assert logits.dtype == cached.dtype
            np.testing.assert_array_equal(logits, cached.array[:, 0])
            np.testing.assert_allclose(logits, expected.array[:, i], rtol=1e-4, atol=1e-4)
    assert len(past[0]) == 8
    assert expected.array.std() > 0.5


def test_no_warnings_as_in_operations():
    model = opinionated()
    model.ln_f.weight.array[:] = np.inf
    past = model.new_past()
    with tensorlib.no_grad():
        model(tensorlib.zeros(1, 1, dtype=tensorlib.long), past=past)
    assert np.isnan(decode(model, np.zeros(1, np.int64), past)).any()


class Steep(nn.Module):
    def forward(self, x):
        return (3 * x).relu()


def test_a_model_with_other_parts_is_not_decoded():
    model = opinionated()
    assert model.is_unchanged()
    model.h[1].ln_2 = Steep()
    assert not model.is_unchanged()
    idx = tensorlib.tensor([[1, 2, 3]])
    with_cache, without = (
        [t.item() for t in generate(model, idx, 5, GREEDY, 0, use_cache)]
        for use_cache in (True, False)
    )
    assert with_cache == without
