# %% [markdown]
# # 16 · Scaling up · 1:37:49
#
# The model is complete; now it becomes larger, and *dropout* keeps it from learning the text by
# heart. In training dropout sets each number to 0 with probability p and divides the others by 1 −
# p, so that the mean stays; in evaluation it does nothing.

# %%
import dataclasses

import tensorlib as torch
import tensorlib.nn as nn
from gpt.fast import machine
from lessons import common, ladder

torch.manual_seed(1337)
drop = nn.Dropout(0.2)
x = torch.ones(10)
print("training:  ", drop(x))
print("evaluation:", drop.eval()(x))
many = nn.Dropout(0.2)(torch.ones(100_000))
print(f"dropped {(many == 0).float().mean():.3f}, mean {many.mean():.3f}")

# %% [markdown]
# It stands in three places: on the weights of attention, and at the end of both parts of a block.
#
# ## The video's size
#
# 6 layers of 6 heads, 384 channels, a context of 256, batches of 64: the loss 1.48 (1:40:32), after
# 15 minutes on a GPU. Its parameters, counted on the model itself:

# %%
corpus = common.corpus()
model = ladder.FULL.build(corpus.vocab_size)
print(f"{common.parameters(model) / 1e6} M parameters")
for name, part in model.named_children():
    print(f"  {name:25} {common.parameters(part):10,}")

# %% [markdown]
# "I would not run this on the CPU": how many hours would it take here? From the time of one step
# and one evaluation batch (so this figure is the machine's that ran the lesson):

# %%
full = ladder.CPU if common.options.quick else ladder.FULL  # a test has no time
if not common.options.quick:
    machine.prepare(threads=machine.cores())  # as train.py does: from here on, faster
print(f"about {ladder.hours(full):.0f} hours on this CPU")

# %% [markdown]
# ## A size for a CPU
#
# 4 layers of 4 heads, 128 channels, a context of 64, 16 sequences in a batch, and 400 steps
# (`python -m lessons table --rungs scaled-up-cpu` takes 1,000; on a GPU `--rungs scaled-up` trains
# the video's):

# %%
rung = dataclasses.replace(ladder.CPU, max_iters=400, eval_interval=100, eval_iters=20)
trained = ladder.climb(rung, verbose=True)
print(f"{common.parameters(trained.model):,} parameters")

# %% [markdown]
# The video begins (0:00) with one prompt that gets a different answer each time. So it does here: a
# model gives probabilities, and a seed draws from them.

# %%
for seed in (1, 2):
    torch.manual_seed(seed)
    print(f"--- seed {seed}")
    print(common.sample(trained.model, 200, rung.block_size, prompt="ROMEO:\n"))

# %% [markdown]
# The video writes 10,000 characters to a file (1:41:15). With a model that `python train.py` has
# trained:
#
#     python sample.py --max-new-tokens 10000 > more.txt
