"""Products of matrices on the GPU, by cuBLAS itself: in 16 bits, batched, and in a CUDA graph.

CuPy has a product, too, but refuses it while a graph is being captured, computes batches of float16
in float32, and batches of bfloat16 not at all. So here cuBLAS's C functions are called by `ctypes`:

    y = matmul(x, w.T)                                       # (…, m, k) @ (…, k, n), in x's dtype
    y = matmul(x, w.T, dtype=np.float32)                     # a 16-bit product, kept in float32
    matmul(dy.T, x, out=gradient, accumulate=True)           # gradient += dyᵀ x, in the same pass

It runs on CuPy's current stream and never waits for it. The first product on a stream makes a
handle of our own and a workspace for it, which is no work for a capture: run the step once on the
stream before it is captured. With its own workspace, cuBLAS gives the same bits every time.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..devices import CuPyError, GPUMemoryError, library

Array = Any

_TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}  # cudaDataType: CUDA_R_32F, _16F, _16BF
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77  # cublasComputeType_t: both add up in float32
_AS_IT_IS, _TRANSPOSED = 0, 1  # cublasOperation_t
_ANY_ALGORITHM = -1
_ALLOC_FAILED = 3  # cublasStatus_t
_ZERO, _ONE = ctypes.c_float(0), ctypes.c_float(1)
_WORKSPACE = 32 * 2**20  # bytes: what NVIDIA advises for Hopper

_int, _long, _pointer = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_MATRIX, _BATCH = [_pointer, _int, _int], [_pointer, _int, _int, _long]  # where, type, ld, stride
_PROBLEM = [_pointer] + 5 * [_int] + [_pointer]  # handle, two operations, m, n, k, alpha
SIGNATURES = {
    "cublasCreate_v2": [_pointer],
    "cublasSetStream_v2": [_pointer, _pointer],
    "cublasSetWorkspace_v2": [_pointer, _pointer, ctypes.c_size_t],
    "cublasGemmEx": [*_PROBLEM, *_MATRIX, *_MATRIX, _pointer, *_MATRIX, _int, _int],
    "cublasGemmStridedBatchedEx": [
        *_PROBLEM, *_BATCH, *_BATCH, _pointer, *_BATCH, _int, _int, _int
    ],
}  # fmt: skip

_tf32 = False


def set_float32_matmul_precision(precision: str) -> None:
    """How exact products of float32 matrices on a GPU are: "highest" (the default), or "high",
    which rounds their operands to TF32 (10 bits of mantissa) and is several times as fast."""
    global _tf32
    if precision not in ("highest", "high"):
        raise ValueError(f"the precision is 'highest' or 'high', not {precision!r}")
    _tf32 = precision == "high"


def product(a: Array, b: Array, out: Array | None = None, dtype: Any = None) -> Array:
    """a @ b on either machine: NumPy's or CuPy's own, and `matmul` in 16 bits and in TF32.

    dtype: what the result may have instead of the dtype of a and b; only `matmul` makes use of it.
    """
    if type(a) is np.ndarray or not (a.dtype.itemsize == 2 or (_tf32 and a.dtype == np.float32)):
        return np.matmul(a, b, out=out)
    return matmul(a, b, out=out, dtype=dtype)


def matmul(
    a: Array,
    b: Array,
    out: Array | None = None,
    accumulate: bool = False,
    dtype: Any = None,
) -> Array:
    """a @ b for CuPy's arrays: a (…, m, k), b (…, k, n); the dimensions before them broadcast.

    a and b are float32, float16 or bfloat16, both alike; what is added up, is so in float32.
    Transposed matrices, and rows or matrices that lie apart, are read where they are. They are
    copied first only where neither the elements of a row nor those of a column are neighbours, and
    where matrices do not lie at equal distances: a launch for each of many would take longer.

    out: where the result goes, (…, m, n), its rows contiguous; otherwise it is allocated.
    accumulate: add the product to `out` instead.
    dtype: of the result that is allocated: that of a and b (the default), or float32.
    TypeError or ValueError if dtypes or shapes do not fit. RuntimeError if cuBLAS fails,
    MemoryError if it is for want of memory.
    """
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: {a.shape} and {b.shape} are no (…, m, k) and (…, k, n)")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*lead, a.shape[-2], b.shape[-1])
    if out is None:
        if accumulate:
            raise ValueError("matmul: accumulate needs an out to add to")
        out = library("cuda").empty(shape, a.dtype if dtype is None else dtype)
    elif out.shape != shape or _layout(out)[0] != _AS_IT_IS:
        raise ValueError(f"matmul: out must be {shape} with contiguous rows, not {out.shape}")
    if a.dtype != b.dtype or a.dtype.name not in _TYPES or out.dtype not in (a.dtype, np.float32):
        raise TypeError(f"matmul: no product of {a.dtype} and {b.dtype} is {out.dtype}")
    if not out.size:
        return out
    if not a.shape[-1]:  # a sum of nothing
        if not accumulate:
            out.fill(0)
        return out
    _multiply(_readable(a, lead), _readable(b, lead), out, accumulate)
    return out


def _multiply(a: Array, b: Array, out: Array, accumulate: bool) -> None:
    """out = a b, or out += a b, for arrays that cuBLAS can read, of the same dimensions.

    cuBLAS reads columns one after the other where we write rows: what it takes for a matrix is our
    matrix transposed. So it is asked for outᵀ = bᵀ aᵀ.
    """
    (m, n), k = out.shape[-2:], a.shape[-1]
    op_a, ld_a = _layout(a)
    op_b, ld_b = _layout(b)
    ld_out = _layout(out)[1]
    a_type, b_type, out_type = (_TYPES[x.dtype.name] for x in (a, b, out))
    tf32 = _tf32 and a.dtype == np.float32
    how = _COMPUTE_32F_FAST_TF32 if tf32 else _COMPUTE_32F
    alpha, beta = (ctypes.byref(factor) for factor in (_ONE, _ONE if accumulate else _ZERO))
    stream = library("cuda").cuda.get_current_stream().ptr
    problem = _handle(stream, threading.get_ident()), op_b, op_a, n, m, k, alpha
    for (in_a, in_b, in_out), (count, *steps) in _batches(a, b, out):
        if count == 1:
            _call(
                "cublasGemmEx", *problem, in_b, b_type, ld_b, in_a, a_type, ld_a,
                beta, in_out, out_type, ld_out, how, _ANY_ALGORITHM,
            )  # fmt: skip
        else:
            step_a, step_b, step_out = steps
            _call(
                "cublasGemmStridedBatchedEx", *problem,
                in_b, b_type, ld_b, step_b, in_a, a_type, ld_a, step_a,
                beta, in_out, out_type, ld_out, step_out, count, how, _ANY_ALGORITHM,
            )  # fmt: skip


# ------------------------------------------------------------------------------ how matrices lie


def _layout(x: Array) -> tuple[int | None, int]:
    """How cuBLAS shall read the matrices of x, with the distance between their rows (columns, if
    they are transposed) in elements; None if it cannot."""
    rows, columns = x.shape[-2:]
    down, right = (stride // x.itemsize for stride in x.strides[-2:])
    if (columns == 1 or right == 1) and (rows == 1 or down >= columns):
        return _AS_IT_IS, columns if rows == 1 else down
    if (rows == 1 or down == 1) and (columns == 1 or right >= rows):
        return _TRANSPOSED, rows if columns == 1 else right
    return None, 0


def _readable(x: Array, lead: tuple[int, ...]) -> Array:
    """x, copied if cuBLAS could not read its matrices in one call, as heads that lie side by side,
    and broadcast to the dimensions `lead`."""
    xp = library("cuda")
    dims = [dim for dim in zip(x.shape[:-2], x.strides[:-2]) if dim[0] > 1]
    evenly = all(outer == n * inner for (_, outer), (n, inner) in itertools.pairwise(dims))
    if _layout(x)[0] is None or not evenly:
        x = xp.ascontiguousarray(x)
    return x if x.shape[:-2] == lead else xp.broadcast_to(x, (*lead, *x.shape[-2:]))


def _batches(*arrays: Array) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """All matrices of some arrays with the same leading dimensions, in as few calls as can be.

    A call takes a number of matrices at equal distances. So dimensions are merged where that makes
    no difference, the longest is left to cuBLAS, and there is one call for each index of the rest.
    Yields where each array begins, with the number of its matrices and their distances in elements.
    """
    sizes = [x.itemsize for x in arrays]
    dims: list[tuple[int, ...]] = []  # (length, stride of each array)
    for dim in zip(arrays[0].shape[:-2], *(x.strides[:-2] for x in arrays)):
        outer = dims[-1] if dims else None
        if outer and all(o == dim[0] * s for o, s in zip(outer[1:], dim[1:])):
            dims[-1] = outer[0] * dim[0], *dim[1:]
        elif dim[0] > 1:
            dims.append(dim)
    count, *strides = max(dims, default=(1,) * (len(arrays) + 1))
    if dims:
        dims.remove((count, *strides))
    steps = [stride // size for stride, size in zip(strides, sizes)]
    for index in itertools.product(*(range(length) for length, *_ in dims)):
        starts = [
            x.data.ptr + sum(i * dim[number] for i, dim in zip(index, dims))
            for number, x in enumerate(arrays, 1)
        ]
        yield starts, (count, *steps)


# ------------------------------------------------------------------------------------- the library


@functools.cache
def _handle(stream: int, thread: int) -> ctypes.c_void_p:
    """A handle for the products that a thread puts on a stream.

    The workspace comes last: setting the stream would take it away.
    """
    handle = ctypes.c_void_p()
    workspace = library("cuda").empty(_WORKSPACE, np.uint8)
    _call("cublasCreate_v2", ctypes.byref(handle))
    _call("cublasSetStream_v2", handle, stream)
    _call("cublasSetWorkspace_v2", handle, workspace.data.ptr, _WORKSPACE)
    handle.workspace = workspace  # type: ignore[attr-defined]  # so it lives as long
    return handle


def _call(name: str, *args: Any) -> None:
    if status := getattr(_cublas(), name)(*args):
        if status == _ALLOC_FAILED:
            raise GPUMemoryError(f"{name} had not enough")
        raise RuntimeError(f"{name} failed with cublasStatus_t {status}")


@functools.cache
def _cublas() -> Any:
    """libcublas, the one that CuPy uses."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")  # CuPy's own way to find it
        found = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    except (ImportError, OSError, RuntimeError) as error:
        raise CuPyError(error) from None
    for name, types in SIGNATURES.items():
        getattr(found, name).argtypes = types
    return found
