# %% [markdown]
# # 9 · Self-attention · 1:02:00
#
# The mean of the past treats all tokens alike. A vowel may want to know about the consonants before
# it. So every token sends out two vectors: a *query*, what am I looking for, and a *key*, what do I
# contain. Their dot product is the *affinity* of two tokens, and takes the place of the zeros of
# lesson 7.

# %%
import tensorlib as torch
import tensorlib.nn as nn
from lessons import common
from tensorlib.nn import functional as F

torch.manual_seed(1337)
B, T, C = 4, 8, 32
x = torch.randn(B, T, C)

head_size = 16
key = nn.Linear(C, head_size, bias=False)
query = nn.Linear(C, head_size, bias=False)
value = nn.Linear(C, head_size, bias=False)
k = key(x)  # (B, T, 16)
q = query(x)  # (B, T, 16)
wei = q @ k.transpose(-2, -1)  # (B, T, 16) @ (B, 16, T) -> (B, T, T)
print(q.shape, "@", k.transpose(-2, -1).shape, "->", wei.shape)
print("affinities of the first sequence, raw:")
print(wei[0])
print(common.heat_map(wei[0]))

# %% [markdown]
# The future is masked as before, and softmax makes weights: each row sums to 1, and now every
# sequence of the batch has its own. In the heat maps a row is a token that looks, a column one that
# is looked at.

# %%
tril = torch.tril(torch.ones(T, T))
wei = wei.masked_fill(tril == 0, float("-inf"))
print("masked:")
print(wei[0])
print(common.heat_map(wei[0]))
wei = F.softmax(wei, dim=-1)
print("softmaxed:")
print(wei[0])
print(common.heat_map(wei[0]))

# %% [markdown]
# What is gathered is not the token itself but a third vector, its *value*: what do I tell those who
# listen to me.

# %%
v = value(x)  # (B, T, 16)
out = wei @ v  # (B, T, T) @ (B, T, 16) -> (B, T, 16)
print(out.shape)
print(out[0, -1])

# %% [markdown]
# And behind it, the gradient: through the same weights, transposed. What comes back to the value of
# token j is the sum over all tokens i that looked at it, wei[i, j] times what arrives at i. For the
# last token that is only itself:

# %%
arriving = torch.randn(B, T, head_size)
(grad_v,) = torch.autograd.grad(out, v, grad_outputs=arriving, retain_graph=True)
gathered = wei.transpose(-2, -1) @ arriving
print("equal to weiᵀ @ arriving:", torch.allclose(grad_v, gathered, atol=1e-6))
alone = wei[:, -1, -1:] * arriving[:, -1]
print("the last token, from itself alone:", torch.allclose(grad_v[:, -1], alone, atol=1e-6))
