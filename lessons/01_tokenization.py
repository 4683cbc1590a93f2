# %% [markdown]
# # 1 · The text as numbers · 7:52
#
# Tiny Shakespeare is an excerpt of Shakespeare's plays, in one file (3:54 of the video says that it
# is all of them; it is about a fifth). The first thousand characters:

# %%
import tensorlib as torch
from lessons import common

text = common.corpus().text
print("length of dataset in characters:", len(text))
print(text[:1000])

# %% [markdown]
# All the characters that occur, sorted. A character's place in this list is its number.

# %%
chars = sorted(set(text))
vocab_size = len(chars)
print("".join(chars))
print(vocab_size)

# %%
stoi = {ch: i for i, ch in enumerate(chars)}
itos = dict(enumerate(chars))


def encode(s):
    return [stoi[c] for c in s]


def decode(ids):
    return "".join(itos[i] for i in ids)


greeting = common.words("hii there")
print(encode(greeting))
print(decode(encode(greeting)))

# %%
data = torch.tensor(encode(text), dtype=torch.long)
print(data.shape, data.dtype)
print(data[:1000])

# %% [markdown]
# ## Larger pieces
#
# A tokenizer with a larger vocabulary needs fewer tokens for the same text (11:52). *Byte-pair
# encoding* begins with single characters and again and again merges the pair that is most frequent.
# Here with 60 merges, learnt from the first 20,000 characters:

# %%
import itertools
from collections import Counter


def merged(tokens, pair):
    out, i = [], 0
    while i < len(tokens):
        step = 2 if tuple(tokens[i : i + 2]) == pair else 1
        out.append("".join(tokens[i : i + step]))
        i += step
    return out


tokens, merges = list(text[:20000]), []
for _ in range(common.steps(60)):
    pair = Counter(itertools.pairwise(tokens)).most_common(1)[0][0]
    merges.append(pair)
    tokens = merged(tokens, pair)


def pieces(s):
    out = list(s)
    for pair in merges:
        out = merged(out, pair)
    return out


print("the first merges:", ["".join(pair) for pair in merges[:12]])
print("characters:  ", list("hii there"))
print("60 merges:   ", pieces("hii there"))

# %% [markdown]
# OpenAI's *tiktoken* holds GPT-2's merges. Its vocabulary is downloaded when it is first used.
# Quoted from the video, for those without a network: 50,257 tokens, and "hii there" is `[71, 4178,
# 612]`.

# %%
try:
    import tiktoken

    enc = tiktoken.get_encoding("gpt2")
    print("GPT-2:", enc.n_vocab, "tokens;", enc.encode("hii there"))
    print([enc.decode([token]) for token in enc.encode("hii there")])
except ImportError:
    print('GPT-2: not run; tiktoken is missing: pip install -e ".[lessons]"')
except OSError:
    print("GPT-2: not run; tiktoken could not download its vocabulary")

# %% [markdown]
# Google's *SentencePiece* learns its pieces from a text; ▁ stands for a space. Here 1,000 of them,
# from tiny Shakespeare:

# %%
import io

try:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text[: 10 * common.steps(200_000)].splitlines()),
        model_writer=model,
        vocab_size=1000,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    print("SentencePiece:", sp.vocab_size(), "pieces;", sp.encode("hii there"))
    print(sp.encode("hii there", out_type=str))
    print(f"{len(sp.encode(text)):,} pieces for {len(text):,} characters")
except ImportError:
    print('SentencePiece: not run; it is missing: pip install -e ".[lessons]"')

# %% [markdown]
# A trade-off: short sequences of many kinds, or long sequences of few. The video stays with 65
# characters, and so do we: everything fits in a table that one can look at.
