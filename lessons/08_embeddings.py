# %% [markdown]
# # 8 · Embeddings and a head for the logits · 58:24
#
# The bigram's table gives logits directly. Attention needs room in between: a token becomes a
# vector of `n_embd` = 32 numbers (its *embedding*), and a linear layer, `lm_head`, makes logits of
# it.

# %%
import tensorlib as torch
import tensorlib.nn as nn
from lessons import common, ladder

corpus = common.corpus()
torch.manual_seed(1337)
vocab_size, n_embd, block_size = corpus.vocab_size, 32, 8
token_embedding_table = nn.Embedding(vocab_size, n_embd)
lm_head = nn.Linear(n_embd, vocab_size)

idx, _ = corpus.get_batch("train", 4, block_size)
tok_emb = token_embedding_table(idx)  # (B, T, n_embd)
logits = lm_head(tok_emb)  # (B, T, vocab_size)
print(idx.shape, "->", tok_emb.shape, "->", logits.shape)

# %% [markdown]
# It is still a bigram model: two 32-wide factors and a bias where one 65 × 65 table stood, by
# chance with as many parameters, 65 · 32 + 32 · 65 + 65 = 65 · 65.

# %%
print(ladder.find("bigram").build(vocab_size))
print(common.parameters(ladder.find("bigram").build(vocab_size)), "parameters")
print(ladder.find("lm_head").build(vocab_size))
print(common.parameters(ladder.find("lm_head").build(vocab_size)), "parameters")

# %% [markdown]
# ## Where a token stands (1:00:18)
#
# A second table holds a vector for each position, which is added to that of the token: (B, T, C) +
# (T, C). As long as no token sees another one, this cannot help. It will.

# %%
position_embedding_table = nn.Embedding(block_size, n_embd)
pos_emb = position_embedding_table(torch.arange(block_size))  # (T, C)
x = tok_emb + pos_emb
print(tok_emb.shape, "+", pos_emb.shape, "->", x.shape)

# %%
for name in ("bigram", "lm_head", "position"):
    trained = ladder.climb(ladder.find(name))
    count = common.parameters(trained.model)
    print(f"{name:10} {count:,} parameters, validation loss {trained.loss:.3f}")
