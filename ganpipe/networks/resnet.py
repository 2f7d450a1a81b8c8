"""SN-GAN's residual networks (arXiv:1802.05957, Appendix B.4, Table 4), for 8 px and up.

Legend: N images, Z latent size, C channels, H = W resolution, F features.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

BASE_RESOLUTION = 4
DISCRIMINATOR_RESOLUTION = 8
"""Where the discriminator stops halving; two more blocks follow there."""
PLAIN_BLOCKS = 2


class Generator(nn.Module):
    """latents (N, Z) -> images (N, C, H, H) in [-1, 1]: a linear layer to 4x4, then one block for each doubling."""

    def __init__(self, in_dim: int, feature_dim: int, channels: int, resolution: int):
        super().__init__()
        self.input = nn.Linear(in_dim, feature_dim * BASE_RESOLUTION**2)
        self.blocks = nn.Sequential(*(UpBlock(feature_dim) for _ in range(_doublings(resolution, BASE_RESOLUTION))))
        self.output = nn.Sequential(
            nn.BatchNorm2d(feature_dim), nn.ReLU(), nn.Conv2d(feature_dim, channels, 3, padding=1), nn.Tanh()
        )
        self.apply(init_weights)

    def forward(self, latents_NZ: Tensor) -> Tensor:
        features_NFHW = self.input(latents_NZ).unflatten(1, (-1, BASE_RESOLUTION, BASE_RESOLUTION))
        return self.output(self.blocks(features_NFHW))


class Discriminator(nn.Module):
    """images (N, C, H, H) in [-1, 1] -> logits (N,): halving blocks down to 8x8, two plain ones, a sum, one linear."""

    def __init__(self, in_dim: int, feature_dim: int, resolution: int):
        super().__init__()
        halvings = max(_doublings(resolution, DISCRIMINATOR_RESOLUTION), 1)
        self.blocks = nn.Sequential(
            FirstBlock(in_dim, feature_dim),
            *(Block(feature_dim, halve=True) for _ in range(halvings - 1)),
            *(Block(feature_dim, halve=False) for _ in range(PLAIN_BLOCKS)),
        )
        self.feature_count = feature_dim
        self.output = nn.Linear(feature_dim, 1)
        self.apply(init_weights)

    def features(self, images_NCHW: Tensor) -> Tensor:
        """(N, feature_dim)"""
        return F.relu(self.blocks(images_NCHW)).sum((2, 3))

    def logits(self, features_NF: Tensor) -> Tensor:
        """(N,)"""
        return self.output(features_NF).flatten()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.logits(self.features(images_NCHW))


class UpBlock(nn.Module):
    """(N, F, H, H) -> (N, F, 2H, 2H): twice batch norm, ReLU, convolution, once doubled; beside a 1x1 convolution."""

    def __init__(self, feature_dim: int):
        super().__init__()
        self.residual = nn.Sequential(
            *(nn.BatchNorm2d(feature_dim), nn.ReLU(), nn.Upsample(scale_factor=2)),
            nn.Conv2d(feature_dim, feature_dim, 3, padding=1),
            *(nn.BatchNorm2d(feature_dim), nn.ReLU()),
            nn.Conv2d(feature_dim, feature_dim, 3, padding=1),
        )
        self.shortcut = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(feature_dim, feature_dim, 1))

    def forward(self, features_NFHW: Tensor) -> Tensor:
        return self.residual(features_NFHW) + self.shortcut(features_NFHW)


class FirstBlock(nn.Module):
    """(N, C, H, H) -> (N, F, H/2, H/2), without a ReLU before the image."""

    def __init__(self, in_dim: int, feature_dim: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_dim, feature_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(feature_dim, feature_dim, 3, padding=1),
            nn.AvgPool2d(2),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(in_dim, feature_dim, 1))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.residual(images_NCHW) + self.shortcut(images_NCHW)


class Block(nn.Module):
    """(N, F, H, H) -> (N, F, H/2, H/2) when it halves, the same size otherwise."""

    def __init__(self, feature_dim: int, halve: bool):
        super().__init__()
        pool = [nn.AvgPool2d(2)] if halve else []
        self.residual = nn.Sequential(
            *(nn.ReLU(), nn.Conv2d(feature_dim, feature_dim, 3, padding=1)),
            *(nn.ReLU(), nn.Conv2d(feature_dim, feature_dim, 3, padding=1)),
            *pool,
        )
        self.shortcut = nn.Sequential(*((nn.Conv2d(feature_dim, feature_dim, 1), *pool) if halve else ()))

    def forward(self, features_NFHW: Tensor) -> Tensor:
        return self.residual(features_NFHW) + self.shortcut(features_NFHW)


def _doublings(resolution: int, base: int) -> int:
    """How often `base` is doubled to reach the resolution. Raises InputError when it never does."""
    doublings = (resolution // base).bit_length() - 1
    if resolution < 2 * BASE_RESOLUTION or base << doublings != resolution:
        raise InputError(
            f"resnet makes images of 8, 16, 32, 64, ... pixels, not {resolution}; change prepare.resolution"
        )
    return doublings


def init_weights(module: nn.Module) -> None:
    """Xavier's uniform, widened for the ReLU inside of blocks; no bias. Shortcuts (1x1) stay narrow."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        inside = isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
        nn.init.xavier_uniform_(module.weight, gain=math.sqrt(2) if inside else 1.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
