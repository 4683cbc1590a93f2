"""Every formula of docs/study-guide.md, evaluated in NumPy as it stands there, against the tape.

A test is named after the formula that it checks; `test_every_formula_has_its_test` compares the two
lists. Inputs are drawn at random in float64, upstream gradients too.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import tensorlib as torch
from gpt import GPT, GPTConfig
from tensorlib import nn
from tensorlib.nn import functional as F
from tensorlib.optim.lr_scheduler import warmup_cosine

GUIDE = (Path(__file__).parents[2] / "docs" / "study-guide.md").read_text(encoding="utf-8")
TAGS = re.findall(r"\\tag\{([\w-]+)\}", GUIDE)


def test_every_formula_has_its_test():
    names = {name.removeprefix("test_").replace("_", "-") for name in globals()}
    assert len(TAGS) == len(set(TAGS)) > 25
    assert set(TAGS) <= names


def test_no_formula_uses_what_github_refuses_to_render():
    # its MathJax forbids these macros, and would print the backslash of \_ within \text
    assert not re.findall(r"\\(?:operatorname|mbox|phantom|def|newcommand|href)\b", GUIDE)
    assert not re.findall(r"\\text\{[^}]*\\_", GUIDE)


# ---- drawing and comparing ----------------------------------------------------------------------


def draw(*shape):
    """Random numbers, float64."""
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape)


def gradients(fn, *arrays):
    """(value, upstream gradient, gradients of the arrays), by the tape."""
    inputs = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    output = fn(*inputs)
    upstream = np.random.default_rng(7).normal(size=output.shape)
    found = torch.autograd.grad(output, inputs, torch.from_numpy(upstream))
    return output.detach().numpy(), upstream, *(g.numpy() for g in found)


def same(*pairs):
    for ours, formula in pairs:
        np.testing.assert_allclose(ours, formula, rtol=1e-9, atol=1e-11)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def jacobian(fn, x, h=1e-6):
    """J[j, i] = ∂y_j / ∂x_i by central differences."""
    columns = []
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = h
        step = step.reshape(x.shape)
        columns.append(((fn(x + step) - fn(x - step)) / (2 * h)).reshape(-1))
    return np.stack(columns, axis=1)


# ---- before 0:00 --------------------------------------------------------------------------------


def test_vjp():
    x = draw(3, 4)
    _, dy, dx = gradients(lambda x: x.softmax(-1), x)
    J = jacobian(softmax, x)
    assert J.shape == (12, 12)
    np.testing.assert_allclose(dx.reshape(-1), J.T @ dy.reshape(-1), atol=1e-8)


def test_chain():
    x = draw(2, 3)
    _, dz, dx = gradients(lambda x: x.softmax(-1).tanh(), x)
    J_f, J_g = jacobian(softmax, x), jacobian(np.tanh, softmax(x))
    np.testing.assert_allclose(dx.reshape(-1), J_f.T @ (J_g.T @ dz.reshape(-1)), atol=1e-8)


def test_the_numbers_of_the_chain():
    x, y = (torch.tensor(n, dtype=torch.float64, requires_grad=True) for n in (3.0, 2.0))
    z = (x * y) ** 2
    z.backward()
    assert (z.item(), x.grad.item(), y.grad.item()) == (36, 24, 36)
    assert round((3.001 * 2) ** 2, 3) == 36.024


def test_paths():
    x = draw(5)
    _, upstream, dx = gradients(lambda x: torch.cat([x.exp(), x.sin()]), x)
    du, dv = upstream[:5], upstream[5:]
    J_f, J_g = np.diag(np.exp(x)), np.diag(np.cos(x))
    same((dx, J_f.T @ du + J_g.T @ dv))


def test_mul():
    x, y = draw(3, 4), draw(4, 3).T
    _, dz, dx, dy = gradients(lambda x, y: x * y, x, y)
    same((dx, dz * y), (dy, dz * x))


def test_broadcast():
    _, dy, db = gradients(lambda b: torch.from_numpy(draw(6, 4)) + b, draw(4))
    same((db, [sum(dy[n, c] for n in range(6)) for c in range(4)]))


# ---- the bigram model ---------------------------------------------------------------------------


def test_embedding():
    index, W = np.array([2, 0, 2, 4, 2]), draw(5, 3)
    _, dy, dW = gradients(lambda W: F.embedding(torch.from_numpy(index), W), W)
    same((dW, [sum((dy[n] for n in range(5) if index[n] == v), np.zeros(3)) for v in range(5)]))
    assert not dW[1].any()


def test_cross_entropy():
    z, t = draw(6, 5), np.array([0, 4, 2, 2, 1, 3])
    loss, dloss, dz = gradients(lambda z: F.cross_entropy(z, torch.from_numpy(t)), z)
    p = softmax(z)
    same((loss, np.mean([-math.log(p[n, t[n]]) for n in range(6)])))
    right = np.array([[float(c == t[n]) for c in range(5)] for n in range(6)])
    same((dz, dloss * (p - right) / 6))


def test_initial_loss():
    """The mean over 20,000 rows of a table as it is initialised, whose own noise is 0.008."""
    V = 65
    torch.manual_seed(1337)
    table = nn.Embedding(20_000, V)
    losses = F.cross_entropy(table.weight, torch.randint(V, (20_000,)))
    expected = math.log(V) + 1 / 2 - (math.e - 1) / (2 * V)
    assert round(expected, 2) == 4.66
    assert round(math.exp(1 / 2), 4) == 1.6487
    assert round(math.log(V) + 1 / 2, 4) == 4.6744
    assert round((math.e - 1) / (2 * V), 4) == 0.0132
    means = np.exp(np.random.default_rng(0).normal(size=(20_000, V))).mean(axis=1)
    d = means / math.exp(1 / 2) - 1  # by which share each mean of 65 numbers is off
    assert d.mean() == pytest.approx(0, abs=0.005)
    assert (d**2).mean() == pytest.approx((math.e - 1) / V, rel=0.05)
    assert losses.item() == pytest.approx(expected, abs=0.03)


def test_multinomial():
    """Frequencies of 20,000 draws, and of the race run here with other random numbers."""
    p = np.array([0.1, 0.2, 0.3, 0.4])
    torch.manual_seed(1337)
    drawn = torch.multinomial(torch.tensor(p), 20_000, replacement=True).numpy()
    q = -np.log(np.random.default_rng(0).uniform(size=(20_000, 4)))
    for winners in (drawn, np.argmax(p / q, axis=1)):
        np.testing.assert_allclose(np.bincount(winners) / 20_000, p, atol=0.015)


def optimized(make, steps):
    """A parameter before, the gradients of `steps` steps, and the parameter after them."""
    before, grads = draw(3, 2), draw(steps, 3, 2)
    p = nn.Parameter(torch.from_numpy(before.copy()))
    optimizer = make([p])
    for g in grads:
        p.grad = torch.from_numpy(g)
        optimizer.step()
    return before, grads, p.detach().numpy()


def test_sgd():
    p, (g,), after = optimized(lambda params: torch.optim.SGD(params, lr=0.1), 1)
    same((after, p - 0.1 * g))


def test_adamw():
    eta, beta1, beta2, eps, decay = 0.1, 0.9, 0.999, 1e-8, 0.01
    p, grads, after = optimized(lambda params: torch.optim.AdamW(params, lr=eta), 5)
    m = v = np.zeros_like(p)
    for s, g in enumerate(grads, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**s), v / (1 - beta2**s)
        p = (1 - eta * decay) * p - eta * m_hat / (np.sqrt(v_hat) + eps)
    same((after, p))


# ---- averages, products, softmax ----------------------------------------------------------------


def test_averaging():
    x, T = draw(6, 2), 6
    weights = np.tril(np.ones((T, T)))
    weights /= weights.sum(axis=1, keepdims=True)
    y, dy, dx = gradients(lambda x: torch.from_numpy(weights) @ x, x)
    same((y, [x[: t + 1].mean(axis=0) for t in range(T)]))
    same((dx, [sum(dy[t] / (t + 1) for t in range(s, T)) for s in range(T)]))


def test_matmul():
    X, Y = draw(3, 4), draw(4, 5)
    _, dZ, dX, dY = gradients(lambda X, Y: X @ Y, X, Y)
    same((dX, dZ @ Y.T), (dY, X.T @ dZ))


def test_batched_matmul():
    A, X = draw(4, 4), draw(3, 4, 2)
    _, dZ, dA, dX = gradients(lambda A, X: A @ X, A, X)
    same((dX, [A.T @ dZ[b] for b in range(3)]), (dA, sum(dZ[b] @ X[b].T for b in range(3))))


def test_softmax():
    y, dy, dx = gradients(lambda x: x.softmax(0), draw(6))
    same((dx, [y[k] * (dy[k] - sum(dy[c] * y[c] for c in range(6))) for k in range(6)]))
    assert abs(dx.sum()) < 1e-12
    J = jacobian(softmax, draw(6))  # and its Jacobian
    np.testing.assert_allclose(J, np.diag(y) - np.outer(y, y), atol=1e-8)


def test_mask():
    M = np.tril(np.ones((4, 4))) == 0
    minus_infinity = float("-inf")
    _, dy, dx = gradients(lambda x: x.masked_fill(torch.from_numpy(M), minus_infinity), draw(4, 4))
    same((dx, np.where(M, 0, dy)))


def test_linear():
    x, W, b = draw(6, 4), draw(3, 4), draw(3)
    y, dy, dx, dW, db = gradients(F.linear, x, W, b)
    same((y, x @ W.T + b), (dx, dy @ W), (dW, dy.T @ x), (db, sum(dy[n] for n in range(6))))


def test_position():
    tokens, P, pos = draw(3, 4, 2), draw(6, 2), np.arange(4)
    _, dx, dP = gradients(
        lambda P: torch.from_numpy(tokens) + F.embedding(torch.from_numpy(pos), P), P
    )
    same((dP[:4], [sum(dx[b, t] for b in range(3)) for t in range(4)]), (dP[4:], np.zeros((2, 2))))


# ---- attention ----------------------------------------------------------------------------------


def attention(Q, K, V, dY, causal):
    """Y and the gradients of Q, K and V, by the guide's formulas."""
    T, S = len(Q), len(K)
    sigma = Q.shape[1] ** -0.5
    scores = sigma * Q @ K.T
    if causal:
        scores[np.triu_indices(T, 1)] = -np.inf
    P = softmax(scores)
    dV, dP = P.T @ dY, dY @ V.T
    dS = np.empty((T, S))
    for t in range(T):
        for s in range(S):
            dS[t, s] = P[t, s] * (dP[t, s] - sum(dP[t, r] * P[t, r] for r in range(S)))
    return P @ V, sigma * dS @ K, sigma * dS.T @ Q, dV


@pytest.mark.parametrize("causal", [True, False])
def test_attention(causal):
    Q, K, V = draw(5, 4), draw(4, 5).T, draw(5, 3)
    Y, dY, dQ, dK, dV = gradients(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal), Q, K, V
    )
    same(*zip((Y, dQ, dK, dV), attention(Q, K, V, dY, causal), strict=True))


def test_variance():
    """Over 100,000 products, 16 within 2 %; after the division by √16, 1."""
    size = 16
    q, k = np.random.default_rng(0).normal(size=(2, 100_000, size))
    assert np.var((q * k).sum(axis=1)) == pytest.approx(size, rel=0.02)
    assert np.var((q * k).sum(axis=1) / size**0.5) == pytest.approx(1, rel=0.02)


def test_heads():
    x, weights = draw(4, 6), [draw(2, 6), draw(6, 2).T, draw(3, 6)[:2]]

    def heads(x):
        return torch.cat([(x @ torch.from_numpy(w.copy()).T).tanh() for w in weights], dim=1)

    _, dy, dx = gradients(heads, x)
    pieces = [dy[:, 2 * h : 2 * h + 2] for h in range(3)]
    same((dx, sum((d * (1 - np.tanh(x @ w.T) ** 2)) @ w for d, w in zip(pieces, weights))))


def test_relu():
    x = draw(4, 5)
    _, dy, dx = gradients(F.relu, x)
    same((dx, dy * (x > 0)))


def test_residual():
    x = draw(3, 4)
    _, dy, dx = gradients(lambda x: x + x.softmax(-1), x)
    expected = dy.reshape(-1) + jacobian(softmax, x).T @ dy.reshape(-1)
    np.testing.assert_allclose(dx.reshape(-1), expected, atol=1e-8)


# ---- normalisation, dropout, size ---------------------------------------------------------------


def test_layer_norm():
    x, w, b, C, eps = draw(6, 4), draw(4), draw(1, 4)[0], 4, 1e-5
    y, dy, dx, dw, db = gradients(lambda x, w, b: F.layer_norm(x, 4, w, b, eps), x, w, b)
    mu = x.mean(axis=1, keepdims=True)
    v = ((x - mu) ** 2).sum(axis=1, keepdims=True) / C
    r = 1 / np.sqrt(v + eps)
    n = r * (x - mu)
    same((y, w * n + b), (dw, (dy * n).sum(axis=0)), (db, dy.sum(axis=0)))
    g = w * dy
    sums = g.sum(axis=1, keepdims=True), (g * n).sum(axis=1, keepdims=True)
    same((dx, r * (g - sums[0] / C - n * sums[1] / C)))
    assert np.abs(dx.sum(axis=1)).max() < 1e-12  # nothing along a constant, and along x …
    assert np.abs((dx * (x - mu)).sum(axis=1)).max() < 1e-4  # … but for eps


def test_the_numbers_of_layer_norm():
    """(1, 2, 3), and what comes back for (1, 0, 0); the Jacobian is the formula's."""
    x, g = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 0.0])
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    n = F.layer_norm(leaf, 3, eps=0.0)
    (dx,) = torch.autograd.grad(n, [leaf], torch.from_numpy(g))
    n, r = n.detach().numpy(), 1 / x.std()
    assert (x.mean(), x.var(), round(r, 4)) == (2, pytest.approx(2 / 3), 1.2247)
    assert n.round(4).tolist() == [-1.2247, 0, 1.2247]
    same((n * (g * n).mean(), np.array([0.5, 0, -0.5])))
    assert dx.numpy().round(4).tolist() == [0.2041, -0.4082, 0.2041]
    same((dx.numpy(), g @ (r * (np.eye(3) - 1 / 3 - np.outer(n, n) / 3))))


def test_unbiased():
    x, C = torch.from_numpy(draw(32, 100)), 100
    by_hand = (x - x.mean(1, keepdim=True)) / x.var(1, keepdim=True).sqrt()
    ratio = nn.LayerNorm(C, eps=0.0, elementwise_affine=False)(x) / by_hand
    same((ratio.numpy(), np.full((32, 100), math.sqrt(C / (C - 1)))))
    assert round(math.sqrt(C / (C - 1)), 3) == 1.005


def test_dropout():
    x, p = draw(40, 50), round(65536 * 0.2) / 65536
    torch.manual_seed(1337)
    y, dy, dx = gradients(lambda x: F.dropout(x, 0.2), x)
    m = y != 0
    same((y, m * x / (1 - p)), (dx, m * dy / (1 - p)))
    assert m.mean() == pytest.approx(0.8, abs=0.03)


def test_parameters():
    V, T, L, C = 65, 256, 6, 384
    N = V * C + T * C + 2 * C + C * V + V
    N += L * (3 * C**2 + C**2 + C + 8 * C**2 + 5 * C + 4 * C)
    config = GPTConfig(vocab_size=V, block_size=T, n_layer=L, n_head=6, n_embd=C)
    assert N == GPT(config).num_parameters() == 10_788_929


def test_gpt_parameters():
    def count(V, T, L, C):
        return V * C + T * C + L * (12 * C**2 + 13 * C) + 2 * C

    small = GPTConfig(97, block_size=16, n_layer=3, n_head=2, n_embd=8, qkv_bias=True)
    small = GPTConfig(**{**vars(small), "tied_head": True})
    assert count(97, 16, 3, 8) == GPT(small).num_parameters()
    assert count(50257, 1024, 12, 768) == 124_439_808
    assert count(50257, 2048, 96, 12288) == 174_604_259_328
    assert "124,439,808" in GUIDE
    assert "174,604,259,328" in GUIDE


# ---- encoder and decoder, nanoGPT ---------------------------------------------------------------


def test_cross_attention():
    x, e = draw(4, 6), draw(5, 6)
    blocks = [[draw(3, 6), draw(6, 3).T, draw(4, 6)[:3]] for _ in range(2)]
    blocks[1] = [w[::-1].copy() for w in blocks[1]]

    def decoder(e):
        outputs = []
        for W in blocks:
            W_Q, W_K, W_V = (torch.from_numpy(w.copy()) for w in W)
            q = F.linear(torch.from_numpy(x), W_Q)
            y = F.scaled_dot_product_attention(q, F.linear(e, W_K), F.linear(e, W_V))
            outputs.append(y)
        return torch.stack(outputs)

    _, dY, de = gradients(decoder, e)
    total = 0
    for (W_Q, W_K, W_V), dy in zip(blocks, dY, strict=True):
        _, _, dK, dV = attention(x @ W_Q.T, e @ W_K.T, e @ W_V.T, dy, causal=False)
        total = total + dK @ W_K + dV @ W_V
    same((de, total))


def test_tied():
    W, index, t = draw(5, 3), np.array([4, 1, 1]), torch.from_numpy(np.array([1, 1, 0]))

    def model(W):
        x = F.embedding(torch.from_numpy(index), W)
        return F.cross_entropy(F.linear(x, W), t, reduction="sum")

    _, dloss, dW = gradients(model, W)
    x = W[index]
    dz = dloss * (softmax(x @ W.T) - np.eye(5)[t.numpy()])
    dy = dz @ W  # the gradient of what was looked up
    table = [sum((dy[n] for n in range(3) if index[n] == v), np.zeros(3)) for v in range(5)]
    same((dW, np.array(table) + dz.T @ x))


def test_gelu():
    x = draw(3, 4)
    y, dy, dx = gradients(F.gelu, x)
    cdf = np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)
    slope = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    same((y, x * cdf), (dx, dy * (cdf + x * slope)))


@pytest.mark.parametrize("c", [0.5, 100.0])
def test_clip(c):
    grads = [draw(3, 4), draw(5)]
    params = [nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    nn.utils.clip_grad_norm_(params, c)
    length = math.sqrt(sum((g**2).sum() for g in grads))
    factor = min(1, c / (length + 1e-6))
    same(*((p.grad.numpy(), g * factor) for p, g in zip(params, grads, strict=True)))


def test_cosine():
    eta, lowest, w, S = 1e-3, 1e-4, 10, 50
    factor = warmup_cosine(w, S, lowest / eta)
    for s in range(S + 1):
        if s < w:
            expected = eta * (s + 1) / (w + 1)
        else:
            expected = lowest + (eta - lowest) * (1 + math.cos(math.pi * (s - w) / (S - w))) / 2
        assert eta * factor(s) == pytest.approx(expected, rel=1e-12)
