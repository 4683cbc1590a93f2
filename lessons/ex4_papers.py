# %% [markdown]
# # EX4 · Seven features from the papers
#
# The exercise: read papers on transformers, build in one thing that many use, and see whether the
# model gets better. Here are seven of them, each a few lines that take the place of one part of
# [`gpt/model.py`](../gpt/model.py). Each is trained like the baseline, the model of the video's
# notebook (4 layers, 4 heads, 64 channels, a context of 32 characters) with its settings (AdamW,
# 1e-3, 16 sequences a batch), for 2,000 steps of tiny Shakespeare, on three seeds. All variants see
# the same batches.
#
# `python -m lessons ex4`, loss on the whole validation split, mean and standard deviation; in the
# fourth column of the differences, seed by seed. The times are of `--quick`, on one thread of an
# AMD EPYC (Zen 4) with nothing else to do:
#
# | variant | parameters | validation loss | less than the baseline | ms a step |
# |---|---|---|---|---|
# | baseline | 209,729 | 1.9660 ± 0.0116 | | 13.5 |
# | rope | 207,681 | 1.8851 ± 0.0168 | 0.0809 ± 0.0236 | 16.9 |
# | qknorm | 209,857 | 1.9227 ± 0.0118 | 0.0433 ± 0.0006 | 15.3 |
# | cosine | 209,729 | 1.9222 ± 0.0008 | 0.0438 ± 0.0108 | 13.6 |
# | swiglu | 208,001 | 1.9251 ± 0.0113 | 0.0409 ± 0.0096 | 14.7 |
# | tied | 205,504 | 1.9637 ± 0.0059 | 0.0023 ± 0.0169 | 13.7 |
# | rmsnorm | 209,153 | 1.9668 ± 0.0098 | -0.0008 ± 0.0022 | 12.9 |
# | gelu | 209,729 | 2.0245 ± 0.0139 | -0.0585 ± 0.0111 | 15.7 |
# | together | 205,505 | 1.8021 ± 0.0083 | 0.1639 ± 0.0091 | 19.3 |
#
# Four of the seven help here, on every seed: RoPE most, then QK-norm, the cosine schedule and
# SwiGLU. Tied embeddings and RMSNorm make no difference that three seeds could show, but are
# smaller, or simpler. GELU is behind after so few steps, on every seed. "together" is RoPE,
# QK-norm, SwiGLU, RMSNorm and the schedule: most of what each brings adds up.

# %%
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import tensorlib as torch
from gpt import GPT, GPTConfig
from gpt.commands import cli
from gpt.config import UserError
from gpt.model import CausalSelfAttention, KeyValues
from lessons import common
from lessons.exercise import Exercise, constant, fit, settings, spread, whole_loss
from tensorlib import Tensor, nn
from tensorlib.nn import functional as F
from tensorlib.optim.lr_scheduler import warmup_cosine

# %% [markdown]
# ## RoPE and QK-norm: what happens to queries and keys before they meet
#
# Both replace `CausalSelfAttention.forward` between the split into heads and the attention itself.
#
# **RoPE** (Su et al., *RoFormer*, 2021) takes the place of the position embedding. A query or key
# at position m is turned, each pair of its channels by an angle m·θ with a θ of the pair's own. The
# product of a query at m and a key at n then depends on where they stand only through m − n: what
# the model learns about "three characters ago" it learns for all positions at once.
#
# **QK-norm** (Henry et al., 2020; here with RMSNorm, as later models have it) scales queries and
# keys to length √size, times a learned gain, so that affinities cannot grow without bound.


# %%
class Attention(CausalSelfAttention):
    """`CausalSelfAttention` with a step between the heads' queries and keys and their product."""

    def prepare(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Queries and keys as they shall meet: each (B, heads, T, C / heads), at the positions from
        `start` on."""
        return q, k

    def forward(self, x: Tensor, past: KeyValues | None = None) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, C / heads)
        q, k = self.prepare(q, k, start=len(past) if past is not None else 0)
        if past is not None:
            k, v = past.extend(k, v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class RotaryAttention(Attention):
    """RoPE."""

    def prepare(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return rotated(q, start), rotated(k, start)


class NormedAttention(Attention):
    """QK-norm."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        size = config.n_embd // config.n_head
        self.q_norm, self.k_norm = nn.RMSNorm(size), nn.RMSNorm(size)

    def prepare(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return self.q_norm(q), self.k_norm(k)


class RotaryNormedAttention(NormedAttention):
    """Both."""

    def prepare(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        q, k = super().prepare(q, k, start)
        return rotated(q, start), rotated(k, start)


def rotated(x: Tensor, start: int = 0) -> Tensor:
    """x (…, T, size) with the pair (x[i], x[i + size / 2]) at position m turned by m · theta[i]."""
    T, size = x.shape[-2:]
    theta = 10000.0 ** (-torch.arange(0, size, 2) / size)  # (size / 2,), from fast to slow
    angles = torch.outer(torch.arange(start, start + T).float(), theta)  # (T, size / 2)
    cos, sin = angles.cos(), angles.sin()
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class NoPositions(nn.Module):
    """In place of the position embedding `wpe`: nothing is added to the tokens."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.n_embd = n_embd

    def forward(self, pos: Tensor) -> Tensor:
        return torch.zeros(len(pos), self.n_embd)


# %% [markdown]
# ## SwiGLU: an MLP with a gate
#
# Shazeer, *GLU Variants Improve Transformer* (2020): of two hidden layers one, through
# silu(x) = x · sigmoid(x), says how much of the other passes. Three matrices instead of two, so the
# hidden layer is 8/3 as wide as the stream and not 4 times: as many parameters as before.


# %%
class SwiGLU(nn.Module):
    """In place of `MLP`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C = config.n_embd
        hidden = 8 * C // 3 // 8 * 8  # a multiple of 8
        self.gate, self.value = nn.Linear(C, hidden), nn.Linear(C, hidden)
        self.proj = nn.Linear(hidden, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.silu(self.gate(x)) * self.value(x))  # (B, T, C)


# %% [markdown]
# ## The others
#
# - **RMSNorm** (Zhang & Sennrich, 2019) in place of every LayerNorm: the mean is not subtracted,
#   and there is no shift.
# - **Tied embeddings** (Press & Wolf, 2017): head and token embedding share a matrix.
# - **GELU** (Hendrycks & Gimpel, 2016) in place of ReLU: GPT-2's, smooth at 0.
# - **Cosine schedule** (Loshchilov & Hutter, 2017): 100 steps up to the same learning rate, then
#   down to a tenth of it along half a cosine; the video's stays constant.
#
# Tied embeddings and GELU are settings of `GPTConfig`; the others are put into a finished model.


# %%
def attention(kind: type[Attention]) -> Callable[[GPT], None]:
    def change(model: GPT) -> None:
        for block in model.h:
            block.attn = started_small(kind(model.config))

    return change


def rope(model: GPT) -> None:
    model.wpe = NoPositions(model.config.n_embd)  # type: ignore[assignment]
    attention(RotaryAttention)(model)


def swiglu(model: GPT) -> None:
    for block in model.h:
        block.mlp = started_small(SwiGLU(model.config))


def rmsnorm(model: GPT) -> None:
    C = model.config.n_embd
    for block in model.h:
        block.ln_1, block.ln_2 = nn.RMSNorm(C), nn.RMSNorm(C)
    model.ln_f = nn.RMSNorm(C)  # type: ignore[assignment]


def started_small(module: nn.Module) -> nn.Module:
    """The initial values of the rest of the model: matrices normal(0, 0.02), shifts 0."""
    for p in module.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.02)
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module


@dataclass(frozen=True)
class Variant:
    """How a model and its training differ from the baseline."""

    changes: tuple[Callable[[GPT], None], ...] = ()  # to the finished model
    config: dict = field(default_factory=dict)  # of GPTConfig
    cosine: bool = False


VARIANTS = {
    "baseline": Variant(),
    "rope": Variant((rope,)),
    "rmsnorm": Variant((rmsnorm,)),
    "swiglu": Variant((swiglu,)),
    "tied": Variant(config={"tied_head": True}),
    "gelu": Variant(config={"activation": "gelu_tanh"}),
    "qknorm": Variant((attention(NormedAttention),)),
    "cosine": Variant(cosine=True),
    "together": Variant((rope, attention(RotaryNormedAttention), swiglu, rmsnorm), cosine=True),
}

# %% [markdown]
# ## The comparison


# %%
def build(variant: Variant, config: GPTConfig) -> GPT:
    model = GPT(replace(config, **variant.config))
    for change in variant.changes:
        change(model)
    return model


def train(variant: Variant, seed: int, max_iters: int) -> tuple[int, float, float]:
    """Parameters, loss on the whole validation split, and seconds per step."""
    text = common.corpus()
    torch.manual_seed(seed)
    config = GPTConfig(text.vocab_size, block_size=32, n_layer=4, n_head=4, n_embd=64)
    model = build(variant, config)
    torch.manual_seed(seed)  # so that the batches do not depend on how much the model drew

    def batch_loss() -> Tensor:
        return model(*text.get_batch("train", 16, config.block_size))[1]

    schedule = warmup_cosine(100, max_iters, final=0.1) if variant.cosine else constant
    start = time.perf_counter()
    for step in fit(model, batch_loss, max_iters, 1e-3, schedule):  # noqa: B007
        pass
    seconds = (time.perf_counter() - start) / step
    loss = whole_loss(model, text.val)
    print(f"seed {seed}: validation loss {loss:.4f}", file=sys.stderr)
    return model.num_parameters(), loss, seconds


@dataclass
class Papers(Exercise):
    """Compare features from the papers with the baseline."""

    variants: tuple[str, ...] = tuple(VARIANTS)  # which ones
    seeds: tuple[int, ...] = (1337, 1338, 1339)  # each is trained with each of these
    max_iters: int = 2000  # training steps

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.variants:
            if name not in VARIANTS:
                known = ", ".join(VARIANTS)
                raise UserError(f"no variant is called {name!r}: take some of {known}")


def main() -> None:
    chosen = settings(Papers)
    print("| variant | parameters | validation loss | less than the baseline | ms a step |")
    print("|---|---|---|---|---|")
    baseline: list[float] = []
    for name in chosen.variants:
        runs = [train(VARIANTS[name], seed, chosen.max_iters) for seed in chosen.seeds]
        parameters, losses = runs[0][0], [loss for _, loss, _ in runs]
        if name == "baseline":
            baseline = losses
        gains = spread([b - loss for b, loss in zip(baseline, losses)]) if baseline else ""
        milliseconds = 1e3 * min(seconds for *_, seconds in runs)
        row = f"{name} | {parameters:,} | {spread(losses)} | {gains} | {milliseconds:.1f}"
        print(f"| {row} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
