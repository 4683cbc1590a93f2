"""Changing tensors in place, and which results share memory with what they are made of."""

import contextlib
import operator

import numpy as np
import pytest
import torch
from harness import check_error, leaf, memory, tensorlib, to_array

tensor, no_grad = tensorlib.tensor, tensorlib.no_grad


# ---- changing in place ---------------------------------------------------------------------------

# Each changes a tensor of shape (3, 4), in both libraries.
WRITES = {
    "int": lambda t, x: operator.setitem(x, 1, 7.0),
    "ints": lambda t, x: operator.setitem(x, (1, -1), 7),
    "slice": lambda t, x: operator.setitem(x, slice(1, None), 0.5),
    "column": lambda t, x: operator.setitem(x, (slice(None), 2), t.tensor([1.0, 2.0, 3.0])),
    "row broadcast": lambda t, x: operator.setitem(x, slice(0, 2), t.arange(4)),
    "ellipsis": lambda t, x: operator.setitem(x, ..., 3.0),
    "mask": lambda t, x: operator.setitem(x, x > 0, -1.0),
    "mask of rows": lambda t, x: operator.setitem(x, t.tensor([True, False, True]), 9.0),
    "indices": lambda t, x: operator.setitem(x, t.tensor([2, 0]), t.ones(2, 4).to(x.dtype)),
    "index pairs": lambda t, x: operator.setitem(
        x, (t.tensor([2, 0]), t.tensor([-1, 1])), t.tensor([5.0, 6.0]).to(x.dtype)
    ),
    "int and indices": lambda t, x: operator.setitem(x, (1, t.tensor([0, 3])), 4.0),
    "list": lambda t, x: operator.setitem(x, [0, 2], 4.0),
    "0-d index": lambda t, x: operator.setitem(x, t.tensor(1), t.tensor(2.5)),
    "other dtype": lambda t, x: operator.setitem(x, 0, t.tensor([1, 2, 3, 4])),
    "none": lambda t, x: operator.setitem(x, (slice(None), None), t.ones(3, 1, 4)),
    "+= number": lambda t, x: operator.iadd(x, 1),
    "+= row": lambda t, x: operator.iadd(x, t.arange(4)),
    "-=": lambda t, x: operator.isub(x, t.ones(3, 1)),
    "*=": lambda t, x: operator.imul(x, 2.5),
    "/=": lambda t, x: operator.itruediv(x, 2),
    "+= itself": lambda t, x: operator.iadd(x, x),
    "add_": lambda t, x: x.add_(2).sub_(1).mul_(3).div_(2),
    "add_ row": lambda t, x: x.add_(t.arange(4.0)),
    "zero_": lambda t, x: x.zero_(),
    "fill_": lambda t, x: x.fill_(2.5),
    "copy_": lambda t, x: x.copy_(t.arange(12).reshape(3, 4)),
    "copy_ broadcast": lambda t, x: x.copy_(t.arange(4.0)),
    "row view": lambda t, x: x[0].add_(1),
    "element view": lambda t, x: x[0, 1].fill_(1),
    "transposed view": lambda t, x: operator.iadd(x.T, 1),
    "reshaped view": lambda t, x: operator.setitem(x.view(-1), 5, 8.0),
    "chunk": lambda t, x: x.chunk(2, 1)[1].zero_(),
    "unbind": lambda t, x: x.unbind(0)[2].fill_(4),
    "iterated rows": lambda t, x: [row.mul_(i) for i, row in enumerate(x)],
    "detached": lambda t, x: x.detach().add_(1),
    "data": lambda t, x: x.data.mul_(2),
}
FLOAT_WRITES = ["-=", "*=", "/=", "add_", "add_ row"]  # into integers these do not fit


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("name", WRITES)
def test_writes(name, dtype):
    results = []
    for t in (tensorlib, torch):
        array = (np.arange(12).reshape(3, 4) - 5).astype(dtype)
        x = leaf(t, array, False)
        before = memory(x)
        refused = dtype == "int64" and name in FLOAT_WRITES
        with pytest.raises(RuntimeError) if refused else contextlib.nullcontext():
            WRITES[name](t, x)
        assert np.may_share_memory(memory(x), before)
        results.append(to_array(x))
    np.testing.assert_array_equal(*results)


def test_writes_refuse():
    check_error(RuntimeError, lambda t: operator.iadd(t.ones(3), t.ones(2, 3)))  # may not grow
    check_error(RuntimeError, lambda t: operator.iadd(t.ones(3), t.ones(2)))
    check_error(
        RuntimeError, lambda t: operator.itruediv(t.tensor([1, 2]), 2)
    )  # nor change its dtype
    check_error(RuntimeError, lambda t: operator.iadd(t.tensor([1, 2]), 1.5), match="another type")
    check_error(TypeError, lambda t: operator.iadd(t.ones(2), "a"), match="str")
    check_error(RuntimeError, lambda t: t.ones(3).expand(2, 3).add_(1), match="clone")
    check_error(RuntimeError, lambda t: operator.setitem(t.ones(3), slice(2), t.ones(3)))
    check_error(IndexError, lambda t: operator.setitem(t.ones(3), 3, 1.0))
    check_error(IndexError, lambda t: operator.setitem(t.ones(3), t.tensor([5]), 1.0))
    check_error(RuntimeError, lambda t: t.ones(3).copy_(t.ones(2)))
    check_error(IndexError, lambda t: operator.setitem(t.ones(3), t.tensor([True, False]), 1.0))


def test_augmented_assignment_keeps_the_tensor_and_its_dtype():
    x = tensor([1.0, 2.0])
    before, array = x, memory(x)
    x += tensor([1.0, 1.0], dtype=tensorlib.float64)
    x *= 2
    assert x is before
    assert x.dtype == tensorlib.float32
    assert array.tolist() == [4.0, 6.0]
    i = tensor([1, 2], dtype=tensorlib.int32)
    i += tensor([1, 1])
    assert i.dtype == tensorlib.int32
    assert i.tolist() == [2, 3]


# ---- sharing memory ------------------------------------------------------------------------------

VIEWS = {
    "view": lambda x: x.view(12),
    "reshape": lambda x: x.reshape(2, 6),
    "transpose": lambda x: x.transpose(0, 1),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "permute": lambda x: x.permute(1, 0),
    "expand": lambda x: x[:, :1].expand(3, 4),
    "squeeze": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "flatten": lambda x: x.flatten(),
    "split": lambda x: x.split(2)[0],
    "chunk": lambda x: x.chunk(2, 1)[0],
    "unbind": lambda x: x.unbind(0)[0],
    "row": lambda x: x[0],
    "element": lambda x: x[0, 0],
    "slices": lambda x: x[::2, 1:],
    "none and ellipsis": lambda x: x[None, ..., 0],
    "iteration": lambda x: next(iter(x)),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "contiguous": lambda x: x.contiguous(),
    "to": lambda x: x.to(tensorlib.float32).float().to(x.device),
}
COPIES = {
    "clone": lambda x: x.clone(),
    "clone of a view": lambda x: x[0].clone(),
    "x + 0": lambda x: x + 0,
    "x * 1": lambda x: x * 1,
    "indices": lambda x: x[tensor([0])],
    "list": lambda x: x[[0]],
    "mask": lambda x: x[x == x],
    "reshape across": lambda x: x.T.reshape(12),
    "contiguous across": lambda x: x.T.contiguous(),
    "tensor": lambda x: tensor(to_array(x)),
    "to another dtype": lambda x: x.double(),
    "cat": lambda x: tensorlib.cat([x]),
    "stack": lambda x: tensorlib.stack([x]),
    "repeat": lambda x: x.repeat(1, 1),
    "tril": lambda x: x.tril(5),
    "clamp": lambda x: x.clamp(min=-100),
    "sum over nothing": lambda x: x.sum(()) if tensorlib is torch else x[:1].sum(0),
    "zeros_like": lambda x: tensorlib.zeros_like(x),
    "tolist": lambda x: tensor(x.tolist()),
    "relu": lambda x: x.relu(),
    "abs": lambda x: x.abs(),
    "amax": lambda x: x[:1].amax(0),
    "pow": lambda x: x**1,
    "where": lambda x: tensorlib.where(x == x, x, 0),
    "masked_fill": lambda x: x.masked_fill(x > 100, 0.0),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory(name):
    x = tensorlib.arange(12.0).reshape(3, 4)
    view = VIEWS[name](x)
    with no_grad():
        x += 100
    np.testing.assert_array_equal(to_array(view), to_array(VIEWS[name](x)))
    assert to_array(view).min() >= 100
    x[0, 0] = 7.0
    assert to_array(view).ravel()[0] == 7 or name == "slices"


@pytest.mark.parametrize("name", COPIES)
def test_copies_do_not(name):
    x = tensorlib.arange(12.0).reshape(3, 4)
    copy = COPIES[name](x)
    before = to_array(copy).copy()
    x += 100
    np.testing.assert_array_equal(to_array(copy), before)
    assert not np.may_share_memory(memory(copy), memory(x))


@pytest.mark.cpu("NumPy's arrays are there")
def test_numpy_and_from_numpy_share_tensor_copies():
    array = np.zeros(3, np.float32)
    shared, copied = tensorlib.from_numpy(array), tensor(array)
    array[0] = 5
    assert shared.tolist() == [5, 0, 0]
    assert copied.tolist() == [0, 0, 0]
    shared[1] = 6
    assert array.tolist() == [5, 6, 0]
    shared.numpy()[2] = 7
    assert array.tolist() == [5, 6, 7]
    assert shared.tolist() == [5, 6, 7]
    x = tensor([1.0, 2.0], requires_grad=True)
    x.detach().numpy()[0] = 9
    assert x.tolist() == [9, 2]
    transposed = tensorlib.from_numpy(np.arange(6.0).reshape(2, 3).T)
    assert transposed.shape == (3, 2)
    assert not transposed.is_contiguous()
    assert tensor([[1, 2]]).T.tolist() == [[1], [2]]
