"""Every name that the video's scripts and notebook use, in a program of our own, in both libraries.

The three import lines are the only difference: see `ours` and `theirs`. The text is ours and small;
the same seed must give the same batches, the same losses, the same letters.
"""

import re

import numpy as np
import pytest
from harness import to_array

TEXT = """To write a thing that learns to write, begin with what it reads: letters, one after the
other, and nothing else. It counts which letter follows which; it forgets; it is corrected.
Who would have thought that from such counting a sentence could come? "Not I," said the clerk.
"Nor I," said the miller's daughter, & went on counting: 1, 2, 3 - and so on until evening!
"""
LETTERS = (
    "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # tiny Shakespeare's 65
)


def ours():
    import tensorlib as torch
    import tensorlib.nn as nn
    from tensorlib.nn import functional as F

    return torch, nn, F


def theirs():
    import torch
    import torch.nn as nn
    from torch.nn import functional as F

    return torch, nn, F


def both(fn):
    """What `fn(torch, nn, F)` gives in PyTorch and in tensorlib."""
    return fn(*theirs()), fn(*ours())


def same(fn):
    expected, got = map(without_devices, both(fn))
    assert got == expected
    return got


def without_devices(result):
    """What tensors look like on the CPU, which they do not name."""
    if isinstance(result, (tuple, list)):
        return type(result)(map(without_devices, result))
    return re.sub(r",\s+device='cuda:0'", "", result) if isinstance(result, str) else result


# ---- the two scripts ----------------------------------------------------------------------------


class Corpus:
    """The text as integers, its split, and the batches and losses of both scripts."""

    def __init__(self, torch, block_size, batch_size):
        self.torch, self.block_size, self.batch_size = torch, block_size, batch_size
        self.device = "cpu" if torch.cuda.is_available() in (True, False) else None
        self.chars = sorted(set(TEXT))
        ids = {c: i for i, c in enumerate(self.chars)}
        data = torch.tensor([ids[c] for c in TEXT], dtype=torch.long)
        n = int(0.8 * len(data))
        self.parts = {"train": data[:n], "val": data[n:]}

    def batch(self, split):
        torch, data, T = self.torch, self.parts[split], self.block_size
        starts = torch.randint(len(data) - T, (self.batch_size,))
        x = torch.stack([data[i : i + T] for i in starts])
        y = torch.stack([data[i + 1 : i + T + 1] for i in starts])
        return x.to(self.device), y.to(self.device)

    def estimate(self, model, rounds=3):
        @self.torch.no_grad()
        def measure():
            means = {}
            model.eval()
            for split in self.parts:
                losses = self.torch.zeros(rounds)
                for k in range(rounds):
                    _, loss = model(*self.batch(split))
                    losses[k] = loss.item()
                means[split] = losses.mean()
            model.train()
            return means

        return [f"{split} {value:.3f}" for split, value in measure().items()]

    def decode(self, ids):
        return "".join(self.chars[i] for i in ids)


def generating(torch, F, nn):
    """The part that both models share: the loss over (B·T, C), and drawing letter after letter."""

    class Generating(nn.Module):
        def score(self, logits, targets):
            if targets is None:
                return logits, None
            B, T, C = logits.shape
            logits, targets = logits.view(B * T, C), targets.view(B * T)
            return logits, F.cross_entropy(logits, targets)

        def generate(self, idx, max_new_tokens, block_size):
            for _ in range(max_new_tokens):
                logits, loss = self(idx[:, -block_size:])
                assert loss is None
                probs = F.softmax(logits[:, -1, :], dim=-1)
                idx = torch.cat((idx, torch.multinomial(probs, num_samples=1)), dim=1)
            return idx

    return Generating


def bigram(torch, nn, F, vocab_size):
    class Bigram(generating(torch, F, nn)):
        def __init__(self):
            super().__init__()
            self.token_embedding_table = nn.Embedding(vocab_size, vocab_size)

        def forward(self, idx, targets=None):
            return self.score(self.token_embedding_table(idx), targets)

    return Bigram()


def gpt(torch, nn, F, vocab_size, block_size=8, width=12, heads=3, layers=2, dropout=0.0):
    class Head(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.key, self.query, self.value = (nn.Linear(width, size, bias=False) for _ in "kqv")
            self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            T = x.shape[1]
            k, q = self.key(x), self.query(x)
            wei = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
            wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
            return self.dropout(F.softmax(wei, dim=-1)) @ self.value(x)

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList([Head(width // heads) for _ in range(heads)])
            self.proj = nn.Linear(width, width)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            return self.dropout(self.proj(torch.cat([head(x) for head in self.heads], dim=-1)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.sa = Heads()
            wide = [nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)]
            self.ffwd = nn.Sequential(*wide, nn.Dropout(dropout))
            self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)

        def forward(self, x):
            x = x + self.sa(self.ln1(x))
            return x + self.ffwd(self.ln2(x))

    class GPT(generating(torch, F, nn)):
        def __init__(self):
            super().__init__()
            self.token_embedding_table = nn.Embedding(vocab_size, width)
            self.position_embedding_table = nn.Embedding(block_size, width)
            self.blocks = nn.Sequential(*[Block() for _ in range(layers)])
            self.ln_f = nn.LayerNorm(width)
            self.lm_head = nn.Linear(width, vocab_size)
            self.apply(self.start_small)

        def start_small(self, module):
            if isinstance(module, (nn.Linear, nn.Embedding)):
                torch.nn.init.normal_(module.weight, mean=0.0, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                torch.nn.init.zeros_(module.bias)

        def forward(self, idx, targets=None):
            _, T = idx.shape
            tokens = self.token_embedding_table(idx)
            positions = self.position_embedding_table(torch.arange(T, device="cpu"))
            return self.score(self.lm_head(self.ln_f(self.blocks(tokens + positions))), targets)

    return GPT()


def script(build, rate, steps=30, letters=60, block_size=8):
    """A whole script: what it measures on the way, the loss of each step, what it writes."""

    def run(torch, nn, F):
        torch.manual_seed(1337)
        corpus = Corpus(torch, block_size, batch_size=4)
        model = build(torch, nn, F, len(corpus.chars))
        m = model.to(corpus.device)
        report = [f"{sum(p.numel() for p in m.parameters()) / 1e6} M parameters"]
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        losses = []
        for step in range(steps):
            if step % 10 == 0:
                report.append(f"step {step}: " + ", ".join(corpus.estimate(model)))
            xb, yb = corpus.batch("train")
            _, loss = model(xb, yb)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        context = torch.zeros((1, 1), dtype=torch.long, device=corpus.device)
        text = corpus.decode(m.generate(context, letters, block_size)[0].tolist())
        return report, losses, text

    return run


@pytest.mark.parametrize(("build", "rate"), [(bigram, 1e-1), (gpt, 3e-3)], ids=["bigram", "gpt"])
def test_the_script_prints_what_it_prints_under_pytorch(build, rate):
    (report, losses, text), (our_report, our_losses, our_text) = both(script(build, rate))
    np.testing.assert_allclose(our_losses, losses, rtol=0, atol=1e-3)
    assert our_report == report
    assert our_text == text
    assert len(text) == 61
    assert np.mean(our_losses[-5:]) < np.mean(our_losses[:5]) - 0.1


def test_the_script_with_dropout_learns():
    """Dropout's masks are not PyTorch's, so only ours runs: it learns, and the seed repeats it."""

    def build(torch, nn, F, vocab_size):
        return gpt(torch, nn, F, vocab_size, dropout=0.2)

    first, again = (script(build, 3e-3, letters=1)(*ours()) for _ in range(2))
    assert first == again
    assert np.mean(first[1][-5:]) < first[1][0] - 0.2
    assert first[1] != script(gpt, 3e-3, letters=1)(*ours())[1]


def test_state_dict_names_of_the_video():
    same(lambda torch, nn, F: list(gpt(torch, nn, F, 5).state_dict()))
    same(lambda torch, nn, F: repr(gpt(torch, nn, F, 5, layers=3)))


# ---- the notebook's cells -----------------------------------------------------------------------

BATCH = [  # the video's first batch; the targets are it, shifted by one
    [24, 43, 58, 5, 57, 1, 46, 43, 39],
    [44, 53, 56, 1, 58, 46, 39, 58, 1],
    [52, 58, 1, 58, 46, 39, 58, 1, 46],
    [25, 17, 27, 10, 0, 21, 1, 54, 39],
]


def test_the_tensor_of_the_text_and_its_printing():
    def cells(torch, nn, F):
        data = torch.tensor([LETTERS.index(c) for c in "hii there, who is it"], dtype=torch.long)
        return data.tolist(), tuple(data.shape), str(data.dtype).split(".")[-1], repr(data[:9])

    assert same(cells)[0][:4] == [46, 47, 47, 1]


def test_nine_letters_hold_eight_examples():
    def cells(torch, nn, F):
        block = torch.tensor(BATCH)[0]
        x, y = block[:8], block[1:9]
        lines = [f"{x[: t + 1]} -> {y[t]}" for t in range(8)]
        return lines, [x[: t + 1].tolist() for t in range(8)], y[7].item()

    assert same(cells)[0][0] == "tensor([24]) -> 43"


def test_the_first_loss_and_the_first_letters_of_the_bigram():
    """4.8786, and a hundred letters that begin as on the viewer's screen."""

    def cells(torch, nn, F):
        batch = torch.tensor(BATCH)
        torch.manual_seed(1337)
        m = bigram(torch, nn, F, 65)
        logits, loss = m(batch[:, :-1], batch[:, 1:].clone())
        idx = m.generate(torch.zeros((1, 1), dtype=torch.long), 100, block_size=1)
        text = "".join(LETTERS[i] for i in idx[0].tolist())
        return (
            tuple(logits.shape),
            f"{loss.item():.4f}",
            re.sub(r"grad_fn=.*", "", repr(loss)),
            text,
        )

    shape, loss, _, text = same(cells)
    assert (shape, loss) == ((32, 65), "4.8786")
    assert text.startswith("\nSKIcLT;AcELMoTbvZv C?nq-QE33:CJqkOKH-q;:la!oiywkHjgChzbQ?u!3b")


def test_the_batch_of_the_seed():
    """The offsets that the video's seed draws in tiny Shakespeare's 1,003,854 training letters."""
    same(
        lambda torch, nn, F: (torch.manual_seed(1337), torch.randint(1003854 - 8, (4,)).tolist())[1]
    )


def test_the_shape_error_of_the_video():
    """(B, T, C) logits against (B, T) targets: the classes are not where they are looked for."""
    for torch, _, F in (theirs(), ours()):
        with pytest.raises(RuntimeError):
            F.cross_entropy(torch.zeros(4, 8, 65), torch.zeros(4, 8, dtype=torch.long))


@pytest.mark.parametrize(
    ("weights", "product"),
    [
        ("ones", [[14.0, 16.0]] * 3),
        ("tril", [[2.0, 7.0], [8.0, 11.0], [14.0, 16.0]]),
        ("rows", [[2.0, 7.0], [4.0, 5.5], [14 / 3, 16 / 3]]),
    ],
)
def test_the_toy_matrices(weights, product):
    def cells(torch, nn, F):
        torch.manual_seed(42)
        a = torch.ones(3, 3)
        if weights != "ones":
            a = torch.tril(a)
        if weights == "rows":
            a = a / torch.sum(a, 1, keepdim=True)
        b = torch.randint(0, 10, (3, 2)).float()
        c = a @ b
        assert np.array(product) == pytest.approx(to_array(c), rel=1e-6)
        return [repr(m) for m in (a, b, c)]

    same(cells)


def test_averages_of_the_past_in_four_ways():
    def cells(torch, nn, F):
        torch.manual_seed(1337)
        B, T, C = 4, 8, 2
        x = torch.randn(B, T, C)
        loop = torch.zeros((B, T, C))
        for b in range(B):
            for t in range(T):
                loop[b, t] = torch.mean(x[b, : t + 1], 0)
        wei = torch.tril(torch.ones(T, T))
        wei = wei / wei.sum(1, keepdim=True)
        masked = torch.zeros((T, T)).masked_fill(torch.tril(torch.ones(T, T)) == 0, float("-inf"))
        soft = F.softmax(masked, dim=-1)
        for other in (wei @ x, soft @ x, x.cumsum(1) / torch.arange(1, T + 1).view(T, 1)):
            assert torch.allclose(loop, other, atol=1e-6)
        return x.shape == (B, T, C), repr(masked), np.round(loop.tolist(), 5).tolist()

    same(cells)


def test_one_head_step_by_step():
    """Affinities raw, masked, softmaxed; the weights of the first sequence and the outputs."""

    def cells(torch, nn, F):
        torch.manual_seed(1337)
        B, T, C, size = 4, 8, 32, 16
        x = torch.randn(B, T, C)
        key, query, value = (nn.Linear(C, size, bias=False) for _ in range(3))
        wei = query(x) @ key(x).transpose(-2, -1)  # (B, T, T)
        tril = torch.tril(torch.ones(T, T))
        wei = F.softmax(wei.masked_fill(tril == 0, float("-inf")), dim=-1)
        out = wei @ value(x)
        assert out.shape == (B, T, size)
        return to_array(wei[0]), to_array(out)

    for a, b in zip(*both(cells), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


def test_scaling_keeps_the_variance_and_the_softmax_soft():
    def cells(torch, nn, F):
        torch.manual_seed(1337)
        k, q = torch.randn(4, 8, 16), torch.randn(4, 8, 16)
        raw = q @ k.transpose(-2, -1)
        variances = [m.var().item() for m in (k, q, raw, raw * 16**-0.5)]
        row = torch.tensor([0.1, -0.2, 0.3, -0.2, 0.5])
        return [
            *variances,
            *torch.softmax(row, dim=-1).tolist(),
            *torch.softmax(row * 8, -1).tolist(),
        ]

    expected, got = both(cells)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_layer_norm_of_the_notebook_is_the_unbiased_one():
    """Typed out with x.var: rows of mean 0 and standard deviation 1, a factor off nn.LayerNorm."""

    def cells(torch, nn, F):
        torch.manual_seed(1337)
        x = torch.randn(32, 100)
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True)
        y = torch.ones(100) * ((x - mean) / torch.sqrt(var + 1e-5)) + torch.zeros(100)
        ratio = nn.LayerNorm(100)(x) / y
        return [y[:, 0].mean().item(), y[:, 0].std().item(), y[0].std().item(), ratio.mean().item()]

    expected, got = both(cells)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert got[3] == pytest.approx((100 / 99) ** 0.5, rel=1e-5)
