# %% [markdown]
# # 7 · Averaging the past · 42:13
#
# Tokens should talk to each other, and only to those before them: what comes after is what we want
# to predict. The weakest way to gather the past is its mean. Four ways to compute it, each faster
# or freer than the one before, all equal.

# %%
import time

import tensorlib as torch
from lessons import common
from tensorlib.nn import functional as F

torch.manual_seed(1337)
B, T, C = 4, 8, 2  # batch, time, channels
x = torch.randn(B, T, C)
print(x.shape)

# %% [markdown]
# ## Version 1: loops

# %%
xbow = torch.zeros((B, T, C))  # "bow": a bag of words, whose order is lost
for b in range(B):
    for t in range(T):
        xprev = x[b, : t + 1]  # (t + 1, C)
        xbow[b, t] = torch.mean(xprev, 0)
print(x[0])
print(xbow[0])

# %% [markdown]
# ## The trick: a matrix product is a weighted sum
#
# A matrix of ones sums each column (47:11). Its lower triangle sums what came so far. With rows
# that sum to 1 it takes means.

# %%
torch.manual_seed(42)
a = torch.ones(3, 3)
b = torch.randint(0, 10, (3, 2)).float()
print("a=", a, "b=", b, "c=", a @ b, sep="\n")

# %%
a = torch.tril(torch.ones(3, 3))
print("a=", a, "c=", a @ b, sep="\n")

# %%
a = a / torch.sum(a, 1, keepdim=True)
print("a=", a, "c=", a @ b, sep="\n")

# %% [markdown]
# ## Version 2: matrix product
#
# (T, T) @ (B, T, C): the first has no batch, so every sequence of the batch is multiplied by the
# same matrix (52:39).

# %%
wei = torch.tril(torch.ones(T, T))
wei = wei / wei.sum(1, keepdim=True)
xbow2 = wei @ x  # (T, T) @ (B, T, C) -> (B, T, C)
print(wei.shape, "@", x.shape, "->", xbow2.shape)
print("equal to the loops:", torch.allclose(xbow, xbow2, atol=1e-6))

# %% [markdown]
# ## Version 3: softmax
#
# Begin with affinities of 0, all tokens equally interesting. Those from the future become −∞ (the
# video says "cannot communicate with the past" at 57:00 and corrects itself: tokens from the future
# cannot communicate). Softmax makes weights of it: e⁰ = 1 each, e^−∞ = 0, divided by their sum.

# %%
tril = torch.tril(torch.ones(T, T))
wei = torch.zeros((T, T))
wei = wei.masked_fill(tril == 0, float("-inf"))
print(wei)
wei = F.softmax(wei, dim=-1)
print(wei)
xbow3 = wei @ x
print("equal to the loops:", torch.allclose(xbow, xbow3, atol=1e-6))

# %% [markdown]
# The last is the one that stays: the zeros will become affinities that the tokens compute from what
# they are, and mask and softmax remain as they stand here. As a heat map, rows look at columns:

# %%
print(common.heat_map(wei))

# %% [markdown]
# Is the trick worth it? A larger batch, timed here:

# %%
x = torch.randn(32, 64, 32)
wei = torch.tril(torch.ones(64, 64))
wei = wei / wei.sum(1, keepdim=True)
start = time.perf_counter()
slow = torch.stack([torch.stack([row[: t + 1].mean(0) for t in range(64)]) for row in x])
middle = time.perf_counter()
fast = wei @ x
end = time.perf_counter()
print("equal:", torch.allclose(slow, fast, atol=1e-5))
print("the product is faster:", end - middle < middle - start)
