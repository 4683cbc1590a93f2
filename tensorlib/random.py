"""Random numbers: PyTorch's CPU stream behind `manual_seed`, and randomness as a function.

The first half is a state that advances: after the same seed `rand`, `randn`, `randint`, … give the
numbers PyTorch gives on the CPU, and use up its stream at the same pace, so the reader of a script
sees the script's numbers. The second half has no state: `philox` turns (seed, stream, step, draw)
into bits, so training can be resumed, split or moved to a GPU and still draw the same.

It must not know tensors: arrays come out, and `ops`, `nn` and `gpt` wrap them. All are NumPy's but
the bits for dropout, which are made where they are needed.
"""

import math
import operator
import secrets
import threading
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from .devices import device_of
from .kernels import gpu_kernels

# --- A state that advances ------------------------------------------------------------------------


class Generator:
    """A stream of random words, and the source of every function of this half.

    Mersenne Twister, MT19937 (Matsumoto & Nishimura 1998), seeded as PyTorch seeds it. A new one
    starts from PyTorch's default seed.
    """

    def __init__(self):
        self.manual_seed(67280421310721)

    def manual_seed(self, seed):
        """Start the stream anew and return the generator.

        seed: an integer in [-2**63, 2**64); negative ones count down from 2**64. Only the low 32
        bits reach the Mersenne Twister. ValueError outside the range, RuntimeError for no integer.
        """
        if not isinstance(seed, int | np.integer):
            raise RuntimeError(f"manual_seed: expected an integer, got {seed!r}")
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"manual_seed: expected a seed in [-2**63, 2**64), got {seed}")
        self._seed = int(seed) % 2**64
        self._twister = np.random.RandomState(self._seed % 2**32)
        self._spare_normal = None  # normals below 16 are made in pairs: the second one may wait
        return self

    def initial_seed(self):
        """The seed of the last `manual_seed`, an int in [0, 2**64)."""
        return self._seed

    def words32(self, n):
        """The next n outputs of the twister: uint32 (n,)."""
        return self._twister.randint(2**32, size=n, dtype=np.uint32)

    def words64(self, n):
        """n words made of two outputs each, the high half first: uint64 (n,)."""
        high, low = self.words32(2 * n).reshape(n, 2).T
        return (high.astype(np.uint64) << 32) | low

    def fractions(self, n, dtype=np.float64):
        """n numbers spread evenly over [0, 1), float32 or float64 (n,).

        As many low bits of a word as the significand holds, so that each fraction is exact.
        """
        if dtype == np.float32:
            return (self.words32(n) & (2**24 - 1)).astype(dtype) * 2**-24
        return (self.words64(n) & (2**53 - 1)).astype(dtype) * 2**-53


# As in PyTorch, a program that sets no seed gets different numbers in each run.
default_generator = Generator().manual_seed(secrets.randbits(64))


def manual_seed(seed):
    """Seed the default generator and return it. Errors as in `Generator.manual_seed`."""
    return default_generator.manual_seed(int(seed))


def rand(shape, dtype=np.float32, *, generator=None):
    """Uniform in [0, 1): an array of this shape, float32 or float64. `torch.rand`."""
    dtype = _floating("rand", dtype)
    return (generator or default_generator).fractions(_count(shape), dtype).reshape(shape)


def uniform(low, high, shape, dtype=np.float32, *, generator=None):
    """Uniform in [low, high): an array of this shape, float32 or float64. `Tensor.uniform_`.

    RuntimeError unless low <= high and both, and their distance, are finite in dtype.
    """
    dtype = _floating("uniform", dtype)
    limit = float(np.finfo(dtype).max)
    if not (-limit <= low <= high <= limit and high - low <= limit):
        raise RuntimeError(f"uniform: expected finite low <= high, got low={low}, high={high}")
    x = (generator or default_generator).fractions(_count(shape), dtype)
    low, high = dtype.type(low), dtype.type(high)
    x = _multiply_add(x, high - low, low)
    x[x == high] = low  # rounding may reach high, which is not part of the range
    return x.reshape(shape)


def randn(shape, dtype=np.float32, *, generator=None):
    """Normal with mean 0 and variance 1: an array of this shape, float32 or float64. `torch.randn`.

    Equal to PyTorch's up to rounding: within 1e-6 in float32 (its log and cos are its own).
    """
    return normal(0.0, 1.0, shape, dtype, generator=generator)


def normal(mean, std, shape, dtype=np.float32, *, generator=None):
    """Normal with this mean and standard deviation: float32 or float64. `Tensor.normal_`.

    RuntimeError for std < 0. The method is Box & Muller's (1958): two uniforms give a radius and an
    angle, whose cosine and sine give two independent normals.
    """
    dtype = _floating("normal", dtype)
    if not std >= 0:
        raise RuntimeError(f"normal: expected std >= 0, got {std}")
    n, source = _count(shape), generator or default_generator
    x = _many_normals(source, n, dtype) if n >= 16 else _few_normals(source, n)
    return (x * std + mean).astype(dtype, copy=False).reshape(shape)


def _box_muller(u, v):
    radius = np.sqrt(-2 * np.log(1 - u))  # 1 - u is in (0, 1]: the logarithm never sees 0
    angle = 2 * math.pi * v
    return radius * np.cos(angle), radius * np.sin(angle)


def _few_normals(generator, n):
    """Fewer than 16: pair by pair in float64, the angle drawn first; an odd one is kept."""
    waiting = [] if generator._spare_normal is None else [generator._spare_normal]
    pairs = (n - len(waiting) + 1) // 2
    v, u = generator.fractions(2 * pairs).reshape(pairs, 2).T
    x = np.concatenate([waiting, np.stack(_box_muller(u, v), axis=1).ravel()])
    generator._spare_normal = x[n] if len(x) > n else None
    return x[:n]


def _many_normals(generator, n, dtype):
    """16 or more: in blocks of 16, eight for radii and eight for angles; no spare one is involved.

    If 16 does not divide n, the last 16 elements are drawn anew, over what stood there.
    """
    whole = n - n % 16
    tail = 0 if n == whole else 16
    uniforms = generator.fractions(n + tail, dtype)
    blocks = np.concatenate([uniforms[:whole], uniforms[n:]]).reshape(-1, 2, 8)
    x = np.stack(_box_muller(blocks[:, 0], blocks[:, 1]), axis=1).ravel()
    return np.concatenate([x[: n - tail], x[whole:]])


def randint(low, high, shape, dtype=np.int64, *, generator=None):
    """Integers in [low, high): an array of this shape, of an integer or floating dtype.

    A word modulo the range: 32 bits, or 64 for a range of 2**28 and more, where the remainders of
    32 bits are too unequally likely (older PyTorch: of 2**32 and more). `torch.randint`.
    RuntimeError for low >= high or a bound that dtype cannot hold; ValueError beyond int64.
    """
    low, high, dtype = operator.index(low), operator.index(high), np.dtype(dtype)
    if not -(2**63) <= low or not high < 2**63:
        raise ValueError(f"randint: expected bounds in int64, got low={low}, high={high}")
    if low >= high:
        raise RuntimeError(f"randint: expected low < high, got low={low}, high={high}")
    if dtype.kind == "f":
        largest = 2 ** (np.finfo(dtype).nmant + 1)  # the integers beyond have gaps
        smallest = -largest
    else:
        smallest, largest = np.iinfo(dtype).min, np.iinfo(dtype).max
    if low < smallest or high - 1 > largest:
        raise RuntimeError(f"randint: [{low}, {high}) does not fit in {dtype}")
    source = generator or default_generator
    words = (source.words32 if high - low < 2**28 else source.words64)(_count(shape))
    offsets = (words % (high - low)).astype(np.int64)  # beyond 2**63 it wraps; the sum wraps back
    return (offsets + low).astype(dtype, copy=False).reshape(shape)


def randperm(n, *, generator=None):
    """The integers 0 … n-1 in random order, int64 (n,). `torch.randperm`.

    Fisher & Yates's shuffle (Durstenfeld 1964): each place is exchanged with one that is not yet
    settled. RuntimeError outside 0 <= n < 2**32 / 20 (from there on PyTorch draws 64 bits).
    """
    if not 0 <= n < 2**32 // 20:
        raise RuntimeError(f"randperm: expected n in [0, 2**32 / 20), got {n}")
    places = np.arange(max(n - 1, 0))  # the last one has nothing left to exchange with
    others = places + (generator or default_generator).words32(len(places)) % (n - places)
    order = list(range(n))
    for i, j in enumerate(others.tolist()):
        order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.int64)


def multinomial(probs, num_samples, replacement=False, *, generator=None):
    """Indices drawn with these probabilities, which need not sum to 1. `torch.multinomial`.

    probs: (C,) or (B, C), float32 or float64. Returns int64 (num_samples,) or (B, num_samples);
    without replacement the indices of a row are distinct. RuntimeError for probabilities that are
    negative or not finite, for a row without a positive one, and, without replacement, for more
    samples than a row has positive ones.
    """
    if probs.ndim not in (1, 2) or probs.dtype not in (np.float32, np.float64):
        raise RuntimeError(
            "multinomial: expected probs (C,) or (B, C) of float32 or float64, "
            f"got {probs.shape} of {probs.dtype}"
        )
    if num_samples <= 0:
        raise RuntimeError(f"multinomial: expected num_samples > 0, got {num_samples}")
    if not (np.isfinite(probs) & (probs >= 0)).all():
        raise RuntimeError("multinomial: a probability is negative, infinite or nan")
    positive = np.count_nonzero(probs, axis=-1).min(initial=probs.shape[-1])
    needed = 1 if replacement else num_samples
    if positive < needed:
        raise RuntimeError(
            f"multinomial: {num_samples} samples with replacement={replacement} need at least "
            f"{needed} positive probabilities, and a row has {positive}"
        )
    sample = _sorted_race if num_samples == 1 or not replacement else _invert_cumulative
    return sample(probs, num_samples, generator or default_generator)


def _sorted_race(probs, num_samples, generator):
    """Each category runs a race that takes Exp(1) / p: i comes in first with probability p_i.

    So the order of arrival is a sample without replacement (Efraimidis & Spirakis 2006).
    """
    u = generator.fractions(probs.size)
    times = (-np.log1p(-u)).astype(probs.dtype)
    # PyTorch draws in the order of memory: a transposed matrix is filled column by column.
    times = times.reshape(probs.shape, order="F" if probs.flags.fnc else "C")
    speeds = probs / times
    if num_samples == 1:
        return speeds.argmax(axis=-1, keepdims=True)
    return np.argsort(-speeds, axis=-1, kind="stable")[..., :num_samples]


def _invert_cumulative(probs, num_samples, generator):
    """With replacement: u in [0, 1) falls on the first category whose cumulative sum reaches it."""
    cumulative = np.cumsum(probs, axis=-1)
    cumulative /= cumulative[..., -1:].copy()
    u = generator.fractions(probs.size // probs.shape[-1] * num_samples)
    u = u.reshape(*probs.shape[:-1], num_samples)
    rows = zip(np.atleast_2d(cumulative), np.atleast_2d(u), strict=True)
    return np.array([np.searchsorted(c, v) for c, v in rows], dtype=np.int64).reshape(u.shape)


def _floating(name, dtype):
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise NotImplementedError(f"{name}: expected dtype float32 or float64, got {dtype}")
    return dtype


def _count(shape):
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    if min(shape, default=0) < 0:
        raise RuntimeError(f"negative dimension in shape {shape}")
    return math.prod(shape)


def _multiply_add(x, y, z):
    """x * y + z rounded once, as by the processor's fused instruction, which PyTorch uses here.

    x: (n,), y and z: numbers of the same dtype. What rounding took is computed, by Dekker's (1971)
    product and Knuth's sum, and given back. Where z is 2**50 times smaller than y, it may come too
    late to break a tie.
    """
    if x.dtype == np.float32:  # float64 holds the product exactly
        return (x.astype(np.float64) * y + z).astype(np.float32)

    def halves(a):
        high = (a.view(np.int64) & -(2**27)).view(np.float64)
        return high, a - high

    (x_high, x_low), (y_high, y_low) = halves(x), halves(y)
    product = x * y
    error = x_low * y_low - (product - x_high * y_high - x_low * y_high - x_high * y_low)
    total = product + z
    added = total - product
    return total + (error + (product - (total - added)) + (z - added))


# --- Randomness as a function ---------------------------------------------------------------------


def philox(seed, stream, step, draw, n, first=0, device="cpu"):
    """n words, from word `first` on, that depend on nothing but the arguments: uint64 (n,), made
    on the device.

    Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011): ten rounds of multiplying and mixing turn a
    256-bit counter into 256 random bits. The key is (seed, stream), and word i is number i % 4 of
    the counter (i // 4, draw, step, 0), so no two draws ever share a counter. Safe in threads.
    With the fused kernels, step may be an array of one uint64 on a GPU: the words are made there.
    ValueError unless seed, stream, step and draw are in [0, 2**64).
    """
    if device_of(step) != "cpu":
        return gpu_kernels().philox(seed, stream, step, draw, n, first)
    words = [operator.index(word) for word in (seed, stream, step, draw)]
    if min(words) < 0 or max(words) >= 2**64:
        raise ValueError(f"philox: expected (seed, stream, step, draw) in [0, 2**64), got {words}")
    seed, stream, step, draw = words
    if device != "cpu":
        return gpu_kernels().philox(seed, stream, step, draw, n, first)
    block, skipped = divmod(first, 4)
    before = ((step << 128) + (draw << 64) + block - 1) % 2**256  # NumPy counts up, then computes
    state = {
        "counter": np.frombuffer(before.to_bytes(32, "little"), "<u8"),
        "key": np.array([seed, stream], dtype=np.uint64),
    }
    _here.philox.state = {**_EMPTY, "state": state}
    return _here.philox.random_raw(skipped + n)[skipped:]


# The state of a Philox that has no words left over from before.
_EMPTY = {
    "bit_generator": "Philox",
    "buffer": np.zeros(4, np.uint64),
    "buffer_pos": 4,
    "has_uint32": 0,
    "uinteger": 0,
}


class _Here(threading.local):
    counter = None  # inside `counter`: (seed, stream, step)
    draw = 0  # the next one there
    rows = range(1)

    def __init__(self):
        self.philox = np.random.Philox(key=0)  # to set its state takes a third of making another


_here = _Here()


@contextmanager
def counter(seed, stream, step, rows=range(1)):
    """Inside, this thread's `next_draw` and `dropout_bits` count draws of (seed, stream, step).

    The draws are 0, 1, 2, … from each entry on; an inner `counter` leaves the outer one's alone.
    rows: which rows of a batch are computed here. They get the bits that they would get as part of
        the whole batch, so a step may be split among processes.
    """
    outer = _here.counter, _here.draw, _here.rows
    _here.counter, _here.draw, _here.rows = (seed, stream, step), 0, rows
    try:
        yield
    finally:
        _here.counter, _here.draw, _here.rows = outer


def next_draw():
    """The (seed, stream, step, draw) of the next draw, for `philox` or a kernel that computes it.

    Outside `counter`, seed and stream are words of the default generator, so `manual_seed` governs.
    """
    if _here.counter is None:
        seed, stream = default_generator.words64(2).tolist()
        return seed, stream, 0, 0
    draw = _here.draw
    _here.draw += 1
    return *_here.counter, draw


def get_state():
    """All that the next random numbers of this thread depend on, for `replaying`."""
    source = default_generator
    here = _here.counter, _here.draw, _here.rows
    return source._twister.get_state(legacy=False), source._spare_normal, here


@contextmanager
def replaying(state):
    """Inside, the numbers come that came after `get_state` returned `state`; afterwards those that
    would have come without."""
    before = get_state()
    _set_state(state)
    try:
        yield
    finally:
        _set_state(before)


def _set_state(state):
    twister, default_generator._spare_normal, here = state
    default_generator._twister.set_state(twister)
    _here.counter, _here.draw, _here.rows = here


class Draw(NamedTuple):
    """A draw of random 16-bit integers for dropout; `bits` makes them, or a kernel does.

    Element i is bits 16 * (i % 4) and up of word i // 4 (little-endian), on any machine; they are
    wanted from element `first` on.
    """

    seed: int
    stream: int
    step: int
    draw: int
    first: int = 0

    def bits(self, n, device="cpu"):
        """The first n that are wanted: uint16 (n,), on the device."""
        word, skipped = divmod(self.first, 4)
        words = philox(*self[:4], -(-(skipped + n) // 4), word, device)
        return words.astype("<u8", copy=False).view("<u2")[skipped : skipped + n]


def dropout_draw(n):
    """The next draw, to be of n integers: where a `counter` names rows, element 0 of theirs is not
    element 0 of the batch."""
    return Draw(*next_draw(), first=n // len(_here.rows) * _here.rows.start)


def dropout_bits(n, device="cpu"):
    """n random 16-bit integers for dropout, of the next draw: uint16 (n,), on the device."""
    return dropout_draw(n).bits(n, device)
