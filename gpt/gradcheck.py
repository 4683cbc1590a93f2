"""The GPT, as cases for `python -m tensorlib.gradcheck`: beside it the same model in PyTorch's
functions, and both in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpt.config import GPTConfig
from gpt.model import GPT
from tensorlib.gradcheck.case import Case, Training, call

SIZE: dict[str, Any] = {"vocab_size": 7, "block_size": 4, "n_layer": 2, "n_head": 2, "n_embd": 4}
TOKENS = np.array([[3, 1, 4, 1, 5], [6, 2, 6, 5, 3]])  # each predicts the next
VARIANTS: dict[str, dict[str, Any]] = {
    "the video's": {},
    "GPT-2's": {"activation": "gelu_tanh", "qkv_bias": True, "tied_head": True},
}


def loss_in_pytorch(t: Any, config: GPTConfig, w: dict[str, Any], idx: Any, targets: Any) -> Any:
    """The model spelt out: the mean loss for weights `w` by their names."""
    F = t.nn.functional
    (_, T), C = idx.shape, config.n_embd

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, (C,), w[f"{name}.weight"], w[f"{name}.bias"])

    def attention(x: Any, name: str) -> Any:
        qkv = linear(x, f"{name}.c_attn").split(C, dim=-1)  # each (B, T, C)
        heads = []
        for q, k, v in zip(*(part.split(C // config.n_head, dim=-1) for part in qkv)):
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, T, T)
            scores = scores.masked_fill(t.ones(T, T).tril() == 0, float("-inf"))
            heads.append(scores.softmax(dim=-1) @ v)
        return linear(t.cat(heads, dim=-1), f"{name}.c_proj")

    def mlp(x: Any, name: str) -> Any:
        x = linear(x, f"{name}.c_fc")
        x = F.relu(x) if config.activation == "relu" else F.gelu(x, approximate="tanh")
        return linear(x, f"{name}.c_proj")

    x = w["wte.weight"][idx] + w["wpe.weight"][:T]
    for i in range(config.n_layer):
        x = x + attention(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn")
        x = x + mlp(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp")
    head = "wte" if config.tied_head else "lm_head"
    logits = linear(norm(x, "ln_f"), head)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def gpt_case(variant: str) -> Case:
    """The loss of a whole small GPT, and the gradients of all its parameters."""
    config = GPTConfig(**SIZE, **VARIANTS[variant])
    model = GPT(config)
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def ours(t: Any, idx: Any, targets: Any, *weights: Any) -> Any:
        return call(t, model, dict(zip(shapes, weights)), (idx, targets))[1]

    def theirs(t: Any, idx: Any, targets: Any, *weights: Any) -> Any:
        return loss_in_pytorch(t, config, dict(zip(shapes, weights)), idx, targets)

    count = sum(p.numel() for p in model.parameters())
    arguments = (TOKENS[:, :-1].copy(), TOKENS[:, 1:].copy(), *shapes.values())
    label = f"GPT, {variant}: 2 blocks, {count} parameters"
    case = Case("GPT", label, arguments, ours, theirs, ("idx", "targets", *shapes))
    return case.within(-0.5, 0.5)


def adamw(t: Any, tensors: list) -> Any:
    return t.optim.AdamW(tensors, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)


GPT_CASES: list[Case | Training] = [gpt_case(variant) for variant in VARIANTS]
TRAINING = Training("GPT", "GPT, the video's: 3 steps of AdamW", gpt_case("the video's"), adamw, 3)
SECTIONS: dict[str, list[Case | Training]] = {"The whole GPT": [*GPT_CASES, TRAINING]}
