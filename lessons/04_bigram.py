# %% [markdown]
# # 4 · The bigram model · 22:11
#
# The simplest language model is a table: row i holds, for every character, a *logit*, how strongly
# it is expected after character i. Nothing else of the past counts.

# %%
import math

import tensorlib as torch
import tensorlib.nn as nn
from lessons import common
from tensorlib.nn import functional as F

corpus = common.corpus()
torch.manual_seed(1337)
xb, yb = corpus.get_batch("train", batch_size=4, block_size=8)

# %% [markdown]
# The loss is `cross_entropy`: −log of the probability that softmax gives to the right character. It
# wants the classes in the second place, and (B, T, C) has them in the third (25:04):

# %%
table = nn.Embedding(corpus.vocab_size, corpus.vocab_size)
logits = table(xb)
print("logits", logits.shape, "targets", yb.shape)
try:
    F.cross_entropy(logits, yb)
except RuntimeError as error:
    print("RuntimeError:", error)

# %% [markdown]
# So all positions of all sequences become rows, (B·T, C), and their targets a list, (B·T).


# %%
class BigramLanguageModel(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx, targets=None):
        logits = self.token_embedding_table(idx)  # (B, T, C)
        if targets is None:
            return logits, None
        B, T, C = logits.shape
        loss = F.cross_entropy(logits.view(B * T, C), targets.view(B * T))
        return logits.view(B * T, C), loss

    def generate(self, idx, max_new_tokens):
        for _ in range(max_new_tokens):
            logits, _ = self(idx)
            probs = F.softmax(logits[:, -1, :], dim=-1)  # (B, C): the last position only
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T + 1)
        return idx


torch.manual_seed(1337)
m = BigramLanguageModel(corpus.vocab_size)
logits, loss = m(xb, yb)
print(logits.shape)
print(loss)

# %% [markdown]
# And what it writes before it has learnt anything, from the newline that is token 0. You see the
# video's letters, because `multinomial` draws from PyTorch's stream:

# %%
idx = torch.zeros((1, 1), dtype=torch.long)
print(corpus.decode(m.generate(idx, max_new_tokens=100)[0]))

# %% [markdown]
# ## Why 4.8786 and not 4.1744
#
# A model that thinks all 65 characters equally likely has the loss ln 65. (At 28:17 the video says
# 4.1217; it is 4.1744.) Our table is not of that opinion: its entries are drawn from N(0, 1), so it
# is sure of things, and wrong. In the mean over many such tables the loss is higher by about half:
# E[log Σ exp zᵢ] ≈ ln 65 + 1/2 for normal z, and the logit of the right one is 0 in the mean. With
# 32 examples it then lands where chance puts it.

# %%
print(f"ln {corpus.vocab_size} = {math.log(corpus.vocab_size):.4f}")
z = torch.zeros(32, corpus.vocab_size)
print(f"all logits 0: {F.cross_entropy(z, yb.view(32)).item():.4f}")
losses = []
for seed in range(common.steps(200)):
    torch.manual_seed(seed)
    losses.append(F.cross_entropy(torch.randn(32, corpus.vocab_size), yb.view(32)).item())
losses = torch.tensor(losses)
print(f"normal logits, {len(losses)} draws: {losses.mean():.4f} ± {losses.std():.4f}")
print(f"this table on this batch: {loss.item():.4f}")
