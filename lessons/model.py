"""The video's model, stage by stage: every module it builds between the bigram and the GPT.

A switch stands for each step that the video takes, so that a rung of the ladder (`ladder.py`) is
one expression. B is the batch, T the time, C the channels (n_embd), V the vocabulary. Parameters
are made in the video's order: after the same seed, the same weights.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorlib as torch
from tensorlib import Tensor, nn
from tensorlib.nn import functional as F


def with_loss(logits: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(logits, loss): cross_entropy wants the classes second, so (B, T, V) becomes (B·T, V)."""
    if targets is None:
        return logits, None
    B, T, V = logits.shape
    return logits, F.cross_entropy(logits.view(B * T, V), targets.view(B * T))


class BigramLanguageModel(nn.Module):
    """Row i of a (V, V) table holds the logits of what follows token i: 22:11 of the video."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """idx and targets (B, T); logits (B, T, V), and the mean loss if there are targets."""
        return with_loss(self.token_embedding_table(idx), targets)


class Head(nn.Module):
    """One head of causal self-attention: 1:02:00.

    scale: what the affinities are multiplied by; None is the video's C ** -0.5, which its author
    corrects to head_size ** -0.5 (1:20:05).
    """

    tril: Tensor

    def __init__(
        self,
        n_embd: int,
        head_size: int,
        block_size: int,
        dropout: float = 0.0,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))
        self.dropout = nn.Dropout(dropout)
        self.scale = n_embd**-0.5 if scale is None else scale

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        k, q = self.key(x), self.query(x)  # (B, T, head_size)
        wei = q @ k.transpose(-2, -1) * self.scale  # (B, T, T)
        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        wei = self.dropout(F.softmax(wei, dim=-1))
        return wei @ self.value(x)  # (B, T, T) @ (B, T, head_size) -> (B, T, head_size)


class MultiHeadAttention(nn.Module):
    """Several heads in parallel, side by side again: 1:21:59; the projection back: 1:26:48."""

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        *,
        projection: bool = True,
        dropout: float = 0.0,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        size = n_embd // n_head
        self.heads = nn.ModuleList(
            [Head(n_embd, size, block_size, dropout, scale) for _ in range(n_head)]
        )
        self.proj = nn.Linear(n_embd, n_embd) if projection else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.cat([h(x) for h in self.heads], dim=-1)  # (B, T, C)
        return self.dropout(self.proj(out))


class FeedForward(nn.Module):
    """Each token by itself: 1:24:25; the projection back and the 4 times wider layer: 1:26:48."""

    def __init__(
        self, n_embd: int, *, widen: int = 4, projection: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers = [nn.Linear(n_embd, widen * n_embd), nn.ReLU()]
        if projection:
            layers.append(nn.Linear(widen * n_embd, n_embd))
        self.net = nn.Sequential(*layers, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    """Communication, then computation: 1:26:48.

    norm: "pre" (the video's, before each part), "post" (the paper's, after each addition), None.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        *,
        residual: bool = True,
        projection: bool = True,
        widen: int = 4,
        norm: str | None = "pre",
        dropout: float = 0.0,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.sa = MultiHeadAttention(
            n_embd, n_head, block_size, projection=projection, dropout=dropout, scale=scale
        )
        self.ffwd = FeedForward(n_embd, widen=widen, projection=projection, dropout=dropout)
        self.residual = residual
        before, after = norm == "pre", norm == "post"
        self.ln1, self.ln2 = (nn.LayerNorm(n_embd) if before else nn.Identity() for _ in "12")
        self.post1, self.post2 = (nn.LayerNorm(n_embd) if after else nn.Identity() for _ in "12")

    def forward(self, x: Tensor) -> Tensor:
        if not self.residual:
            return self.ffwd(self.sa(x))
        x = self.post1(x + self.sa(self.ln1(x)))
        return self.post2(x + self.ffwd(self.ln2(x)))


class LanguageModel(nn.Module):
    """Embeddings, a body, a head that gives logits: 58:24.

    body: makes what stands between them, (B, T, C) to (B, T, C); called after the embeddings are
    made, because the video makes them in this order. position: whether tokens know their place.
    """

    def __init__(
        self,
        vocab_size: int,
        n_embd: int = 32,
        block_size: int = 8,
        body: Callable[[], nn.Module] = nn.Identity,
        position: bool = True,
    ) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, n_embd)
        self.position_embedding_table = nn.Embedding(block_size, n_embd) if position else None
        self.body = body()
        self.lm_head = nn.Linear(n_embd, vocab_size)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """idx and targets (B, T); logits (B, T, V), and the mean loss if there are targets."""
        x = self.token_embedding_table(idx)  # (B, T, C)
        if self.position_embedding_table is not None:
            T = idx.shape[1]
            x = x + self.position_embedding_table(torch.arange(T, device=idx.device))  # + (T, C)
        return with_loss(self.lm_head(self.body(x)), targets)


def blocks(
    n_layer: int, n_embd: int, n_head: int, block_size: int, final_norm: bool = True, **switches
) -> nn.Sequential:
    """`n_layer` blocks in a row, and a last LayerNorm: a body for `LanguageModel`."""
    rows = [Block(n_embd, n_head, block_size, **switches) for _ in range(n_layer)]
    return nn.Sequential(*rows, *([nn.LayerNorm(n_embd)] if final_norm else []))
