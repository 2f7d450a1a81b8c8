"""R3GAN's networks (arXiv:2501.05441, Sec. 3): residual stages without normalisation, from 4x4 and back.

A stage of blocks for each resolution, bilinear resampling between two of them. What is linear keeps the variance of its
input at the start, every block is the identity.

Legend: N images, Z latent size, C channels, H = W resolution, F features (the width of a stage), E = F x expansion.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .labels import Projection

BASE_RESOLUTION = 4
SLOPE = 0.2


@dataclass(frozen=True)
class Layout:
    """What both networks are made of; numbers of stages run from 4x4 to the image."""

    widths: tuple[int, ...]
    """Features F of each stage."""
    cardinalities: tuple[int, ...]
    """Groups of each stage's 3x3 convolutions."""
    blocks: int
    """Blocks in each stage."""
    expansion: int
    """E / F."""

    @property
    def resolution(self) -> int:
        """Height and width of the images that so many stages make."""
        return BASE_RESOLUTION << (len(self.widths) - 1)

    def stage(self, number: int) -> list[nn.Module]:
        """Its blocks, new."""
        width, groups, depth = self.widths[number], self.cardinalities[number], self.blocks * len(self.widths)
        return [Block(width, width * self.expansion, groups, depth) for _ in range(self.blocks)]


class Generator(nn.Module):
    """latents (N, Z) -> images (N, C, H, H), unbounded.

    A learned 4x4 basis, its features scaled by a linear layer of the latent; stages; a 1x1 convolution.
    """

    def __init__(self, latent_dim: int, layout: Layout, channels: int):
        super().__init__()
        widths = layout.widths
        self.input = nn.Linear(latent_dim, widths[0], bias=False)
        self.basis = nn.Parameter(torch.randn(widths[0], BASE_RESOLUTION, BASE_RESOLUTION))
        stages = layout.stage(0)
        for number, (inner, outer) in enumerate(itertools.pairwise(widths), start=1):
            stages += [*_widening(inner, outer), nn.Upsample(scale_factor=2, mode="bilinear"), *layout.stage(number)]
        self.stages = nn.Sequential(*stages)
        self.output = nn.Conv2d(widths[-1], channels, 1, bias=False)
        _keep_variance(self.input)
        _keep_variance(self.output)

    def forward(self, latents_NZ: Tensor) -> Tensor:
        scales_NF11 = self.input(latents_NZ)[:, :, None, None]
        return self.output(self.stages(self.basis * scales_NF11))


class Discriminator(nn.Module):
    """images (N, C, H, H), and class numbers (N,) when there are classes -> logits (N,).

    The generator's mirror image: a 1x1 convolution, stages, each feature's product with a learned 4x4 basis; then a
    linear layer to the logit, or to what is projected on the class's vector (arXiv:1802.05637).
    """

    def __init__(self, channels: int, layout: Layout, classes: int = 0):
        super().__init__()
        widths = layout.widths
        self.input = nn.Conv2d(channels, widths[-1], 1, bias=False)
        stages: list[nn.Module] = []
        for number in range(len(widths) - 1, 0, -1):
            halved = nn.AvgPool2d(2)  # bilinear interpolation at half the size
            stages += [*layout.stage(number), halved, *_widening(widths[number], widths[number - 1])]
        self.stages = nn.Sequential(*stages, *layout.stage(0))
        self.basis = nn.Parameter(torch.randn(widths[0], BASE_RESOLUTION, BASE_RESOLUTION) / BASE_RESOLUTION)
        self.output = nn.Linear(widths[0], widths[0] if classes else 1, bias=False)
        self.projection = Projection(classes, widths[0]) if classes else None
        _keep_variance(self.input)
        _keep_variance(self.output)

    def forward(self, images_NCHW: Tensor, label_N: Tensor | None = None) -> Tensor:
        features_NFHW = self.stages(self.input(images_NCHW))
        outputs_NF = self.output((features_NFHW * self.basis).sum((2, 3)))
        return outputs_NF.flatten() if self.projection is None else self.projection(outputs_NF, label_N)


class Block(nn.Module):
    """(N, F, H, H) -> the same: x plus 1x1 to E, grouped 3x3, 1x1 back to F, with a biased leaky ReLU between.

    At first the last layer is zero, and the others are He's times depth^(-1/4), Fixup's L^(-1/(2m - 2)) for branches of
    m = 3 layers in a network of L (arXiv:1901.09321, Sec. 3).
    """

    def __init__(self, width: int, inner: int, groups: int, depth: int):
        super().__init__()
        first = nn.Conv2d(width, inner, 1)
        second = nn.Conv2d(inner, inner, 3, padding=1, groups=groups)
        last = nn.Conv2d(inner, width, 1, bias=False)
        self.branch = nn.Sequential(first, nn.LeakyReLU(SLOPE), second, nn.LeakyReLU(SLOPE), last)
        for layer in (first, second):
            _keep_variance(layer, gain=nn.init.calculate_gain("leaky_relu", SLOPE) * depth**-0.25)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(last.weight)

    def forward(self, features_NFHW: Tensor) -> Tensor:
        return features_NFHW + self.branch(features_NFHW)


def _widening(inner: int, outer: int) -> list[nn.Module]:
    """A 1x1 convolution where stages differ in width: it commutes with resampling, and is cheaper at few pixels."""
    if inner == outer:
        return []
    change = nn.Conv2d(inner, outer, 1, bias=False)
    _keep_variance(change)
    return [change]


def _keep_variance(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    """Normal weights that give an output the variance of the inputs, times gain^2."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
