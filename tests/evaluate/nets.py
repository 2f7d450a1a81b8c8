"""Networks that are named as extractors in tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = 8


class Small(nn.Module):
    """uint8 images of any size -> (N, 8), and something besides."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(1, FEATURES, 3)

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.filters(images_NCHW.float().mean(1, keepdim=True) / 128 - 1).relu()
        return maps.mean((2, 3)), maps


class Returning(Small):
    """What is made of its features."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, images_NCHW: Tensor) -> object:  # type: ignore[override]
        features = super().forward(images_NCHW)[0]
        return {"scalar": features.mean(), "mapping": {"features": features}, "nan": features * torch.nan}[self.what]


def small() -> nn.Module:
    return Small()


def scalar() -> nn.Module:
    return Returning("scalar")


def mapping() -> nn.Module:
    return Returning("mapping")


def nan() -> nn.Module:
    return Returning("nan")


def of_big_images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 1, 64))


def function() -> object:
    return small


def raises() -> nn.Module:
    raise OSError("no weights here")
