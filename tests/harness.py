"""One line per case: the same lambda runs in PyTorch and in tensorlib, and everything must agree.

    check(lambda t, x, y: x * y, (3, 4), (4,))      # t is `torch`, then `tensorlib`

An input is a shape (a tuple: seeded values between `low` and `high`), a list, or an array.
Float64 values take the dtype under test; arrays of any other dtype (indices, masks, float32) stay
as they are. A case runs in float32 and float64, with contiguous inputs and with strided ones, with
all gradients wanted, each one alone, and none. Each time these must hold:

* values, dtypes, shapes and `requires_grad` of the outputs are PyTorch's, and an output shares
  memory with an input exactly where PyTorch's does;
* with a random upstream gradient, every gradient is PyTorch's: value, dtype, shape;
* neither forward nor backward has changed an input or the upstream gradient;
* every gradient of ours is its own writable array (PyTorch's may be the upstream one).

With retain_graph a second backward gives the same gradients again. Where an input or output is
changed in place before backward, that raises RuntimeError, or the gradients are right all the same.
In float64 the gradient along a random direction must also be the slope that finite differences see
(`finite=False` where there is none: kinks, ties, infinities).

`TENSORLIB=torch python -m pytest` lets PyTorch play both sides: a case that fails then is a wrong
case. `python -m pytest --device cuda` has tensorlib compute on a GPU, and `--device cuda-emulated`
on the stand-in for one (`conftest.py`).
"""

import importlib
import itertools
import os
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tensorlib.arrays import is_writable

device = "cpu"  # where tensorlib computes; conftest.py sets it

tensorlib = importlib.import_module(os.environ.get("TENSORLIB", "tensorlib"))

TOLERANCE = {  # the loosest first
    "float16": {"rtol": 2e-3, "atol": 2e-3},
    "float32": {"rtol": 1e-4, "atol": 1e-5},
    "float64": {"rtol": 1e-10, "atol": 1e-10},
}
EXACT = {"rtol": 0, "atol": 0}


def check(
    fn,
    *inputs,
    low=-2.0,
    high=2.0,
    dtypes=("float32", "float64"),
    finite=True,
    seed=0,
    library=tensorlib,
):
    """Assert that `fn(t, *inputs)` has PyTorch's values and gradients; see the top of this file."""
    rng = np.random.default_rng(seed)
    values = [as_values(source, low, high, rng) for source in inputs]
    for dtype in dtypes:
        arrays = [v.astype(dtype) if v.dtype == np.float64 else v for v in values]
        floats = [array.dtype.kind == "f" for array in arrays]
        alone = [[i == j for j in range(len(floats))] for i, f in enumerate(floats) if f]
        none = [False] * len(floats)
        wanted_sets = (
            [floats, none, *alone] if len(alone) > 1 else [floats, none][: 1 + any(floats)]
        )
        for layout, wanted in itertools.product(
            (contiguous, strided)[: 1 + any(wanted_sets)], wanted_sets
        ):
            where = f"{dtype}, {layout.__name__} inputs, gradients wanted: {wanted}"
            compare(fn, arrays, layout, wanted, seed, library, where)
        if any(floats):
            check_second_backward(fn, arrays, floats, seed, library, dtype)
            check_changed_in_place(fn, arrays, floats, seed, library, dtype)
    if finite and {value.dtype.name for value in values if value.dtype.kind == "f"} == {"float64"}:
        check_slope(fn, values, seed, library)


def check_error(exception, fn, *inputs, match=None, library=tensorlib):
    """Assert that `fn(t, *inputs)` raises `exception` in both libraries (ours says `match`)."""
    rng = np.random.default_rng(0)
    arrays = [as_values(source, -2.0, 2.0, rng) for source in inputs]
    for t, text in ((torch, None), (library, match)):
        tensors = [leaf(t, array, array.dtype.kind == "f") for array in arrays]
        with pytest.raises(exception, match=None if t is torch else text):
            _finish(t, fn(t, *tensors))


def _finish(t, _result):
    """Wait for a GPU, which tells of an index that was out of range."""
    if device != "cpu" and t is not torch:
        t.cuda.synchronize()


@contextmanager
def tensors_made_there():
    """Inside, `tensorlib.zeros` and its like make their tensors on `device` unless told otherwise,
    as with `torch.set_default_device`. What shares memory with NumPy is on the CPU all the same."""
    with pytest.MonkeyPatch.context() as patch:
        creation = tensorlib.creation
        patch.setattr(creation.tensor, "__defaults__", (None, device, False))
        for function in vars(creation).values():
            if "device" in (getattr(function, "__kwdefaults__", None) or {}):
                patch.setitem(function.__kwdefaults__, "device", device)
        yield


# ---- inputs --------------------------------------------------------------------------------------


def as_values(source, low, high, rng):
    """A shape drawn at random, or the given values."""
    return np.asarray(rng.uniform(low, high, source) if isinstance(source, tuple) else source)


def integers(high, *shape, low=0, seed=0):
    """Random integers, for indices."""
    return np.random.default_rng(seed).integers(low, high, shape)


def mask(*shape, seed=0):
    """Random booleans."""
    return np.random.default_rng(seed).random(shape) < 0.5


def contiguous(array):
    """A fresh copy, as NumPy lays it out."""
    return np.array(array, order="C")


def strided(array):
    """A fresh copy, laid out transposed and with a gap after every element."""
    storage = np.empty((*array.shape[::-1], 2), array.dtype)
    view = storage[..., 0].T
    view[...] = array
    return view


def leaf(t, array, requires_grad):
    """A tensor of library `t` on the memory of `array`, or on a copy where ours has a device."""
    tensor = t.from_numpy(np.asarray(array))
    if device != "cpu" and t is not torch:
        tensor = on_device(array)
    return tensor.requires_grad_() if requires_grad else tensor


def on_device(array):
    """A tensor with the values of `array`, strided if that is."""
    tensor = tensorlib.tensor(array, device=device)
    if array.flags.forc:
        return tensor
    storage = tensorlib.empty(*array.shape[::-1], 2, dtype=tensor.dtype, device=device)
    view = tensorlib.Tensor(storage.array[..., 0].T)
    return view.copy_(tensor)


# ---- PyTorch as the oracle -----------------------------------------------------------------------


def compare(fn, arrays, layout, wanted, seed, library, where):
    """Run both libraries on the same inputs and compare all that they return."""
    theirs = run(torch, fn, arrays, layout, wanted, seed, "torch, " + where)
    ours = run(library, fn, arrays, layout, wanted, seed, where)
    precisions = {array.dtype.name for array in arrays}
    assert len(ours["outputs"]) == len(theirs["outputs"]), f"number of outputs ({where})"
    for kind in ("outputs", "gradients"):
        for i, (our, their) in enumerate(zip(ours[kind], theirs[kind], strict=True)):
            assert_same(our, their, precisions, f"{kind[:-1]} {i} ({where})")
    for kind in ("requires_grad", "shares_memory"):
        assert ours[kind] == theirs[kind], f"{kind}: {ours[kind]}, PyTorch {theirs[kind]} ({where})"


def run(t, fn, arrays, layout, wanted, seed, where):
    """Forward and, with a random upstream gradient, backward in library `t`."""
    arrays = [layout(array) for array in arrays]
    before = [array.tobytes() for array in arrays]
    tensors = [leaf(t, array, wants) for array, wants in zip(arrays, wanted, strict=True)]
    outputs = flatten(fn(t, *tensors))
    values = [memory(output) for output in outputs]
    # Copies: a gradient is compared with the output as it was before backward.
    results = [to_array(output) for output in outputs]
    result = {"outputs": [np.array(v) if isinstance(v, np.ndarray) else v for v in results]}
    result["requires_grad"] = [getattr(output, "requires_grad", None) for output in outputs]
    result["shares_memory"] = [
        [value is not None and share_memory(value, memory(x)) for x in tensors] for value in values
    ]

    upstream = backward(t, outputs, seed)
    gradients = [tensor.grad for tensor in tensors]
    result["gradients"] = [None if g is None else to_array(g) for g in gradients]

    for i, (tensor, bytes_before) in enumerate(zip(tensors, before, strict=True)):
        assert to_array(tensor).tobytes() == bytes_before, f"input {i} was changed ({where})"
    for i, gradient in enumerate(gradients if t is not torch else []):
        others = [*map(memory, tensors), *values, *upstream, *map(memory, gradients[:i])]
        assert_own(memory(gradient), others, f"gradient {i} ({where})")
    return result


def backward(t, outputs, seed, **options):
    """Send a random gradient into every output that takes one; return those gradients' memory."""
    rng = np.random.default_rng(seed + 1)
    outputs = [output for output in outputs if getattr(output, "requires_grad", False)]
    upstream = [leaf(t, random_like(output, rng), False) for output in outputs]
    before = [to_array(gradient).tobytes() for gradient in upstream]
    if len(outputs) == 1:
        outputs[0].backward(upstream[0], **options)
    elif outputs:
        losses = [(y * g).sum() for y, g in zip(outputs, upstream, strict=True)]
        sum(losses[1:], losses[0]).backward(**options)
    for gradient, bytes_before in zip(upstream, before, strict=True):
        assert to_array(gradient).tobytes() == bytes_before, "upstream gradient changed"
    return [memory(gradient) for gradient in upstream]


def random_like(output, rng):
    value = to_array(output)
    return np.asarray(rng.standard_normal(value.shape), value.dtype)


def flatten(output):
    """The outputs as a flat list of tensors and plain values."""
    if isinstance(output, (tuple, list)) and any(hasattr(y, "requires_grad") for y in output):
        return list(output)
    return [output]


def to_array(output):
    """A tensor as an array; other things (numbers, sizes, dtypes) stay plain."""
    if hasattr(output, "requires_grad"):
        return output.detach().cpu().numpy()
    if isinstance(output, tuple):
        return tuple(output)
    plain = isinstance(output, (bool, int, float, str, list))
    return output if plain else str(output).split(".")[-1]


def memory(output):
    """The array in which a tensor's numbers are, on its device; None for anything else."""
    if not hasattr(output, "requires_grad"):
        return None
    return output.array if hasattr(output, "array") else output.detach().numpy()


def share_memory(x, y):
    return bool(np.may_share_memory(x, y))


def assert_same(our, their, precisions, what):
    """Same type or dtype, same shape, same values as far as the least precise dtype can tell."""
    if not isinstance(their, np.ndarray):
        assert type(our) is type(their), f"{what}: {our!r} is not of the type of {their!r}"
        if isinstance(their, float):
            np.testing.assert_allclose(our, their, rtol=1e-6, err_msg=what)
        else:
            assert our == their, f"{what}: {our!r}, PyTorch {their!r}"
        return
    assert isinstance(our, np.ndarray), f"{what}: {our!r} where PyTorch has a tensor"
    assert our.dtype == their.dtype, f"{what}: dtype {our.dtype}, PyTorch {their.dtype}"
    assert our.shape == their.shape, f"{what}: shape {our.shape}, PyTorch {their.shape}"
    if our.tobytes() != their.tobytes():
        precisions = {our.dtype.name, *precisions} if our.dtype.kind == "f" else {}
        tolerance = next((TOLERANCE[name] for name in TOLERANCE if name in precisions), EXACT)
        np.testing.assert_allclose(our, their, **tolerance, err_msg=what)


def assert_own(gradient, others, what):
    """Nobody else sees this array, and whoever owns it may write to it."""
    if gradient is not None:
        assert is_writable(gradient), f"{what} is read-only"
        for other in others:
            shared = other is not None and share_memory(gradient, other)
            assert not shared, f"{what} shares memory with another array"


# ---- tensorlib against itself --------------------------------------------------------------------


def forward(t, fn, arrays, floats):
    """Tensors on fresh copies of the arrays, and the outputs of `fn`."""
    tensors = [leaf(t, np.array(a), is_float) for a, is_float in zip(arrays, floats, strict=True)]
    return tensors, flatten(fn(t, *tensors))


def gradients_of(tensors):
    return [None if x.grad is None else np.array(to_array(x.grad)) for x in tensors]


def check_second_backward(fn, arrays, floats, seed, library, where):
    """Backward changes nothing that it saved: run again, it adds the same gradients once more."""
    tensors, outputs = forward(library, fn, arrays, floats)
    backward(library, outputs, seed, retain_graph=True)
    twice = [None if g is None else np.asarray(g + g) for g in gradients_of(tensors)]
    backward(library, outputs, seed)
    for i, (ours, expected) in enumerate(zip(gradients_of(tensors), twice, strict=True)):
        assert_same(ours, expected, set(), f"gradient {i} of a second backward ({where})")


def check_changed_in_place(fn, arrays, floats, seed, library, where):
    """What is changed between forward and backward is an error there, or has no effect."""
    tensors, outputs = forward(library, fn, arrays, floats)
    backward(library, outputs, seed)
    before = gradients_of(tensors)
    for k in range(len(tensors) + len(outputs)):
        tensors, outputs = forward(library, fn, arrays, floats)
        changed = [*tensors, *outputs][k]
        value = memory(changed)
        if value is None or not is_writable(value):
            continue
        with library.no_grad():
            changed.fill_(0)
        try:
            backward(library, outputs, seed)
        except RuntimeError:
            continue
        name = f"input {k}" if k < len(tensors) else f"output {k - len(tensors)}"
        for i, (ours, expected) in enumerate(zip(gradients_of(tensors), before, strict=True)):
            what = f"gradient {i} with {name} changed in place ({where})"
            assert_same(ours, expected, set(), what)


# ---- finite differences as the oracle ------------------------------------------------------------


def check_slope(fn, values, seed, library, step=1e-5):
    """The gradient along a random direction is the slope of the central difference, in float64."""
    floats = [value.dtype.kind == "f" for value in values]
    rng = np.random.default_rng(seed + 2)
    directions = [np.asarray(rng.standard_normal(value.shape)) for value in values]

    def projected(distance):
        """The outputs at x + distance * direction, each times its upstream gradient, summed."""
        moved = [
            value + distance * direction if is_float else value
            for value, direction, is_float in zip(values, directions, floats, strict=True)
        ]
        outputs = flatten(fn(library, *[leaf(library, array, False) for array in moved]))
        outputs = [to_array(outputs[i]) for i in differentiable]
        return sum(float((y * g).sum()) for y, g in zip(outputs, upstream, strict=True))

    tensors = [leaf(library, np.array(v), f) for v, f in zip(values, floats, strict=True)]
    outputs = flatten(fn(library, *tensors))
    differentiable = [i for i, y in enumerate(outputs) if getattr(y, "requires_grad", False)]
    upstream = [to_array(library.tensor(g)) for g in backward(library, outputs, seed)]
    slope = (projected(step) - projected(-step)) / (2 * step)
    along = [
        float((to_array(tensor.grad) * direction).sum())
        for tensor, direction in zip(tensors, directions, strict=True)
        if tensor.grad is not None
    ]
    message = "the gradient is not the slope that finite differences see"
    np.testing.assert_allclose(sum(along), slope, rtol=1e-6, atol=1e-7, err_msg=message)
