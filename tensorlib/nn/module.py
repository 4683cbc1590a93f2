"""Module: a tree of layers that knows its parameters, its mode and its state; as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..creation import zeros
from ..grad_mode import mode, no_grad
from ..tensor import Tensor, clear_gradients


class Parameter(Tensor):
    """A tensor that a module trains: assigned to a module's attribute, it becomes its parameter."""

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data.array if isinstance(data, Tensor) else data)
        self.requires_grad_(requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class Module:
    """The base of all layers. Subclasses set parameters and submodules as attributes in
    `__init__`, after `super().__init__()`, and compute in `forward`."""

    training: bool
    # Which attributes have a place in the tree, by kind, in the order of their first assignment.
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Any]

    def __init__(self) -> None:
        vars(self).update(_parameters={}, _buffers={}, _modules={}, training=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward method")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if mode.observer is None:
            return self.forward(*args, **kwargs)
        with mode.observer.inside(self):
            return self.forward(*args, **kwargs)

    # ------------------------------------------------------------------------------- attributes

    def _tables(self) -> tuple[dict[str, Any], ...]:
        return self._parameters, self._buffers, self._modules

    if not TYPE_CHECKING:  # to which any name would then be an attribute

        def __getattr__(self, name: str) -> Any:  # called for what is not there
            if name in ("_parameters", "_buffers", "_modules", "training"):
                kind = type(self).__name__
                raise AttributeError(f"{kind}: call super().__init__() first in its __init__")
            return object.__getattribute__(self, name)  # which raises Python's own error

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Parameter, Module)):
            parameters, _, modules = self._tables()
            table = parameters if isinstance(value, Parameter) else modules
            if name not in table:  # what is replaced by its like keeps its place in the order
                self._forget(name)
            table[name] = value
        else:
            for table in self._tables() if "_parameters" in vars(self) else ():
                if name in table:
                    is_buffer = table is self._buffers and isinstance(value, Tensor)
                    if value is not None and not is_buffer:
                        kind, other = type(table[name]).__name__, type(value).__name__
                        raise TypeError(f"{name!r} is a {kind}: cannot assign {other}")
                    table[name] = value
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if not self._forget(name):
            object.__delattr__(self, name)

    def _forget(self, name: str) -> bool:
        """Take `name` out of wherever it is; whether it was anywhere."""
        places = [place for place in (*self._tables(), vars(self)) if name in place]
        for place in places:
            del place[name]
        return bool(places)

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """A tensor that belongs to the module but is not trained, such as a mask."""
        self._register(self._tables()[1], name, tensor, Tensor)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """A parameter under a name; None for one that this module does without."""
        self._register(self._tables()[0], name, param, Parameter)

    def _register(self, table: dict[str, Any], name: str, value: Any, kind: type) -> None:
        if not name or "." in name or (hasattr(self, name) and name not in table):
            raise KeyError(f"the name {name!r} is empty, has a dot, or is taken")
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name!r} must be a {kind.__name__}, not {type(value).__name__}")
        table[name] = vars(self)[name] = value

    # --------------------------------------------------------------------------------- the tree

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = ""
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, with dotted names; its own is ""."""
        memo = set() if memo is None else memo
        if self not in memo:
            memo.add(self)
            yield prefix, self
            for name, child in self.named_children():
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        return ((name, child) for name, child in self._modules.items() if child is not None)

    def children(self) -> Iterator[Module]:
        return (child for _, child in self.named_children())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names, each once, also where two modules share it."""
        return self._named("_parameters")

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        return self._named("_buffers")

    def buffers(self) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers())

    def _named(self, table: str) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, tensor in getattr(module, table).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{path}.{name}" if path else name, tensor

    def apply(self, fn: Callable[[Module], Any]) -> Module:
        """Call `fn` with every module of the tree, children first."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # ------------------------------------------------------------------------ mode, type, device

    def train(self, mode: bool = True) -> Module:
        """Training mode, in which dropout drops; `eval()` ends it."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or with `set_to_none=False` fill them with 0."""
        clear_gradients(self.parameters(), set_to_none)

    def to(self, *targets: Any, **options: Any) -> Module:
        """Move all parameters and buffers to a device or a floating dtype, in place.

        Integers keep their dtype. TypeError for a dtype that is not floating-point.
        """
        if not zeros(1).to(*targets, **options).is_floating_point():
            raise TypeError("a module can only be moved to floating-point dtypes")
        for tensor in [*self.parameters(), *self.buffers()]:
            for x in (tensor, tensor.grad):
                if x is not None:
                    moved = x.detach().to(*targets, **options)
                    x.array = (moved if x.is_floating_point() else x.to(moved.device)).array
        return self

    def cpu(self) -> Module:
        return self.to("cpu")

    def cuda(self) -> Module:
        return self.to("cuda")

    # ------------------------------------------------------------------------------------ state

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """The parameters and buffers by dotted name, sharing their memory."""
        own = {**self._parameters, **self._buffers}
        state = {prefix + name: x.detach() for name, x in own.items() if x is not None}
        for name, child in self.named_children():
            state.update(child.state_dict(f"{prefix}{name}."))
        return state

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> StateKeys:
        """Copy the values of `state_dict` into this module's own, in place.

        Returns the names that are missing and those that are unexpected. RuntimeError, with
        nothing changed, if there are any (unless `strict=False`), or where a shape differs.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"a state is a dictionary, not {type(state_dict).__name__}")
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        problems = []
        if strict and unexpected:
            problems.append(f"Unexpected key(s) in state_dict: {_listed(unexpected)}.")
        if strict and missing:
            problems.append(f"Missing key(s) in state_dict: {_listed(missing)}.")
        problems += [
            f"size mismatch for {name}: the state has {np.shape(state_dict[name])}, "
            f"the model {tensor.shape}."
            for name, tensor in own.items()
            if name in state_dict and np.shape(state_dict[name]) != tensor.shape
        ]
        if problems:
            text = "\n\t".join(problems)
            raise RuntimeError(f"cannot load the state of {type(self).__name__}:\n\t{text}")
        with no_grad():
            for name, tensor in own.items():
                if name in state_dict:
                    tensor.copy_(state_dict[name])
        return StateKeys(missing, unexpected)

    # --------------------------------------------------------------------------------- printing

    def extra_repr(self) -> str:
        """What stands between the brackets of a layer when it is printed."""
        return ""

    def __repr__(self) -> str:
        extra = [self.extra_repr()] if self.extra_repr() else []
        children = [f"({name}): {text}" for name, text in self._child_lines()]
        if not children:
            return f"{type(self).__name__}({''.join(extra)})"
        body = "\n".join(extra + children).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)"

    def _child_lines(self) -> list[tuple[str, str]]:
        return [(name, repr(child)) for name, child in self._modules.items()]


class StateKeys(NamedTuple):
    """What `load_state_dict` found missing, and what it did not expect."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"missing: {_listed(self.missing_keys)}; unexpected: {_listed(self.unexpected_keys)}"


def _listed(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
