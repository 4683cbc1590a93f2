# %% [markdown]
# # 15 · LayerNorm · 1:32:51
#
# Deep networks train better if their activations keep a sane size. *Batch normalisation* (of the
# video before this one) gives every column, a channel over all examples of the batch, mean 0 and
# standard deviation 1, then lets two learnt vectors, gamma and beta, change that:

# %%
import dataclasses

import tensorlib as torch
import tensorlib.nn as nn
from lessons import common, ladder


class Norm1d:
    """dim 0: BatchNorm (in training), over the batch; dim 1: LayerNorm, over the channels."""

    def __init__(self, size, dim, eps=1e-5):
        self.dim, self.eps = dim, eps
        self.gamma, self.beta = torch.ones(size), torch.zeros(size)

    def __call__(self, x):
        xmean = x.mean(self.dim, keepdim=True)
        xvar = x.var(self.dim, keepdim=True)
        xhat = (x - xmean) / torch.sqrt(xvar + self.eps)
        return self.gamma * xhat + self.beta


def describe(x):
    print(f"column 0: mean {x[:, 0].mean():.4f}, std {x[:, 0].std():.4f}")
    print(f"row 0:    mean {abs(x[0].mean()):.4f}, std {x[0].std():.4f}")


torch.manual_seed(1337)
x = torch.randn(32, 100)  # 32 examples of 100 channels
print("batch norm")
describe(Norm1d(100, dim=0)(x))

# %% [markdown]
# *Layer normalisation* is the same with one number changed: the rows instead of the columns. Each
# token is normalised over its own channels. So examples do not depend on each other, nothing has to
# be remembered for evaluation, and a batch of one is no special case.

# %%
print("layer norm")
describe(Norm1d(100, dim=1)(x))

# %% [markdown]
# A slip (1:34:24): the notebook divides by the unbiased standard deviation (Σ/(n − 1)), as `x.var`
# gives it, and `nn.LayerNorm` by the biased one (Σ/n). For 100 channels they differ by √(100/99):

# %%
ratio = nn.LayerNorm(100)(x) / Norm1d(100, dim=1)(x)
print(f"nn.LayerNorm / notebook = {ratio.mean():.6f}, sqrt(100 / 99) = {(100 / 99) ** 0.5:.6f}")

# %% [markdown]
# What it does to the gradient: of the gradient that arrives, it takes away the mean over the
# channels and the part along the normalised vector itself. Both would only shift or stretch the
# token, and the next normalisation would undo it. (The eps under the root leaves a trace of the
# second.)

# %%
x = x.requires_grad_()
nn.LayerNorm(100)(x).backward(torch.randn(32, 100))
print(
    f"the mean of the gradient over the channels: {x.grad.mean(1).abs().max().item():.0e} at most"
)
along = (x.grad * (x - x.mean(1, keepdim=True))).sum(1).abs().max().item()
print(f"its part along the normalised vector:       {along:.0e} at most")

# %% [markdown]
# ## Before or after
#
# The paper normalises after each sum ("post"). Today it is done before each part ("pre", 1:35:30),
# which leaves the residual stream free from end to end, and then once more before `lm_head`
# (1:37:35). All of them, for 2,000 steps:

# %%
rungs = {
    "none": ladder.find("widen"),
    "post": dataclasses.replace(
        ladder.find("layer-norm"), build=ladder.three_blocks(norm="post", final_norm=False)
    ),
    "pre": dataclasses.replace(
        ladder.find("layer-norm"), build=ladder.three_blocks(final_norm=False)
    ),
    "pre, final": ladder.find("layer-norm"),
}
for name, rung in rungs.items():
    trained = ladder.climb(rung, steps=2000)
    count = common.parameters(trained.model)
    print(f"{name:11} {count:,} parameters, validation loss {trained.loss:.3f}")
print(common.sample(trained.model, 300))

# %% [markdown]
# ## Scaling by C, and by the size of a head (1:20:05)
#
# The video's models scale affinities by C ** -0.5. With 4 heads of 8 channels, head_size ** -0.5 is
# twice as large: the weights of attention begin half as flat. The repository has it right later,
# and draws the first weights from N(0, 0.02):

# %%
for name in ("layer-norm", "head-size", "small-init"):
    print(f"{name:11} validation loss {ladder.climb(ladder.find(name), steps=2000).loss:.3f}")
