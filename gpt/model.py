"""The GPT of the video: embeddings, blocks of attention and MLP, a head.

Parameters have GPT-2's names, so that their state dicts are interchangeable. In the shapes, B is
the batch, T the time (the position in the context), C the channels (n_embd), V the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import tensorlib
from gpt.config import Activation, GPTConfig, Sampling
from gpt.generate import generate
from tensorlib import Tensor, nn
from tensorlib.nn import functional as F
from tensorlib.utils.checkpoint import checkpoint


class KeyValues:
    """What one attention layer keeps while it generates: the keys and values of all positions
    so far, so that a new token computes only its own."""

    def __init__(self, block_size: int) -> None:
        self.block_size, self.length = block_size, 0
        # (B, heads, block_size, C / heads), `length` of them used; plain arrays, outside any graph
        self.k: Any = None
        self.v: Any = None

    def __len__(self) -> int:
        return self.length

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values (B, heads, T, C / heads) of T new positions, and return those
        of all."""
        k, v = self.append(k.array, v.array)
        return Tensor(k), Tensor(v)

    def append(self, k: Any, v: Any) -> tuple[Any, Any]:
        """`extend` of plain arrays."""
        B, heads, T, C = k.shape
        if self.k is None:
            shape = (B, heads, self.block_size, C)
            self.k, self.v = np.empty_like(k, shape=shape), np.empty_like(v, shape=shape)
        start, self.length = self.length, self.length + T
        self.k[:, :, start : self.length] = k
        self.v[:, :, start : self.length] = v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


class CausalSelfAttention(nn.Module):
    """Communication: every position gathers from itself and those before it, in several heads."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.c_attn = nn.Linear(C, 3 * C, bias=config.qkv_bias)  # query, key, value of all heads
        self.c_proj = nn.Linear(C, C, bias=config.bias)
        self.dropout = config.dropout

    def forward(self, x: Tensor, past: KeyValues | None = None) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, C / heads)
        if past is not None:
            k, v = past.extend(k, v)
        dropout_p = self.dropout if self.training else 0.0
        # a single new position may see all that came before it: nothing to mask
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=T > 1)
        y = y.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.c_proj(y)


def _activation(name: Activation) -> nn.Module:
    if name == "relu":
        return nn.ReLU()
    return nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")


class MLP(nn.Module):
    """Computation: every position thinks for itself about what it gathered."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.act = _activation(config.activation)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.act(self.c_fc(x)))  # (B, T, C)


class Block(nn.Module):
    """Communication, then computation, each added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)
        self.dropout = config.dropout

    def forward(self, x: Tensor, past: KeyValues | None = None) -> Tensor:
        x = self._add(x, self.attn(self.ln_1(x), past))  # (B, T, C)
        return self._add(x, self.mlp(self.ln_2(x)))  # (B, T, C)

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        """x + dropout(branch); on a GPU one kernel."""
        return F.dropout_add(branch, x, self.dropout, self.training)


class GPT(nn.Module):
    """A decoder-only transformer that predicts the next token at every position.

    checkpoint_activations: compute what happens in a block again in backward, instead of keeping
        it: the same bits in less memory, for a third more time.
    """

    checkpoint_activations = False

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # what the token is
        self.wpe = nn.Embedding(config.block_size, config.n_embd)  # where it stands
        self.h = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        bias = config.bias and not config.tied_head
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=bias)
        self.apply(self._init_weights)
        if config.tied_head:
            self.lm_head.weight = self.wte.weight
        if config.scaled_init:  # 2 n_layer additions should not widen the residual stream
            for name, p in self.named_parameters():
                if name.endswith("c_proj.weight"):
                    nn.init.normal_(p, mean=0.0, std=0.02 / math.sqrt(2 * config.n_layer))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, past: list[KeyValues] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) for tokens `idx` (B, T), and with `targets` (B, T) their mean loss.

        past: from `new_past`, for generating under no_grad (no gradient flows into it); idx then
            holds only the tokens that follow those it has seen: any number at first, one at a time
            afterwards.
        TypeError if idx is no tensor; ValueError if it is not (B, T), the context would be longer
        than block_size, or several tokens follow a past; IndexError for an unknown token.
        """
        _check_tokens(idx)
        B, T = idx.shape
        start = len(past[0]) if past else 0
        if start and T > 1:
            raise ValueError(f"{T} new tokens at once, but with a past it must be one at a time")
        if start + T > self.config.block_size:
            raise ValueError(
                f"{start + T} tokens, but the model's block_size is {self.config.block_size}"
            )
        pos = tensorlib.arange(start, start + T, device=idx.device)  # (T,)
        x = self.wte(idx) + self.wpe(pos)  # (B, T, C) + (T, C)
        for i, block in enumerate(self.h):
            if past:
                x = block(x, past[i])  # (B, T, C)
            else:
                x = checkpoint(block, x) if self.checkpoint_activations else block(x)
        logits = self.lm_head(self.ln_f(x))  # (B, T, V)
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.view(B * T, -1), targets.reshape(B * T))
        return logits, loss

    def generate(
        self,
        idx: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 1337,
    ) -> Tensor:
        """`idx` (B, T) with `max_new_tokens` more tokens, each drawn after all before it."""
        _check_tokens(idx)
        sampling = Sampling(temperature, top_k, top_p)
        return tensorlib.cat([idx, *generate(self, idx, max_new_tokens, sampling, seed)], dim=1)

    @property
    def device(self) -> str:
        """Where the parameters are."""
        return self.wte.weight.device

    def parameter_groups(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """The parameters by name: matrices, which weight decay concerns, and vectors, which not."""
        named = dict(self.named_parameters())
        matrices = {name: p for name, p in named.items() if p.dim() >= 2}
        return matrices, {name: p for name, p in named.items() if name not in matrices}

    def num_parameters(self) -> int:
        """How many numbers there are to learn; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self) -> int:
        """Floating-point operations of a training step, per token of a full context.

        A weight takes part in one multiplication and one addition forwards, and in twice as many
        backwards; so does each pair of positions, in q @ k and in the sum of the values.
        """
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        pairs = 2 * self.config.n_layer * self.config.block_size * self.config.n_embd
        return 6 * (weights + pairs)

    def is_unchanged(self) -> bool:
        """Whether every part is of the class that it was built with, so that `decode` may stand in
        for `forward`."""
        return all(type(module) in _PARTS for module in self.modules())

    def new_past(self) -> list[KeyValues]:
        """What `forward` takes as `past` at the start of a text: nothing yet, for each block."""
        return [KeyValues(self.config.block_size) for _ in self.h]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode: nothing is dropped."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _check_tokens(idx: Any) -> None:
    """TypeError or ValueError, with the remedy, unless `idx` is (B, T)."""
    if not hasattr(idx, "shape"):
        raise TypeError(f"idx must be a tensor (B, T), not {type(idx).__name__}: tensor([tokens])")
    if len(idx.shape) != 2:
        raise ValueError(f"idx must be (B, T), not {idx.shape}; idx[None] is a batch of one")


_PARTS = {GPT, nn.Embedding, nn.ModuleList, Block, CausalSelfAttention, MLP, nn.LayerNorm}
_PARTS |= {nn.Linear, nn.ReLU, nn.GELU}
