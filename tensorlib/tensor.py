"""Tensor: what makes the bare tensor of the tape pleasant. Operators, methods, in-place changes.

Everything that computes is an operation from `ops`; a method is the operation under its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from . import autograd, clock
from .arrays import axis_of, is_floating, is_writable
from .devices import canonical, device_of, move
from .grad_mode import is_grad_enabled
from .ops import elementwise, indexing, linalg, reduction
from .ops import shape as shapes
from .printing import format_tensor


class Tensor(autograd.TensorBase):
    """An n-dimensional array that can record what is computed with it; as `torch.Tensor`.

    Make one with `tensorlib.tensor(...)`, `zeros`, `randn`, …; `Tensor(array)` wraps a NumPy or
    CuPy array without a copy, and makes float32 of a list.
    """

    __slots__ = ()
    __array_ufunc__ = None  # so that ndarray * tensor is our business, not NumPy's
    __hash__ = object.__hash__  # by identity, although == compares element by element

    # ------------------------------------------------------------------------------- attributes

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def device(self) -> str:
        return device_of(self.array)

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made this tensor, so that backward fills its `.grad`."""
        return self.node is None

    @property
    def data(self) -> Tensor:
        """`detach()`. Assigned a tensor, this one takes over its memory, unseen by the graph."""
        return self.detach()

    @data.setter
    def data(self, source: Tensor) -> None:
        if not isinstance(source, Tensor):
            raise TypeError(f"data: expected a tensor, got {type(source).__name__}")
        if self.requires_grad and not source.is_floating_point():
            raise RuntimeError(f"data: a tensor that requires gradients cannot be {source.dtype}")
        self.array = source.array

    @property
    def T(self) -> Tensor:
        return shapes.permute(self, *reversed(range(self.ndim)))

    @property
    def mT(self) -> Tensor:
        if self.ndim < 2:
            raise RuntimeError(f"mT: needs at least two dimensions, got shape {self.shape}")
        return shapes.transpose(self, -2, -1)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[axis_of(self, dim)]

    def numel(self) -> int:
        return self.array.size

    nelement = numel

    def dim(self) -> int:
        return self.ndim

    def is_contiguous(self) -> bool:
        return self.array.flags.c_contiguous

    def is_floating_point(self) -> bool:
        return is_floating(self.dtype)

    # ----------------------------------------------------------------------------- the gradient

    backward = autograd.backward

    def retain_grad(self) -> None:
        """Have backward fill the `.grad` of this tensor as it fills a leaf's. RuntimeError if it
        does not require a gradient."""
        if not self.requires_grad:
            raise RuntimeError("retain_grad: this tensor does not require a gradient")
        if self.node is not None:
            autograd.retaining[self.node, self.output] = self

    @property
    def retains_grad(self) -> bool:
        """Whether `retain_grad` was called on it; a leaf has no need of that."""
        return (self.node, self.output) in autograd.retaining

    def detach(self) -> Tensor:
        """The same memory as a tensor outside the graph."""
        return Tensor(self.array)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are wanted. RuntimeError where integers are to get them, and where a
        recorded result is to lose them."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        if requires_grad and not is_floating(self.dtype):
            raise RuntimeError(
                f"only floating-point tensors can require gradients, not {self.dtype}"
            )
        if not requires_grad and not self.is_leaf:
            raise RuntimeError("this tensor is a recorded result: use detach() to leave the graph")
        self._requires_grad = requires_grad

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for gradients, or stop asking."""
        self.requires_grad = requires_grad
        return self

    # -------------------------------------------------------------------------------- operators

    __add__ = __radd__ = add = elementwise.add
    __sub__ = sub = elementwise.sub
    __mul__ = __rmul__ = mul = elementwise.mul
    __truediv__ = div = elementwise.div
    __pow__ = pow = elementwise.pow
    __matmul__ = matmul = linalg.matmul
    __neg__ = neg = elementwise.neg
    __abs__ = abs = elementwise.abs
    __getitem__ = indexing.getitem

    def __rsub__(self, other: Any) -> Tensor:
        return elementwise.sub(other, self)

    def __rtruediv__(self, other: Any) -> Tensor:
        return elementwise.div(other, self)

    def __rpow__(self, other: Any) -> Tensor:
        return elementwise.pow(other, self)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return elementwise.eq(self, other) if _comparable(other) else NotImplemented

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return elementwise.ne(self, other) if _comparable(other) else NotImplemented

    eq, ne = elementwise.eq, elementwise.ne
    __lt__ = lt = elementwise.lt
    __le__ = le = elementwise.le
    __gt__ = gt = elementwise.gt
    __ge__ = ge = elementwise.ge
    __and__ = __rand__ = elementwise.bitwise_and
    __or__ = __ror__ = elementwise.bitwise_or
    __invert__ = elementwise.bitwise_not
    logical_and, logical_or = elementwise.logical_and, elementwise.logical_or
    logical_not = elementwise.logical_not

    # ---------------------------------------------------------------------------------- methods

    exp, log, sqrt, rsqrt = elementwise.exp, elementwise.log, elementwise.sqrt, elementwise.rsqrt
    sin, cos, tanh = elementwise.sin, elementwise.cos, elementwise.tanh
    sigmoid, relu = elementwise.sigmoid, elementwise.relu
    maximum, minimum = elementwise.maximum, elementwise.minimum
    clamp, masked_fill = elementwise.clamp, elementwise.masked_fill
    sum, mean, var, std = reduction.sum, reduction.mean, reduction.var, reduction.std
    amax, amin, max, min = reduction.amax, reduction.amin, reduction.max, reduction.min
    argmax, argmin, topk = reduction.argmax, reduction.argmin, reduction.topk
    all, any, cumsum = reduction.all, reduction.any, reduction.cumsum
    logsumexp, softmax, log_softmax = reduction.logsumexp, reduction.softmax, reduction.log_softmax
    outer, gather = linalg.outer, indexing.gather
    view, reshape, flatten = shapes.view, shapes.reshape, shapes.flatten
    transpose, permute, expand = shapes.transpose, shapes.permute, shapes.expand
    squeeze, unsqueeze, repeat = shapes.squeeze, shapes.unsqueeze, shapes.repeat
    split, chunk, unbind = shapes.split, shapes.chunk, shapes.unbind
    contiguous, clone = shapes.contiguous, shapes.clone
    tril, triu = shapes.tril, shapes.triu

    # -------------------------------------------------------------------------- types, machines

    def to(self, *targets: Any, device: str | None = None, dtype: Any = None) -> Tensor:
        """The tensor on a device, in a dtype, or like another tensor; itself if nothing changes."""
        for target in targets:
            if isinstance(target, Tensor):
                device, dtype = target.device, target.dtype
            elif isinstance(target, str):
                device = target
            elif target is not None:
                dtype = target
        result = self
        if device is not None and canonical(device) != self.device:
            result = shapes.to_device(result, device)
        if dtype is not None and np.dtype(dtype) != self.dtype:
            result = shapes.cast(result, dtype=np.dtype(dtype))
        return result

    def float(self) -> Tensor:
        return self.to(np.float32)

    def double(self) -> Tensor:
        return self.to(np.float64)

    def half(self) -> Tensor:
        return self.to(np.float16)

    def long(self) -> Tensor:
        return self.to(np.int64)

    def int(self) -> Tensor:
        return self.to(np.int32)

    def bool(self) -> Tensor:
        return self.to(np.bool_)

    def cpu(self) -> Tensor:
        return self.to("cpu")

    def cuda(self) -> Tensor:
        return self.to("cuda")

    # ----------------------------------------------------------------------------- to plain Python

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array that shares the tensor's memory."""
        if self.requires_grad:
            raise RuntimeError("numpy: the tensor requires a gradient; use x.detach().numpy()")
        if self.device != "cpu":
            raise TypeError("numpy: the tensor is on the GPU; use x.cpu().numpy()")
        return self.array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> Any:
        """The only element as a Python number."""
        if self.array.size != 1:
            raise RuntimeError(f"item: a tensor of shape {self.shape} has not exactly one element")
        return move(self.array, "cpu").item()

    def tolist(self) -> Any:
        return move(self.array, "cpu").tolist()

    def __len__(self) -> Any:
        if self.ndim == 0:
            raise TypeError("len of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Any:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))

    def __bool__(self) -> Any:
        if self.array.size != 1:
            raise RuntimeError(
                "a tensor with several elements is neither true nor false: use any or all"
            )
        return bool(self.item())

    def __float__(self) -> Any:
        return float(self.item())

    def __int__(self) -> Any:
        return int(self.item())

    def __index__(self) -> Any:
        if self.array.size != 1 or self.dtype.kind != "i":
            raise TypeError(
                f"only an integer tensor of one element is an index, not {self.dtype} {self.shape}"
            )
        return self.item()

    def __format__(self, spec: str) -> str:
        if spec and self.ndim:
            raise TypeError(f"{spec!r} is for one number, not for shape {self.shape}: use .item()")
        return str(self) if self.ndim else format(self.item(), spec)

    def __repr__(self) -> str:
        suffixes = [f"device='{self.device}:0'"] if self.device != "cpu" else []
        if self.node is not None:
            name = self.node.name.title().replace("_", "")
            suffixes.append(f"grad_fn=<{name}Backward0>")
        elif self.requires_grad:
            suffixes.append("requires_grad=True")
        return format_tensor(self.cpu().array, suffix=", ".join(suffixes))

    # ------------------------------------------------------------------------- changes in place

    def __setitem__(self, index: Any, value: Any) -> None:
        value = self._writable_with(value)
        *before, last = indexing.plain_index(index, self.device)
        target = self.array
        for step in before:
            target = target[step]
        try:
            target[last] = value
        except ValueError as error:
            raise RuntimeError(f"assignment to a tensor of shape {self.shape}: {error}") from None
        indexing.check_index(target, last)
        clock.mark_written(self.array)

    def __iadd__(self, other: Any) -> Tensor:  # type: ignore[misc]
        return self._in_place(np.add, other)

    def __isub__(self, other: Any) -> Tensor:  # type: ignore[misc]
        return self._in_place(np.subtract, other)

    def __imul__(self, other: Any) -> Tensor:  # type: ignore[misc]
        return self._in_place(np.multiply, other)

    def __itruediv__(self, other: Any) -> Tensor:  # type: ignore[misc]
        return self._in_place(np.divide, other)

    add_, sub_, mul_, div_ = __iadd__, __isub__, __imul__, __itruediv__

    def copy_(self, source: Any) -> Tensor:
        """Copy the values of `source`, a tensor on any device, an array or a number, broadcast and
        cast, into this tensor."""
        source = Tensor(source) if isinstance(source, np.ndarray) else source
        self[...] = source.to(self.device) if isinstance(source, Tensor) else source
        return self

    def fill_(self, value: Any) -> Tensor:
        self[...] = value
        return self

    def zero_(self) -> Tensor:
        return self.fill_(0)

    def _in_place(self, function: Any, other: Any) -> Tensor:
        other = self._writable_with(other)
        try:
            function(self.array, other, out=self.array, casting="same_kind")
        except TypeError:
            if not (hasattr(other, "dtype") or isinstance(other, (int, float))):
                kind = type(other).__name__
                raise TypeError(f"in place: expected a tensor or a number, got {kind}") from None
            raise RuntimeError(
                f"in place on {self.dtype}: the result has another type; write x = x + y for x += y"
            ) from None
        except ValueError as error:
            raise RuntimeError(f"in place on shape {self.shape}: {error}") from None
        clock.mark_written(self.array)
        return self

    def _writable_with(self, other: Any) -> Any:
        """The array of `other`, once it is sure that writing here leaves no graph in error."""
        needs_grad = self.requires_grad or (isinstance(other, Tensor) and other.requires_grad)
        if needs_grad and is_grad_enabled():
            raise RuntimeError(
                "a tensor cannot be changed in place while gradients are recorded for it: "
                "write x = x + y for x += y, or change it under no_grad()"
            )
        if not is_writable(self.array):
            shared = "several of its elements are one; take x.clone()"
            raise RuntimeError(f"in place on shape {self.shape}: {shared}")
        if other is None:  # of which NumPy would make nan
            raise TypeError("in place: expected a tensor or a number, got None")
        if not isinstance(other, Tensor):
            return other
        if other.device != self.device:
            raise RuntimeError(
                f"in place on device {self.device!r} with a tensor on {other.device!r}: "
                "move that with .to(device)"
            )
        return other.array


def clear_gradients(tensors: Iterable[Tensor], set_to_none: bool = True) -> None:
    """Forget the gradients of tensors, or with `set_to_none=False` fill them with 0."""
    for x in tensors:
        if set_to_none or x.grad is None:
            x.grad = None
        else:
            x.grad.zero_()


def _comparable(other: object) -> bool:
    return isinstance(other, (Tensor, int, float, np.generic, np.ndarray))


autograd.set_tensor_type(Tensor)
