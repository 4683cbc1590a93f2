"""Every primitive operation, its value and its gradients side by side, by family.

    elementwise   arithmetic, functions of one number, choices, comparisons
    shape         views, joins, splits, triangles, types
    indexing      x[...] and gather
    reduction     sums, means, extremes, softmax, running sums
    linalg        products of matrices

They are written once for both machines: NumPy's functions hand a CuPy array over to CuPy (its
protocols of NEP 13 and NEP 18), so `np.exp(x)` computes where x lives.
"""

from .elementwise import (
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
from .indexing import check_index, gather, getitem, plain_index
from .linalg import matmul, outer
from .reduction import (
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
from .shape import (
    cast,
    cat,
    chunk,
    clone,
    contiguous,
    expand,
    flatten,
    permute,
    repeat,
    reshape,
    split,
    squeeze,
    stack,
    to_device,
    transpose,
    tril,
    triu,
    unbind,
    unsqueeze,
    view,
)
