"""HW06's DCGAN: the generator and discriminator of the course's anime-faces homework, after arXiv:1511.06434.

At 64 px and three channels the modules, their names and their order are those of the homework's listing, so that its
checkpoints load with `strict=True`. Each halving of the resolution takes one stage away.

Legend: N images, Z latent size, C channels, H = W resolution.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import InputError

BASE_RESOLUTION = 4
Norm = Literal["batch", "instance", "none"]


def stages_between(resolution: int) -> int:
    """Doublings between the 4x4 base and the outermost stage. Raises InputError below 8 px."""
    stages = (resolution // BASE_RESOLUTION).bit_length() - 2
    if stages < 0 or BASE_RESOLUTION << (stages + 1) != resolution:
        raise InputError(
            f"dcgan makes images of 8, 16, 32, 64, ... pixels, not {resolution}; change prepare.resolution"
        )
    return stages


class Generator(nn.Module):
    """latents (N, Z) -> images (N, C, H, H) in [-1, 1].

    A linear layer to 4x4, then transposed convolutions of kernel 5 and stride 2, each with batch norm and ReLU.
    """

    def __init__(self, in_dim: int, feature_dim: int = 64, channels: int = 3, resolution: int = 64):
        super().__init__()
        stages = stages_between(resolution)
        widths = [feature_dim << stage for stage in range(stages, -1, -1)]
        flat = widths[0] * BASE_RESOLUTION**2
        self.l1 = nn.Sequential(nn.Linear(in_dim, flat, bias=False), nn.BatchNorm1d(flat), nn.ReLU())
        self.l2 = nn.Sequential(*map(_upsampling_block, widths[:-1], widths[1:]))
        self.l3 = nn.Sequential(_upsampling(widths[-1], channels), nn.Tanh())
        self.apply(init_weights)

    def forward(self, latents_NZ: Tensor) -> Tensor:
        features_NF = self.l1(latents_NZ)
        features_NCHW = features_NF.unflatten(1, (-1, BASE_RESOLUTION, BASE_RESOLUTION))
        return self.l3(self.l2(features_NCHW))


class Discriminator(nn.Module):
    """images (N, C, H, H) in [-1, 1] -> logits (N,).

    Convolutions of kernel 4 and stride 2 with LeakyReLU(0.2), normalised from the second on, then one 4x4 convolution.
    The homework's closing sigmoid belongs to the loss here.
    """

    def __init__(self, in_dim: int = 3, feature_dim: int = 64, resolution: int = 64, norm: Norm = "batch"):
        super().__init__()
        widths = [feature_dim << stage for stage in range(stages_between(resolution) + 1)]
        self.feature_count = widths[-1] * BASE_RESOLUTION**2
        self.l1 = nn.Sequential(
            nn.Conv2d(in_dim, widths[0], kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            *(_downsampling_block(inner, outer, norm) for inner, outer in itertools.pairwise(widths)),
            nn.Conv2d(widths[-1], 1, kernel_size=BASE_RESOLUTION),
        )
        self.apply(init_weights)

    def features(self, images_NCHW: Tensor) -> Tensor:
        """(N, feature_dim of the last stage, 4, 4)"""
        return self.l1[:-1](images_NCHW)

    def logits(self, features_NCHW: Tensor) -> Tensor:
        """(N,)"""
        return self.l1[-1](features_NCHW).flatten()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.logits(self.features(images_NCHW))


def _upsampling(inner: int, outer: int) -> nn.Module:
    return nn.ConvTranspose2d(inner, outer, kernel_size=5, stride=2, padding=2, output_padding=1, bias=False)


def _upsampling_block(inner: int, outer: int) -> nn.Module:
    return nn.Sequential(_upsampling(inner, outer), nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


def _downsampling_block(inner: int, outer: int, norm: Norm) -> nn.Module:
    convolution = nn.Conv2d(inner, outer, kernel_size=4, stride=2, padding=1)
    if norm == "none":
        return nn.Sequential(convolution, nn.LeakyReLU(0.2))
    normalisation = nn.BatchNorm2d(outer) if norm == "batch" else nn.InstanceNorm2d(outer, affine=True)
    return nn.Sequential(convolution, normalisation, nn.LeakyReLU(0.2))


@torch.no_grad()
def init_weights(module: nn.Module) -> None:
    """Convolutions N(0, 0.02), batch normalisation N(1, 0.02) with no bias (arXiv:1511.06434, Sec. 4).

    Without normalisation too: on the digits it ends better than He's, although the first 20 kimg teach little.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
