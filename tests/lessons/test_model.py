"""The video's model, stage by stage: the same program under PyTorch, and the sizes of its rungs."""

import types

import numpy as np
import pytest
import torch

import tensorlib
from gpt import GPT, GPTConfig
from lessons import chapters, common, ladder, model

# lessons/model.py with PyTorch in place of tensorlib
SOURCE = (chapters.HERE / "model.py").read_text(encoding="utf-8")
SWAPS = {
    "import tensorlib as torch": "import torch",
    "from tensorlib import Tensor, nn": "from torch import Tensor, nn",
    "from tensorlib.nn import functional as F": "from torch.nn import functional as F",
}


def under_pytorch():
    source = SOURCE
    for ours, theirs in SWAPS.items():
        assert ours in source
        source = source.replace(ours, theirs)
    module = types.ModuleType("model_under_pytorch")
    exec(source, vars(module))
    return module


STAGES = {
    "bigram": lambda M: M.BigramLanguageModel(65),
    "no position": lambda M: M.LanguageModel(65, position=False),
    "head": lambda M: M.LanguageModel(65, body=lambda: M.Head(32, 32, 8)),
    "feed-forward": lambda M: M.LanguageModel(
        65, body=lambda: M.FeedForward(32, widen=1, projection=False)
    ),
    "heads": lambda M: M.LanguageModel(65, body=lambda: M.MultiHeadAttention(32, 4, 8)),
    "no residual": lambda M: M.LanguageModel(
        65, body=lambda: M.blocks(3, 32, 4, 8, residual=False, projection=False, widen=1, norm=None)
    ),
    "post": lambda M: M.LanguageModel(65, body=lambda: M.blocks(2, 32, 4, 8, norm="post")),
    "pre": lambda M: M.LanguageModel(65, body=lambda: M.blocks(3, 32, 4, 8, scale=8**-0.5)),
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_the_same_program_under_pytorch(stage):
    """After the same seed the same weights, loss and gradients."""
    results = []
    for library, module in ((torch, under_pytorch()), (tensorlib, model)):
        library.manual_seed(1337)
        m = STAGES[stage](module)
        idx = library.randint(65, (4, 7))  # shorter than the context
        logits, loss = m(idx, library.randint(65, (4, 7)))
        loss.backward()
        assert m(idx)[1] is None
        grads = {name: p.grad.numpy() for name, p in m.named_parameters() if p.grad is not None}
        results.append((m.state_dict(), logits.detach().numpy(), loss.item(), grads))
    (state, logits, loss, grads), (our_state, our_logits, our_loss, our_grads) = results
    assert list(our_state) == list(state)
    assert our_grads.keys() == grads.keys()
    np.testing.assert_allclose(our_logits, logits, rtol=1e-4, atol=1e-5)
    assert our_loss == pytest.approx(loss, rel=1e-6)
    for name in grads:
        np.testing.assert_allclose(our_grads[name], grads[name], rtol=1e-4, atol=1e-7, err_msg=name)


PARAMETERS = {  # of the commits of ng-video-lecture, by arithmetic
    "bigram": 4225,
    "lm_head": 4225,
    "position": 4481,
    "one-head": 7553,
    "multi-head": 7553,
    "feed-forward": 8609,
    "blocks": 4481 + 3 * (3072 + 1056),
    "residual": 4481 + 3 * (3072 + 1056),
    "projection": 4481 + 3 * (3072 + 3 * 1056),
    "widen": 41921,
    "layer-norm": 42369,
    "head-size": 42369,
    "small-init": 42369,
    "scaled-up": 10788929,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_rungs_have_the_videos_parameters(name):
    assert common.parameters(ladder.find(name).build(65)) == PARAMETERS[name]


def test_the_last_rung_starts_small():
    weight = ladder.find("small-init").build(65).lm_head
    assert weight.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not weight.bias.array.any()


def test_the_last_stage_is_the_gpt_of_train_py():
    """With its weights copied into `gpt.GPT`, whose attention is one fused operation."""
    tensorlib.manual_seed(1337)
    m = model.LanguageModel(65, body=lambda: model.blocks(2, 32, 4, 8, scale=8**-0.5))
    sizes = {"vocab_size": 65, "block_size": 8, "n_layer": 2, "n_head": 4, "n_embd": 32}
    gpt = GPT(GPTConfig(**sizes))
    state = {
        "wte.weight": m.token_embedding_table.weight,
        "wpe.weight": m.position_embedding_table.weight,
        "lm_head.weight": m.lm_head.weight,
        "lm_head.bias": m.lm_head.bias,
        "ln_f.weight": m.body[-1].weight,
        "ln_f.bias": m.body[-1].bias,
    }
    for i, block in enumerate(m.body[:-1]):
        heads = block.sa.heads
        rows = [getattr(h, part).weight for part in ("query", "key", "value") for h in heads]
        state[f"h.{i}.attn.c_attn.weight"] = tensorlib.cat(rows, dim=0)
        for ours, theirs in {
            "ln_1": block.ln1,
            "ln_2": block.ln2,
            "attn.c_proj": block.sa.proj,
            "mlp.c_fc": block.ffwd.net[0],
            "mlp.c_proj": block.ffwd.net[2],
        }.items():
            state[f"h.{i}.{ours}.weight"] = theirs.weight
            state[f"h.{i}.{ours}.bias"] = theirs.bias
    gpt.load_state_dict({name: value.detach() for name, value in state.items()})
    idx, targets = tensorlib.randint(65, (4, 8)), tensorlib.randint(65, (4, 8))
    (logits, loss), (expected, expected_loss) = m(idx, targets), gpt(idx, targets)
    np.testing.assert_allclose(logits.detach(), expected.detach(), rtol=1e-4, atol=1e-5)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)


def test_the_switches_of_a_block():
    tensorlib.manual_seed(0)
    x = tensorlib.randn(2, 8, 32)
    plain = model.Block(32, 4, 8, residual=False, norm=None)
    assert tensorlib.equal(plain(x), plain.ffwd(plain.sa(x)))
    post = model.Block(32, 4, 8, norm="post")
    y = post.post1(x + post.sa(x))
    y = y + post.ffwd(y)
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    np.testing.assert_allclose(post(x).detach(), y.detach(), rtol=1e-4, atol=1e-5)
