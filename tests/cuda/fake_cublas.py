"""A stand-in for libcublas: its C functions over memory of the host.

It reads and writes matrices as cuBLAS does: columns one after the other, `ld` elements apart,
from bare addresses. It refuses the calls that cuBLAS would refuse, and keeps what it was asked.
"""

import ctypes

import fake_graph
import ml_dtypes
import numpy as np
from fake_count import count

from tensorlib.kernels import cublas

DTYPES = {0: np.dtype(np.float32), 2: np.dtype(np.float16), 14: np.dtype(ml_dtypes.bfloat16)}
COMPUTE_32F, COMPUTE_32F_FAST_TF32 = 68, 77
NOT_INITIALIZED, INVALID_VALUE, NOT_SUPPORTED = 1, 7, 15  # cublasStatus_t


class Library:
    """`calls`: the name and the arguments of each product; `handles`: stream and workspace."""

    def __init__(self):
        self.calls, self.handles = [], {}

    def __getattr__(self, name):
        function = getattr(self, f"_{name}", None)
        if function is None:
            raise AttributeError(name)
        types = cublas.SIGNATURES[name]

        def call(*args):
            assert len(args) == len(types), f"{name} takes {len(types)} arguments, not {len(args)}"
            values = [_value(x, kind) for x, kind in zip(args, types)]
            if name.startswith("cublasGemm"):
                if values[0] not in self.handles:
                    return NOT_INITIALIZED
                self.calls.append((name, *values))
                count.launches[name] += 1
                on = self.handles[values[0]]["stream"]
                assert not fake_graph.capture or on == fake_graph.stream.ptr, "on another stream"
                places = (7, 10, 14) if name == "cublasGemmEx" else (7, 11, 16)  # of A, B and C
                fake_graph.record(lambda: function(*values), *(values[i] for i in places))
            else:
                fake_graph.refuse(name)
            return function(*values)

        return call

    def _cublasCreate_v2(self, handle):
        self.handles[handle] = {}
        ctypes.c_void_p.from_address(handle).value = handle
        return 0

    def _cublasSetStream_v2(self, handle, stream):
        self.handles[handle] = {"stream": stream}  # and no workspace any more
        return 0

    def _cublasSetWorkspace_v2(self, handle, workspace, size):
        self.handles[handle] |= {"workspace": workspace, "size": size}
        return 0

    def _cublasGemmEx(self, handle, op_a, op_b, m, n, k, alpha, *rest):
        a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, algorithm = rest
        del handle
        return _gemm(
            (op_a, op_b, m, n, k), alpha, (a, a_type, lda), (b, b_type, ldb),
            beta, (c, c_type, ldc), compute, algorithm,
        )  # fmt: skip

    def _cublasGemmStridedBatchedEx(self, handle, op_a, op_b, m, n, k, alpha, *rest):
        (a, a_type, lda, step_a, b, b_type, ldb, step_b, beta,
         c, c_type, ldc, step_c, batch, compute, algorithm) = rest  # fmt: skip
        del handle
        if batch > 1 and step_c < m:
            return INVALID_VALUE  # the products would be written over each other
        for i in range(batch):
            matrices = [
                (start + i * step * DTYPES[kind].itemsize, kind, ld)
                for start, kind, ld, step in (
                    (a, a_type, lda, step_a), (b, b_type, ldb, step_b), (c, c_type, ldc, step_c)
                )
            ]  # fmt: skip
            sizes = op_a, op_b, m, n, k
            status = _gemm(
                sizes, alpha, matrices[0], matrices[1], beta, matrices[2], compute, algorithm
            )
            if status:
                return status
        return 0


def _value(x, kind):
    """An argument as C would see it."""
    x = getattr(x, "_obj", x)  # byref(x)
    if kind is not ctypes.c_void_p:
        assert type(x) is int, f"{x!r} where C wants a number"
        assert kind(x).value == x, f"{x} does not fit {kind}"
        return x
    if isinstance(x, ctypes.c_void_p):
        return x.value or ctypes.addressof(x)
    return ctypes.addressof(x) if isinstance(x, ctypes.c_float) else x


def _gemm(sizes, alpha, a, b, beta, c, compute, algorithm):
    """C = alpha · op(A) op(B) + beta · C."""
    op_a, op_b, m, n, k = sizes
    types = a[1], b[1], c[1]
    if algorithm != -1 or a[1] != b[1] or c[1] not in (a[1], 0):
        return NOT_SUPPORTED
    if compute != COMPUTE_32F and (compute, types) != (COMPUTE_32F_FAST_TF32, (0, 0, 0)):
        return NOT_SUPPORTED
    if min(m, n, k) < 1 or {op_a, op_b} - {0, 1}:
        return INVALID_VALUE
    shapes = (k, m) if op_a else (m, k), (n, k) if op_b else (k, n), (m, n)
    if any(ld < shape[0] for (_, _, ld), shape in zip((a, b, c), shapes)):
        return INVALID_VALUE
    A, B, C = (_matrix(*matrix, shape) for matrix, shape in zip((a, b, c), shapes))
    A, B = (np.asarray(X.T if op else X, np.float32) for X, op in ((A, op_a), (B, op_b)))
    if compute == COMPUTE_32F_FAST_TF32:
        A, B = _tf32(A), _tf32(B)
    alpha, beta = (ctypes.c_float.from_address(x).value for x in (alpha, beta))
    with np.errstate(all="ignore"):
        product = np.float32(alpha) * (A @ B)
        if beta:  # otherwise what is in C is not read, not even if it is NaN
            product += np.float32(beta) * C.astype(np.float32)
        C[...] = product.astype(C.dtype)
    return 0


def _matrix(address, kind, ld, shape):
    """The matrix of a shape that begins at an address, with columns `ld` elements apart."""
    rows, columns = shape
    dtype = DTYPES[kind]
    size = ((columns - 1) * ld + rows) * dtype.itemsize
    memory = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
    strides = dtype.itemsize, ld * dtype.itemsize
    return np.lib.stride_tricks.as_strided(memory, shape, strides)


def _tf32(x):
    """x rounded to 10 bits of mantissa."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)
