"""PatchGAN: a discriminator with one logit for each patch of the image (arXiv:1611.07004, Sec. 3.2.2 and 6.1.2).

Legend: N images, C channels, H x W pixels, h x w patches.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from ..errors import InputError
from .dcgan import Norm, init_weights

WIDEST = 8
"""Most channels of a layer, in those of the first one."""
SLOPE = 0.2


class Discriminator(nn.Module):
    """images (N, C, H, W) in [-1, 1], and what they are judged beside, channels in all `in_dim` -> logits (N, h, w).

    `layers` convolutions of kernel 4 and stride 2, then two of stride 1: a patch of 70x70 pixels with three, 34x34 with
    two, 16x16 with one. All but the first and the last are normalised: `batch` is pix2pix's, `instance` CycleGAN's
    without scale and shift.
    """

    def __init__(self, in_dim: int, feature_dim: int = 64, layers: int = 3, norm: Norm = "batch"):
        super().__init__()
        self.layers = layers
        widths = [min(feature_dim << layer, WIDEST * feature_dim) for layer in range(layers + 1)]
        strides = [2] * (layers - 1) + [1]
        self.body = nn.Sequential(
            nn.Conv2d(in_dim, widths[0], kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
            *(_block(*pair, stride, norm) for pair, stride in zip(itertools.pairwise(widths), strides, strict=True)),
            nn.Conv2d(widths[-1], 1, kernel_size=4, padding=1),
        )
        self.apply(init_weights)

    def forward(self, images_NCHW: Tensor, *beside_NCHW: Tensor) -> Tensor:
        return self.body(torch.cat([*beside_NCHW, images_NCHW], dim=1)).squeeze(1)


def check_patches(resolution: int, layers: int, field: str) -> None:
    """Raises InputError, naming the `field` that says how many, when so many layers leave no patch of the image."""
    most = (resolution // 3).bit_length() - 1
    if layers > most:
        mend = f"lower {field} to {most}" if most else "raise prepare.resolution to 8 or more"
        raise InputError(f"{field} {layers} halves {resolution} pixels until no patch is left; {mend}")


def _block(inner: int, outer: int, stride: int, norm: Norm) -> nn.Module:
    convolution = nn.Conv2d(inner, outer, kernel_size=4, stride=stride, padding=1, bias=norm != "batch")
    normalisation: nn.Module = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "none": nn.Identity}[norm](
        outer
    )
    return nn.Sequential(convolution, normalisation, nn.LeakyReLU(SLOPE))
