# %% [markdown]
# # 5 · Training the bigram model · 34:53
#
# Up to here nothing was learnt. Now the loop: a batch, the loss, its gradient for every entry of
# the table, a small step against it. The numbers continue the video's stream: batch, model, a
# hundred letters, as in lesson 4.

# %%
import tensorlib as torch
from lessons import common
from lessons.model import BigramLanguageModel

corpus = common.corpus()


def fresh_model():
    torch.manual_seed(1337)
    m = BigramLanguageModel(corpus.vocab_size)
    common.sample(m, 100)  # what lesson 4 drew: the stream goes on after it
    return m


def train(m, optimizer, max_steps, report):
    batch_size = 32
    for step in range(1, common.steps(max_steps) + 1):
        xb, yb = corpus.get_batch("train", batch_size, block_size=8)
        _, loss = m(xb, yb)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step == 1 or step in report:
            print(f"after {step:6,} steps: loss {loss.item():.4f}")
    return m


# %% [markdown]
# The gradient of the loss for the table, before any step: only rows of characters that occur in the
# batch have one. In each of them the entry of the right character is pulled up (negative gradient),
# and all others are pushed down in proportion to their probability.

# %%
m = fresh_model()
xb, yb = corpus.get_batch("train", 4, 8)
m(xb, yb)[1].backward()
grad = m.token_embedding_table.weight.grad
rows = grad.abs().sum(1) > 0
print("rows with a gradient:", int(rows.sum()))
print("different characters:", len(set(xb.view(32).tolist())))
print("the sum over each row:", f"{grad.sum(1).abs().max().item():.0e}", "at most")

# %% [markdown]
# AdamW with a rate of 1e-3, as in the notebook:

# %%
m = fresh_model()
train(m, torch.optim.AdamW(m.parameters(), lr=1e-3), 10_000, {100, 1000, 10_000})
print(common.sample(m, 300))

# %% [markdown]
# From 4.7 to 4.6 after a hundred steps, and to about 2.5 after ten thousand: no Shakespeare, but it
# has the look of one. Why AdamW and not the plain step p ← p − lr · grad (34:36)? Each entry of the
# table has a small gradient, and AdamW divides it by its usual size, so that every entry moves by
# about lr; a plain step of this kind must be a thousand times longer to keep up.

# %%
for lr in (1e-3, 1.0, 10.0):
    print(f"SGD, lr {lr:g}")
    m = fresh_model()
    train(m, torch.optim.SGD(m.parameters(), lr=lr), 10_000, {100, 1000, 10_000})
