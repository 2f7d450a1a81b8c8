"""Columns and steps for recipes that translate images, without any data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganpipe.gans.base import Networks, Step
from ganpipe.rng import StepRng
from ganpipe.spec import Column

CPU = torch.device("cpu")


def image_column(channels: int = 1, side: int = 16) -> Column:
    return Column(kind="image", dtype="uint8", shape=(channels, side, side), range=(0, 255), shards=())


def step_at(update: str, index: int = 0, batch: int = 4) -> Step:
    return Step(index * batch, index, batch, batch, StepRng(0, index * batch, update, batch, slice(0, batch), CPU))


def unreached(network: nn.Module, total: Tensor) -> list[str]:
    """Names of the parameters that a loss gives no gradient."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]


class Times(nn.Module):
    """Images as they are, so many times as bright."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.factor * images_NCHW


def discriminator_of(nets: Networks) -> nn.Module:
    assert nets.discriminator is not None
    return nets.discriminator
