# %% [markdown]
# # 0 · A tape of forty lines · before it
#
# The video assumes that you know what `loss.backward()` does (6:56: micrograd). You need not: here
# it is, from nothing. A *tape* notes every operation while it runs. Afterwards it is read
# backwards: how much does the result change if this input changes a little?

# %%
import itertools
import math

clock = itertools.count()


class Value:
    """A number, how it was made, and (after `backward`) how the result depends on it."""

    def __init__(self, data, made_from=()):
        self.data = data
        self.made_from = made_from  # pairs: an input, and how a gradient flows back to it
        self.grad = 0.0
        self.time = next(clock)

    def __add__(self, other):
        return add(self, other)

    def __mul__(self, other):
        return mul(self, other)

    def backward(self):
        nodes, unseen = set(), [self]
        while unseen:
            node = unseen.pop()
            if node not in nodes:
                nodes.add(node)
                unseen.extend(source for source, _ in node.made_from)
        self.grad = 1.0
        for node in sorted(nodes, key=lambda node: -node.time):  # the newest first
            for source, gradient in node.made_from:
                source.grad = source.grad + gradient(node.grad)


def operation(function):
    def run(*inputs):
        data, gradients = function(*[x.data for x in inputs])
        return Value(data, list(zip(inputs, gradients)))

    return run


# %% [markdown]
# That is the whole machine, and it knows no mathematics. An operation says two things: its value,
# and for each input the way back. For `x * y` the way back to x is: multiply what arrives by y.


# %%
@operation
def add(x, y):
    return x + y, (lambda grad: grad, lambda grad: grad)


@operation
def mul(x, y):
    return x * y, (lambda grad: grad * y, lambda grad: grad * x)


@operation
def tanh(x):
    y = math.tanh(x)
    return y, (lambda grad: grad * (1 - y * y),)


# %% [markdown]
# An input times a weight plus a bias is `s`, which is used twice: so its gradient is the sum of
# what comes back by both paths. A small push at each leaf (finite differences) gives the same
# numbers.


# %%
def neuron(a, b, w):
    s = a * w + b
    return tanh(s) * s


def push(i, size=1e-6):
    shifted = [[x + sign * size * (i == j) for j, x in enumerate(numbers)] for sign in (1, -1)]
    up, down = (neuron(*map(Value, xs)).data for xs in shifted)
    return (up - down) / (2 * size)


numbers = [0.7, -1.5, 2.0]
leaves = [Value(x) for x in numbers]
result = neuron(*leaves)
result.backward()
print(f"result {result.data:.6f}")
for i, (name, leaf) in enumerate(zip("abw", leaves)):
    print(f"d result / d {name}: tape {leaf.grad:+.6f}, finite differences {push(i):+.6f}")

# %% [markdown]
# ## The same in tensorlib
#
# Where the video types `import torch`, these lessons type `import tensorlib as torch`: same names,
# same numbers, and every gradient can be read. Open `tensorlib/autograd.py` beside this page. It
# has the same three parts (`TensorBase` and `Node` for `Value`, `operation`, `backward`), and an
# operation in `tensorlib/ops/elementwise.py` looks like ours above, letter for letter.

# %%
import tensorlib as torch

a, b, w = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers)
s = a * w + b
loss = s.tanh() * s
loss.backward()
print(f"result {loss.item():.6f}")
print("gradients", ", ".join(f"{x.grad.item():+.6f}" for x in (a, b, w)))

# %% [markdown]
# What `autograd.py` has that forty lines do not, one by one:
#
# **1. Arrays that broadcast.** A bias that was added to every row gets the sum over the rows
# (`unbroadcast`). Our forty lines take NumPy arrays too, but hand back a gradient of the wrong
# shape.

# %%
import numpy as np

x, bias = Value(np.ones((3, 2))), Value(np.zeros(2))
(x + bias).backward()
print("forty lines: bias", bias.data.shape, "gradient", np.shape(x.grad))
x, bias = torch.ones(3, 2), torch.zeros(2, requires_grad=True)
(x + bias).sum().backward()
print("tensorlib:   bias", bias.shape, "gradient", bias.grad.shape, bias.grad.tolist())

# %% [markdown]
# **2. A second backward is an error.** Ours runs again over the gradients that the first pass left
# in the middle, and the answer is wrong without a word. `autograd.py` keeps gradients in a table of
# their own, adds to `.grad` of the leaves alone, and lets go of what it used up.

# %%
p = Value(3.0)
q = p * p
r = q * q  # p⁴: its gradient is 4 · 27 = 108, so two passes should add up to 216
r.backward()
r.backward()
print("forty lines, after two passes:", p.grad)
p = torch.tensor(3.0, requires_grad=True)
q = p * p
r = q * q
r.backward(retain_graph=True)
r.backward()
print("tensorlib, after two passes:", p.grad.item(), "- in the middle:", q.grad)
try:
    r.backward()
except RuntimeError as error:
    print("a third:", error)

# %% [markdown]
# **3. Nothing is computed for nobody.** Only what leads to a tensor with `requires_grad` is
# recorded, and under `no_grad` nothing is. Ours records every number.

# %%
k = torch.tensor(2.0)
print("recorded:", (k * k).requires_grad, (k * p).requires_grad)
with torch.no_grad():
    print("under no_grad:", (k * p).requires_grad)

# %% [markdown]
# **4. Memory.** A `Value` holds its inputs, and they hold theirs: all of it stays until the result
# is dropped. A `Node` never refers to its own output, and keeps of its inputs only what its
# gradient functions use: `add` keeps no array at all, `mul` keeps both.
#
# **5. The first gradient to arrive is borrowed** (`_Arrived`). Adding in place is faster than a new
# array per sum, but `add` hands the *same* array to both inputs, so only a sum that is ours may be
# written to. We made a new number each time.
#
# **6. A value that is changed after it was used** would give a wrong gradient; the tape notices.

# %%
x = torch.tensor([1.0, 2.0])
weight = torch.tensor([3.0, 4.0], requires_grad=True)
y = (x * weight).sum()
x += 1
try:
    y.backward()
except RuntimeError as error:
    print(error)

# %% [markdown]
# **7.** It takes operations with several outputs (`split`), casts a gradient back to the type of
# its value, and puts the names and shapes into every error. Nothing else: the order, newest first,
# and the sum over paths are the ones above.
