# %% [markdown]
# # 13 · Time to think · 1:24:25
#
# After attention a token has gathered what others told it, and the logits come at once. A small
# network in between lets every token think about what it heard, each by itself: a linear layer and
# a ReLU.

# %%
import inspect

import tensorlib as torch
import tensorlib.nn as nn
from lessons import common, ladder
from lessons.model import FeedForward

torch.manual_seed(1337)
B, T, C = 4, 8, 32
x = torch.randn(B, T, C)
ffwd = nn.Sequential(nn.Linear(C, C), nn.ReLU())
print(x.shape, "->", ffwd(x).shape)

# %% [markdown]
# Each by itself: the network is given all tokens at once, and yet token 3 alone has the same
# result.

# %%
print(torch.allclose(ffwd(x)[:, 3], ffwd(x[:, 3]), atol=1e-6))
print(f"channels that ReLU set to 0: {(ffwd(x) == 0).float().mean().item():.0%}")

# %% [markdown]
# Where ReLU gave 0, no gradient comes back: that channel of that token learns nothing this time.
#
# As a module, again with the switches of lesson 14:

# %%
print(inspect.getsource(FeedForward))

# %%
trained = ladder.climb(ladder.find("feed-forward"), verbose=True)
print(f"{common.parameters(trained.model):,} parameters")
print(common.sample(trained.model, 300))
