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
def counting_loss(k, split, add=0.1):
    after, before = Counter(), Counter()
    tokens = train_data.tolist()
    for i in range(k, len(tokens)):
        context = tuple(tokens[i - k : i])
        after[context, tokens[i]] += 1
        before[context] += 1
    tokens, total = split.tolist(), 0.0
    for i in range(k, len(tokens)):
        context = tuple(tokens[i - k : i])
        p = (after[context, tokens[i]] + add) / (before[context] + add * vocab_size)
        total -= math.log(p)
    return total / (len(tokens) - k)


vocab_size = common.corpus().vocab_size
print("characters seen   train    val")
for k in range(common.steps(7)):
    train_loss = counting_loss(k, train_data[:100_000])
    print(f"{k:15}  {train_loss:6.3f} {counting_loss(k, val_data):6.3f}")

# %% [markdown]
# From some length on the training loss goes on falling while the validation loss turns and rises:
# the table learns the text by heart. That turn is *overfitting*, and it is invisible without the
# second column.
