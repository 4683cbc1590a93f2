# %% [markdown]
# # 18 · From ours to GPT-3 · 1:46:22
#
# nanoGPT is the model of lesson 16 with the heads computed as one batch dimension; `gpt/model.py`
# here is written like that. GPT-2 and GPT-3 are the same, larger. How many parameters have they? No
# need to build them: a block of C channels has
#
# - attention: 4 matrices (query, key, value, projection) of C × C, 4 vectors of C;
# - the feed-forward part: 2 matrices of C × 4C, a vector of 4C and one of C;
# - two LayerNorms of 2 C each.

# %%
import tensorlib as torch
from gpt import GPT, GPTConfig
from lessons import common, ladder


def count(n_layer, n_embd, vocab_size=50257, block_size=1024):
    """The parameters of a GPT-2 or GPT-3 of this size; the head shares the token table."""
    C = n_embd
    attention = 4 * C * C + 4 * C
    mlp = 8 * C * C + 4 * C + C
    block = attention + mlp + 2 * 2 * C
    return vocab_size * C + block_size * C + n_layer * block + 2 * C


# %% [markdown]
# Is the formula right? On a small model that can be built:

# %%
config = GPTConfig(
    vocab_size=100, block_size=32, n_layer=3, n_head=4, n_embd=48, qkv_bias=True, tied_head=True
)
built = sum(p.numel() for p in GPT(config).parameters())
print("built", built, "- formula", count(3, 48, vocab_size=100, block_size=32))

# %% [markdown]
# Ours, and GPT-2's four sizes (1:49:26; the sizes are quoted from its paper, of 2019):

# %%
ours = ladder.FULL.build(65)
print(f"the video's model: {common.parameters(ours) / 1e6} M parameters")
for name, n_layer, n_embd in (
    ("GPT-2", 12, 768),
    ("GPT-2 medium", 24, 1024),
    ("GPT-2 large", 36, 1280),
    ("GPT-2 xl", 48, 1600),
):
    print(
        f"{name:13} {n_layer} layers, {n_embd:4} channels: {count(n_layer, n_embd):13,} parameters"
    )

# %% [markdown]
# GPT-3's table (1:50:30). Names, sizes, batches (in tokens) and learning rates are quoted from
# Brown et al. (2020), table 2.1; the last two columns are computed here. The context is 2,048
# tokens. Two rows of the paper's table do not fit together: XL's 24 heads of 128 are 3,072 channels
# and not 2,048 (16 heads would be, and give its 1.3 billion), and 13B's 40 of 128 are 5,120 and not
# 5,140.

# %%
GPT3 = [  # name, layers, channels, heads, size of a head, batch, learning rate
    ("Small 125M", 12, 768, 12, 64, "0.5M", 6.0e-4),
    ("Medium 350M", 24, 1024, 16, 64, "0.5M", 3.0e-4),
    ("Large 760M", 24, 1536, 16, 96, "0.5M", 2.5e-4),
    ("XL 1.3B", 24, 2048, 24, 128, "1M", 2.0e-4),
    ("2.7B", 32, 2560, 32, 80, "1M", 1.6e-4),
    ("6.7B", 32, 4096, 32, 128, "2M", 1.2e-4),
    ("13B", 40, 5140, 40, 128, "2M", 1.0e-4),
    ("175B", 96, 12288, 96, 128, "3.2M", 0.6e-4),
]
print("name         layers  channels  heads  d_head  batch  rate      parameters  in float32")
for name, n_layer, n_embd, n_head, d_head, batch, rate in GPT3:
    n = count(n_layer, n_embd, block_size=2048)
    row = f"{name:12} {n_layer:6} {n_embd:9} {n_head:6} {d_head:7} {batch:>6} {rate:.1e}"
    print(f"{row} {n:15,} {n * 4 / 1e9:8.1f} GB")

# %% [markdown]
# And the text: tiny Shakespeare is about 300,000 of GPT-2's tokens (338,025 in nanoGPT's, quoted).
# GPT-3 saw 300 billion:

# %%
print(f"{300e9 / 338_025:,.0f} times as many tokens")
print(f"{count(96, 12288, block_size=2048) / common.parameters(ours):,.0f} times the parameters")
tokens_seen = 64 * 256 * 5000
print(
    f"the video's model sees {tokens_seen:,} characters: "
    f"the training text {tokens_seen / 1_003_854:.0f} times"
)

# %% [markdown]
# ## A document completer is no assistant (1:51:30)
#
# After this *pretraining* a model continues documents. A question is to it the beginning of a
# document, perhaps one with more questions:

# %%
trained = ladder.climb(ladder.find("layer-norm"), steps=2000)
torch.manual_seed(1337)
print(common.sample(trained.model, 200, prompt="What is the capital of France?\n"))

# %% [markdown]
# What comes after (1:52 on; not run here, or anywhere on one machine): *fine-tuning* on documents
# that are questions with good answers; a *reward model*, trained on people's rankings of answers;
# and *PPO*, which changes the model so that its answers score high with it. The first of these
# steps is the same loop as in lesson 5, with other text.
