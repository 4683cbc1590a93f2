# %% [markdown]
# # 14 · Blocks and residual connections · 1:26:48
#
# Communication, then computation: together a *block*, and blocks can be repeated. Three of them:

# %%
import tensorlib as torch
from lessons import common, ladder

corpus = common.corpus()
plain = ladder.climb(ladder.find("blocks"), steps=2000, verbose=True)
print(f"{common.parameters(plain.model):,} parameters")

# %% [markdown]
# Deeper, and worse than the shallow model of lesson 13 (1:27:25). Each block replaces what it was
# given, and what comes back through it is multiplied by its weights, which begin small. A *residual
# connection* adds instead: x = x + f(x). The gradient of a sum goes to both terms unchanged, so
# there is a path from the loss to the embeddings on which nothing is multiplied at all.
#
# How much of the gradient arrives? Its norm at the weights of each block, before any training:


# %%
def gradient_norms(name):
    torch.manual_seed(1337)
    model = ladder.find(name).build(corpus.vocab_size)
    xb, yb = corpus.get_batch("train", 32, 8)
    model(xb, yb)[1].backward()
    parts = [model.token_embedding_table, *model.body]
    return [sum((p.grad**2).sum() for p in part.parameters()).sqrt().item() for part in parts]


print("                 embedding  block 0  block 1  block 2")
for name in ("blocks", "residual"):
    norms = gradient_norms(name)
    print(f"{name:16}", "".join(f"{norm:9.5f}" for norm in norms))

# %% [markdown]
# Without the sum each block hears less than the one after it, the first a twelfth of the last, and
# the embeddings 400 times less than with it. With it all blocks hear about as much.
#
# ## The steps to 2.08
#
# What the video reports as 2.08 (1:31:21) is three changes at once. One by one, for 2,000 steps
# each (`python -m lessons table` trains all 5,000, on three seeds):
#
# - *residual*: x + f(x), as above;
# - *projection*: a linear layer at the end of both parts, so that each can write into the residual
#   stream what it wants, in any mix of its channels;
# - *widen*: a hidden layer 4 times as wide in the feed-forward part, as in the paper.

# %%
for name in ("feed-forward", "blocks", "residual", "projection", "widen"):
    trained = ladder.climb(ladder.find(name), steps=2000)
    count = common.parameters(trained.model)
    print(f"{name:14} {count:7,} parameters, validation loss {trained.loss:.3f}")
print(common.sample(trained.model, 300))

# %% [markdown]
# A block with residual connections begins quietly: before training, what each part adds is about a
# fifth of what is there (standard deviations). So the model starts almost as the bigram of lesson
# 8, and the blocks come in as they learn.

# %%
torch.manual_seed(1337)
model = ladder.find("widen").build(corpus.vocab_size)
idx, _ = corpus.get_batch("train", 32, 8)
x = model.token_embedding_table(idx) + model.position_embedding_table(torch.arange(8))
for i, block in enumerate(model.body):
    for name, part in (("attention", block.sa), ("feed-forward", block.ffwd)):
        added = part(x)
        print(f"block {i}: stream {x.std():.2f}, {name} adds {added.std():.2f}")
        x = x + added
