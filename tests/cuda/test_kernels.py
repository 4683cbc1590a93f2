"""Every fused kernel for the GPU, run on the CPU, against its twin in `kernels/cpu.py`.

Inputs and outputs are guarded, outputs begin as NaN, and each kernel runs several times, with its
threads in another order: it has to give the same bits.
"""

import functools
import inspect
import math

import emulator
import fake_cupy
import ml_dtypes
import numpy as np
import pytest

from tensorlib import random
from tensorlib.bounds import raise_kept
from tensorlib.kernels import compiling, cpu, gpu

pytestmark = pytest.mark.skipif(emulator.missing is not None, reason=str(emulator.missing))

SIZES = [1, 7, 64, 100, 384, 1000, 1100]  # from 1025 on, a whole block works on a row
SEEDS = [None, 0, 1]
DTYPES = {np.float32: 1e-5, np.float16: 2e-3, ml_dtypes.bfloat16: 2e-2}


def on_device(x):
    """A guarded copy of an array as the stand-in for CuPy has it; anything else as it is. What was
    not contiguous is not contiguous there."""
    if not isinstance(x, np.ndarray):
        return x
    if x.size and x.strides == (0,):
        return fake_cupy.cupy.broadcast_to(on_device(x[:1].copy()), x.shape)
    if not x.flags.c_contiguous:
        copy = emulator.guarded((*x.shape, 2), x.dtype)[..., 0]
    else:
        copy = emulator.guarded(x.shape, x.dtype)
    copy[...] = x
    return fake_cupy.ndarray(copy)


def on_host(x):
    if isinstance(x, (tuple, list)):
        return [on_host(i) for i in x]
    return x if x is None else x.get()


def _empty(shape, dtype):
    return fake_cupy.ndarray(emulator.guarded(shape, dtype))


@pytest.fixture(scope="module", autouse=True)
def _stand_in_for_cupy():
    with fake_cupy.installed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_cupy.cupy, "empty", _empty)
        for name in ("_module", "_kernel"):
            patch.setattr(compiling, name, functools.cache(getattr(compiling, name).__wrapped__))
        yield
    emulator.shuffle(None)


def compare(name, *args, tolerance=1e-5, twin=None):
    """gpu.name(*args) is cpu.name(*args), computed in float32, and the same bits in any order."""
    results = []
    for seed in SEEDS:
        emulator.shuffle(seed)
        result = on_host(getattr(gpu, name)(*map(on_device, args)))
        results.append(result if isinstance(result, list) else [result])
    wide = [x.astype(np.float32) if _is_narrow(x) else x for x in args]
    expected = (twin or getattr(cpu, name))(*wide)
    expected = expected if isinstance(expected, tuple) else [expected]
    for i, (result, right) in enumerate(zip(results[0], expected, strict=True)):
        if right is None:
            assert result is None
            continue
        assert result.shape == np.shape(right)
        for again in results[1:]:
            assert again[i].tobytes() == result.tobytes()
        scale = max(1, np.abs(right).max(initial=0)) if right.dtype != bool else 0
        np.testing.assert_allclose(
            result.astype(right.dtype), right, rtol=tolerance, atol=tolerance * scale
        )
    return results[0]


def _is_narrow(x):
    return isinstance(x, np.ndarray) and x.dtype.itemsize == 2 and x.dtype != np.uint16


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


every_size = pytest.mark.parametrize("C", SIZES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)

# Each kernel once: C columns, type; what its function takes.
CASES = {
    "softmax": lambda x, C: [(x(5, C), -1), (x(2, 3, C), 2)],
    "softmax_backward": lambda x, C: [(x(5, C), cpu.softmax(x(5, C, seed=1), -1), -1)],
    "log_softmax": lambda x, C: [(x(5, C), -1)],
    "log_softmax_backward": lambda x, C: [(x(5, C), -np.abs(x(5, C, seed=1)), -1)],
    "relu": lambda x, C: [(x(3, C),)],
    "relu_backward": lambda x, C: [(x(3, C), np.maximum(x(3, C, seed=1), 0))],
    "gelu": lambda x, C: [(x(3, C), tanh) for tanh in (False, True)],
    "gelu_backward": lambda x, C: [(x(3, C), x(3, C, seed=1), tanh) for tanh in (False, True)],
    "layer_norm": lambda x, C: [
        (x(9, C) + 2, x(C), x(C, seed=1), 1e-5),
        (x(9, C), x(C), None, 1e-2),
        (x(9, C), None, None, 1e-2),
    ],
    "rms_norm": lambda x, C: [(x(9, C), x(C), 1e-5), (x(9, C), None, 1e-2)],
    "layer_norm_backward": lambda x, C: [
        (x(70, C), x(70, C, seed=1), _rstd(70), x(C), [True] * 3),
        (x(9, C), x(9, C, seed=1), _rstd(9), None, [True, False, True]),
        (x(9, C), x(9, C, seed=1), _rstd(9), x(C), [False, True, False]),
        (x(9, C), x(9, C, seed=1), _rstd(9), x(C), [False, False, True]),
        (x(9, C), x(9, C, seed=1), _rstd(9), x(C), [True, False, False]),
    ],
    "rms_norm_backward": lambda x, C: [
        (x(70, C), x(70, C, seed=1), _rstd(70), x(C), [True, True]),
        (x(9, C), x(9, C, seed=1), _rstd(9), None, [True, False]),
    ],
    "embedding": lambda x, C: [(_classes(11, 4, 3), x(11, C))],
    "embedding_backward": lambda x, C: [
        (x(2, 30, C), _classes(11, 2, 30), 11),
        (x(5, C), _classes(40, 5), 40),
    ],
}


def _rstd(n):
    return np.random.default_rng(n).uniform(0.5, 2, (n, 1)).astype(np.float32)


def _classes(n, *shape):
    return np.random.default_rng(n).integers(0, n, shape)


@every_size
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_their_twins(name, C):
    for args in CASES[name](normal, C):
        compare(name, *args)


@every_dtype
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_in_16_bits(name, dtype):
    def of_type(*shape, seed=0):
        return normal(*shape, dtype=dtype, seed=seed)

    for args in CASES[name](of_type, 100):
        args = [x.astype(dtype) if _is_float(x) and x.shape[-1:] == (100,) else x for x in args]
        results = compare(name, *args, tolerance=DTYPES[dtype])
        assert all(r is None or r.dtype == dtype or r.shape[-1] == 1 for r in results)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("C", [100, 1100])
@every_dtype
def test_norms_of_float32_in_16_bits(name, C, dtype):
    x, weight, bias, tolerance = normal(9, C) + 2, normal(C), normal(C, seed=1), DTYPES[dtype]
    weights = (weight, bias)[: 2 if name == "layer_norm" else 1]
    y, normed, rstd = compare(name, x, *weights, 1e-5, dtype, tolerance=tolerance)
    assert (y.dtype, normed.dtype, rstd.dtype) == (dtype, np.float32, np.float32)
    needed, dy = [True] * (1 + len(weights)), normal(9, C, dtype=dtype, seed=2)
    for gradient in compare(f"{name}_backward", dy, normed, rstd, weight, needed):
        assert gradient.dtype == np.float32


@pytest.mark.parametrize("few", [0, 2**24], ids=["sorted", "looked through"])
def test_the_rows_of_an_embedding_are_found(few, monkeypatch):
    monkeypatch.setattr(gpu, "_FEW", few)
    for index in (_classes(7, 700), np.full(300, 3), np.zeros(0, np.int64), np.array([[9, 0]])):
        compare("embedding_backward", normal(*index.shape, 40), index, 11)


def _is_float(x):
    return isinstance(x, np.ndarray) and x.dtype.kind in "fV"


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_along_any_axis(axis):
    x, dy = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    compare("softmax", x, axis)
    compare("log_softmax", x, axis)
    compare("softmax_backward", dy, cpu.softmax(x, axis), axis)
    compare("log_softmax_backward", dy, cpu.log_softmax(x, axis), axis)
    for shape in [(3, 4, 5), (4, 5), (5,), (1, 4, 1), (3, 1, 5)]:
        mask = normal(*shape, seed=2) > 0
        compare("masked_softmax", x, mask, axis)
    compare("masked_softmax", x, np.zeros((4, 5), bool), axis)


@every_size
def test_masked_softmax_of_scores(C):
    x = normal(2, 3, 6, C)
    compare("masked_softmax", x, np.tri(6, C, dtype=bool), -1)


def test_softmax_of_numbers_that_are_far_away_or_alone():
    compare("softmax", np.float32([[1e4, -1e4, 9999.0], [-np.inf, 0, 1]]), 1)
    compare("log_softmax", np.float32([[1e4, -1e4, 9999.0]]), 1)
    for name in ("softmax", "log_softmax"):
        kernel = getattr(gpu, name)
        assert kernel(on_device(np.array(3, np.float32)), 0).get() == (name == "softmax")
        assert kernel(on_device(np.empty((0, 4), np.float32)), -1).shape == (0, 4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("C", "dtype"), [(C, np.float32) for C in SIZES] + [(100, dtype) for dtype in DTYPES][1:]
)
def test_cross_entropy(C, dtype, smoothing):
    logits, targets = 3 * normal(11, C, dtype=dtype), _classes(C, 11)
    ignored = np.arange(11) % 4 == 1
    args = targets, ignored, smoothing
    compare("cross_entropy", logits, *args, tolerance=DTYPES[dtype])
    shares = cpu.softmax(logits.astype(np.float32), 1).astype(dtype)
    dlosses = normal(11, dtype=dtype)
    compare("cross_entropy_backward", dlosses, shares, *args, tolerance=DTYPES[dtype])
    alike = np.broadcast_to(dlosses[:1], 11)
    compare("cross_entropy_backward", alike, shares, *args, tolerance=DTYPES[dtype])


@every_dtype
def test_cross_entropy_of_16_bits_in_float32(dtype):
    logits, targets, ignored = (
        3 * normal(11, 100, dtype=dtype),
        _classes(100, 11),
        np.zeros(11, bool),
    )
    args = targets, ignored, 0.1
    losses, shares = compare("cross_entropy", logits, *args, np.float32)
    assert losses.dtype == shares.dtype == np.float32
    dlosses = normal(11)
    (dlogits,) = compare(
        "cross_entropy_backward", dlosses, shares, *args, dtype, tolerance=DTYPES[dtype]
    )
    assert dlogits.dtype == dtype


def test_indices_out_of_range_become_nan():
    weight, index = on_device(normal(5, 3)), on_device(np.array([1, 5, -1]))
    assert np.isnan(gpu.embedding(index, weight).get()).any(axis=1).tolist() == [False, True, True]
    ignored = on_device(np.zeros(3, bool))
    losses, _ = gpu.cross_entropy(on_device(normal(3, 5)), index, ignored, 0.0)
    assert np.isnan(losses.get()).tolist() == [False, True, True]
    with pytest.raises(IndexError, match="-1 is out of range for 5"):  # kept for whoever waits
        raise_kept()
    raise_kept()  # and forgotten


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias, dtype):
    x, weight, dy = (normal(*s, dtype=dtype) for s in [(2, 5, 7), (4, 7), (2, 5, 4)])
    tolerance = DTYPES[dtype]
    compare("linear", x, weight, normal(4, dtype=dtype) if bias else None, tolerance=tolerance)
    compare("linear_backward", dy, x, weight, [True, True, True], tolerance=tolerance)
    compare("linear_backward", dy, x, weight, [False, False, False])


@every_dtype
@pytest.mark.parametrize("threshold", [0, 1, 13107, 65535, 65536])
def test_dropout(threshold, dtype):
    x = normal(3, 211, dtype=dtype)
    for draw in (random.Draw(1337, 2, 4999, 12), random.Draw(2**64 - 1, 3, 2**63, 0, 16 * 9 + 5)):
        _, keep = compare("dropout", x, draw, threshold, tolerance=DTYPES[dtype])
        np.testing.assert_array_equal(keep, draw.bits(x.size).reshape(x.shape) >= threshold)
        compare("dropout_backward", x, keep, threshold, tolerance=DTYPES[dtype])


@every_dtype
@pytest.mark.parametrize("wide", [False, True])
def test_dropout_and_the_residual_stream(wide, dtype):
    x, dy = normal(3, 211, dtype=dtype), normal(3, 211, seed=1)
    residual = normal(3, 211, dtype=np.float32 if wide else dtype, seed=2)
    dy = dy.astype(residual.dtype)
    args = random.Draw(1337, 2, 4999, 12), 13107
    y, keep = compare("dropout", x, *args, residual, tolerance=DTYPES[dtype])
    assert y.dtype == residual.dtype
    (dx,) = compare("dropout_backward", dy, keep, 13107, dtype, tolerance=DTYPES[dtype])
    assert dx.dtype == dtype


def test_dropout_keeps_what_is_at_the_threshold():
    draw = random.Draw(1, 2, 3, 4)
    bits = draw.bits(500)
    for i in (0, 15, 16, 499):
        _, keep = gpu.dropout(on_device(normal(500)), draw, int(bits[i]))
        assert keep.get()[i]
        _, keep = gpu.dropout(on_device(normal(500)), draw, int(bits[i]) + 1)
        assert not keep.get()[i]
    step = on_device(np.array([3], np.uint64))
    _, keep = gpu.dropout(on_device(normal(500)), draw._replace(step=step), 30000)
    np.testing.assert_array_equal(keep.get(), bits >= 30000)


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (2**64 - 1, 5, 2**63, 7), (1337, 2, 4999, 12)])
def test_philox_gives_the_words_of_the_cpu(place):
    for n, first in [(1, 0), (4, 0), (1030, 0), (17, 3), (5, 2**20 + 1)]:
        words = gpu.philox(*place, n, first).get()
        np.testing.assert_array_equal(words, random.philox(*place, n, first))
    seed, stream, step, draw = place
    on_gpu = on_device(np.array([step], np.uint64))
    words = gpu.philox(seed, stream, on_gpu, draw, 9).get()
    np.testing.assert_array_equal(words, random.philox(*place, 9))


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5)])
def test_adam(decoupled, step, betas):
    arrays = [normal(1003, seed=i) for i in range(4)]
    arrays[3] = arrays[3] ** 2
    settings = betas, 1e-8, 0.1, decoupled
    expected = [x.astype(np.float64) for x in arrays]
    cpu.adam(*expected, step, 0.01, *settings)
    for seed in SEEDS:
        emulator.shuffle(seed)
        for numbers in ((step, 0.01), (np.array([step], np.int32), np.array([0.01], np.float32))):
            ours = [on_device(x) for x in arrays]
            gpu.adam(*ours, *map(on_device, numbers), *settings)
            for x, right in zip(ours, expected):
                np.testing.assert_allclose(x.get(), right, rtol=2e-6, atol=1e-7)
    ours = [on_device(x) for x in arrays]
    gpu.adam(*ours, step, 0.01, *settings, on_device(np.array(True)))
    for x, before in zip(ours, arrays):
        np.testing.assert_array_equal(x.get(), before)


@pytest.mark.parametrize("n", [1, 255, 100_003])
def test_norm(n):
    x = normal(n)
    (result,) = compare("norm", x)
    assert math.isclose(result, math.sqrt(math.fsum(x.astype(float) ** 2)), rel_tol=1e-6)


@every_dtype
@pytest.mark.parametrize("norm", [0.0, 0.5, 3.0, np.inf, np.nan])
@pytest.mark.parametrize("max_norm", [1.0, math.inf])
def test_clip(norm, max_norm, dtype):
    x, norm = normal(1003, dtype=dtype), np.float32(norm)
    expected = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        cpu.clip(expected, np.asarray(norm), max_norm)
    ours = on_device(x)
    gpu.clip(ours, on_device(np.asarray(norm)), max_norm)
    np.testing.assert_allclose(ours.get().astype(float), expected, rtol=DTYPES[dtype])
    apart = on_device(np.stack([x, x]).T)
    gpu.clip(apart, on_device(np.asarray(norm)), max_norm)
    both = np.stack([ours.get()] * 2).T.astype(float)
    np.testing.assert_array_equal(apart.get().astype(float), both)


@pytest.mark.parametrize("count", [1, 19, 250, 251])  # 250 in a launch
def test_join(count):
    arrays = [normal(*[(5,), (2, 3), (1,), ()][i % 4], seed=i) for i in range(count)]
    arrays[-1] = normal(4, 6)[:, ::2]
    expected = np.empty(sum(x.size for x in arrays), np.float32)
    cpu.join(arrays, expected)
    assert expected.tolist() == [float(number) for x in arrays for number in x.flat]
    out = _empty(expected.shape, np.float32)
    gpu.join([on_device(x) for x in arrays], out)
    np.testing.assert_array_equal(out.get(), expected)


def test_inputs_need_not_be_contiguous():
    x, dy = normal(12, 40)[::2, ::2], normal(20, 6).T
    compare("layer_norm", x, normal(40)[::2], normal(20), 1e-5)
    compare("layer_norm_backward", dy, x, _rstd(6), normal(40)[::2], [True] * 3)
    compare("gelu_backward", dy, x, False)
    compare("softmax", x, -1)
    compare("masked_softmax", x, normal(20, 6).T > 0, -1)
    compare("linear", x, normal(8, 40)[:, ::2], None)
    compare("linear_backward", dy, x, normal(20, 40)[:, ::2], [True] * 3)
    compare("embedding", _classes(20, 12)[::2], normal(40, 5)[::2])
    compare("embedding_backward", dy, _classes(9, 12)[::2], 9)
    compare("norm", x)
    compare("cross_entropy", x, _classes(20, 12)[::2].astype(np.int32), np.zeros(6, bool), 0.0)


def test_a_dtype_without_kernels_is_refused_in_one_line():
    with pytest.raises(RuntimeError, match="compute in float32, float16, bfloat16, not in float64"):
        gpu.gelu(on_device(normal(3, dtype=np.float64)), False)


def test_both_modules_have_the_same_functions():
    pytest.importorskip("tensorlib.kernels.gpu_attention", reason="attention has no kernel yet")

    def public(module):
        return {
            name: list(inspect.signature(function).parameters)
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__.startswith("tensorlib.kernels.")
            and name[0] != "_"
            and function.__module__ != "tensorlib.kernels.compiling"
        }

    words = list(inspect.signature(random.philox).parameters)[:6]  # which has a device besides
    theirs = {"philox": words} | {k: v for k, v in public(cpu).items() if k != "erf"}
    assert public(gpu) == theirs
