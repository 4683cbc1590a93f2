# %% [markdown]
# # 6 · From notebook to script · 38:00
#
# The loss of one batch jumps up and down with the batch. `estimate_loss` takes the mean over many,
# for both splits, in evaluation mode and without recording. What each of these is good for:

# %%
import tracemalloc

import tensorlib as torch
from lessons import common
from lessons.model import BigramLanguageModel, LanguageModel, blocks
from tensorlib import nn

corpus = common.corpus()

# %% [markdown]
# The script, with its numbers. `device` is where all of it computes: model and batches move there.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(1337)
model = BigramLanguageModel(corpus.vocab_size).to(device)
common.train(model, learning_rate=1e-2, max_iters=3000, eval_interval=300, device=device)
print(common.sample(model, 500))

# %% [markdown]
# How noisy is one batch, how noisy the mean over 200? The same model, the same split, twenty times
# each:

# %%
torch.manual_seed(0)


def spread(batches):
    losses = [
        common.estimate_loss(model, 32, 8, common.steps(batches), device)["val"]
        for _ in range(common.steps(20))
    ]
    deviation = torch.tensor(losses).std()
    return f"{min(losses):.3f} to {max(losses):.3f}, standard deviation {deviation:.4f}"


print("one batch:  ", spread(1))
print("200 batches:", spread(200))

# %% [markdown]
# The standard deviation falls with the square root of the number of batches: √200 ≈ 14.
#
# `model.eval()` tells the layers that nothing is learnt now. Most do not care; dropout does: in
# training the same input seldom gives the same output twice, in evaluation always.

# %%
layer = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
x = torch.ones(1, 4)
for training in (True, False):
    layer.train(training)
    repeats = [torch.equal(layer(x), layer(x)) for _ in range(6)]
    print("train():" if training else "eval(): ", repeats)

# %% [markdown]
# `torch.no_grad()` tells the tape that nobody will call backward, so that it keeps no intermediate
# result. For the last small model of the video (lesson 15), the memory in use after one forward
# pass of 32 × 8:

# %%
model = LanguageModel(corpus.vocab_size, body=lambda: blocks(3, 32, 4, 8))
xb, yb = corpus.get_batch("train", 32, 8)


def memory_of_a_forward_pass():
    tracemalloc.start()
    result = model(xb, yb)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return f"{held / 1e6:.1f} MB held for backward and results, {peak / 1e6:.1f} MB at the peak"


print("recording:    ", memory_of_a_forward_pass())
with torch.no_grad():
    print("under no_grad:", memory_of_a_forward_pass())
