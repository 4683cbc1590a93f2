# %% [markdown]
# # 3 · Batches of chunks · 14:27
#
# A transformer never sees the whole text, only chunks of `block_size` characters. A chunk of nine
# characters holds eight examples: after one character comes the second, after two the third, …

# %%
import tensorlib as torch
from lessons import common

corpus = common.corpus()
train_data, val_data = corpus.train, corpus.val

block_size = 8
print(train_data[: block_size + 1])
x = train_data[:block_size]
y = train_data[1 : block_size + 1]
for t in range(block_size):
    context = x[: t + 1]
    target = y[t]
    print(f"when input is {context} the target: {target}")

# %% [markdown]
# So the model gets used to contexts of every length from one to `block_size`; beyond it, it has
# never seen any. Several chunks are computed side by side, as a *batch*: independent of each other,
# because a processor is happier with one large array. The seed makes your numbers the video's:
# `manual_seed` starts PyTorch's own stream.

# %%
torch.manual_seed(1337)
batch_size = 4  # how many independent sequences we process in parallel
block_size = 8  # the longest context of a prediction


def get_batch(split):
    data = train_data if split == "train" else val_data
    ix = torch.randint(len(data) - block_size, (batch_size,))
    x = torch.stack([data[i : i + block_size] for i in ix])
    y = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])
    return x, y


xb, yb = get_batch("train")
print("inputs:")
print(xb.shape)
print(xb)
print("targets:")
print(yb.shape)
print(yb)

# %% [markdown]
# The 4 × 8 batch holds 32 examples:

# %%
for b in range(batch_size):
    for t in range(block_size):
        context = xb[b, : t + 1]
        target = yb[b, t]
        print(f"when input is {context.tolist()} the target: {target}")

# %% [markdown]
# `common.Corpus.get_batch` is this function for all lessons that follow, with the same draws; it
# picks all rows at once.
