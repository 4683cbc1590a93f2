# %% [markdown]
# # 2 · What the model never sees · 9:28–14:27
#
# The first nine tenths are to learn from, the rest only to measure: a model that can recite the
# text has learnt nothing about writing.

# %%
import math
from collections import Counter

from lessons import common

data = common.corpus().data
n = int(0.9 * len(data))
train_data = data[:n]
val_data = data[n:]
print(len(data), "=", len(train_data), "to train +", len(val_data), "to validate")

# %% [markdown]
# Why both losses are needed, with nothing but counting: predict a character from the k before it,
# as often as it followed them in the training text (and add a little to every count, so that what
# never happened is not impossible). The loss is the mean of −log p, as in all that follows; a model
# that knows nothing has log 65 = 4.17.


# %%
def pairs(split, k):
    """Every context of k characters, and the one that follows it."""
    tokens = split.tolist()
    return [(tuple(tokens[i - k : i]), tokens[i]) for i in range(k, len(tokens))]


def loss_of(examples, following, contexts, add=0.01):
    total = 0.0
    for context, target in examples:
        p = (following[context, target] + add) / (contexts[context] + add * vocab_size)
        total -= math.log(p)
    return total / len(examples)


vocab_size = common.corpus().vocab_size
print("characters seen   train    val")
for k in range(common.steps(7)):
    seen = pairs(train_data, k)
    following, contexts = Counter(seen), Counter(context for context, _ in seen)
    train_loss = loss_of(seen[:100_000], following, contexts)
    print(f"{k:15}  {train_loss:6.3f} {loss_of(pairs(val_data, k), following, contexts):6.3f}")

# %% [markdown]
# From some length on the training loss goes on falling while the validation loss turns and rises:
# the table learns the text by heart. That turn is *overfitting*, and it is invisible without the
# second column. (The row of 1 is a bigram model, counted: lesson 5 gets there by learning.)
