"""kernels/cublas.py: our own calls of cuBLAS, on a stand-in that takes the C arguments literally.

What is expected is NumPy's product in float64.
"""

import re

import fake_cupy
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorlib
from tensorlib import devices
from tensorlib.kernels import cublas

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
RNG = np.random.default_rng(0)
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


pytestmark = pytest.mark.usefixtures("machine")


def there(values):
    return devices.move(np.ascontiguousarray(values), "cuda")


def here(x):
    return devices.move(x, "cpu").astype(np.float64)


def random(shape, dtype="float32"):
    return there(RNG.normal(size=shape).astype(DTYPES[dtype]))


def same(result, expected, dtype):
    scale = np.abs(expected).max(initial=1)
    np.testing.assert_allclose(here(result), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


VIEWS = {  # of a matrix (…, rows, columns): the shape that it is cut from, and how
    "contiguous": (lambda *s: s, lambda x: x),
    "transposed": (lambda *s: (*s[:-2], s[-1], s[-2]), lambda x: x.swapaxes(-1, -2)),
    "rows apart": (lambda *s: (*s[:-1], s[-1] + 5), lambda x: x[..., 3:-2]),
    "columns apart": (
        lambda *s: (*s[:-2], s[-1], s[-2] + 5),
        lambda x: x[..., 3:-2].swapaxes(-1, -2),
    ),
    "matrices apart": (lambda *s: (*s[:-2], s[-2] + 1, s[-1]), lambda x: x[..., 1:, :]),
    "every other": (lambda *s: (*s[:-1], 2 * s[-1]), lambda x: x[..., ::2]),
    "backwards": (lambda *s: s, lambda x: x[..., ::-1, :]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("left", VIEWS)
def test_views(left, lead, dtype):
    cut_a, view_a = VIEWS[left]
    a = view_a(random(cut_a(*lead, 4, 6), dtype))
    for cut_b, view_b in VIEWS.values():
        b = view_b(random(cut_b(*lead, 6, 5), dtype))
        result = cublas.matmul(a, b)
        assert result.dtype == DTYPES[dtype]
        assert result.shape == (*lead, 4, 5)
        same(result, here(a) @ here(b), dtype)


@given(sizes=st.tuples(*[st.integers(0, 3)] * 3), lead=st.lists(st.integers(0, 2), max_size=3))
@settings(deadline=None, max_examples=150)
def test_small_and_empty(sizes, lead):
    with fake_cupy.installed():
        (m, n, k), lead = sizes, tuple(lead)
        for a in (random((*lead, m, k)), random((*lead, k, m)).swapaxes(-1, -2)):
            for b in (random((k, n)), random((*lead, n, k)).swapaxes(-1, -2)):
                same(cublas.matmul(a, b), here(a) @ here(b), "float32")


@pytest.mark.parametrize(
    ("a", "b"), [((2, 3, 4, 6), (6, 5)), ((4, 6), (3, 6, 5)), ((2, 1, 4, 6), (3, 6, 5))]
)
def test_batches_broadcast(a, b):
    a, b = random(a, "bfloat16"), random(b, "bfloat16")
    same(cublas.matmul(a, b), here(a) @ here(b), "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lead", [(), (2,)])
def test_out_and_accumulate(lead, dtype):
    a, b = random((*lead, 4, 6), dtype), random((*lead, 6, 5), dtype)
    expected = here(a) @ here(b)
    whole = random((*lead, 4, 9))
    before = here(whole)
    out = whole[..., 2:7]
    assert cublas.matmul(a, b, out=out, accumulate=True) is out
    before[..., 2:7] += expected
    same(whole, before, "float32")  # a float32 result of 16-bit operands loses nothing
    whole[...] = np.nan  # which is not to be added
    cublas.matmul(a, b, out=out)
    same(out, expected, "float32")
    assert np.isnan(here(whole)).sum() == whole.size - out.size


def test_16_bits_are_added_up_in_float32():
    ones = there(np.ones((1, 5000), np.float16))
    assert here(cublas.matmul(ones, ones.T)).item() == 5000  # in float16, 2048 + 1 is 2048
    result = cublas.matmul(ones * 8, ones.T * 8, dtype=np.float32)  # and this is infinite
    assert (here(result).item(), result.dtype) == (320000, np.float32)


def test_tf32(machine):
    a, b = there(np.full((1, 1), 1 + 2**-12, np.float32)), there(np.ones((1, 1), np.float32))
    assert here(cublas.product(a, b)).item() == 1 + 2**-12
    tensorlib.set_float32_matmul_precision("high")
    try:
        assert here(cublas.product(a, b)).item() == 1 or machine == "GPU"  # cuBLAS need not use it
        x, y = random((64, 64)), random((64, 64))
        same(cublas.product(x, y), here(x) @ here(y), "float16")  # as many bits of mantissa
    finally:
        tensorlib.set_float32_matmul_precision("highest")


def test_mistakes():
    with pytest.raises(ValueError, match="'highest' or 'high', not 'tf32'"):
        tensorlib.set_float32_matmul_precision("tf32")
    a, b = random((4, 6)), random((6, 5))
    for left, right, options, error in (
        (a, a, {}, ValueError),
        (a, random((6,)), {}, ValueError),
        (random((2, 4, 6)), random((3, 6, 5)), {}, ValueError),
        (a, b, {"accumulate": True}, ValueError),
        (a, b, {"out": random((5, 4))}, ValueError),
        (a, b, {"out": random((5, 4)).T}, ValueError),
        (a, b.astype(np.float16), {}, TypeError),
        (a, b, {"dtype": np.float16}, TypeError),
        (a.astype(np.float64), b.astype(np.float64), {}, TypeError),
    ):
        with pytest.raises(error, match=r"matmul|shape"):
            cublas.matmul(left, right, **options)


# ---- what cuBLAS is asked for --------------------------------------------------------------------


@pytest.fixture
def calls(machine):
    if machine == "GPU":
        pytest.skip("cuBLAS does not tell")
    return cublas._cublas().calls


def test_one_call_and_nobody_waits(calls):
    """However many heads lie side by side: they are copied, and multiplied all at once."""
    for heads in (4, 12):
        qkv = random((5, 8, 3, heads, 16), "bfloat16")  # (B, T, which, heads, head size)
        q, k = (qkv[:, :, i].swapaxes(1, 2) for i in (0, 1))  # (B, heads, T, head size)
        expected = here(q) @ here(k).swapaxes(-1, -2)
        fake_cupy.count.launches.clear()
        with fake_cupy.no_synchronisation():
            scores = cublas.matmul(q, k.swapaxes(-1, -2))
        same(scores, expected, "bfloat16")
        assert fake_cupy.count.launches == {"ascontiguousarray": 2, "cublasGemmStridedBatchedEx": 1}
        calls.clear()


def test_nothing_is_copied(calls, monkeypatch):
    monkeypatch.setattr(fake_cupy.cupy, "ascontiguousarray", None)
    cublas.matmul(random((3, 4, 8, 8)), random((3, 4, 8, 8)).swapaxes(-1, -2))
    cublas.matmul(random((4, 3, 8, 9))[1:3, ..., 1:], random((2, 3, 8, 8)))  # rows apart
    assert [name for name, *_ in calls] == ["cublasGemmStridedBatchedEx"] * 2
    calls.clear()
    cublas.matmul(random((4, 8)).T, random((4, 8)))
    assert [name for name, *_ in calls] == ["cublasGemmEx"]


def test_each_stream_has_a_handle_with_its_workspace(calls, monkeypatch):
    streams = [type("Stream", (), {"ptr": i}) for i in (0, 7)]
    a = random((2, 2))
    for stream in (*streams, *streams):
        monkeypatch.setattr(fake_cupy.cupy.cuda, "get_current_stream", lambda s=stream: s)
        cublas.matmul(a, a)
    handles = cublas._cublas().handles
    assert [h["stream"] for h in handles.values()] == [0, 7]
    assert all(h["size"] == 32 * 2**20 for h in handles.values())
    assert len({h["workspace"] for h in handles.values()}) == 2
    assert [call[1] for call in calls] == [*handles, *handles]


def test_no_memory_for_cublas_is_a_memory_error(monkeypatch):
    library = type("Library", (), {"cublasGemmEx": lambda *_: 3})  # CUBLAS_STATUS_ALLOC_FAILED
    monkeypatch.setattr(cublas, "_handle", lambda *_: 12345)
    monkeypatch.setattr(cublas, "_cublas", lambda: library)
    with pytest.raises(MemoryError) as error:
        cublas.matmul(random((2, 2)), random((2, 2)))
    expected = r"^out of GPU memory: more asked for, [\d.]+ of [\d.]+ GB free$"
    assert re.match(expected, devices.out_of_memory(error.value))


def test_an_error_of_cublas_is_one(calls, monkeypatch):
    monkeypatch.setattr(cublas, "_handle", lambda *_: 12345)
    with pytest.raises(RuntimeError, match=r"^cublasGemmEx failed with cublasStatus_t 1$"):
        cublas.matmul(random((2, 2)), random((2, 2)))
