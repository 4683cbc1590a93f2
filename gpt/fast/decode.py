"""The next token through the model in plain array code: what `model(token, past=past)` computes.

While a text is sampled, a token's arithmetic takes less time than the calls around it: modules,
operations, checks, the tape. Here are the same kernels in the same order without those, and so the
same logits, bit for bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import Tensor, nn
from tensorlib.kernels import kernels

if TYPE_CHECKING:
    from gpt.model import GPT, KeyValues


@np.errstate(all="ignore")  # as in operations
def decode(model: GPT, tokens: Any, past: list[KeyValues]) -> Any:
    """Logits (B, V) for the tokens (B,) that follow those in `past`, which takes them in; arrays.

    The model is in evaluation mode, and there is room for one more position in its context.
    """
    kernel = kernels(model.wte.weight.array)

    def linear(layer: nn.Linear, x: Any) -> Any:
        return kernel.linear(x, layer.weight.array, _array(layer.bias))

    def norm(layer: nn.LayerNorm, x: Any) -> Any:
        return kernel.layer_norm(x, _array(layer.weight), _array(layer.bias), layer.eps)[0]

    B, C, heads = len(tokens), model.config.n_embd, model.config.n_head
    scale = 1 / math.sqrt(C // heads)
    x = model.wte.weight.array[tokens] + model.wpe.weight.array[len(past[0])]  # (B, C)
    block: Any
    for block, kept in zip(model.h, past):
        attn, mlp = block.attn, block.mlp
        qkv = linear(attn.c_attn, norm(block.ln_1, x)).reshape(B, 3, heads, 1, C // heads)
        k, v = kept.append(qkv[:, 1], qkv[:, 2])  # each (B, heads, positions, C / heads)
        y, _ = kernel.attention(qkv[:, 0], k, v, None, False, scale, None, 0)
        x = x + linear(attn.c_proj, y.reshape(B, C))
        hidden = mlp.act(Tensor(linear(mlp.c_fc, norm(block.ln_2, x)))).array  # (B, 4 C)
        x = x + linear(mlp.c_proj, hidden)
    return linear(model.lm_head, norm(model.ln_f, x))


def _array(parameter: Tensor | None) -> Any:
    return None if parameter is None else parameter.array
