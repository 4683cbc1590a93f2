# %% [markdown]
# # EX1 · Heads as a batch dimension
#
# The video's `MultiHeadAttention` ([`model.py`](model.py)) calls its heads one after the other. The
# exercise is to make one class of it and its `Head`, in which the heads are one more dimension
# beside the batch: one matrix makes queries, keys and values of all heads, and one product of
# (B, heads, T, size) arrays does for all what each head did alone. "Fused" is the same with the
# middle part as one operation, as [`gpt/model.py`](../gpt/model.py) has it.
#
# All three are equal, values and gradients (the last column: the largest difference in float32, as
# a share of the largest number). Forward and backward on one thread of an AMD EPYC (Zen 4), NumPy
# 2.4.6, `python -m lessons ex1`:
#
# | | B, T, C, heads | loop | heads as a batch | fused | largest difference |
# |---|---|---|---|---|---|
# | the video's heads | 32, 8, 32, 4 | 0.96 ms | 0.56 ms (1.7×) | 0.48 ms (2.0×) | 3e-07 |
# | its notebook | 16, 32, 64, 4 | 1.78 ms | 1.40 ms (1.3×) | 1.26 ms (1.4×) | 8e-07 |
# | train.py | 12, 64, 128, 4 | 5.56 ms | 4.86 ms (1.1×) | 4.49 ms (1.2×) | 5e-07 |
# | scaled up | 16, 256, 384, 6 | 206.49 ms | 205.66 ms (1.0×) | 167.96 ms (1.2×) | 7e-07 |
#
# What the loop costs is a fixed price for each operation that is called, and that counts where the
# arrays are small. Where they are large, a CPU is busy with the products either way; fusing helps
# there, because it leaves out half of a large causal matrix.

# %%
import statistics
import time
from dataclasses import dataclass

import tensorlib as torch
from gpt.commands import cli
from lessons import common
from lessons.exercise import Exercise, settings
from lessons.model import MultiHeadAttention
from tensorlib import Tensor, nn
from tensorlib.nn import functional as F

# %% [markdown]
# ## One class for all heads


# %%
class HeadsAsBatch(nn.Module):
    """The video's `MultiHeadAttention` without its loop; `fused`: by one operation.

    The weight (3 C, C) holds, one above the other, the queries of all heads, their keys, their
    values.
    """

    def __init__(self, n_embd: int, n_head: int, fused: bool = False) -> None:
        super().__init__()
        self.n_head, self.fused = n_head, fused
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.proj = nn.Linear(n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, size)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            wei = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (B, heads, T, T)
            tril = torch.tril(torch.ones(T, T))
            wei = F.softmax(wei.masked_fill(tril == 0, float("-inf")), dim=-1)
            out = wei @ v  # (B, heads, T, T) @ (B, heads, T, size)
        return self.proj(out.transpose(1, 2).reshape(B, T, C))  # heads side by side again

    def take_weights(self, loop: MultiHeadAttention) -> None:
        """Become equal to a loop of heads."""
        kinds = [[getattr(h, name).weight for h in loop.heads] for name in PARTS]
        with torch.no_grad():
            self.qkv.weight.copy_(torch.cat([w for kind in kinds for w in kind]))
        self.proj.load_state_dict(loop.proj.state_dict())


PARTS = ("query", "key", "value")

# %% [markdown]
# ## Equal: the value, and every gradient
#
# With the same weights and the same upstream gradient, the gradient of the one large matrix is the
# gradients of the small ones, one above the other.


# %%
def largest_differences(
    loop: MultiHeadAttention, batched: HeadsAsBatch, x: Tensor
) -> dict[str, float]:
    """How far the two are apart, in the output and in the gradients, as a share of the largest
    number there: x (B, T, C)."""
    upstream = torch.randn_like(x)
    found = []
    for module in (loop, batched):
        module.zero_grad()
        here = x.clone().requires_grad_()
        out = module(here)
        out.backward(upstream)
        found.append(
            {"output": out.detach(), "x": here.grad, "proj": next(module.proj.parameters()).grad}
        )
    kinds = [getattr(h, name).weight.grad for name in PARTS for h in loop.heads]
    found[0]["weights"], found[1]["weights"] = torch.cat(kinds), batched.qkv.weight.grad
    return {
        name: ((value - found[1][name]).abs().max() / value.abs().max()).item()
        for name, value in found[0].items()
    }


# %% [markdown]
# ## How much faster
#
# Forward and backward of the attention alone; the median of several rounds, in each of which every
# one has its turn.


# %%
def milliseconds(modules: list[nn.Module], x: Tensor, rounds: int) -> list[float]:
    """The time that forward and backward take for each module."""
    times: list[list[float]] = [[] for _ in modules]
    for _ in range(rounds + 1):
        for module, mine in zip(modules, times):
            start = time.perf_counter()
            module(x).sum().backward()
            mine.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(mine[1:]) for mine in times]  # the first round warms up


SIZES = {  # B, T, C, heads
    "the video's heads": (32, 8, 32, 4),
    "its notebook": (16, 32, 64, 4),
    "train.py": (12, 64, 128, 4),
    "scaled up": (16, 256, 384, 6),  # a quarter of the video's batch
}


@dataclass
class Heads(Exercise):
    """Compare a loop of heads with heads as a batch dimension."""

    rounds: int = 20  # of the timing


def main() -> None:
    rounds = common.steps(settings(Heads).rounds)
    print("| | B, T, C, heads | loop | heads as a batch | fused | largest difference |")
    print("|---|---|---|---|---|---|")
    for name, (B, T, C, n_head) in SIZES.items():
        torch.manual_seed(1337)
        loop = MultiHeadAttention(C, n_head, T, scale=(C // n_head) ** -0.5)
        batched, fused = HeadsAsBatch(C, n_head), HeadsAsBatch(C, n_head, fused=True)
        batched.take_weights(loop)
        fused.take_weights(loop)
        x = torch.randn(B, T, C)
        apart = max(max(largest_differences(loop, m, x).values()) for m in (batched, fused))
        times = milliseconds([loop, batched, fused], x, rounds)
        factors = [f"{t:.2f} ms ({times[0] / t:.1f}×)" for t in times[1:]]
        size = f"{B}, {T}, {C}, {n_head}"
        print(f"| {name} | {size} | {times[0]:.2f} ms | {' | '.join(factors)} | {apart:.0e} |")


if __name__ == "__main__":
    cli.run(main)
