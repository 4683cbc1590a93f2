"""What is read off a model: attention beside PyTorch's, norms beside its gradients, certainty."""

import numpy as np
import pytest
import torch

import tensorlib
from gpt import GPT, GPTConfig
from gpt.report import inside
from tensorlib import nn

CONFIG = {"vocab_size": 11, "block_size": 8, "n_layer": 3, "n_head": 2, "n_embd": 12}


def make(**changes):
    """A model with large weights, so that its heads look at some places more than at others."""
    model = GPT(GPTConfig(**CONFIG | changes))
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.array[...] = rng.normal(0, 0.5, p.shape)
    return model


def tokens(*shape):
    return tensorlib.from_numpy(np.random.default_rng(1).integers(0, 11, shape))


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_attention_weights_are_those_that_a_block_uses(qkv_bias):
    block = make(qkv_bias=qkv_bias).h[0]
    x = tensorlib.from_numpy(np.random.default_rng(2).normal(size=(2, 6, 12)).astype(np.float32))
    weights = inside.block_attention(block, x)  # (B, heads, T, T)
    _, _, v = block.attn.c_attn(block.ln_1(x)).split(12, dim=-1)
    v = v.view(2, 6, 2, 6).transpose(1, 2)  # (B, heads, T, C / heads)
    ours = block.attn.c_proj((weights @ v).transpose(1, 2).reshape(2, 6, 12))
    np.testing.assert_allclose(ours.detach(), block.attn(block.ln_1(x)).detach(), atol=1e-5)


def test_attention_of_every_layer_is_pytorchs():
    model, idx = make(), tokens(1, 8)
    seen = []  # what goes into each attention layer, caught on its way
    for block in model.h:
        block.attn.c_attn.forward = catching(block.attn.c_attn, seen)
    ours = inside.attention(model, idx)
    assert ours.shape == (3, 2, 8, 8)
    model(idx)
    inputs = seen[-3:]  # of the forward pass just now
    for weights, block, x in zip(ours, model.h, inputs):
        qkv = torch.tensor(x) @ torch.tensor(block.attn.c_attn.weight.detach().numpy()).T
        q, k, _ = qkv.view(8, 3, 2, 6).permute(1, 2, 0, 3)  # each (heads, T, C / heads)
        # values that are the unit vectors make attention return its weights
        theirs = torch.nn.functional.scaled_dot_product_attention(
            q, k, torch.eye(8).expand(2, 8, 8), is_causal=True
        )
        np.testing.assert_allclose(weights, theirs, atol=1e-5)


def catching(layer, inputs):
    def forward(x):
        inputs.append(x.detach().numpy()[0].copy())
        return nn.Linear.forward(layer, x)

    return forward


def test_the_model_is_left_as_it_was():
    model = make(dropout=0.5)
    model.train()
    before = {name: p.numpy().copy() for name, p in model.state_dict().items()}
    first, again = (inside.attention(model, tokens(1, 8)) for _ in range(2))
    np.testing.assert_array_equal(first, again)  # nothing is dropped
    inside.norms(model, (tokens(2, 8), tokens(2, 8)))
    inside.predictions(model, tokens(100).numpy(), 20)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for name, p in model.state_dict().items():
        np.testing.assert_array_equal(p.numpy(), before[name])


def test_neighbours():
    vectors = np.array([[1, 0], [3, 3], [0, 2], [-1, 0.1], [0, 0]], np.float32)
    similarity = inside.cosines(vectors)
    lengths = torch.tensor(vectors)
    theirs = torch.cosine_similarity(lengths[:, None], lengths[None], dim=-1)
    np.testing.assert_allclose(similarity, theirs, atol=1e-6)
    assert inside.nearest(similarity, 2)[:4].tolist() == [[1, 2], [0, 2], [1, 3], [2, 4]]
    assert inside.nearest(similarity, 99).shape == (5, 4)


@pytest.mark.parametrize("tied", [False, True])
def test_norms_of_weights_and_gradients(tied):
    model, batch = make(tied_head=tied), (tokens(2, 8), tokens(2, 8))
    model(*batch)[1].backward()
    found = {norm.layer: norm for norm in inside.norms(model, batch)}
    assert sum(norm.parameters for norm in found.values()) == model.num_parameters()
    assert ("lm_head" in found) is not tied
    for layer in ("wte", "h.0.ln_1", "h.2.mlp.c_proj"):
        named = [p for name, p in model.named_parameters() if name.rpartition(".")[0] == layer]
        both = [torch.cat([torch.tensor(x.detach().numpy()).flatten() for x in tensors])
                for tensors in (named, [p.grad for p in named])]  # fmt: skip
        assert found[layer].weight == pytest.approx(both[0].norm().item(), rel=1e-5)
        assert found[layer].gradient == pytest.approx(both[1].norm().item(), rel=1e-5)
    assert all(norm.gradient is None for norm in inside.norms(model))


@pytest.mark.parametrize(("length", "n"), [(500, 64), (500, 1), (9, 64), (20, 1000)])
def test_predictions_are_the_models_with_at_least_half_a_context(length, n):
    model, split = make(), tokens(length).numpy()
    found = inside.predictions(model, split, n)
    assert found.probabilities.shape == (len(found.places), 11)
    assert found.places.max() < length
    for place, seen, ours in zip(*found):
        assert 5 <= seen <= 8
        context = tensorlib.from_numpy(split[None, place - seen : place])
        theirs = torch.tensor(model(context)[0].detach().numpy()[0, -1]).softmax(0)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
