# %% [markdown]
# # 11 · One head in the network · 1:19:11
#
# The head of lesson 9 becomes a module, and stands between the embeddings and `lm_head`. With it
# the tokens of a sequence see each other for the first time. From here on the modules live in
# `lessons/model.py`; this is the new one:

# %%
import dataclasses
import inspect

import tensorlib as torch
from lessons import common, ladder
from lessons.model import Head
from tensorlib.nn import functional as F

print(inspect.getsource(Head))

# %% [markdown]
# `tril` is a *buffer*: it belongs to the module and moves with it to a GPU, but nothing learns it.
# The scaling is by C ** -0.5, as the video types it; it should be head_size ** -0.5 (1:20:05). For
# one head of 32 channels both are the same, so lesson 15 compares them.
#
# Training, with a learning rate ten times lower than before:

# %%
rung = ladder.find("one-head")
trained = ladder.climb(rung, verbose=True)
print(f"{common.parameters(trained.model):,} parameters")
print(common.sample(trained.model, 300))

# %% [markdown]
# With the bigram's rate of 1e-2 it ends a little higher:

# %%
for learning_rate in (1e-2, 1e-3):
    faster = dataclasses.replace(rung, learning_rate=learning_rate)
    losses = [ladder.climb(faster, seed).loss for seed in (1, 2)]
    print(f"lr {learning_rate:g}: validation loss", ", ".join(f"{loss:.3f}" for loss in losses))

# %% [markdown]
# What did it learn to look at? The weights of the trained head on eight characters; the last row is
# the one that predicts the ninth.

# %%
corpus = common.corpus()
text = common.words("the king")
idx = corpus.encode(text).view(1, -1)
model, head = trained.model, trained.model.body
with torch.no_grad():
    x = model.token_embedding_table(idx) + model.position_embedding_table(torch.arange(8))
    wei = head.query(x) @ head.key(x).transpose(-2, -1) * head.scale
    wei = F.softmax(wei.masked_fill(head.tril == 0, float("-inf")), dim=-1)
print(common.heat_map(wei[0], text, text))

# %% [markdown]
# ## Why generation must crop (1:20:45)
#
# The table of positions has `block_size` rows. A context of nine characters asks for a ninth, which
# is not there; so `generate` feeds the last `block_size` tokens only, `idx[:, -block_size:]`.

# %%
long = corpus.encode(common.words("the kings")).view(1, -1)
try:
    model(long)
except IndexError as error:
    print("IndexError:", error)
print(model(long[:, -8:])[0].shape)
