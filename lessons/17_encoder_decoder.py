# %% [markdown]
# # 17 · Encoder and decoder · 1:42:39
#
# Our model is a decoder: it continues. The paper's is a translator, with a second half: an
# *encoder* reads the French sentence, without a mask, since it is all there; the decoder writes the
# English one, from a start token to an end token, and its *cross-attention* asks the encoder.
# Queries come from the decoder, keys and values from the encoder.
#
# A task small enough to learn in a minute: the numbers from 0 to 999 in words. French counts in
# twenties, so "quatre vingt dix sept" is 97, and words do not stand for words one by one.

# %%
import tensorlib as torch
import tensorlib.nn as nn
from lessons import common
from tensorlib.nn import functional as F

# fmt: off
ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
           "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
           "eighteen", "nineteen"]
ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
FRENCH = ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix",
          "onze", "douze", "treize", "quatorze", "quinze", "seize"]
FRENCH_TENS = ["vingt", "trente", "quarante", "cinquante", "soixante"]
# fmt: on


def english(n):
    if n >= 100:
        return [ENGLISH[n // 100], "hundred", *(english(n % 100) if n % 100 else [])]
    if n >= 20:
        return [ENGLISH_TENS[n // 10 - 2], *(ENGLISH[n % 10 : n % 10 + 1] if n % 10 else [])]
    return [ENGLISH[n]]


def french(n):
    if n >= 100:
        hundreds = ["cent"] if n < 200 else [FRENCH[n // 100], "cent"]
        return hundreds + (french(n % 100) if n % 100 else [])
    if n <= 16:
        return [FRENCH[n]]
    if n < 20:
        return ["dix", FRENCH[n - 10]]
    tens, rest = (4, n - 80) if n >= 80 else (6, n - 60) if n >= 60 else divmod(n, 10)
    words = ["quatre", "vingt"] if tens == 4 and n >= 80 else [FRENCH_TENS[tens - 2]]
    if rest in (1, 11) and n < 80:
        words.append("et")
    return words + (french(rest) if rest else [])


for n in (7, 21, 71, 80, 97, 342):
    print(n, "·", " ".join(french(n)), "·", " ".join(english(n)))

# %% [markdown]
# Tokens are words. Each side has a token that fills up short sentences, and the English side has
# `<START>` and `<END>`. The decoder gets the translation shifted by one: at every place it should
# name the next word, as in all lessons before. A hundred of the thousand numbers are held out.

# %%
PAD, START, END = "<PAD>", "<START>", "<END>"
french_words = [PAD, *sorted({w for n in range(1000) for w in french(n)})]
english_words = [PAD, START, END, *sorted({w for n in range(1000) for w in english(n)})]
source_length = max(len(french(n)) for n in range(1000))
target_length = max(len(english(n)) for n in range(1000)) + 1


def ids(words, vocabulary, length):
    return [vocabulary.index(w) for w in words] + [0] * (length - len(words))


source = torch.tensor([ids(french(n), french_words, source_length) for n in range(1000)])
inputs = torch.tensor(
    [ids([START, *english(n)], english_words, target_length) for n in range(1000)]
)
targets = torch.tensor([ids([*english(n), END], english_words, target_length) for n in range(1000)])

torch.manual_seed(1337)
order = torch.randperm(1000)
held_out, known = order[:100], order[100:]
print(source.shape, "French words ->", targets.shape, "English words")
print("source ", source[97].tolist())
print("inputs ", [english_words[i] for i in inputs[97].tolist()])
print("targets", [english_words[i] for i in targets[97].tolist()])

# %% [markdown]
# One module does all three kinds of attention. They differ in two things only: where keys and
# values come from, and the mask.


# %%
class Attention(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.n_head = n_head
        self.query = nn.Linear(n_embd, n_embd, bias=False)
        self.key = nn.Linear(n_embd, n_embd, bias=False)
        self.value = nn.Linear(n_embd, n_embd, bias=False)
        self.proj = nn.Linear(n_embd, n_embd)

    def forward(self, x, memory, mask):
        """x (B, T, C) looks at memory (B, S, C) where the mask (…, T, S) is True."""
        q, k, v = (
            t.view(*t.shape[:2], self.n_head, -1).transpose(1, 2)  # (B, n_head, T or S, size)
            for t in (self.query(x), self.key(memory), self.value(memory))
        )
        wei = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (B, n_head, T, S)
        self.wei = F.softmax(wei.masked_fill(~mask, float("-inf")), dim=-1)  # kept, to be drawn
        out = (self.wei @ v).transpose(1, 2).reshape(x.shape)  # heads side by side again
        return self.proj(out)


class Block(nn.Module):
    """Lesson 15's, and in the decoder a third part between the two: cross-attention."""

    def __init__(self, n_embd, n_head, cross):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.sa = Attention(n_embd, n_head)
        self.ffwd = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd), nn.ReLU(), nn.Linear(4 * n_embd, n_embd)
        )
        self.ln3 = nn.LayerNorm(n_embd) if cross else None
        self.cross = Attention(n_embd, n_head) if cross else None

    def forward(self, x, mask, memory=None, memory_mask=None):
        normed = self.ln1(x)
        x = x + self.sa(normed, normed, mask)
        if memory is not None:
            x = x + self.cross(self.ln3(x), memory, memory_mask)
        return x + self.ffwd(self.ln2(x))


class Translator(nn.Module):
    def __init__(self, n_embd=64, n_head=4, n_layer=2):
        super().__init__()
        self.source_embedding = nn.Embedding(len(french_words), n_embd)
        self.source_position = nn.Embedding(source_length, n_embd)
        self.target_embedding = nn.Embedding(len(english_words), n_embd)
        self.target_position = nn.Embedding(target_length, n_embd)
        self.encoder = nn.ModuleList([Block(n_embd, n_head, cross=False) for _ in range(n_layer)])
        self.decoder = nn.ModuleList([Block(n_embd, n_head, cross=True) for _ in range(n_layer)])
        self.ln_source, self.ln_target = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, len(english_words))

    def forward(self, source, inputs):
        """source (B, S) and inputs (B, T); logits (B, T, V)."""
        B, S = source.shape
        T = inputs.shape[1]
        there = (source != 0).view(B, 1, 1, S)  # nobody looks at the filling
        memory = self.source_embedding(source) + self.source_position(torch.arange(S))
        for block in self.encoder:
            memory = block(memory, mask=there)  # no triangle: every word sees every word
        memory = self.ln_source(memory)
        triangle = torch.tril(torch.ones(T, T)) == 1
        x = self.target_embedding(inputs) + self.target_position(torch.arange(T))
        for block in self.decoder:
            x = block(x, triangle, memory, there)
        return self.lm_head(self.ln_target(x))


# %%
torch.manual_seed(1337)
model = Translator()
print(f"{common.parameters(model):,} parameters")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def loss_of(rows):
    logits = model(source[rows], inputs[rows])
    return F.cross_entropy(
        logits.view(-1, logits.shape[-1]), targets[rows].view(-1), ignore_index=0
    )


for step in range(1, common.steps(1000) + 1):
    rows = known[torch.randint(len(known), (64,))]
    loss = loss_of(rows)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 200 == 0 or step == 1:
        with torch.no_grad():
            print(f"step {step}: loss {loss.item():.4f}, held out {loss_of(held_out).item():.4f}")

# %% [markdown]
# To translate, the decoder begins with `<START>` and continues, like every model here, until it
# says `<END>`. Each step the likeliest word:


# %%
@torch.no_grad()
def translate(n):
    said = [START]
    for _ in range(target_length):
        padded = ids(said, english_words, target_length)
        logits = model(source[n : n + 1], torch.tensor([padded]))
        said.append(english_words[logits[0, len(said) - 1].argmax().item()])
        if said[-1] == END:
            break
    return [w for w in said if w not in (START, END)]


right = [n for n in held_out.tolist() if translate(n) == english(n)]
print(f"{len(right)} of {len(held_out)} numbers that it never saw are translated without a mistake")
print("wrong:", sorted(set(held_out.tolist()) - set(right)))
for n in held_out[:8].tolist():
    print(f"{n}: {' '.join(french(n))} -> {' '.join(translate(n))}")

# %% [markdown]
# (0 is among those held out, and its word occurs in no other number: that one nobody could know.)
#
# What does the decoder look at while it writes? The weights of cross-attention in its last block,
# the mean over the heads, for the number 97: each row is the word that it is about to say.

# %%
with torch.no_grad():
    model(source[97:98], inputs[97:98])
words, written = french(97), [*english(97), END]
wei = model.decoder[-1].cross.wei[0].mean(0)  # (T, S)
print(common.heat_map(wei[: len(written), : len(words)], written, words))
