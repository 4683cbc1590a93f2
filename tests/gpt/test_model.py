"""The model beside a GPT written out in PyTorch: values, gradients, training; and its own rules."""

import math

import numpy as np
import pytest
import torch
from harness import to_array
from torch.nn import functional

import tensorlib
from gpt import GPT, GPTConfig
from gpt.config import PRESETS, TrainConfig
from gpt.training import make_optimizer
from tensorlib import nn
from tensorlib.optim.lr_scheduler import warmup_cosine

pytestmark = pytest.mark.usefixtures("there")
SMALL = {"vocab_size": 11, "block_size": 8, "n_layer": 3, "n_head": 2, "n_embd": 12}
VARIANTS = {
    "video": {},
    "gpt-2": {
        "activation": "gelu_tanh", "qkv_bias": True, "tied_head": True, "scaled_init": True
    },
    "nanogpt": {"activation": "gelu", "bias": False, "tied_head": True},
    "no biases": {"bias": False},
}  # fmt: skip


ACTIVATIONS = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def torch_gpt(state, config, idx, targets):
    """(logits, loss) by plain PyTorch, head by head, from the tensors of a state dict."""

    def linear(x, name):
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def layer_norm(x, name):
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        return functional.layer_norm(x, (config.n_embd,), weight, bias)

    (_, T), size = idx.shape, config.n_embd // config.n_head
    x = state["wte.weight"][idx] + state["wpe.weight"][:T]
    for i in range(config.n_layer):
        qkv = linear(layer_norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        q, k, v = (part.split(size, -1) for part in qkv.split(config.n_embd, -1))
        heads = []
        for j in range(config.n_head):
            scores = q[j] @ k[j].mT / math.sqrt(size)
            scores = scores.masked_fill(torch.ones(T, T).tril() == 0, float("-inf"))
            heads.append(scores.softmax(-1) @ v[j])
        x = x + linear(torch.cat(heads, -1), f"h.{i}.attn.c_proj")
        hidden = linear(layer_norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        hidden = ACTIVATIONS[config.activation](hidden)
        x = x + linear(hidden, f"h.{i}.mlp.c_proj")
    logits = linear(layer_norm(x, "ln_f"), "lm_head")
    return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def twins(config, seed=0):
    """A model, the same weights in PyTorch (a tied one once), and tokens with their targets."""
    tensorlib.manual_seed(seed)
    model = GPT(config)
    rng = np.random.default_rng(seed)
    leaves = {}
    for p in model.parameters():  # larger weights and no zeros: every path matters
        p.data.copy_(tensorlib.tensor(rng.normal(0, 0.3, p.shape)))
        leaves[id(p.array)] = torch.tensor(to_array(p), requires_grad=True)
    state = {name: leaves[id(p.array)] for name, p in model.state_dict().items()}
    tokens = rng.integers(0, config.vocab_size, (20, 2, 3, config.block_size))
    return model, state, tokens


def close(ours, theirs, tolerance):
    """Within `tolerance` of the largest value there."""
    theirs = to_array(theirs)
    return np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_every_gradient_are_pytorchs(variant):
    config = GPTConfig(**SMALL, **VARIANTS[variant])
    model, state, tokens = twins(config)
    x, y = tokens[0]
    logits, loss = model(tensorlib.tensor(x), tensorlib.tensor(y))
    theirs, their_loss = torch_gpt(state, config, torch.tensor(x), torch.tensor(y))
    loss.backward()
    their_loss.backward()
    assert logits.shape == (3, 8, 11)
    assert close(to_array(logits), theirs, 1e-5)
    assert close(loss.item(), their_loss, 1e-6)
    named = dict(model.named_parameters())
    assert named
    for name, p in named.items():
        if name.endswith("c_attn.bias"):  # the keys' share is 0 but for rounding
            q_k_v = zip(np.split(to_array(p.grad), 3), state[name].grad.chunk(3), strict=True)
            assert all(np.abs(a - b.numpy()).max() < 1e-6 for a, b in q_k_v)
        else:
            assert close(to_array(p.grad), state[name].grad, 1e-5), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_20_steps_with_clipping_and_schedule_stay_with_pytorch(variant):
    config = GPTConfig(**SMALL, **VARIANTS[variant])
    model, state, tokens = twins(config)
    train = TrainConfig(learning_rate=1e-3, warmup_iters=5, max_iters=20, model=config)
    matrices, vectors = (list(named.values()) for named in model.parameter_groups())
    optimizer = make_optimizer(matrices, vectors, train)
    theirs = list({id(p): p for p in state.values()}.values())
    groups = [
        {"params": [p for p in theirs if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in theirs if p.dim() < 2], "weight_decay": 0.0},
    ]
    their_optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for step, (x, y) in enumerate(tokens):
        factor = (step + 1) / 6 if step < 5 else 0.55 + 0.45 * math.cos(math.pi * (step - 5) / 15)
        assert warmup_cosine(5, 20, final=0.1)(step) == pytest.approx(factor)
        for group in [*optimizer.param_groups, *their_optimizer.param_groups]:
            group["lr"] = 1e-3 * factor
        _, loss = model(tensorlib.tensor(x), tensorlib.tensor(y))
        _, their_loss = torch_gpt(state, config, torch.tensor(x), torch.tensor(y))
        optimizer.zero_grad()
        their_optimizer.zero_grad()
        loss.backward()
        their_loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        their_norm = torch.nn.utils.clip_grad_norm_(theirs, 0.1)
        assert norm.item() == pytest.approx(their_norm.item(), rel=1e-4)
        assert their_norm.item() > 0.1  # or clipping would not be seen
        assert loss.item() == pytest.approx(their_loss.item(), rel=1e-4)
        optimizer.step()
        their_optimizer.step()
    for name, p in model.named_parameters():
        if not name.endswith("c_attn.bias"):  # Adam makes steps of the keys' rounding errors
            assert close(to_array(p), state[name], 1e-4), name


def test_the_videos_parameter_count():
    assert GPT(PRESETS["video"].model).num_parameters() == 10_788_929


def test_a_block_of_gpt_2_has_its_parameter_count():
    shape = {"vocab_size": 10, "block_size": 10, "n_head": 12, "n_embd": 768}
    blocks = (GPT(GPTConfig(**shape, n_layer=n, qkv_bias=True, tied_head=True)) for n in (1, 2))
    one, two = (model.num_parameters() for model in blocks)
    # the 124,439,808 of GPT-2 small are 12 blocks, two embeddings and a LayerNorm
    assert 12 * (two - one) == 124_439_808 - (50257 + 1024 + 2) * 768


def test_names_and_shapes_are_gpt_2s():
    state = GPT(GPTConfig(**SMALL | {"n_layer": 1})).state_dict()
    assert {name: tuple(p.shape) for name, p in state.items()} == {
        "wte.weight": (11, 12), "wpe.weight": (8, 12),
        "h.0.ln_1.weight": (12,), "h.0.ln_1.bias": (12,),
        "h.0.attn.c_attn.weight": (36, 12),
        "h.0.attn.c_proj.weight": (12, 12), "h.0.attn.c_proj.bias": (12,),
        "h.0.ln_2.weight": (12,), "h.0.ln_2.bias": (12,),
        "h.0.mlp.c_fc.weight": (48, 12), "h.0.mlp.c_fc.bias": (48,),
        "h.0.mlp.c_proj.weight": (12, 48), "h.0.mlp.c_proj.bias": (12,),
        "ln_f.weight": (12,), "ln_f.bias": (12,),
        "lm_head.weight": (11, 12), "lm_head.bias": (11,),
    }  # fmt: skip


def test_flops_of_nanogpts_cpu_recipe():
    # 4 blocks of 12 C², the head, and 2 T C for the attention of each block; each of them a
    # multiplication and an addition, once forwards and twice backwards
    weights, pairs = 4 * 12 * 128**2 + 65 * 128, 4 * 2 * 64 * 128
    assert GPT(GPTConfig()).flops_per_token() == 6 * (weights + pairs)


def test_initial_weights():
    tensorlib.manual_seed(0)
    state = GPT(GPTConfig(n_layer=8, scaled_init=True)).state_dict()
    for name, p in state.items():
        x = to_array(p)
        if name.endswith("bias"):
            assert (x == 0).all(), name
        elif ".ln_" in name or name.startswith("ln_"):
            assert (x == 1).all(), name
        else:
            std = 0.005 if name.endswith("c_proj.weight") else 0.02  # 0.02 / √16
            assert x.std() == pytest.approx(std, rel=0.05), name
            assert abs(x.mean()) < 4 * std / math.sqrt(x.size), name


def test_an_untrained_model_knows_nothing():
    tensorlib.manual_seed(0)
    tokens = tensorlib.randint(65, (12, 64))
    assert GPT(GPTConfig())(tokens, tokens)[1].item() == pytest.approx(math.log(65), abs=0.15)


def test_no_position_sees_a_later_one():
    model, _, tokens = twins(GPTConfig(**SMALL))
    x = tokens[0, 0]
    changed = x.copy()
    changed[:, 5] = (x[:, 5] + 1) % 11
    a, b = (to_array(model(tensorlib.tensor(t))[0]) for t in (x, changed))
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    assert (a[:, 5:] != b[:, 5:]).any(axis=-1).all()


def test_without_targets_there_is_no_loss():
    logits, loss = GPT(GPTConfig(**SMALL))(tensorlib.zeros(2, 3, dtype=tensorlib.long))
    assert logits.shape == (2, 3, 11)
    assert loss is None


def test_a_context_of_another_shape_or_too_long():
    model = GPT(GPTConfig(**SMALL))
    for compute in (model, lambda idx: model.generate(idx, 3)):
        with pytest.raises(ValueError, match=r"idx must be \(B, T\), not \(5,\)"):
            compute(tensorlib.zeros(5, dtype=tensorlib.long))
        with pytest.raises(TypeError, match=r"idx must be a tensor \(B, T\), not list"):
            compute([[1, 2]])
    with pytest.raises(ValueError, match=r"9 tokens.*block_size is 8"):
        model(tensorlib.zeros(1, 9, dtype=tensorlib.long))


@pytest.mark.parametrize("token", [-1, 11])
def test_a_token_that_does_not_exist(token):
    with pytest.raises(IndexError, match=str(token)):
        GPT(GPTConfig(**SMALL))(tensorlib.tensor([[0, token]]))[0].tolist()  # waits for a GPU


def test_a_tied_head_is_one_weight_without_a_bias():
    model = GPT(GPTConfig(**SMALL, tied_head=True))
    assert model.lm_head.weight is model.wte.weight
    assert model.lm_head.bias is None
    model(tensorlib.tensor([[1]]), tensorlib.tensor([[2]]))[1].backward()
    assert (to_array(model.wte.weight.grad)[5] != 0).any()  # by the head: token 5 was no input


def test_dropout_in_three_places_as_a_function_of_seed_and_step():
    config = GPTConfig(**SMALL, dropout=0.5)
    model, _, tokens = twins(config)
    x = tensorlib.tensor(tokens[0, 0])

    def logits(seed, step):
        with tensorlib.random.counter(seed, 2, step):
            return to_array(model(x)[0])

    np.testing.assert_array_equal(logits(1, 1), logits(1, 1))
    assert (logits(1, 1) != logits(1, 2)).any()
    assert (logits(1, 1) != logits(2, 1)).any()
    with tensorlib.random.counter(1, 2, 1):
        model(x)
        assert tensorlib.random.next_draw()[3] == 3 * config.n_layer
    model.eval()
    np.testing.assert_array_equal(logits(1, 1), logits(1, 2))


def test_dropout_is_of_the_branches_and_leaves_the_residual_stream_whole():
    block = GPT(GPTConfig(**SMALL, dropout=0.5)).h[0]
    for branch in (block.attn, block.mlp):
        tensorlib.nn.init.zeros_(branch.c_proj.weight)
    tensorlib.nn.init.ones_(block.attn.c_proj.bias)  # the first branch is 1 everywhere, the other 0
    x = tensorlib.randn(2, 4, SMALL["n_embd"])
    with tensorlib.random.counter(1, 2, 3):
        added = to_array(block(x) - x)
    np.testing.assert_allclose(np.unique(added.round(5)), [0, 2])


def test_inference_restores_the_mode():
    model = GPT(GPTConfig(**SMALL))
    with model.evaluating(), tensorlib.no_grad():
        assert not model.training
        assert not tensorlib.is_grad_enabled()
    assert model.h[0].attn.training
    assert tensorlib.is_grad_enabled()
