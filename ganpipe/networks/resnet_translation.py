"""CycleGAN's networks (arXiv:1703.10593, Sec. 4 and Appendix 7.2): residual generators, and both directions as one.

Legend: N images, C channels, H x W pixels, h x w patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError
from .dcgan import init_weights

MULTIPLE = 4
SMALLEST = 8


class Generator(nn.Module):
    """sources (N, C, H, W) in [-1, 1] -> images (N, C', H, W) in [-1, 1]; height and width multiples of 4.

    Two halvings, `blocks` residual blocks, two doublings; instance normalisation without scale and shift. The paper has
    six blocks for 128 px and nine from 256 px on.
    """

    def __init__(self, in_dim: int, out_dim: int, feature_dim: int = 64, blocks: int = 9):
        super().__init__()
        self.multiple = MULTIPLE
        narrow, middle, wide = feature_dim, 2 * feature_dim, 4 * feature_dim
        self.body = nn.Sequential(
            *_normalised(nn.Conv2d(in_dim, narrow, 7, padding=3, padding_mode="reflect")),
            *_normalised(nn.Conv2d(narrow, middle, 3, stride=2, padding=1)),
            *_normalised(nn.Conv2d(middle, wide, 3, stride=2, padding=1)),
            *(Block(wide) for _ in range(blocks)),
            *_normalised(nn.ConvTranspose2d(wide, middle, 3, stride=2, padding=1, output_padding=1)),
            *_normalised(nn.ConvTranspose2d(middle, narrow, 3, stride=2, padding=1, output_padding=1)),
            nn.Conv2d(narrow, out_dim, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )
        self.apply(init_weights)

    def forward(self, sources_NCHW: Tensor) -> Tensor:
        return self.body(sources_NCHW)


class Block(nn.Module):
    """(N, C, H, W) -> the same: two convolutions, nothing after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.residual = nn.Sequential(
            *_normalised(nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, features_NCHW: Tensor) -> Tensor:
        return features_NCHW + self.residual(features_NCHW)


@dataclass(frozen=True)
class Translations:
    """What becomes of images of both sides; float (N, C, H, W) in [-1, 1]."""

    b_of_a: Tensor
    """Images of A translated to B."""
    a_of_b: Tensor
    back_a: Tensor
    """Images of A translated to B and back."""
    back_b: Tensor
    same_a: Tensor | None
    """Images of A put through what translates B to A: they should stay. None when nobody asks."""
    same_b: Tensor | None


class BothWays(nn.Module):
    """The generators of both directions. They work on each image by itself, so that one pass may hold two batches."""

    def __init__(self, a_to_b: nn.Module, b_to_a: nn.Module):
        super().__init__()
        self.a_to_b = a_to_b
        self.b_to_a = b_to_a

    def forward(self, a_NCHW: Tensor, b_NCHW: Tensor, identity: bool = False) -> Translations:
        n = len(a_NCHW)
        to_b = self.a_to_b(torch.cat([a_NCHW, b_NCHW]) if identity else a_NCHW)
        to_a = self.b_to_a(torch.cat([b_NCHW, a_NCHW]) if identity else b_NCHW)
        b_of_a, a_of_b = to_b[:n], to_a[:n]
        return Translations(
            b_of_a,
            a_of_b,
            back_a=self.b_to_a(b_of_a),
            back_b=self.a_to_b(a_of_b),
            same_a=to_a[n:] if identity else None,
            same_b=to_b[n:] if identity else None,
        )


class BothSides(nn.Module):
    """images of A, images of B, (N, C, H, W) each -> logits (N, 2, h, w): each judged by the discriminator of its
    side."""

    def __init__(self, of_a: nn.Module, of_b: nn.Module):
        super().__init__()
        self.of_a = of_a
        self.of_b = of_b

    def forward(self, a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
        return torch.stack([self.of_a(a_NCHW), self.of_b(b_NCHW)], dim=1)


def check_resolution(resolution: int) -> None:
    """Raises InputError when images of so many pixels cannot be halved twice."""
    if resolution < SMALLEST or resolution % MULTIPLE:
        raise InputError(
            f"the residual generator translates images of 8, 12, 16, 20, ... pixels, not {resolution}; change "
            "prepare.resolution"
        )


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(convolution.out_channels), nn.ReLU()]
