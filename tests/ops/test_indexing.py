"""x[...] in all its forms, and gather.

`check` also compares which results share memory with their input: views do, copies do not.
"""

import numpy as np
import pytest
from harness import check, check_error, integers, mask

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # 1 / 0 is inf without one


# ---- indexing ------------------------------------------------------------------------------------

BASIC = {
    "0": ((3, 4), lambda x: x[0]),
    "-1": ((3, 4), lambda x: x[-1]),
    "1, 2": ((3, 4), lambda x: x[1, 2]),
    "1, -1": ((3, 4), lambda x: x[1, -1]),
    ":": ((3, 4), lambda x: x[:]),
    "1:": ((3, 4), lambda x: x[1:]),
    ":-1": ((3, 4), lambda x: x[:-1]),
    "-2:": ((3, 4), lambda x: x[-2:]),
    "::2": ((5, 4), lambda x: x[::2]),
    "1:4:2": ((5, 4), lambda x: x[1:4:2]),
    "5:1": ((5, 4), lambda x: x[5:1]),
    "2:100": ((5, 4), lambda x: x[2:100]),
    "-100:2": ((5, 4), lambda x: x[-100:2]),
    ":, 1": ((3, 4), lambda x: x[:, 1]),
    ":, -1:": ((3, 4), lambda x: x[:, -1:]),
    ":, [-1], :": ((2, 3, 4), lambda x: x[:, [-1], :]),
    "None": ((3, 4), lambda x: x[None]),
    ":, None": ((3, 4), lambda x: x[:, None]),
    "..., None": ((3, 4), lambda x: x[..., None]),
    "..., 0": ((2, 3, 4), lambda x: x[..., 0]),
    "0, ...": ((2, 3, 4), lambda x: x[0, ...]),
    "0, ..., -1": ((2, 3, 4), lambda x: x[0, ..., -1]),
    "...": ((3, 4), lambda x: x[...]),
    "..., 1:, None, 0": ((2, 3, 4), lambda x: x[..., 1:, None, 0]),
    "None, ..., None": ((), lambda x: x[None, ..., None]),
    "...: 0-d": ((), lambda x: x[...]),
    "(): 0-d": ((), lambda x: x[()]),
    "0: one": ((1,), lambda x: x[0]),
    "0:0": ((3, 4), lambda x: x[0:0]),
    ":: empty": ((0, 3), lambda x: x[:, 1:]),
    "tuple": ((3, 4), lambda x: x[(1, slice(None, None, 2))]),
    "chained": ((4, 5, 6), lambda x: x[1:][:, ::2][0, 1:, -3:]),
}


@pytest.mark.parametrize("index", BASIC)
def test_index_basic(index):
    shape, fn = BASIC[index]
    check(lambda t, x: fn(x), shape)
    check(lambda t, x: fn(x * 2) * 3, shape)


ADVANCED = {
    "i": ((5,), lambda x, i, j, m: x[i]),
    "i of rows": ((5, 3), lambda x, i, j, m: x[i]),
    "i, j": ((5, 5), lambda x, i, j, m: x[i, j]),
    "i, j: pairs of rows": ((5, 5, 2), lambda x, i, j, m: x[i, j]),
    "i[:, None], j": ((5, 5, 2), lambda x, i, j, m: x[i[:, None], j]),
    "i, 1": ((5, 3), lambda x, i, j, m: x[i, 1]),
    "1, i": ((3, 5), lambda x, i, j, m: x[1, i]),
    ":, i": ((2, 5), lambda x, i, j, m: x[:, i]),
    ":, i, :": ((2, 5, 3), lambda x, i, j, m: x[:, i, :]),
    "..., i": ((2, 3, 5), lambda x, i, j, m: x[..., i]),
    "i, 1:3": ((5, 4), lambda x, i, j, m: x[i, 1:3]),
    "1:, i": ((3, 5), lambda x, i, j, m: x[1:, i]),
    "::2, i, None": ((4, 5), lambda x, i, j, m: x[::2, i, None]),
    "i, :, j: split by a slice": ((5, 2, 5), lambda x, i, j, m: x[i, :, j]),
    "0, :, i: an int is not an index tensor": ((3, 2, 5), lambda x, i, j, m: x[0, :, i]),
    "i, :, 0": ((5, 2, 3), lambda x, i, j, m: x[i, :, 0]),
    "i, None, j": ((5, 5, 2), lambda x, i, j, m: x[i, None, j]),
    ":, i, j": ((2, 5, 5), lambda x, i, j, m: x[:, i, j]),
    "None, i": ((5, 2), lambda x, i, j, m: x[None, i]),
    "i as a matrix": ((5, 3), lambda x, i, j, m: x[i.reshape(2, 2)]),
    "i as a matrix, 0": ((5, 3), lambda x, i, j, m: x[i.reshape(2, 2), 0]),
    "empty i": ((5, 3), lambda x, i, j, m: x[i[:0]]),
    "i of size 1": ((5, 3), lambda x, i, j, m: x[i[:1]]),
    "0-d i": ((5, 3), lambda x, i, j, m: x[i[0]]),
    "0-d i, :, j": ((5, 2, 5), lambda x, i, j, m: x[i[0], :, j]),
    "0-d i, 0-d j": ((5, 5), lambda x, i, j, m: x[i[0], j[0]]),
    "0-d slice bounds": ((5, 3), lambda x, i, j, m: x[i[1] : i[0]]),
    "int32": ((5, 3), lambda x, i, j, m: x[i.int()]),
    "list": ((5, 3), lambda x, i, j, m: x[[0, 2, 2, -1]]),
    "lists": ((5, 3), lambda x, i, j, m: x[[0, 2, 2], [1, 0, 0]]),
    ":, list": ((3, 5), lambda x, i, j, m: x[:, [4, 0]]),
    "range, i": ((4, 5), lambda x, i, j, m: x[range(4), i]),
    "mask": ((2, 3), lambda x, i, j, m: x[m]),
    "~mask": ((2, 3), lambda x, i, j, m: x[~m]),
    "mask of rows": ((3, 4), lambda x, i, j, m: x[m[0]]),
    "mask of the last": ((4, 3), lambda x, i, j, m: x[:, m[0]]),
    "mask of the first two": ((2, 3, 4), lambda x, i, j, m: x[m]),
    "mask of the last two": ((4, 2, 3), lambda x, i, j, m: x[..., m]),
    "1, mask": ((2, 3, 4), lambda x, i, j, m: x[1, m[0]]),
    "mask, 1:": ((3, 4), lambda x, i, j, m: x[m[0], 1:]),
    "all-false mask": ((2, 3), lambda x, i, j, m: x[m & ~m]),
    "computed mask": ((2, 3), lambda x, i, j, m: x[x > 0]),
    "mask list": ((3, 4), lambda x, i, j, m: x[[True, False, True]]),
    "of an empty": ((5, 0), lambda x, i, j, m: x[i]),
    "twice": ((5, 5), lambda x, i, j, m: x[i][:, j]),
}


@pytest.mark.parametrize("index", ADVANCED)
def test_index_advanced(index):
    shape, fn = ADVANCED[index]
    i, j = [3, 1, 3, -2], [0, 4, 0, -5]  # repeated and negative; (3, 0) twice
    check(lambda t, x, i, j, m: fn(x, i, j, m), shape, i, j, mask(2, 3, seed=1))


def test_index_with_many_repeats():
    check(lambda t, x, i: x[i], (3, 4), integers(3, 50))
    check(lambda t, x, i: x[i], (65, 8), integers(65, 20, 10))
    check(lambda t, x, i, j: x[i, j], (3, 4), integers(3, 40), integers(4, 40, seed=1))
    check(lambda t, x, i: x[:, i], (2, 3), [0, 0, 0, 0])
    check(lambda t, x, i: x[t.arange(len(i)), i], (20, 7), integers(7, 20))


def test_index_out_of_range():
    check_error(IndexError, lambda t, x, i: x[i], (3, 4), [0, 3])
    check_error(IndexError, lambda t, x, i: x[i], (3, 4), [-4])
    check_error(IndexError, lambda t, x, i: x[:, i], (3, 4), [4])
    check_error(RuntimeError, lambda t, x, i: x.gather(1, i), (2, 3), [[3], [0]])
    check_error(RuntimeError, lambda t, x, i: x.gather(1, i), (2, 3), [[-1], [0]])
    check_error(RuntimeError, lambda t, x, i: x.gather(0, i), (), 1)


def test_index_refuses():
    check_error(IndexError, lambda t, x: x[3], (3, 4))
    check_error(IndexError, lambda t, x: x[-4], (3, 4))
    check_error(IndexError, lambda t, x: x[0, 0, 0], (3, 4))
    check_error(IndexError, lambda t, x: x[0], ())
    check_error(IndexError, lambda t, x, m: x[m], (3, 4), mask(4))
    check_error(IndexError, lambda t, x, m: x[m], (3, 4), mask(3, 3))
    check_error(IndexError, lambda t, x, i, j: x[i, j], (3, 4), [0, 1], [0, 1, 2])
    check_error(IndexError, lambda t, x, y: x[y], (3, 4), (2,))
    check_error(IndexError, lambda t, x, i: x[i], (0, 3), [0])
    check_error(ValueError, lambda t, x: x[::-1], (3, 4))
    check_error(ValueError, lambda t, x: x[::0], (3, 4))
    check_error((TypeError, IndexError), lambda t, x: x[1.0], (3, 4))


# ---- gather --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "index", "dim"),
    [
        ((3, 4), integers(4, 3, 2), 1),
        ((3, 4), integers(4, 3, 9), -1),
        ((3, 4), integers(3, 2, 4), 0),
        ((3, 4), integers(3, 5, 2), 0),
        ((3, 4), integers(4, 2, 1), 1),  # an index smaller than the input
        ((2, 3, 4), integers(3, 2, 5, 4), 1),
        ((2, 3, 4), integers(4, 1, 2, 6), 2),
        ((3, 4), np.zeros((3, 5), np.int64), 1),  # always the same element
        ((5,), [4, 0, 0], 0),
        ((1,), [0, 0], 0),
        ((), np.array(0), 0),
        ((3, 4), np.zeros((3, 0), np.int64), 1),
        ((0, 4), np.zeros((0, 2), np.int64), 1),
    ],
    ids=lambda value: str(getattr(value, "shape", value)),
)
def test_gather(shape, index, dim):
    check(lambda t, x, i: t.gather(x, dim, i), shape, index)
    check(lambda t, x, i: x.gather(dim=dim, index=i), shape, index)


def test_gather_of_other_dtypes_and_refusals():
    check(lambda t, x, i: x.gather(1, i), integers(9, 2, 3), [[0, 2], [1, 1]])
    check_error(RuntimeError, lambda t, x, i: x.gather(1, i), (2, 3), [0, 1])
    check_error(IndexError, lambda t, x, i: x.gather(1, i), (), 0)
    check_error(IndexError, lambda t, x: x.transpose(0, 1), ())
    check_error(RuntimeError, lambda t, x, i: x.gather(1, i), (2, 3), [[0], [0], [0]])
    check_error(IndexError, lambda t, x, i: x.gather(2, i), (2, 3), [[0], [0]])
    check_error(RuntimeError, lambda t, x, y: x.gather(1, y), (2, 3), (2, 3))
