"""Hypothesis draws shapes and small programs; our values and gradients equal PyTorch's.

`HYPOTHESIS_PROFILE=explore python -m pytest tests/test_properties.py` looks for new
counterexamples.
"""

import numpy as np
from harness import check
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

BINARY = {
    "add": lambda t, x, y: x + y,
    "sub": lambda t, x, y: x - y,
    "mul": lambda t, x, y: x * y,
    "div": lambda t, x, y: x / y,
    "pow": lambda t, x, y: x**y,
    "maximum": lambda t, x, y: t.maximum(x, y),
    "minimum": lambda t, x, y: t.minimum(x, y),
    "where": lambda t, x, y: t.where(x > y, x * 2, y),
}
REDUCTIONS = ["sum", "mean", "amax", "amin", "var", "logsumexp"]

sides = st.integers(0, 4)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
nonempty_shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
seeds = st.integers(0, 2**16)


# ---- one operation, any shape --------------------------------------------------------------------


@given(
    hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=4),
    st.sampled_from(sorted(BINARY)),
    seeds,
)
def test_broadcasting(pair, name, seed):
    fn = BINARY[name]
    check(fn, *pair.input_shapes, low=0.3, high=3, seed=seed, dtypes=["float64"])


@given(hnp.mutually_broadcastable_shapes(signature="(n?,k),(k,m?)->(n?,m?)", max_side=4), seeds)
def test_matmul(pair, seed):
    check(lambda t, x, y: x @ y, *pair.input_shapes, seed=seed, dtypes=["float64"])


@st.composite
def shape_and_dims(draw):
    shape = draw(nonempty_shapes)
    return shape, draw(hnp.valid_tuple_axes(len(shape), min_size=1))


@given(shape_and_dims(), st.sampled_from(REDUCTIONS), st.booleans(), seeds)
def test_reductions(case, name, keepdim, seed):
    shape, dims = case
    if name == "var" and np.prod([shape[d] for d in dims]) < 2:
        name = "sum"  # the variance of a single number is nan
    check(
        lambda t, x: getattr(x, name)(dims, keepdim=keepdim), shape, seed=seed, dtypes=["float64"]
    )


@given(shapes, st.data())
def test_basic_indexing(shape, data):
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True).filter(has_positive_steps))
    check(lambda t, x: x[index], shape, dtypes=["float64"])


def has_positive_steps(index):
    """PyTorch has no negative steps."""
    parts = index if isinstance(index, tuple) else (index,)
    return all((part.step or 1) > 0 for part in parts if isinstance(part, slice))


@given(nonempty_shapes, st.data())
def test_integer_indexing(shape, data):
    """Ints, slices and index tensors (broadcast against each other, negative, repeated), mixed."""
    positions = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1, max_size=2))
    broadcast = hnp.mutually_broadcastable_shapes(
        num_shapes=len(positions), min_dims=1, max_dims=2, min_side=1, max_side=3
    )
    arrays = [
        data.draw(hnp.arrays(np.int64, s, elements=st.integers(-shape[p], shape[p] - 1)))
        for p, s in zip(sorted(positions), data.draw(broadcast).input_shapes, strict=True)
    ]
    plain = [data.draw(st.sampled_from([slice(None), slice(1, None), 0, -1])) for _ in shape]

    def fn(t, x, *indices):
        parts = list(plain)
        for position, index in zip(sorted(positions), indices, strict=True):
            parts[position] = index
        return x[tuple(parts)]

    check(fn, shape, *arrays, dtypes=["float64"])


@given(nonempty_shapes, st.data())
def test_masks(shape, data):
    first = data.draw(st.integers(0, len(shape) - 1))
    last = data.draw(st.integers(first + 1, len(shape)))
    mask = data.draw(hnp.arrays(np.bool_, shape[first:last]))
    index = (slice(None),) * first
    check(lambda t, x, m: x[(*index, m)], shape, mask, dtypes=["float64"])


@given(nonempty_shapes, st.data())
def test_shape_programs(shape, data):
    """Up to five views and copies after one another."""
    steps = data.draw(st.lists(st.tuples(st.sampled_from(sorted(SHAPE_STEPS)), seeds), max_size=5))

    def fn(t, x):
        for name, seed in steps:
            x = SHAPE_STEPS[name](t, x, np.random.default_rng(seed))
        return x * 2

    check(fn, shape, dtypes=["float64"])


SHAPE_STEPS = {
    "permute": lambda t, x, rng: x.permute([int(d) for d in rng.permutation(x.ndim)]),
    "reshape": lambda t, x, rng: x.reshape([int(n) for n in rng.permutation(x.shape)]),
    "flatten": lambda t, x, rng: x.flatten(int(rng.integers(x.ndim or 1))),
    "unsqueeze": lambda t, x, rng: x.unsqueeze(int(rng.integers(x.ndim + 1))) if x.ndim < 5 else x,
    "squeeze": lambda t, x, rng: x.squeeze(),
    "expand": lambda t, x, rng: x.expand(2, *x.shape) if x.ndim < 5 else x,
    "cat": lambda t, x, rng: t.cat([x, x * 3], int(rng.integers(x.ndim))) if x.ndim else x,
    "chunk": lambda t, x, rng: x.chunk(2, int(rng.integers(x.ndim)))[-1] if x.ndim else x,
    "narrow": lambda t, x, rng: x[..., : x.shape[-1] - 1] if x.ndim and x.shape[-1] > 1 else x,
    "tril": lambda t, x, rng: x.tril(int(rng.integers(-1, 2))) if x.ndim >= 2 else x,
}


# ---- programs ------------------------------------------------------------------------------------

# Smooth and bounded, so that rounding stays small; a kink is moved away from where values tie.
STEPS = {
    "tanh": lambda t, x, y: x.tanh(),
    "sigmoid": lambda t, x, y: x.sigmoid(),
    "sin": lambda t, x, y: t.sin(x),
    "exp": lambda t, x, y: (x * 0.1).exp(),
    "log": lambda t, x, y: (x * x + 1).log(),
    "sqrt": lambda t, x, y: (x * x + 0.5).sqrt(),
    "rsqrt": lambda t, x, y: t.rsqrt(y * y + 2),
    "relu": lambda t, x, y: (x + 0.123).relu(),
    "clamp": lambda t, x, y: x.clamp(-0.567, 1.234),
    "add": lambda t, x, y: x + y,
    "sub": lambda t, x, y: 1.5 - x - y,
    "mul": lambda t, x, y: x * y * 0.5,
    "div": lambda t, x, y: x / (y * y + 1),
    "pow": lambda t, x, y: (x * 0.3) ** 3 + 2 ** y.tanh(),
    "where": lambda t, x, y: t.where(x > 0.321, x.sin(), y),
    "masked_fill": lambda t, x, y: x.masked_fill(y > 0.789, 0.5),
    "softmax": lambda t, x, y: x.softmax(-1),
    "log_softmax": lambda t, x, y: x.log_softmax(0) * 0.1,
    "mean": lambda t, x, y: x - x.mean(-1, keepdim=True),
    "var": lambda t, x, y: x / (x.var(-1, keepdim=True, correction=0) + 1).sqrt(),
    "sum": lambda t, x, y: x.sum(0) * 0.2 + y,
    "logsumexp": lambda t, x, y: y - x.logsumexp((0, 1)),
    "cumsum": lambda t, x, y: x.cumsum(1) * 0.3,
    "matmul": lambda t, x, y: (x @ y.mT) @ x * 0.1,
    "cat": lambda t, x, y: t.cat([x[1:], y[:1]], 0),
    "stack": lambda t, x, y: t.stack([x, y, x]).mean(0),
    "split": lambda t, x, y: sum(x.split(1, 1)) * 0.3 - y,
    "transpose": lambda t, x, y: x.mT.reshape(x.shape),
    "index": lambda t, x, y: x[[0, -1, 0]][:1] * y,
    "tril": lambda t, x, y: x.tril() + y.triu(1),
    "expand": lambda t, x, y: x[:1].expand(y.shape) * y,
    "detach": lambda t, x, y: x.detach() + y,
    "again": lambda t, x, y: x + x * x * 0.1,
}
programs = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), seeds, seeds), min_size=1, max_size=12
)


@given(programs, st.tuples(st.integers(1, 4), st.integers(1, 4)), seeds)
@example([("mul", 0, 0), ("again", 0, 0), ("add", 0, 1)], (2, 3), 0)
def test_programs(program, shape, seed):
    """A random graph: each step takes two earlier values; values may be used often, or never."""

    def fn(t, *inputs):
        values = list(inputs)
        for name, i, j in program:
            x, y = (values[k % len(values)].expand(shape) for k in (i, j))
            values.append(STEPS[name](t, x, y))
        return tuple(values[-2:])

    check(fn, shape, shape, (1, shape[1]), seed=seed, dtypes=["float64"], finite=False)
