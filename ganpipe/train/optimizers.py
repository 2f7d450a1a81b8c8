"""From optimizer sections to torch optimizers, and schedules into them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..options import SGD, Adam, OptimizerConfig, RMSProp


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer with its values at image 0; fused where torch has a fused kernel."""
    parameters = list(parameters)
    match config:
        case Adam():
            return torch.optim.Adam(parameters, eps=config.eps, fused=True, **_scheduled(config, 0))
        case RMSProp():
            return torch.optim.RMSprop(
                parameters, alpha=config.alpha, eps=config.eps, foreach=True, **_scheduled(config, 0)
            )
        case SGD():
            return torch.optim.SGD(parameters, fused=True, **_scheduled(config, 0))


def apply_schedules(optimizer: torch.optim.Optimizer, config: OptimizerConfig, images_seen: int) -> None:
    """Set what the schedules say for `images_seen`."""
    for group in optimizer.param_groups:
        group.update(_scheduled(config, images_seen))


def _scheduled(config: OptimizerConfig, images_seen: int) -> dict[str, Any]:
    values: dict[str, Any] = {"lr": config.lr.at(images_seen)}
    if isinstance(config, Adam):
        values["betas"] = (config.beta1.at(images_seen), config.beta2.at(images_seen))
    elif isinstance(config, SGD):
        values["momentum"] = config.momentum.at(images_seen)
    return values


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All its state as named tensors: `<parameter number>.<what>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # fused kernels walk parameter and state side by side in memory: the memory format has to be the same
                entries[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
