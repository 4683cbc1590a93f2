"""SGD, Adam and AdamW: from gradients to better parameters; as in `torch.optim`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..clock import mark_written
from ..kernels import kernels
from ..tensor import Tensor, clear_gradients

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class Optimizer:
    """Parameters in groups, each with its own settings, and a state per parameter.

    params: tensors, or dictionaries {"params": tensors, "lr": …, …} whose settings override the
    defaults. `param_groups` may be changed at any time, as the schedulers do.
    """

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        if isinstance(params, Tensor):
            raise TypeError("an optimizer takes several tensors: put a single one in a list")
        if not isinstance(params, Iterable):
            raise TypeError(f"an optimizer takes model.parameters(), not a {type(params).__name__}")
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError(
                "the optimizer got no parameters: an iterator gives them once only, and layers in "
                "a plain list are not found (use nn.ModuleList)"
            )
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Parameters to optimize as well, with settings of their own."""
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        known = {id(p) for group in self.param_groups for p in group["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                kind = type(p).__name__
                raise TypeError(f"an optimizer takes tensors, as in model.parameters(), not {kind}")
            if not p.is_leaf:
                raise ValueError("can't optimize a tensor that is the result of an operation")
            if id(p) in known:
                raise ValueError("some parameters appear in more than one parameter group")
            known.add(id(p))
        group = {**self.defaults, **param_group, "params": params}
        self._check(group)
        self.param_groups.append(group)

    def _check(self, group: dict[str, Any]) -> None:
        for name in ("lr", "eps", "weight_decay", "momentum"):
            value = group.get(name, 0)
            if value is None or isinstance(value, str):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if value < 0:
                raise ValueError(f"{name} must not be negative: {value}")
        for beta in group.get("betas", ()):
            if not 0 <= beta < 1:
                raise ValueError(f"betas must be at least 0 and below 1: {group['betas']}")

    def step(self) -> None:
        """Update every parameter that has a gradient. RuntimeError for one of another shape."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if p.grad.shape != p.shape:  # which might be broadcast
                        raise RuntimeError(
                            f"step: a parameter has shape {p.shape}, its .grad {p.grad.shape}"
                        )
                    self._update(p.array, p.grad.array, self.state.setdefault(p, {}), group)
                    mark_written(p.array)

    def _update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or with `set_to_none=False` fill them with 0."""
        for group in self.param_groups:
            clear_gradients(group["params"], set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state and the settings, with parameters numbered in order; arrays are shared."""
        order = [p for group in self.param_groups for p in group["params"]]
        number = {id(p): i for i, p in enumerate(order)}
        state = {
            number[id(p)]: {
                name: Tensor(np.asarray(value, np.float32)) if name == "step" else Tensor(value)
                for name, value in values.items()
            }
            for p, values in self.state.items()
        }
        groups = [
            {**group, "params": [number[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; the groups must have the sizes of this optimizer's.

        ValueError if they have not, or it is no optimizer's state.
        """
        if "param_groups" not in state_dict:
            raise ValueError("the state of an optimizer has param_groups; is this one of a model?")
        sizes = [len(group["params"]) for group in self.param_groups]
        theirs = [len(group["params"]) for group in state_dict["param_groups"]]
        if sizes != theirs:
            raise ValueError(f"the state has parameter groups of {theirs}, the optimizer {sizes}")
        order = [p for group in self.param_groups for p in group["params"]]
        self.state = {
            order[number]: {
                name: int(value) if name == "step" else value.to(order[number].device).array.copy()
                for name, value in values.items()
                if value is not None
            }
            for number, values in state_dict["state"].items()
        }
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({k: v for k, v in saved.items() if k != "params"})


class SGD(Optimizer):
    """Stochastic gradient descent: p ← p − lr · g.

    With momentum v ← momentum · v + (1 − dampening) g takes the place of g, beginning with g; with
    Nesterov's, g + momentum · v.
    Weight decay adds weight_decay · p to g. Sutskever et al. (2013).
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening):
            raise ValueError("Nesterov's momentum needs a momentum above 0 and no dampening")
        settings = {"lr": lr, "momentum": momentum, "dampening": dampening}
        super().__init__(params, {**settings, "weight_decay": weight_decay, "nesterov": nesterov})

    def _update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * p
        if momentum:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = grad.copy()
            else:
                state["momentum_buffer"] *= momentum
                state["momentum_buffer"] += (1 - group["dampening"]) * grad
            velocity = state["momentum_buffer"]
            grad = grad + momentum * velocity if group["nesterov"] else velocity
        p -= group["lr"] * grad


class Adam(Optimizer):
    """Steps of about lr along each coordinate, whatever the gradient's scale.

    m and v are running means of the gradient and of its square; p ← p − lr · m̂ / (√v̂ + eps).
    Weight decay adds weight_decay · p to the gradient. Kingma & Ba, Adam (2015).

    found_inf: set it to a tensor of one element, on the parameters' device, and where that is not
    0 `step` leaves p, m and v as they are (but counts): decided without the host's waiting for a
    GPU, as by PyTorch's fused Adam.
    """

    _decoupled = False
    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings)

    def _update(self, p: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, exp_avg=np.zeros_like(p), exp_avg_sq=np.zeros_like(p))
        state["step"] += 1
        m, v, step = state["exp_avg"], state["exp_avg_sq"], state["step"]
        lr, betas, eps, decay = group["lr"], group["betas"], group["eps"], group["weight_decay"]
        skip = None if self.found_inf is None else self.found_inf.array
        # the rule above in one pass over the memory
        kernels(p).adam(p, grad, m, v, step, lr, betas, eps, decay, self._decoupled, skip)


class AdamW(Adam):
    """Adam with decoupled weight decay: p shrinks by lr · weight_decay · p, whatever the gradient.

    Loshchilov & Hutter, Decoupled Weight Decay Regularization (2019).
    """

    _decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
