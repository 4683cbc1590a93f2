"""Flash attention in emulation: against `cpu.attention` in float64 and PyTorch in float32, on the
same 16-bit inputs. Every array lies between pages that nobody may touch, and begins as NaN."""

import types
from pathlib import Path

import emulator
import fake_cupy
import ml_dtypes
import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tensorlib.kernels import compiling, cpu, gpu_attention
from tensorlib.random import Draw

needs_emulator = pytest.mark.skipif(emulator.missing is not None, reason=str(emulator.missing))
BF16, FP16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
TOLERANCE = {BF16: 2e-2, FP16: 2e-3}


class DeviceArray(np.ndarray):
    """What gpu_attention asks of an array of CuPy's."""

    @property
    def data(self):
        address = self.__array_interface__["data"][0]
        return types.SimpleNamespace(ptr=address, pointer=address, array=self)


def empty(shape, dtype):
    return emulator.guarded(shape, dtype).view(DeviceArray)


def on_device(x):
    copy = empty(x.shape, x.dtype)
    copy[...] = x
    return copy


class RawModule:
    def __init__(self, code, options):
        self.get_function = emulator.Module(code, options, Path()).get_function


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """The part of CuPy that gpu_attention calls."""
    library = types.SimpleNamespace(
        RawModule=RawModule,
        ascontiguousarray=lambda x: x if x.flags.c_contiguous else on_device(x),
        broadcast_to=lambda x, shape: np.broadcast_to(x, shape, subok=True),
        empty=empty,
        empty_like=lambda x: empty(x.shape, x.dtype),
        full=lambda size, number, dtype: on_device(np.full(size, number, dtype)),
    )
    gpu_attention._kernel.cache_clear()
    gpu_attention._module.cache_clear()
    compiling._scalar.cache_clear()
    monkeypatch.setattr(gpu_attention, "library", lambda device: library)
    monkeypatch.setattr(compiling, "library", lambda device: library)
    monkeypatch.setattr(gpu_attention, "compute_capability", lambda: 90)
    yield library
    gpu_attention._kernel.cache_clear()
    gpu_attention._module.cache_clear()
    compiling._scalar.cache_clear()
    emulator.shuffle(None)


def random_inputs(lead, L, S, D, dtype, seed=0):
    """q, k, v and dy."""
    rng = np.random.default_rng(seed)
    return [on_device(rng.normal(size=(*lead, n, D)).astype(dtype)) for n in (L, S, S, L)]


def attend(kernels, q, k, v, dy, causal=False, draw=None, threshold=0, scale=None):
    """y, dq, dk, dv."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    y, saved = kernels.attention(q, k, v, None, causal, scale, draw, threshold)
    return y, *kernels.attention_backward(dy, q, k, v, saved, causal, scale, threshold)[:3]


def exact(*inputs, **options):
    """The same by the code of the CPU in float64."""
    return attend(cpu, *(np.asarray(x).astype(np.float64) for x in inputs), **options)


def assert_close(results, expected, tolerance):
    for name, ours, theirs in zip(("y", "dq", "dk", "dv"), results, expected, strict=True):
        assert ours.shape == theirs.shape, name
        size = max(1, np.abs(theirs).max())
        ours = np.asarray(ours).astype(np.float64)
        np.testing.assert_allclose(ours, theirs, tolerance, tolerance * size, err_msg=name)


def assert_same_bits(results, expected):
    for ours, theirs in zip(results, expected, strict=True):
        np.testing.assert_array_equal(ours.view(np.uint16), theirs.view(np.uint16))


@needs_emulator
@pytest.mark.parametrize(
    ("dtype", "lead", "L", "S", "D", "causal", "threshold"),
    [
        (BF16, (2, 2), 1, 1, 16, True, 0),
        (BF16, (1, 3), 5, 5, 16, True, 0),
        (BF16, (2, 1), 16, 16, 16, False, 0),
        (BF16, (1, 2), 63, 63, 16, True, 13107),
        (BF16, (1, 1), 130, 130, 64, True, 0),
        (BF16, (1, 1), 64, 64, 64, False, 0),
        (FP16, (1, 2), 65, 65, 64, True, 13107),
        (FP16, (1, 1), 130, 70, 64, False, 30000),
        (FP16, (2, 1), 1, 65, 64, False, 0),  # as in sampling: the last of 65 positions
        (FP16, (1, 1), 65, 5, 64, True, 0),
        (FP16, (1, 1), 5, 130, 64, True, 0),
        (FP16, (1, 2), 65, 65, 80, True, 0),
        (FP16, (1, 1), 70, 65, 128, False, 13107),
    ],
)
def test_is_what_the_cpu_computes(dtype, lead, L, S, D, causal, threshold):
    inputs = random_inputs(lead, L, S, D, dtype)
    draw = Draw(1337, 2, 4999, 12, first=L * S) if threshold else None
    options = {"causal": causal, "threshold": threshold, "draw": draw}
    results = attend(gpu_attention, *inputs, **options)
    assert all(x.dtype == dtype for x in results)
    assert_close(results, exact(*inputs, **options), TOLERANCE[dtype])


@needs_emulator
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_is_what_pytorch_computes(dtype, causal):
    inputs = random_inputs((2, 2), 65, 65, 64, dtype)
    q, k, v, dy = (torch.tensor(np.asarray(x).astype(np.float32)) for x in inputs)
    for x in (q, k, v):
        x.requires_grad_()
    y = scaled_dot_product_attention(q, k, v, is_causal=causal)
    y.backward(dy)
    expected = [x.numpy() for x in (y.detach(), q.grad, k.grad, v.grad)]
    assert_close(attend(gpu_attention, *inputs, causal=causal), expected, TOLERANCE[dtype])


@needs_emulator
def test_any_order_of_threads_gives_the_same_bits():
    inputs = random_inputs((1, 2), 130, 130, 64, FP16)
    options = {"causal": True, "draw": Draw(1, 2, 3, 4), "threshold": 13107}
    first = attend(gpu_attention, *inputs, **options)
    for seed in (None, 0, 1, 2):
        emulator.shuffle(seed)
        assert_same_bits(attend(gpu_attention, *inputs, **options), first)


@needs_emulator
def test_heads_are_read_where_the_linear_layer_left_them(monkeypatch):
    B, T, H, D = 2, 65, 2, 64
    qkv = np.random.default_rng(0).normal(size=(B, T, 3, H, D)).astype(FP16)
    q, k, v = on_device(qkv).transpose(2, 0, 3, 1, 4)
    dy = random_inputs((B, T), 1, H, D, FP16)[1].swapaxes(1, 2)  # (B, H, T, D), from (B, T, H, D)
    contiguous = [on_device(x) for x in (q, k, v, dy)]
    expected = attend(gpu_attention, *contiguous, causal=True)
    monkeypatch.setattr(DeviceArray, "copy", lambda x: pytest.fail("a copy"), raising=False)
    y, *gradients = attend(gpu_attention, q, k, v, dy, causal=True)
    assert_same_bits((y, *gradients), expected)
    assert y.swapaxes(1, 2).flags.c_contiguous  # heads side by side: (B, T, C) without a copy
    whole = gradients[0].base  # and the gradients as qkv had them
    assert all(x.base is whole for x in gradients)
    assert [x.data.ptr - gradients[0].data.ptr for x in gradients] == [0, 2 * H * D, 4 * H * D]
    assert gradients[0].strides == tuple(2 * n for n in (T * 3 * H * D, D, 3 * H * D, 1))


@needs_emulator
def test_what_cannot_be_read_sixteen_bytes_at_a_time_is_copied():
    q, k, v, dy = random_inputs((1, 2), 16, 16, 16, BF16)
    expected = attend(gpu_attention, q, k, v, dy)
    columns = on_device(k.swapaxes(-1, -2)).swapaxes(-1, -2)  # a row is not contiguous
    wide = empty((1, 2, 16, 20), BF16)  # nor does every row begin at a multiple of 16 bytes
    wide[..., 1:17] = v
    shifted = empty(1 + q.size, BF16)[1:].reshape(q.shape)  # contiguous, and begins at an odd place
    shifted[...] = q
    assert_same_bits(attend(gpu_attention, shifted, columns, wide[..., 1:17], dy), expected)


@needs_emulator
@pytest.mark.parametrize("lead", [(), (3,), (2, 1, 2)])
def test_any_number_of_dimensions_before_the_last_two(lead):
    inputs = random_inputs(lead, 5, 7, 16, BF16)
    assert_close(attend(gpu_attention, *inputs), exact(*inputs), TOLERANCE[BF16])


@needs_emulator
def test_one_head_of_keys_may_serve_all_heads_of_queries():
    q, k, v, dy = random_inputs((2, 3), 5, 7, 16, BF16)
    k, v = k[:, :1], v[:1, :1]
    wide = [np.broadcast_to(x, (2, 3, 7, 16)) for x in (k, v)]
    # the gradients are those of the broadcast operands: the tape sums them up
    assert_close(attend(gpu_attention, q, k, v, dy), exact(q, *wide, dy), TOLERANCE[BF16])


@needs_emulator
@pytest.mark.parametrize("size", [64, 48, 63, 50])  # of which some begin amid a counter's integers
@pytest.mark.parametrize("first", [0, 5, 2**40])
def test_exactly_those_weights_are_dropped_whose_bits_are_below_the_threshold(size, first):
    draw = Draw(2**64 - 1, 2, 2**63, 7, first)
    bits = draw.bits(2 * size * size).reshape(1, 2, size, size)
    threshold = int(bits[0, 1, size // 2, 3])  # a weight with just this number is kept
    q, k = (on_device(np.zeros((1, 2, size, 64), FP16)) for _ in range(2))  # all weights are alike
    one = on_device(np.tile(np.eye(size, 64, dtype=FP16), (1, 2, 1, 1)))
    options = {"threshold": threshold, "scale": 1.0}
    y, _, _, dv = attend(gpu_attention, q, k, one, one, draw=draw, **options)
    kept = (bits >= threshold) * (65536 / (65536 - threshold) / size)
    # row i of y, column i of dv: what query i kept
    np.testing.assert_allclose(y[..., :size].astype(np.float64), kept, rtol=2e-3)
    dv = dv[..., :size].swapaxes(-1, -2)
    np.testing.assert_allclose(dv.astype(np.float64), kept, rtol=2e-3)
    step = on_device(np.array([2**63], np.uint64))  # as a captured step has it
    again = attend(gpu_attention, q, k, one, one, draw=draw._replace(step=step), **options)
    assert_same_bits(again[:1], [y])


@needs_emulator
def test_dropping_everything_leaves_zeros():
    inputs = random_inputs((1, 1), 16, 16, 16, BF16)
    for x in attend(gpu_attention, *inputs, draw=Draw(1, 2, 3, 4), threshold=65536):
        assert not x.astype(np.float32).any()


@needs_emulator
def test_large_scores_do_not_overflow():
    q, k, v, dy = random_inputs((1, 1), 65, 130, 64, FP16)
    q *= FP16.type(64)  # scores of some hundreds; their exponentials overflow float32
    results, expected = attend(gpu_attention, q, k, v, dy), exact(q, k, v, dy)
    assert np.isfinite(results[0]).all()
    assert_close(results, expected, 1e-2)  # the inputs of the softmax are large, so are its errors


@needs_emulator
def test_the_logarithms_of_the_sums_are_saved():
    q, k, v, _ = random_inputs((1, 2), 5, 7, 16, BF16)
    _, (_, lse, _) = gpu_attention.attention(q, k, v, None, False, 0.25, None, 0)
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) * 0.25
    expected = np.log2(np.exp(scores).sum(-1)).reshape(2, 5)
    np.testing.assert_allclose(lse[:, :5], expected, rtol=1e-5)
    assert np.isfinite(lse).all()  # behind the last row, too, where the backward kernels read it


@pytest.mark.parametrize("why", ["float32", "mask", "head size", "negative scale", "old GPU"])
def test_the_rest_takes_the_plain_form(why, library, monkeypatch):
    rng = np.random.default_rng(0)
    dtype = np.dtype(np.float32) if why == "float32" else BF16
    D = 24 if why == "head size" else 16
    inputs = [rng.normal(size=(2, 5, D)).astype(dtype) for _ in range(4)]
    mask = rng.random((5, 5)) < 0.7 if why == "mask" else None
    scale = -0.25 if why == "negative scale" else 0.25
    if why == "old GPU":
        monkeypatch.setattr(gpu_attention, "compute_capability", lambda: 75)
    monkeypatch.setattr(library, "RawModule", lambda **_: pytest.fail("a kernel was compiled"))
    with fake_cupy.installed():
        q, k, v, dy = map(fake_cupy.asarray, inputs)
        seen = None if mask is None else fake_cupy.asarray(mask)
        y, saved = gpu_attention.attention(q, k, v, seen, False, scale, None, 0)
        grads = gpu_attention.attention_backward(dy, q, k, v, saved, False, scale, 0)
        y, *grads = (x.get() for x in (y, *grads[:3]))
    wide = [x.astype(np.float64) for x in inputs]
    expected, saved = cpu.attention(*wide[:3], mask, False, scale, None, 0)
    expected = expected, *cpu.attention_backward(wide[3], *wide[:3], saved, False, scale, 0)[:3]
    assert all(x.dtype == dtype for x in (y, *grads))
    assert_close((y, *grads), expected, 1e-5 if why == "float32" else 1e-2)
