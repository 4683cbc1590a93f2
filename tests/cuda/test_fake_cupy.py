"""The stand-in for CuPy refuses what CuPy refuses, and counts what makes the host wait.

What is said of CuPy holds of CuPy itself where it can be had (`machine`).
"""

import contextlib
import importlib
import inspect
import math
import sys

import fake_cupy
import numpy as np
import pytest
from fake_cupy import count, cupy, no_synchronisation

X = np.arange(6.0, dtype=np.float32).reshape(2, 3)
BFLOAT16 = fake_cupy.BFLOAT16


def asarray(values):
    return sys.modules["cupy"].asarray(values)


@pytest.fixture
def x(request):
    if "machine" not in request.fixturenames:
        request.getfixturevalue("stand_in")
    return asarray(X)


@pytest.fixture
def stand_in():
    with fake_cupy.installed():
        yield


def test_numpy_functions_compute_on_the_device(machine, x):
    y = np.maximum(x - np.max(x, axis=1, keepdims=True), -1)
    assert type(y) is sys.modules["cupy"].ndarray
    np.testing.assert_array_equal(y.get(), np.maximum(X - X.max(axis=1, keepdims=True), -1))


@pytest.mark.parametrize(
    "mistake",
    [
        np.asarray,
        lambda x: x + X,
        lambda x: X * x,
        lambda x: np.where(x > 0, X, x),
        lambda x: np.concatenate([x, X]),
        lambda x: np.concatenate([x.sum(), x.sum()]),
        lambda x: np.add(X, X, out=x),
        lambda x: np.vecdot(x, x),
        lambda x: np.add.reduceat(x, [0]),
        lambda x: np.block([x, x]),
        lambda x: np.ascontiguousarray(x),
        lambda x: x.max(axis=1, initial=-np.inf),
        lambda x: np.full((2, 3), 1.0, like=x),  # NumPy hands `device` on
        lambda x: hash(x),
        lambda x: [0, 1, 2][x[0, 0].astype(np.int64)],
        lambda x: x[0, 0].sum(axis=0),
        lambda x: x.__setitem__(0, X[0]),
        lambda x: np.where(False, x, x * 2),
        lambda x: x.__setitem__(0, [1.0, 2.0, 3.0]),
        lambda x: np.add.at(x, (asarray([0]), asarray([1])), 1.0),
        lambda x: sys.modules["cupy"].add.at(x.astype(BFLOAT16), asarray([0]), 1.0),
        lambda x: np.multiply(x, 2, order="C"),
        lambda x: x[asarray([0, 1]), asarray([0, 1, 2])],
        lambda x: x.__imatmul__(x),
    ],
)
def test_what_cupy_refuses(machine, x, mistake):
    with pytest.raises((AttributeError, OverflowError, TypeError, ValueError)):
        mistake(x)


def test_a_reduction_and_an_element_are_arrays(machine, x):
    assert (x.sum().shape, x[1, 2].shape, type(x[1, 2])) == ((), (), type(x))
    assert x[1, 2].base is x


def test_an_index_out_of_range_wraps(machine, x):
    assert x[asarray([2, -3])].tolist() == X[[0, 1]].tolist()
    assert x[:, asarray([4])].tolist() == X[:, [1]].tolist()
    with pytest.raises(IndexError):
        x[2]


def test_what_nobody_wrote_to_is_not_zero(x):
    assert math.isnan(cupy.empty(1, np.float32).item())
    assert np.isnan(np.empty_like(x).get()).all()


def test_what_waits_for_the_device_is_counted(x):
    waiting = [
        lambda: x.get(),
        lambda: x.tolist(),
        lambda: x[0, 0].item(),
        lambda: float(x.sum()),
        lambda: bool(x.any()),
        lambda: max(x[0]),
        lambda: x[x > 1],
        lambda: x.__setitem__(x > 1, 0),
        lambda: np.unique(x),
        lambda: np.nonzero(x),
        lambda: repr(x),
        lambda: cupy.cuda.Device().synchronize(),
        lambda: cupy.cuda.get_current_stream().synchronize(),
    ]
    for wait in waiting:
        before = count.synchronisations
        wait()
        assert count.synchronisations > before
        with no_synchronisation(), pytest.raises(AssertionError, match="wait"):
            wait()
    with no_synchronisation():
        np.where(x > 1, x, 0).sum() + x[asarray([0, 1])].max()


def test_out_of_memory(monkeypatch):
    monkeypatch.setattr(fake_cupy.memory, "free", 1000)
    with pytest.raises(MemoryError, match="4,000 bytes"):
        cupy.zeros(1000, np.float32)


def test_the_signatures_are_those_of_cupy():
    """Where CuPy is installed; that takes no GPU."""
    ours = sys.modules.pop("cupy", None)
    try:
        real = importlib.import_module("cupy") if importlib.util.find_spec("cupy") else None
    finally:
        if ours is not None:
            sys.modules["cupy"] = ours
    if real is None:
        pytest.skip("CuPy is not installed")
    for name, parameters in fake_cupy.SIGNATURES.items():
        assert list(inspect.signature(getattr(real, name)).parameters) == parameters.split(), name
    for name in fake_cupy.UFUNCS.split():
        assert hasattr(real, name), name
    for name in [n for n in vars(fake_cupy.ndarray) if n[0] != "_"]:
        assert hasattr(real.ndarray, name), name


@contextlib.contextmanager
def capture():
    """Inside, work is captured; what ends that is given."""
    cuda = sys.modules["cupy"].cuda
    stream, pool = cuda.Stream(non_blocking=True), cuda.MemoryPool()
    stream.use()
    try:
        with cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            yield stream.end_capture
    finally:
        cuda.Stream.null.use()


def test_a_graph(x):
    """It runs what was captured, on the same memory, and only when it is launched."""
    one = cupy.full(1, 1, np.float32)
    y = cupy.zeros((2, 3), np.float32)
    y += x * one  # which loads what it takes
    with capture() as end:
        z = x * one
        y += z
        graph = end()
        assert y.get().tolist() == X.tolist()
        assert np.isnan(z.get()).all()
        one[...] = 2
        graph.launch()
        graph.launch()
        assert y.get().tolist() == (5 * X).tolist()
        assert z.get().tolist() == (2 * X).tolist()
        del one
        with pytest.raises(AssertionError, match="memory of the dead"):
            graph.launch()


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.get(),
        lambda x: float(x[0, 0]),
        lambda x: asarray(X),
        lambda x: x @ x.T,
        lambda x: sys.modules["cupy"].cuda.Device().synchronize(),
        lambda x: sys.modules["cupy"].cuda.get_current_stream().synchronize(),
    ],
)
def test_what_a_capture_refuses(machine, x, work):
    with capture() as end:
        with pytest.raises(RuntimeError, match="captur"):
            work(x)
        with contextlib.suppress(RuntimeError):  # CUDA's refusals spoil the capture, CuPy's do not
            end()
    assert x.get().tolist() == X.tolist()  # and all goes on


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.get(),
        lambda x: cupy.argsort(x),  # CuPy leaves it to Thrust, which waits
        lambda x: cupy.tanh(x),  # the first time, it has to be compiled
    ],
)
def test_what_the_stand_in_refuses_spoils_a_capture(x, work, monkeypatch):
    monkeypatch.setattr(fake_cupy.fake_graph, "loaded", set())
    with capture() as end:
        with pytest.raises(RuntimeError, match="the current stream is capturing"):
            work(x)
        with pytest.raises(RuntimeError, match="Invalidated"):
            end()


def test_where_knows_no_bfloat16(x):
    y = x.astype(fake_cupy.BFLOAT16)
    assert cupy.where(x > 1, y, y).dtype == np.float32


CODE = """
extern "C" __global__ void add(const float* x, float* y, int n, float c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + c;
}
"""


def test_a_kernel_runs_on_the_emulator(x):
    emulator = pytest.importorskip("emulator")
    if emulator.missing:
        pytest.skip(emulator.missing)
    y = cupy.empty((2, 3), np.float32)
    kernel = cupy.RawModule(code=CODE, options=("--std=c++17",)).get_function("add")
    kernel((1,), (32,), (x, y, np.int32(6), np.float32(0.5)))
    np.testing.assert_array_equal(y.get(), X + np.float32(0.5))
    with pytest.raises(AssertionError, match="64 bits"):
        kernel((1,), (32,), (x, y, 6, np.float32(0.5)))
    with pytest.raises(AssertionError, match="strides"):
        kernel((1,), (32,), (x.T, y, np.int32(6), np.float32(0.5)))
