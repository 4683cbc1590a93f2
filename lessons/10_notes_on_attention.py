# %% [markdown]
# # 10 · Six notes on attention · 1:11:38
#
# What the video says about attention in six notes, each shown.

# %%
import tensorlib as torch
import tensorlib.nn as nn
from lessons import common
from tensorlib.nn import functional as F

torch.manual_seed(1337)
B, T, C, head_size = 4, 8, 32, 16
x = torch.randn(B, T, C)
w_query, w_key, w_value = (torch.randn(C, head_size) * C**-0.5 for _ in range(3))


def attend(x, sources=None, mask=None):
    """x (B, T, C) looks at `sources` (B, S, C), by default at itself, where the mask is not 0."""
    sources = x if sources is None else sources
    q, k, v = x @ w_query, sources @ w_key, sources @ w_value
    wei = q @ k.transpose(-2, -1) * head_size**-0.5  # (B, T, S)
    if mask is not None:
        wei = wei.masked_fill(mask == 0, float("-inf"))
    wei = F.softmax(wei, dim=-1)
    return wei @ v, wei


def same(a, b):
    return torch.allclose(a, b, atol=1e-6)


# %% [markdown]
# ## 1 · Communication (1:11:38)
#
# A directed graph: each node has a vector, and gathers a weighted sum of those that point to it.
# With the lower triangle, the first map, node t hears of nodes 0 to t. Any other graph would do: in
# the second map every node hears itself and its left neighbour.

# %%
tril = torch.tril(torch.ones(T, T))
neighbours = tril - torch.tril(torch.ones(T, T), -2)
print(common.heat_map(attend(x, mask=tril)[1][0]))
print(common.heat_map(attend(x, mask=neighbours)[1][0]))

# %% [markdown]
# ## 2 · No notion of space (1:12:46)
#
# Attention sees a set. Without a mask, shuffled tokens get the same results, shuffled. Positions
# must be told (lesson 8), and then it makes a difference.

# %%
order = torch.randperm(T)
position = torch.randn(T, C)
print("order", order.tolist())
print("without positions:", same(attend(x[:, order])[0], attend(x)[0][:, order]))
print("with positions:", same(attend(x[:, order] + position)[0], attend(x + position)[0][:, order]))

# %% [markdown]
# ## 3 · No communication across the batch (1:13:40)
#
# Change one sequence, and no other notices. The same through the gradient: the loss of sequence 2
# asks nothing of the others.

# %%
changed = x.clone()
changed[0] = torch.randn(T, C)
out, out_changed = attend(x)[0], attend(changed)[0]
print("sequences that changed:", [b for b in range(B) if not same(out[b], out_changed[b])])
x.requires_grad_()
attend(x)[0][2].sum().backward()
print("sequences with a gradient:", [b for b in range(B) if x.grad[b].abs().sum() > 0])
x = x.detach()

# %% [markdown]
# ## 4 · Encoder and decoder (1:14:14)
#
# A block that sees everything is an *encoder* block; with the triangle it is a *decoder* block,
# which can be asked for the next token. One line of difference. In the decoder, changing the last
# token changes nothing before it:

# %%
changed = x.clone()
changed[:, -1] = torch.randn(B, C)
for name, mask in (("encoder", None), ("decoder", tril)):
    before, after = attend(x, mask=mask)[0], attend(changed, mask=mask)[0]
    moved = [t for t in range(T) if not same(before[:, t], after[:, t])]
    print(name, "positions that changed:", moved)

# %% [markdown]
# ## 5 · Self- and cross-attention (1:15:39)
#
# In *self*-attention queries, keys and values come from the same x. In *cross*-attention the keys
# and values come from elsewhere: 8 tokens look at 5 others. Lesson 17 uses it.

# %%
elsewhere = torch.randn(B, 5, C)
out, wei = attend(x, elsewhere)
print(x.shape, "looking at", elsewhere.shape, "-> weights", wei.shape, "result", out.shape)

# %% [markdown]
# ## 6 · Scaled (1:16:56)
#
# With q and k of variance 1, q · k is a sum of `head_size` products and has variance `head_size`.
# Divided by √head_size it has variance 1 again.

# %%
torch.manual_seed(1337)
torch.randn(B, T, C)  # what lesson 9 draws: the notebook goes on after it
for _ in ("key", "query", "value"):
    nn.Linear(C, head_size, bias=False)
k = torch.randn(B, T, head_size)
q = torch.randn(B, T, head_size)
wei = q @ k.transpose(-2, -1)
print(f"var of k {k.var():.4f}, of q {q.var():.4f}")
print(f"var of q @ k: {wei.var():.4f}")
print(f"var of q @ k / sqrt(head_size): {(wei * head_size**-0.5).var():.4f}")

# %% [markdown]
# It matters because softmax sharpens with the size of its inputs, toward the largest one alone. The
# same five numbers times 1, 8 and 100:

# %%
row = torch.tensor([0.1, -0.2, 0.3, -0.2, 0.5])
print(torch.softmax(row, dim=-1))
print(torch.softmax(row * 8, dim=-1))
print(torch.softmax(row * 100, dim=-1))

# %% [markdown]
# And a softmax that is sure has no gradient left: its Jacobian is diag(p) − p pᵀ, which vanishes
# where one p is 1. So attention that starts sharp can hardly learn to look elsewhere.

# %%
for scale in (1, 8, 100):
    logits = (row * scale).requires_grad_()
    p = torch.softmax(logits, dim=-1)
    p[2].backward()  # how to give token 2 more weight
    print(f"x {scale}: the largest entry of the gradient {logits.grad.abs().max().item():.2e}")
