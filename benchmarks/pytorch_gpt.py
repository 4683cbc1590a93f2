"""The GPT of `gpt/model.py` in PyTorch, for the configurations that the benchmark measures.

Its attention exists twice: all heads in one operation, as whoever wants speed writes it, and one
head after the other, as the video does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt.config import GPTConfig


class CausalSelfAttention(nn.Module):
    """All heads at once, in PyTorch's fused operation."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.c_attn = nn.Linear(C, 3 * C, bias=config.qkv_bias)
        self.c_proj = nn.Linear(C, C)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # each (B, T, C)
        q = q.view(B, T, self.n_head, -1).transpose(1, 2)  # (B, heads, T, C / heads)
        k = k.view(B, T, self.n_head, -1).transpose(1, 2)
        v = v.view(B, T, self.n_head, -1).transpose(1, 2)
        dropout_p = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.dropout(self.c_proj(y))


class Head(nn.Module):
    """One head of the video's."""

    tril: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        head_size = config.n_embd // config.n_head
        self.key = nn.Linear(config.n_embd, head_size, bias=False)
        self.query = nn.Linear(config.n_embd, head_size, bias=False)
        self.value = nn.Linear(config.n_embd, head_size, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(config.block_size, config.block_size)))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        k, q = self.key(x), self.query(x)  # (B, T, C / heads)
        wei = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # (B, T, T)
        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        wei = self.dropout(F.softmax(wei, dim=-1))
        return wei @ self.value(x)  # (B, T, C / heads)


class MultiHeadAttention(nn.Module):
    """The video's heads, one after the other."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(config) for _ in range(config.n_head)])
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(torch.cat([head(x) for head in self.heads], dim=-1)))


class Block(nn.Module):
    """Communication, then computation, each added to the residual stream."""

    def __init__(self, config: GPTConfig, attention: type[nn.Module]) -> None:
        super().__init__()
        C = config.n_embd
        self.ln_1 = nn.LayerNorm(C)
        self.attn = attention(config)
        self.ln_2 = nn.LayerNorm(C)
        tanh = "tanh" if config.activation == "gelu_tanh" else "none"
        self.act = nn.ReLU() if config.activation == "relu" else nn.GELU(approximate=tanh)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(C, 4 * C), "c_proj": nn.Linear(4 * C, C)})
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))  # (B, T, C)
        hidden = self.act(self.mlp["c_fc"](self.ln_2(x)))  # (B, T, 4 C)
        return x + self.dropout(self.mlp["c_proj"](hidden))


class GPT(nn.Module):
    """Parameters have the names of `gpt.model.GPT`'s, except in the video's attention.

    attention: CausalSelfAttention or MultiHeadAttention.
    """

    def __init__(self, config: GPTConfig, attention: type[nn.Module] = CausalSelfAttention) -> None:
        super().__init__()
        self.block_size = config.block_size
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList([Block(config, attention) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=not config.tied_head)
        if config.tied_head:
            self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Tensor:
        """The mean loss of tokens `idx` (B, T) with `targets` (B, T); without targets, the logits
        (B, V) of what comes next."""
        # (B, T, C) + (T, C)
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.h:
            x = block(x)
        if targets is None:
            return self.lm_head(self.ln_f(x)[:, -1])
        return F.cross_entropy(self.lm_head(self.ln_f(x)).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int) -> Tensor:
        """nanoGPT's way: the whole context again for every token."""
        for _ in range(max_new_tokens):
            probs = F.softmax(self(idx[:, -self.block_size :]), dim=-1)  # (B, V)
            idx = torch.cat((idx, torch.multinomial(probs, num_samples=1)), dim=1)
        return idx
