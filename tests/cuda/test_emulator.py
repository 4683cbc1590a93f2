"""The emulator itself: what it computes, and that it sees the mistakes it is there to see."""

import functools
from pathlib import Path

import emulator
import ml_dtypes
import numpy as np
import pytest
from emulator import Fault, guarded, shuffle

pytestmark = pytest.mark.skipif(emulator.missing is not None, reason=str(emulator.missing))
WARP = 32


@functools.cache
def compiled(body, parameters="float* x", among=(), head=""):
    """The kernel of this body; compiled together with other bodies, since that takes less time."""
    bodies = list(dict.fromkeys((body, *among) if body not in among else among))
    code = [
        f'extern "C" __global__ void k{i}({parameters}) {{ {b} }}' for i, b in enumerate(bodies)
    ]
    module = emulator.Module("\n".join([head, *code]), (), Path(__file__).parent)
    return module.get_function(f"k{bodies.index(body)}")


@pytest.fixture(autouse=True)
def _in_order():
    yield
    shuffle(None)


def test_every_thread_of_every_block_runs_once():
    kernel = compiled(
        "unsigned b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);"
        "unsigned t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);"
        "x[b * 105 + t] += b * 1000 + t;"
    )
    x = guarded((24, 105), np.float32)
    x[:] = 0.5
    kernel((2, 3, 4), (7, 5, 3), (x,))
    np.testing.assert_array_equal(x, np.arange(24)[:, None] * 1000 + np.arange(105) + 0.5)


SHUFFLES = {
    "__shfl_sync(~0u, v, i + 3)": lambda i: (i + 3) % 32,
    "__shfl_sync(~0u, v, 5, 8)": lambda i: i // 8 * 8 + 5,
    "__shfl_xor_sync(~0u, v, 5)": lambda i: i ^ 5,
    "__shfl_down_sync(~0u, v, 4)": lambda i: i + 4 if i + 4 < 32 else i,
    "__shfl_down_sync(~0u, v, 4, 8)": lambda i: i + 4 if i % 8 < 4 else i,
    "__shfl_up_sync(~0u, v, 4)": lambda i: i - 4 if i >= 4 else i,
}


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("call", SHUFFLES)
def test_shuffles_read_the_lane_that_the_manual_names(call, seed):
    shuffle(seed)
    body, source = "int i = threadIdx.x; float v = x[i]; x[i] = {};", SHUFFLES[call]
    kernel = compiled(body.format(call), among=tuple(map(body.format, SHUFFLES)))
    x = guarded(WARP, np.float32)
    x[:] = before = np.random.default_rng(0).normal(size=WARP).astype(np.float32)
    kernel((1,), (WARP,), (x,))
    np.testing.assert_array_equal(x, before[[source(i) for i in range(WARP)]])


def test_ballots_count_the_lanes_of_their_own_warp():
    kernel = compiled(
        "unsigned i = threadIdx.x; y[i] = __ballot_sync(~0u, i % 3 == 0) + __any_sync(~0u, i == 7)"
        "+ __all_sync(~0u, i < 32);",
        parameters="unsigned* y",
    )
    y = guarded(64, np.uint32)
    kernel((1,), (64,), (y,))
    votes = [sum(1 << i for i in range(32) if (i + w) % 3 == 0) for w in (0, 32)]
    assert set(y[:32]) == {votes[0] + 2}
    assert set(y[32:]) == {votes[1]}


def test_half_a_warp_may_shuffle_among_itself():
    kernel = compiled(
        "int i = threadIdx.x; unsigned mask = i < 16 ? 0xffff : 0xffff0000;"
        "float v = x[i]; if (i < 16) v = __shfl_xor_sync(mask, v, 1);"
        "else v = __shfl_xor_sync(mask, v, 2); x[i] = v;"
    )
    x = guarded(WARP, np.float32)
    x[:] = np.arange(WARP)
    kernel((1,), (WARP,), (x,))
    np.testing.assert_array_equal(x, [i ^ 1 if i < 16 else i ^ 2 for i in range(WARP)])


# ------------------------------------------------------------------------------- mistakes are seen

REVERSE = "__shared__ float s[128]; int i = threadIdx.x; s[i] = x[i]; {} x[i] = s[127 - i];"


def _reversed(barrier, seed):
    shuffle(seed)
    x = guarded(128, np.float32)
    x[:] = np.arange(128)
    compiled(REVERSE.format(barrier))((1,), (128,), (x,))
    return np.array_equal(x, np.arange(128)[::-1])


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_missing_barrier_shows(seed):
    assert _reversed("__syncthreads();", seed)
    assert not _reversed("", seed)
    assert not _reversed("__syncwarp();", seed)


def test_shared_memory_that_is_reused_too_early_shows_when_shuffled():
    body = (
        "__shared__ float s; int i = threadIdx.x;"
        "for (int k = 0; k < 4; k++) { if (i == 32) s = k; __syncthreads(); x[4 * i + k] = s; %s }"
    )

    def right(barrier, seed):
        shuffle(seed)
        x = guarded((64, 4), np.float32)
        compiled(body % barrier)((1,), (64,), (x,))
        return (x == np.arange(4)).all()

    assert all(right("__syncthreads();", seed) for seed in range(3))
    assert not all(right("", seed) for seed in range(3))


def test_blocks_that_build_on_each_other_show_when_shuffled():
    kernel = compiled("x[blockIdx.x] = blockIdx.x ? x[blockIdx.x - 1] + 1 : 0;")
    x = guarded(50, np.float32)
    kernel((50,), (1,), (x,))
    assert (x == np.arange(50)).all()
    shuffle(1)
    x[:] = np.nan
    kernel((50,), (1,), (x,))
    assert np.isnan(x).any()


MISTAKES = {
    "if (threadIdx.x < 40) __syncthreads();": "thread 0 waits in __syncthreads .* 24 of 64",
    "if (threadIdx.x < 32) __syncthreads();\nelse __syncthreads();": "deadlock",
    "if (threadIdx.x < 32) __syncthreads();\nelse __syncwarp(); __syncthreads();": "deadlock",
    "if (threadIdx.x != 5) __syncwarp();": "names lane 5, which has returned",
    "__shfl_xor_sync(0xffff, 1.f, 1);": "not in its own mask",
    "if (threadIdx.x < 4) __shfl_sync(0xf, 1.f, 9);": "reads lane 9, which is not in the mask",
    "x[64 + threadIdx.x] = 1;": "outside of every buffer",
    "x[-1000] = 1;": "outside of every buffer",
    "if (threadIdx.x == 9) x[-1] = 1;": "argument 0: wrote to memory before its first element",
    "__shared__ float s[64]; s[threadIdx.x + 1] = 1;": r"thread \(63, .*index 64 is beyond",
    "extern __shared__ float s[]; s[threadIdx.x + 2] = 1;": "outside|wrote to byte 260 of 260",
    "extern __shared__ float s[]; s[-1 - (int)threadIdx.x] = 1;": "wrote to byte -",
    "*(float4*)(x + 1) = {};": "line .*: address .* is misaligned",
    "float r[4]; for (int i = 0; i < 5; i++) r[i] = x[i]; x[0] = r[x[5] > 0];": "index 4",
}
FINE = "x[threadIdx.x] = 1;"


@pytest.mark.parametrize("body", MISTAKES)
def test_what_is_undefined_is_a_fault(body):
    among = (*MISTAKES, FINE)
    with pytest.raises(Fault, match=MISTAKES[body]):
        compiled(body, among=among)((1,), (64,), (guarded(64, np.float32),), shared_mem=260)
    x = guarded(64, np.float32)
    compiled(FINE, among=among)((1,), (64,), (x,))  # the next launch is whole again
    assert (x == 1).all()


@pytest.mark.parametrize("body", [FINE, "x[threadIdx.x] += 1;"])
def test_a_write_behind_the_last_element_is_seen_where_no_page_ends(body):
    x = guarded(62, np.float32)
    with pytest.raises(Fault, match="argument 0: wrote to memory behind its last element"):
        compiled(body, among=(*MISTAKES, FINE))((1,), (63,), (x,))


def test_shared_memory_begins_as_nan_in_each_block():
    kernel = compiled(
        "__shared__ float s; x[blockIdx.x] = s; s = 1; x[2 + blockIdx.x] = of_a_template<int>();",
        head="template <class T> float of_a_template() { __shared__ T s; return s += 1; }",
    )
    x = guarded(4, np.float32)
    x[:] = 0
    kernel((2,), (1,), (x,))
    np.testing.assert_array_equal(x, [np.nan, np.nan, 0, 0])  # an int of the same bits is -1


def test_arguments_and_launches_are_held_to_the_signature():
    kernel = compiled("x[n] = a;", parameters="float* x, int n, float a")
    x = guarded(4, np.float32)
    kernel((1,), (1,), (x, np.int32(2), np.float32(7)))
    assert x[2] == 7
    for wrong in (
        (x, np.int64(2), np.float32(7)),
        (x, np.int32(2), np.float64(7)),
        (x, 2, np.float32(7)),
        (x, np.int32(2)),
        (x[::2], np.int32(0), np.float32(7)),
    ):
        with pytest.raises(Fault):
            kernel((1,), (1,), wrong)
    args = (x, np.int32(2), np.float32(7))
    for grid, block, shared in [((0,), (1,), 0), ((1,), (1025,), 0), ((1,), (1,), 50000)]:
        with pytest.raises(Fault):
            kernel(grid, block, args, shared_mem=shared)
    kernel.max_dynamic_shared_size_bytes = 50000
    kernel((1,), (1,), args, shared_mem=50000)


# --------------------------------------------------------------------------------------- arithmetic

NARROW = [("__half", np.float16), ("__nv_bfloat16", ml_dtypes.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), NARROW)
def test_16_bit_floats_round_as_numpy_does(name, dtype):
    every = np.arange(65536, dtype=np.uint16).view(dtype)
    wide = every.astype(np.float32)
    wide = wide[np.isfinite(wide)]
    near = [np.nextafter(wide, np.float32(s), dtype=np.float32) for s in (-np.inf, np.inf)]
    halves = wide[:-1] / 2 + wide[1:] / 2  # the ties between neighbours
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**32, 100000, dtype=np.uint32).view(np.float32)
    noise = np.append(noise, np.float32([np.inf, -np.inf, np.nan, 65519, 65520, 1e-45, 3e38]))
    values = np.concatenate([wide, *near, halves, noise]).astype(np.float32)

    narrow = compiled(
        f"for (int i = threadIdx.x; i < n; i += 32) {{ y[i] = {name}(x[i]); z[i] = float(y[i]); }}",
        parameters=f"const float* x, {name}* y, float* z, int n",
    )
    y, z = guarded(len(values), dtype), guarded(len(values), np.float32)
    narrow((1,), (32,), (values, y, z, np.int32(len(values))))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(dtype)
    np.testing.assert_array_equal(y.astype(np.float64), expected.astype(np.float64))
    np.testing.assert_array_equal(np.signbit(y)[~np.isnan(y)], np.signbit(expected)[~np.isnan(y)])
    np.testing.assert_array_equal(z, y.astype(np.float32))


def test_high_words_of_products():
    kernel = compiled(
        "z[0] = __umulhi(x, (unsigned)y); z[1] = __umul64hi(y, ~0ull - x);",
        parameters="unsigned long long* z, unsigned x, unsigned long long y",
    )
    z, x, y = guarded(2, np.uint64), 0xDEADBEEF, 0x0123456789ABCDEF
    kernel((1,), (1,), (z, np.uint32(x), np.uint64(y)))
    assert [int(v) for v in z] == [x * (y % 2**32) >> 32, y * (2**64 - 1 - x) >> 64]


# ------------------------------------------------------------------------------------- tensor cores

MMA = """
typedef %s T;
extern "C" __global__ void kernel(const T* a, const T* b, const T* bt, float* d, float* e) {
    __shared__ __align__(16) T A[16][24], B[16][16], Bt[16][24];
    int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) A[i / 16][i %% 16] = a[i];
    for (int i = lane; i < 256; i += 32) B[i / 16][i %% 16] = b[i], Bt[i / 16][i %% 16] = bt[i];
    __syncwarp();
    unsigned fa[4], fb[4], ft[4];
    load_matrices(fa, &A[lane %% 16][lane / 16 * 8]);
    load_matrices_transposed(fb, &B[lane %% 16][lane / 16 * 8]);
    load_matrices(ft, &Bt[lane / 16 * 8 + lane %% 8][lane / 8 %% 2 * 8]);
    for (int half = 0; half < 2; half++) {
        float f[4] = {1, 2, 3, 4}, g[4] = {};
        mma<T>(f, fa, fb + 2 * half);
        mma<T>(g, fa, ft + 2 * half);
        for (int r = 0; r < 4; r++) {
            int row = lane / 4 + r / 2 * 8, column = 8 * half + lane %% 4 * 2 + r %% 2;
            d[row * 16 + column] = f[r] - (r + 1);
            e[row * 16 + column] = g[r];
        }
    }
}
"""


@pytest.mark.parametrize(("name", "dtype"), NARROW)
@pytest.mark.parametrize("seed", [None, 1])
def test_the_fragment_product_is_a_matrix_product(name, dtype, seed):
    shuffle(seed)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 16, 16)).astype(dtype)
    d, e = guarded((16, 16), np.float32), guarded((16, 16), np.float32)
    module = emulator.Module(MMA % name, (), Path(__file__).parent)
    module.get_function("kernel")((1,), (32,), (a, b, b.T.copy(), d, e))
    expected = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(d, expected, atol=4e-6)
    np.testing.assert_allclose(e, expected, atol=2e-6)


@pytest.mark.parametrize(("name", "dtype"), NARROW)
def test_two_numbers_to_a_register(name, dtype):
    kernel = compiled(
        f"u[0] = pack<{name}>(y[0], y[1]);float2 v = unpack<{name}>(u[0]); y[2] = v.x; y[3] = v.y;",
        parameters="unsigned* u, float* y",
    )
    u, y = guarded(1, np.uint32), np.float32([1.2345, -6.789, 0, 0])
    kernel((1,), (1,), (u, y))
    np.testing.assert_array_equal(u.view(dtype), y[:2].astype(dtype))
    np.testing.assert_array_equal(y[2:], u.view(dtype).astype(np.float32))


def test_an_asynchronous_copy_arrives_when_it_is_waited_for():
    kernel = compiled(
        "extern __shared__ float4 s[]; float* f = (float*)s;"
        "start_copy(s, x, true); start_copy(s + 1, 0, false); float early = f[0];"
        "await_copies(); x[4] = early; x[5] = f[0]; x[6] = f[3]; x[7] = f[7];"
    )
    x = guarded(8, np.float32)
    x[:] = np.arange(8) + 1
    kernel((1,), (1,), (x,), shared_mem=32)
    np.testing.assert_array_equal(x, [1, 2, 3, 4, np.nan, 1, 4, 0])
    with pytest.raises(Fault, match="not aligned to 16 bytes"):
        compiled("extern __shared__ float4 s[]; start_copy(s, x + 1, true);")(
            (1,), (1,), (x,), shared_mem=32
        )
