"""Optimizers and learning rate schedules. Plain torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from recbole_scale.model.width import rate_scales

KERNELS = ("fused", "foreach")  # torch's names of those that update many tensors at once


def build_optimizer(
    model: nn.Module, learner: str, learning_rate: float, weight_decay: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Optimizer by RecBole's name; weight decay acts on weight matrices, not on biases, LayerNorms or embeddings.

    One kernel updates many tensors: fused for Adam, AdamW and SGD, foreach for the others. ``momentum`` is SGD's.
    """
    adam = {"adamw": AdamW, "adam": Adam, "sparse_adam": SparseAdamW}.get(learner)
    groups = parameter_groups(model, weight_decay, adam is not None)
    if adam is not None:
        return adam(groups, lr=learning_rate, fused=True)
    if learner == "sgd":
        return _sgd(groups, learning_rate, momentum)
    kinds: dict[str, Any] = {"adagrad": Adagrad, "rmsprop": RMSprop}
    optimizer: torch.optim.Optimizer = kinds[learner](groups, lr=learning_rate, foreach=True)
    return optimizer


class _Eager(torch.optim.Optimizer):
    """Methods of torch's optimizers as they were before torch wrapped them to be left out of what it compiles.

    The wrapper imports torch's compiler, two seconds of CPU at each start, and no optimizer is compiled here.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)


class AdamW(_Eager, torch.optim.AdamW):
    """As torch's; see :class:`_Eager`."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class Adam(_Eager, torch.optim.Adam):
    """As torch's; see :class:`_Eager`."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class SGD(_Eager, torch.optim.SGD):
    """As torch's; see :class:`_Eager`."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class Adagrad(_Eager, torch.optim.Adagrad):
    """As torch's; see :class:`_Eager`."""

    step = torch.no_grad()(unwrap(torch.optim.Adagrad.step))


class RMSprop(_Eager, torch.optim.RMSprop):
    """As torch's; see :class:`_Eager`."""

    step = torch.no_grad()(unwrap(torch.optim.RMSprop.step))


class SparseAdamW(AdamW):
    """AdamW that updates of a parameter with a sparse gradient only the rows in it, as ``torch.optim.SparseAdam`` does.

    The moments of other rows do not decay and their weights do not move. Its state is AdamW's. Such a parameter must
    have no weight decay.
    """

    def step(self, closure: Any = None) -> Any:
        """Take a step; none where ``found_inf`` says that gradients are not finite."""
        sparse = [
            (group, parameter, parameter.grad)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        for _, parameter, _ in sparse:
            parameter.grad = None
        loss = super().step(closure)
        if not bool(getattr(self, "found_inf", False)):
            for group, parameter, gradient in sparse:
                _step_rows(group, self.state[parameter], parameter, gradient.coalesce())
        for _, parameter, gradient in sparse:
            parameter.grad = gradient
        return loss


@torch.no_grad()
def _step_rows(group: Mapping[str, Any], state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
    """Adam's step of the rows of a coalesced gradient, in float32 whatever the types."""
    if not state:
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        state.update(step=torch.zeros((), device=parameter.device), **moments)
    state["step"] += 1
    rows, slope = gradient.indices()[0], gradient.values().float()  # [k], [k, D]
    kept = 1 - torch.tensor(group["betas"], dtype=torch.float64, device=rows.device).pow(state["step"])
    # moments start at zero, which dividing by ``kept`` makes up for
    mean = state["exp_avg"][rows].float().lerp_(slope, 1 - group["betas"][0])
    square = state["exp_avg_sq"][rows].float().lerp_(slope.square(), 1 - group["betas"][1])
    change = (mean / kept[0]).div_((square / kept[1]).sqrt_().add_(group["eps"])).mul_(group["lr"])
    for table, new in (
        (state["exp_avg"], mean),
        (state["exp_avg_sq"], square),
        (parameter, parameter[rows].float() - change),
    ):
        table.index_copy_(0, rows, new.to(table.dtype))


def _sgd(groups: list[dict[str, Any]], learning_rate: float, momentum: float) -> torch.optim.Optimizer:
    """SGD whose momentum starts as zeros: the same steps as torch's, and a first step may be left out."""
    fuses = all(_fuses_sgd(p) for group in groups for p in group["params"])
    kernel: dict[str, Any] = {"fused": True} if fuses else {"foreach": True}
    optimizer = SGD(groups, lr=learning_rate, momentum=momentum, **kernel)
    if momentum:
        for group in optimizer.param_groups:
            for p in group["params"]:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def _fuses_sgd(parameter: Tensor) -> bool:
    """Whether torch's fused SGD can update it.

    There is none for parts of a tensor (DTensor), and on a CPU that of torch 2.12 and 2.13 leaves tensors in bfloat16
    as they are but for a few elements (pytorch issue 191763).
    """
    low = parameter.element_size() < 4 and parameter.device.type == "cpu"
    return not low and not hasattr(parameter, "full_tensor")


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """As ``load_state_dict``, but the kernel stays that of ``optimizer``.

    The state may come from a run with other tensors, a whole model that is now cut over processes, say.
    """
    ours = (*KERNELS, "lr_scale")
    kernels = [{name: group[name] for name in ours if name in group} for group in optimizer.param_groups]
    groups = [{**saved, **kernel} for saved, kernel in zip(state["param_groups"], kernels, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


def guarded_step(optimizer: torch.optim.Optimizer, good: Tensor, wait: bool) -> None:
    """Take the step if ``good`` (a boolean scalar on the device), else leave weights and state as they are.

    Without ``wait`` a fused optimizer decides on the device, so that the host need not wait for a GPU.
    """
    if not wait and optimizer.defaults.get("fused"):
        optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]  # what torch's GradScaler sets
        optimizer.step()
    elif bool(good):
        optimizer.step()


def clear_gradients(optimizer: torch.optim.Optimizer, kept: Iterable[Tensor] = ()) -> None:
    """Before a step: no gradients, but of ``kept`` parameters zeros in tensors that stay where they are."""
    places = [(parameter, parameter.grad) for parameter in kept]
    optimizer.zero_grad(set_to_none=True)
    for parameter, gradient in places:
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient.zero_()


def clipped_norm(parameters: Iterable[Tensor], clip: Mapping[str, Any] | None, of_gradients: bool = True) -> Tensor:
    """Norm of all gradients together, a scalar; they are clipped by ``clip``, the arguments of ``clip_grad_norm_``.

    With ``of_gradients=False`` it is the norm of the parameters themselves.
    """
    parameters = list(parameters)
    if of_gradients:
        parameters = [_with_values(p) if p.grad.is_sparse else p for p in parameters if p.grad is not None]
    if clip and of_gradients:
        norm = clip_grad_norm_(parameters, **clip)
    else:
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None] if of_gradients else parameters)
    whole: Any = getattr(norm, "full_tensor", None)  # a model cut over processes
    return (whole() if whole is not None else norm).detach()


def _with_values(parameter: Tensor) -> Tensor:
    """Stands for a parameter with a sparse gradient: its own is the values of that, clipped where they lie."""
    assert parameter.grad is not None
    parameter.grad = parameter.grad.coalesce()
    values = parameter.grad.values()
    stand_in = nn.Parameter(values)
    stand_in.grad = values
    return stand_in


def parameter_groups(model: nn.Module, weight_decay: float, by_width: bool = True) -> list[dict[str, Any]]:
    """Matrices of linear layers with ``weight_decay``, everything else without; of either as many as have own rates.

    ``lr_scale`` of a group is its rate over the run's: 1, or what the model's width rule says (``by_width``).
    """
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    scales = rate_scales(model, getattr(model, "width_ratio", 1.0)) if by_width and hasattr(model, "blocks") else {}
    groups: dict[tuple[bool, float], list[Tensor]] = {(True, 1.0): [], (False, 1.0): []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = id(parameter) in decayed, scales.get(id(parameter), 1.0)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": found, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        for (decays, scale), found in groups.items()
        if found or scale == 1
    ]
