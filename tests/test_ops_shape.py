"""Views, joins and splits, repeat, tril and triu, indexing, gather.

`check` also compares which results share memory with their input: views do, copies do not.
"""

import numpy as np
import pytest
from harness import check, check_error, integers, mask

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # 1 / 0 is inf without one

SHAPES = [(3, 4), (2, 3, 4), (2, 1, 3), (1,), (), (0,), (2, 0, 3)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((3, 4), (4, 3)),
        ((3, 4), (12,)),
        ((3, 4), (-1,)),
        ((3, 4), (2, -1, 2)),
        ((2, 3, 4), (6, -1)),
        ((2, 1, 3), (2, 3, 1, 1)),
        ((1,), ()),
        ((), (1, 1)),
        ((), (-1,)),
        ((), ()),
        ((0,), (0, 3)),
        ((2, 0, 3), (3, -1)),
        ((2, 0, 3), (0,)),
    ],
    ids=str,
)
def test_reshape(old, new):
    check(lambda t, x: t.reshape(x, new), old)
    check(lambda t, x: x.reshape(*new) if new else x.reshape(new), old)
    check(lambda t, x: x.reshape(list(new)), old)
    check(lambda t, x: x.contiguous().view(new), old)
    check(lambda t, x: x.contiguous().view(*new) if new else x.contiguous().view(new), old)
    check(lambda t, x: (x * 1).reshape(new) * 2, old)


def test_view():
    check(lambda t, x: x.contiguous().view(x.size(0), -1), (2, 3, 4))
    check(lambda t, x: x.contiguous().view(x.shape), (3, 4))
    check(lambda t, x: x.T.view(4, 3), (3, 4))
    check(lambda t, x: x.contiguous()[:, 1:].view(2, 2, 3, 2), (2, 3, 6))
    check_error(RuntimeError, lambda t, x: x.view(5), (3, 4))
    check_error(RuntimeError, lambda t, x: x.view(-1, -1), (3, 4))
    check_error(RuntimeError, lambda t, x: x.view(5, -1), (3, 4))
    check_error(RuntimeError, lambda t, x: x.T.view(12), (3, 4))  # no view can do that
    check_error(RuntimeError, lambda t, x: x[:, :3].view(9), (3, 4))
    check_error(RuntimeError, lambda t, x: x.reshape(5, 2), (3, 4))
    check_error(RuntimeError, lambda t, x: x.reshape(-1, 5), (3, 4))
    check_error(RuntimeError, lambda t, x: x.reshape(-2, 6), (3, 4))
    check_error(RuntimeError, lambda t, x: x.reshape(0, -1), (0,))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transposes(shape):
    check(lambda t, x: t.transpose(x, 0, -1), shape)
    if len(shape) >= 2:
        check(lambda t, x: x.transpose(-2, -1), shape)
        check(lambda t, x: x.transpose(1, 0), shape)
        check(lambda t, x: x.mT, shape)
    if len(shape) == 2:
        check(lambda t, x: x.T, shape)
    if len(shape) == 3:
        check(lambda t, x: t.permute(x, (2, 0, 1)), shape)
        check(lambda t, x: x.permute(1, -1, 0), shape)
        check(lambda t, x: x.permute([0, 2, 1]), shape)
        check(lambda t, x: x.permute(2, 0, 1).transpose(0, 1).contiguous(), shape)
    check(lambda t, x: x.permute(()) if not shape else x.permute(*range(len(shape))), shape)


def test_transposes_refuse():
    check_error(IndexError, lambda t, x: x.transpose(0, 2), (3, 4))
    check_error(RuntimeError, lambda t, x: x.permute(0), (3, 4))
    check_error(RuntimeError, lambda t, x: x.permute(0, 0), (3, 4))
    check_error(IndexError, lambda t, x: x.permute(0, 2), (3, 4))
    check_error(RuntimeError, lambda t, x: x.mT, (3,))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((3, 1), (3, 4)),
        ((3, 1), (-1, 4)),
        ((4,), (3, 4)),
        ((4,), (2, 3, -1)),
        ((1, 1), (2, 3)),
        ((), (2, 3)),
        ((), ()),
        ((3, 4), (3, 4)),
        ((1,), (0,)),
        ((3, 1), (3, 0)),
        ((0, 1), (2, 0, 3)),
    ],
    ids=str,
)
def test_expand(old, new):
    check(lambda t, x: x.expand(*new) if new else x.expand(new), old)
    check(lambda t, x: x.expand(new), old)
    check(lambda t, x: x.expand(list(new)) * 2, old)


def test_expand_refuses():
    check_error(RuntimeError, lambda t, x: x.expand(3, 5), (3, 4))
    check_error(RuntimeError, lambda t, x: x.expand(4), (3, 4))
    check_error(RuntimeError, lambda t, x: x.expand(-1, 3, 4), (3, 4))


@pytest.mark.parametrize(
    "shape", [(1, 3, 1), (3, 1, 4, 1), (2, 3), (1,), (), (1, 0), (1, 1)], ids=str
)
def test_squeeze_and_unsqueeze(shape):
    check(lambda t, x: x.squeeze(), shape)
    check(lambda t, x: t.squeeze(x), shape)
    check(lambda t, x: x.squeeze(0), shape)
    check(lambda t, x: x.squeeze(dim=-1), shape)
    check(lambda t, x: x.squeeze((0, -1) if len(shape) > 1 else (0,)), shape)
    check(lambda t, x: t.unsqueeze(x, 0), shape)
    check(lambda t, x: x.unsqueeze(-1), shape)
    check(lambda t, x: x.unsqueeze(dim=len(shape)), shape)
    check_error(IndexError, lambda t, x: x.unsqueeze(len(shape) + 1), shape)
    check_error(IndexError, lambda t, x: x.squeeze(len(shape) + 1), shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flatten(shape):
    check(lambda t, x: x.flatten(), shape)
    check(lambda t, x: t.flatten(x), shape)
    if len(shape) == 3:
        check(lambda t, x: x.flatten(1), shape)
        check(lambda t, x: x.flatten(0, 1), shape)
        check(lambda t, x: x.flatten(start_dim=-2), shape)
        check(lambda t, x: t.flatten(x, 1, 1), shape)
        check_error(RuntimeError, lambda t, x: x.flatten(2, 1), shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_clone_detach_contiguous(shape):
    check(lambda t, x: x.clone(), shape)
    check(lambda t, x: t.clone(x), shape)
    check(lambda t, x: x.detach(), shape)
    check(lambda t, x: x.contiguous(), shape)
    check(lambda t, x: x * x.detach(), shape, finite=False)


@pytest.mark.parametrize(
    ("shape", "size", "dim"),
    [
        ((6,), 2, 0),
        ((5,), 2, 0),
        ((5, 3), 2, 0),
        ((3, 5), 2, -1),
        ((3, 5), 7, 1),
        ((2, 4, 3), [1, 3], 1),
        ((2, 4, 3), (2, 0, 2), -2),
        ((0, 3), 2, 0),
        ((1,), 1, 0),
    ],
    ids=str,
)
def test_split(shape, size, dim):
    check(lambda t, x: t.split(x, size, dim), shape)
    check(lambda t, x: x.split(size, dim=dim), shape)
    check(lambda t, x: x.split(size, dim)[0], shape)  # the others are not used
    check(lambda t, x: t.cat([p * i for i, p in enumerate(x.split(size, dim))], dim), shape)


@pytest.mark.parametrize(
    ("shape", "chunks", "dim"),
    [((6,), 3, 0), ((5,), 3, 0), ((5,), 4, 0), ((2, 3), 5, 1), ((3, 6), 3, -1), ((0, 2), 1, 0)],
    ids=str,
)
def test_chunk(shape, chunks, dim):
    check(lambda t, x: t.chunk(x, chunks, dim), shape)
    check(lambda t, x: x.chunk(chunks, dim=dim), shape)
    check(lambda t, x: x.chunk(chunks, dim)[-1], shape)


@pytest.mark.parametrize(
    ("shape", "dim"), [((3, 4), 0), ((3, 4), -1), ((2, 3, 4), 1), ((2,), 0), ((2, 0), 0)], ids=str
)
def test_unbind(shape, dim):
    check(lambda t, x: t.unbind(x, dim), shape)
    check(lambda t, x: x.unbind(dim=dim), shape)
    check(lambda t, x: x.unbind(dim)[-1], shape)
    check(lambda t, x: x.unbind()[0] * x[1], shape)


def test_splits_refuse():
    check_error(RuntimeError, lambda t, x: x.split([1, 1]), (3,))
    check_error(RuntimeError, lambda t, x: x.split(-1), (3,))
    check_error(IndexError, lambda t, x: x.split(1, 1), (3,))
    check_error(RuntimeError, lambda t, x: x.chunk(0), (3,))
    check_error(IndexError, lambda t, x: x.unbind(1), (3,))


@pytest.mark.parametrize(
    ("shapes", "dim"),
    [
        ([(2, 3), (4, 3)], 0),
        ([(2, 3), (2, 1), (2, 2)], 1),
        ([(2, 3), (2, 2)], -1),
        ([(3,)], 0),
        ([(1,), (1,)], 0),
        ([(0, 3), (2, 3)], 0),
        ([(0,), (0,)], 0),
        ([(2, 1, 3), (2, 4, 3)], -2),
    ],
    ids=str,
)
def test_cat(shapes, dim):
    check(lambda t, *xs: t.cat(xs, dim), *shapes)
    check(lambda t, *xs: t.cat(list(xs), dim=dim), *shapes)
    check(lambda t, *xs: t.cat([xs[0], *xs, xs[0]], dim), *shapes)


@pytest.mark.parametrize(
    ("shape", "dim"),
    [((2, 3), 0), ((2, 3), 1), ((2, 3), 2), ((2, 3), -1), ((), 0), ((0,), 1)],
    ids=str,
)
def test_stack(shape, dim):
    check(lambda t, x, y: t.stack((x, y), dim), shape, shape)
    check(lambda t, x, y: t.stack([x, y, x], dim=dim), shape, shape)
    check(lambda t, x: t.stack([x], dim), shape)


def test_joins_of_several_dtypes_and_refusals():
    check(lambda t, x, i: t.cat([x, i]), (2,), [1, 2])
    check(lambda t, i, m: t.stack([i, m]), [1, 2], mask(2))
    check(lambda t, x, y: t.cat([x, y]), (2,), np.ones(2, np.float32), dtypes=["float64"])
    check(lambda t: t.stack([t.tensor(1), t.tensor(2)]))
    check_error(RuntimeError, lambda t, x, y: t.cat([x, y]), (2, 3), (2, 4))
    check_error(RuntimeError, lambda t, x, y: t.cat([x, y]), (2, 3), (3,))
    check_error(RuntimeError, lambda t, x, y: t.stack([x, y]), (2, 3), (3,))
    check_error(IndexError, lambda t, x: t.cat([x], 1), (2,))
    check_error(RuntimeError, lambda t, x: t.cat([x, x]), ())
    check_error((RuntimeError, ValueError), lambda t: t.cat([]))
    check_error(RuntimeError, lambda t: t.stack([]))
    check_error(TypeError, lambda t, x: t.cat([x, 1.0]), (2,))


@pytest.mark.parametrize(
    ("shape", "repeats"),
    [
        ((3,), (2,)),
        ((3,), (2, 1)),
        ((2, 3), (1, 2)),
        ((2, 3), (2, 1, 3)),
        ((2, 1), (3, 2)),
        ((), (4,)),
        ((), ()),
        ((1,), (1,)),
        ((2,), (0,)),
        ((0, 2), (2, 2)),
    ],
    ids=str,
)
def test_repeat(shape, repeats):
    check(lambda t, x: x.repeat(*repeats) if repeats else x.repeat(repeats), shape)
    check(lambda t, x: x.repeat(list(repeats)), shape)


def test_repeat_refuses():
    check_error(RuntimeError, lambda t, x: x.repeat(2), (2, 3))


@pytest.mark.parametrize("diagonal", [0, 1, -1, 5, -5])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (2, 4, 3), (1, 1), (0, 3), (2, 0, 0)], ids=str)
@pytest.mark.parametrize("name", ["tril", "triu"])
def test_triangles(name, shape, diagonal):
    check(lambda t, x: getattr(t, name)(x), shape)
    check(lambda t, x: getattr(t, name)(x, diagonal), shape)
    check(lambda t, x: getattr(x, name)(diagonal=diagonal), shape)


def test_triangles_of_other_dtypes():
    check(lambda t, i, b: (t.tril(i), t.triu(b, 1)), integers(9, 3, 3), mask(3, 3))
    check(lambda t, x: t.tril(x), [[1.0, float("nan")], [2.0, float("inf")]], finite=False)
    check(lambda t: t.tril(t.ones(3, 3)) == 0)
    check_error(RuntimeError, lambda t, x: t.tril(x), (3,))


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
