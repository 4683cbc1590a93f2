"""Views, joins and splits, repeat, tril and triu.

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
    check_error(TypeError, lambda t, x: x.view(3.0, 4), (3, 4), match="integers")
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
    check_error(RuntimeError, lambda t, x: x.permute(0), (3, 4), match="each dimension")
    check_error(RuntimeError, lambda t, x: x.permute(0, 0), (3, 4), match="each dimension")
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
    check_error(RuntimeError, lambda t, x: x.expand(3, 5), (3, 4), match="only a 1 can grow")
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


def test_joins_of_several_dtypes():
    check(lambda t, x, i: t.cat([x, i]), (2,), [1, 2])
    check(lambda t, i, m: t.stack([i, m]), [1, 2], mask(2))
    check(lambda t, x, y: t.cat([x, y]), (2,), np.ones(2, np.float32), dtypes=["float64"])
    check(lambda t: t.stack([t.tensor(1), t.tensor(2)]))


def test_joins_refuse():
    check_error(RuntimeError, lambda t, x, y: t.cat([x, y]), (2, 3), (2, 4))
    check_error(RuntimeError, lambda t, x, y: t.cat([x, y]), (2, 3), (3,))
    check_error(RuntimeError, lambda t, x, y: t.stack([x, y]), (2, 3), (3,))
    check_error(IndexError, lambda t, x: t.cat([x], 1), (2,))
    check_error(RuntimeError, lambda t, x: t.cat([x, x]), ())
    check_error((RuntimeError, ValueError), lambda t: t.cat([]))
    check_error(RuntimeError, lambda t: t.stack([]))
    check_error(TypeError, lambda t, x: t.cat([x, 1.0]), (2,), match="float")
    check_error(TypeError, lambda t, x: t.stack([x, 1.0]), (2,), match="float")


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
