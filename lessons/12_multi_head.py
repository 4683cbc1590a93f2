# %% [markdown]
# # 12 · Several heads · 1:21:59
#
# One head has one way to look. Four heads of 8 channels look in four ways at once, and their
# results stand side by side: 32 channels again, with as many parameters as one head of 32.

# %%
import inspect

import tensorlib as torch
from lessons import common, ladder
from lessons.model import Head, MultiHeadAttention

torch.manual_seed(1337)
B, T, C = 4, 8, 32
x = torch.randn(B, T, C)
heads = [Head(n_embd=C, head_size=8, block_size=T) for _ in range(4)]
out = torch.cat([h(x) for h in heads], dim=-1)
print([tuple(h(x).shape) for h in heads], "->", out.shape)
print(sum(map(common.parameters, heads)), "=", common.parameters(Head(C, 32, T)), "parameters")

# %% [markdown]
# As a module, with the projection that comes in lesson 14 as a switch:

# %%
print(inspect.getsource(MultiHeadAttention))

# %%
trained = ladder.climb(ladder.find("multi-head"), verbose=True)
print(f"{common.parameters(trained.model):,} parameters")
print(common.sample(trained.model, 300))

# %% [markdown]
# Are the heads different? Each one's weights for the last of eight characters:

# %%
corpus = common.corpus()
text = common.words("the king")
model = trained.model
with torch.no_grad():
    x = model.token_embedding_table(corpus.encode(text).view(1, -1))
    x = x + model.position_embedding_table(torch.arange(8))
    rows = []
    for h in model.body.heads:
        wei = h.query(x) @ h.key(x).transpose(-2, -1) * h.scale
        rows.append(torch.softmax(wei[0, -1], dim=-1))
print(common.heat_map(torch.stack(rows), [f"head {i}" for i in range(4)], text))
