"""pix2pix's generator: an encoder and a decoder joined at every resolution (arXiv:1611.07004, Sec. 6.1.1).

Legend: N images, C channels, H x W pixels, M units that the noise may switch off.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .dcgan import init_weights

WIDEST = 8
"""Most channels of a stage, in those of the outermost one."""
NOISY_STAGES = 3
"""Decoder stages with dropout, from the bottleneck on."""
SMALLEST = 8


class Generator(nn.Module):
    """sources (N, C, H, W) in [-1, 1], noise (N, M) of zeros and ones -> images (N, C', H, W) in [-1, 1].

    As many halvings as it takes to shrink `resolution` to one pixel; larger images have to be of whole multiples of it
    in height and width. The paper's batch normalisation at its batch size of 1 is instance normalisation with scale and
    shift: that is used throughout, so that an image is the same whatever else is in the batch.
    """

    def __init__(self, in_dim: int, out_dim: int, feature_dim: int = 64, resolution: int = 256, dropout: bool = True):
        super().__init__()
        stages = halvings(resolution)
        widths = [min(feature_dim << stage, WIDEST * feature_dim) for stage in range(stages)]
        self.multiple = resolution
        self.noisy_widths = widths[-2::-1][:NOISY_STAGES] if dropout else []
        self.down = nn.ModuleList(
            Down(inner, outer, first=stage == 0, last=stage == stages - 1)
            for stage, (inner, outer) in enumerate(zip([in_dim, *widths], widths, strict=False))
        )
        self.up = nn.ModuleList(
            Up(widths[stage] if stage == stages - 1 else 2 * widths[stage], widths[stage - 1])
            for stage in range(stages - 1, 0, -1)
        )
        self.output = nn.Sequential(nn.ReLU(), _doubling(2 * widths[0], out_dim, bias=True), nn.Tanh())
        self.apply(init_weights)

    def noise_size(self, height: int, width: int) -> int:
        """M: how many units the noise decides on in an image of so many pixels; 0 without dropout."""
        return sum(channels * rows * columns for channels, rows, columns in self._noisy_shapes(height, width))

    def forward(self, sources_NCHW: Tensor, noise_NM: Tensor) -> Tensor:
        shapes = self._noisy_shapes(*sources_NCHW.shape[2:])
        noises = noise_NM.split([channels * rows * columns for channels, rows, columns in shapes], dim=1)
        features, skips = sources_NCHW, []
        for down in self.down:
            features = down(features)
            skips.append(features)
        skips.pop()
        for stage, up in enumerate(self.up):
            features = up(features)
            if stage < len(shapes):
                features = features * noises[stage].unflatten(1, shapes[stage]).to(features.dtype) * 2
            features = torch.cat([features, skips.pop()], dim=1)
        return self.output(features)

    def _noisy_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """(channels, height, width) of each stage with dropout: 2x2 at the bottleneck of one pixel, then 4x4, ..."""
        times = (height // self.multiple, width // self.multiple)
        return [
            (channels, times[0] << stage, times[1] << stage)
            for stage, channels in enumerate(self.noisy_widths, start=1)
        ]


class Down(nn.Module):
    """(N, C, H, W) -> (N, C', H/2, W/2): LeakyReLU(0.2), convolution, normalisation.

    The first stage looks at pixels and is not normalised; nor is the last, which may have one pixel alone.
    """

    def __init__(self, inner: int, outer: int, first: bool, last: bool):
        super().__init__()
        self.slope = 1.0 if first else 0.2
        plain = first or last
        self.convolution = nn.Conv2d(inner, outer, kernel_size=4, stride=2, padding=1, bias=False)
        self.norm = nn.Identity() if plain else nn.InstanceNorm2d(outer, affine=True)

    def forward(self, features_NCHW: Tensor) -> Tensor:
        return self.norm(self.convolution(F.leaky_relu(features_NCHW, self.slope)))


class Up(nn.Module):
    """(N, C, H, W) -> (N, C', 2H, 2W): ReLU, transposed convolution, normalisation."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.convolution = _doubling(inner, outer, bias=False)
        self.norm = nn.InstanceNorm2d(outer, affine=True)

    def forward(self, features_NCHW: Tensor) -> Tensor:
        return self.norm(self.convolution(F.relu(features_NCHW)))


def halvings(resolution: int) -> int:
    """From the resolution to one pixel. Raises InputError when that is no whole number, or the image too small."""
    stages = resolution.bit_length() - 1
    if resolution < SMALLEST or 1 << stages != resolution:
        raise InputError(
            f"the U-Net translates images of 8, 16, 32, 64, ... pixels, not {resolution}; change prepare.resolution"
        )
    return stages


def _doubling(inner: int, outer: int, bias: bool) -> nn.Module:
    return nn.ConvTranspose2d(inner, outer, kernel_size=4, stride=2, padding=1, bias=bias)
