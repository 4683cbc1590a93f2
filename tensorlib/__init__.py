"""A readable subset of PyTorch on NumPy: same names, same arguments, same numbers.

    import tensorlib as torch
    import tensorlib.nn as nn
    from tensorlib.nn import functional as F

Where to read: `autograd.py` is the tape, `ops/` the operations with their gradients, `tensor.py`
the operators and methods, `nn/` the layers, `optim/` the optimizers.
"""

import numpy as np

from . import amp, autograd, gradcheck, nn, optim, random, utils
from .autocast_mode import autocast, is_autocast_enabled
from .creation import (
    allclose,
    arange,
    bincount,
    empty,
    empty_like,
    equal,
    eye,
    from_numpy,
    full,
    full_like,
    linspace,
    multinomial,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from .devices import canonical as device
from .devices import cuda
from .grad_mode import is_grad_enabled, no_grad
from .kernels.cublas import set_float32_matmul_precision
from .observe.graph import draw_graph
from .observe.trace import trace
from .ops.elementwise import (
    abs,
    add,
    bitwise_and,
    bitwise_not,
    bitwise_or,
    clamp,
    cos,
    div,
    eq,
    exp,
    ge,
    gt,
    le,
    log,
    logical_and,
    logical_not,
    logical_or,
    lt,
    masked_fill,
    maximum,
    minimum,
    mul,
    ne,
    neg,
    pow,
    relu,
    rsqrt,
    sigmoid,
    sin,
    sqrt,
    sub,
    tanh,
    where,
)
from .ops.indexing import gather
from .ops.linalg import matmul, outer
from .ops.reduction import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    cumsum,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    softmax,
    std,
    sum,
    topk,
    var,
)
from .ops.shape import (
    cat,
    chunk,
    clone,
    flatten,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    transpose,
    tril,
    triu,
    unbind,
    unsqueeze,
)
from .random import Generator, manual_seed
from .tensor import Tensor

float32 = np.dtype("float32")
float64 = np.dtype("float64")
float16 = np.dtype("float16")
int32 = np.dtype("int32")
int64 = long = np.dtype("int64")
bool = np.dtype("bool")
inf = float("inf")

autograd.gradcheck = gradcheck.gradcheck  # type: ignore[attr-defined]  # its name in PyTorch


_INSTEAD = {  # of PyTorch's names that are not here, those that are typed most
    "bmm": "x @ y",
    "einsum": "x @ y, or (x * y).sum(dim)",
    "FloatTensor": "tensor(…, dtype=float32)",
    "inference_mode": "no_grad()",
    "load": "from tensorlib.serialization import load_file, for safetensors",
    "LongTensor": "tensor(…, dtype=long)",
    "mm": "x @ y",
    "norm": "(x * x).sum().sqrt()",
    "save": "from tensorlib.serialization import save_file, for safetensors",
    "set_grad_enabled": "no_grad()",
    "t": "x.T",
}


def __getattr__(name: str) -> np.dtype:
    if name != "bfloat16":
        remedy = f"write {_INSTEAD[name]}" if name in _INSTEAD else "see docs/from-pytorch.md"
        raise AttributeError(f"tensorlib has no attribute {name!r}: {remedy}")
    try:
        import ml_dtypes  # NumPy has no bfloat16 of its own
    except ImportError:
        raise AttributeError("bfloat16 is for a GPU, and needs: pip install ml_dtypes") from None
    return np.dtype(ml_dtypes.bfloat16)
