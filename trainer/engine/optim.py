"""The optimizer: built from the settings, its state by parameter name, the norm and the clip of its gradients."""

import math
from fnmatch import fnmatch
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainer.config.settings import OptimSettings
from trainer.errors import SettingsError

_CLIP_EPS = 1e-6
"""As in `torch.nn.utils.clip_grad_norm_`."""


def freeze(model: nn.Module, patterns: list[str]) -> None:
    """Take parameters out of training by name pattern. Raises SettingsError for a pattern that matches none."""
    for pattern in patterns:
        chosen = [parameter for name, parameter in model.named_parameters() if fnmatch(name, pattern)]
        if not chosen:
            raise SettingsError(f"optim.freeze has the pattern {pattern!r}, which no parameter name matches")
        for parameter in chosen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingsError("optim.freeze leaves no parameter to train")


def base_rate(settings: OptimSettings, batch_size: int) -> float:
    """Learning rate after scaling by batch size; the schedule's factor is applied to it at every step."""
    ratio = batch_size / settings.reference_batch
    factors = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}
    return settings.lr * factors[settings.lr_scaling]


def build_optimizer(settings: OptimSettings, model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD, or several of them as one, with the parameter groups of `parameter_groups`."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for group in parameter_groups(settings, model, rate):
        kinds.setdefault(group.pop("kind"), []).append(group)
    parts = [build_one(kind, settings, groups, rate) for kind, groups in kinds.items()]
    return parts[0] if len(parts) == 1 else Together(parts)


def parameter_groups(settings: OptimSettings, model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Trained parameters by what they have in common: rate, curve (`None`: the schedule), weight decay and optimizer.

    First those that match no group of the settings, then group by group; within each, parameters that match `no_decay`
    follow the others. Raises SettingsError for a group that takes no parameter.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    owners = {name: next((one for one in settings.groups if matches(name, one.match)), None) for name in named}
    groups = []
    for owner in (None, *settings.groups):
        own = [name for name in named if owners[name] is owner]
        if owner and not own:
            raise SettingsError(f"optim.groups has {owner.match}, which takes no parameter that is left to train")
        decay = settings.weight_decay if owner is None or owner.weight_decay is None else owner.weight_decay
        common = {
            "kind": owner.name if owner and owner.name else settings.name,
            "lr": rate * owner.factor if owner else rate,
            "curve": owner.curve if owner else None,
        }
        for is_plain in (False, True):
            chosen = [named[name] for name in own if matches(name, settings.no_decay) == is_plain]
            if chosen:
                groups.append({"params": chosen, "weight_decay": 0.0 if is_plain else decay, **common})
    return groups


def matches(name: str, patterns: list[str]) -> bool:
    """Whether a parameter's name fits one of the patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def build_one(kind: str, settings: OptimSettings, groups: list[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
    """One optimizer of torch's."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    # Fused kernels save about 160 us a step over the default ones on a small model.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    if kind == "sgd":
        return torch.optim.SGD(groups, rate, settings.momentum, nesterov=settings.nesterov, fused=fused)
    build = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    return build(groups, rate, betas=settings.betas, eps=settings.eps, fused=fused)


class Together(torch.optim.Optimizer):
    """Several optimizers that step as one; groups and state are shared with them, so it is saved and loaded as one."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody calls us with a closure
        """Each steps its own parameters."""
        assert closure is None
        for part in self._parts:
            part.step()


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Gradients of all parameters that the optimizer updates."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def clip(grads: list[Tensor], limit: float | None) -> Tensor:
    """Scale gradients in place to a global norm of at most `limit`; returns the norm before (0-dim, on the device).

    The same numbers as `torch.nn.utils.clip_grad_norm_`, without its grouping by device, which costs about 100 us.
    """
    if not grads:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    # On the CPU the norm can be looked at for nothing, and most steps need no scaling.
    if limit is not None and not (norm.is_cpu and norm.item() + _CLIP_EPS <= limit):
        torch._foreach_mul_(grads, (limit / (norm + _CLIP_EPS)).clamp(max=1.0))
    return norm


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as `<key>/<parameter name>` tensors, and what is not a tensor as plain values."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            target = tensors if isinstance(value, Tensor) else scalars
            target[f"{key}/{names[id(parameter)]}"] = value
    return tensors, scalars


def load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor], scalars: dict[str, Any]
) -> None:
    """Inverse of `optimizer_tensors`; tensors go to their parameter's device, step counters stay where they were."""
    parameters = dict(model.named_parameters())
    state: dict[nn.Parameter, dict[str, Any]] = {}
    for path, value in {**tensors, **scalars}.items():
        key, name = path.split("/", 1)
        parameter = parameters[name]
        if isinstance(value, Tensor) and (value.dim() > 0 or _counts_on_device(optimizer)):
            value = value.to(parameter.device)
        state.setdefault(parameter, {})[key] = value.clone() if isinstance(value, Tensor) else value
    optimizer.state.clear()
    cast(dict[Any, Any], optimizer.state).update(state)


def _counts_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Fused and capturable optimizers keep their step counters beside the parameters."""
    return any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
