"""StyleGAN2's networks (arXiv:1912.04958): mapping network, skip generator, residual discriminator; from 8 px on.

Its layout is configuration F of the paper: (de)modulated convolutions, noise added outside of the styles' reach, an RGB
image summed over the resolutions, residual blocks in the discriminator.

Legend: N images, Z latent size, V style size, L styles of one image, C channels, H = W resolution, I or O features.
Labels are the numbers of classes, int64.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .modulated import EPS, HE, Conv, Linear, ModulatedConv, activate, upsample

BASE_RESOLUTION = 4
MAPPING_LR_MULTIPLIER = 0.01
LABEL_LAYERS = 8
"""Layers from a class to what the discriminator's features are projected on."""
GROUP = 4
"""Images that a minibatch standard deviation is taken over."""


def widths(resolution: int, channel_base: int, channel_max: int) -> list[int]:
    """Features at 4, 8, ..., `resolution` px: channel_base / px, at most channel_max.

    Raises InputError when doublings of 4 px do not reach the resolution.
    """
    stages = (resolution // BASE_RESOLUTION).bit_length()
    if stages < 2 or BASE_RESOLUTION << (stages - 1) != resolution:
        raise InputError(
            f"stylegan2 makes images of 8, 16, 32, 64, ... pixels, not {resolution}; change prepare.resolution"
        )
    sizes = [BASE_RESOLUTION << stage for stage in range(stages)]
    return [max(1, min(channel_base // size, channel_max)) for size in sizes]


class Mapping(nn.Module):
    """latents (N, Z), label (N,), or one of the two -> styles (N, V).

    The latent and the class's vector are scaled to unit second moment each (arXiv:2006.06676, Appendix D); what follows
    are linear layers that learn at a hundredth of the optimizer's rate (arXiv:1812.04948, Appendix C).
    """

    def __init__(self, latent_dim: int, style_dim: int, layers: int, classes: int = 0):
        super().__init__()
        self.embedding = Linear(classes, style_dim) if classes else None
        sizes = [latent_dim + (style_dim if classes else 0), *[style_dim] * layers]
        self.layers = nn.ModuleList(
            Linear(inner, outer, HE, lr_multiplier=MAPPING_LR_MULTIPLIER) for inner, outer in itertools.pairwise(sizes)
        )

    def forward(self, latents_NZ: Tensor | None = None, label_N: Tensor | None = None) -> Tensor:
        assert (label_N is None) == (self.embedding is None), "a label goes with classes"
        parts = [] if latents_NZ is None else [_normalised(latents_NZ)]
        if self.embedding is not None and label_N is not None:
            parts.append(_normalised(self.embedding(F.one_hot(label_N, self.embedding.weight.shape[1]).float())))
        features = torch.cat(parts, dim=1)
        for layer in self.layers:
            features = activate(layer(features))
        return features


class StyledLayer(nn.Module):
    """features (N, I, H, H), styles (N, V), noise (N, 1, H', H') -> (N, O, H', H'), with H' = 2H when it doubles.

    A modulated 3x3 convolution, noise of a learned strength, a bias, LeakyReLU.
    """

    def __init__(self, style_dim: int, in_dim: int, out_dim: int, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv(style_dim, in_dim, out_dim, 3, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(self, features_NIHW: Tensor, styles_NV: Tensor, noise_N1HW: Tensor) -> Tensor:
        features = self.conv(features_NIHW, styles_NV)
        features = features + (self.noise_strength * noise_N1HW).to(features.dtype)
        return activate(features + self.bias.to(features.dtype)[:, None, None])


class ToImage(nn.Module):
    """features (N, I, H, H), styles (N, V) -> (N, C, H, H): a modulated 1x1 convolution without demodulation."""

    def __init__(self, style_dim: int, in_dim: int, channels: int):
        super().__init__()
        self.conv = ModulatedConv(style_dim, in_dim, channels, 1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features_NIHW: Tensor, styles_NV: Tensor) -> Tensor:
        return self.conv(features_NIHW, styles_NV).float() + self.bias[:, None, None]


class Generator(nn.Module):
    """latents (N, Z), noise (N, F), label (N,) if there are classes -> images (N, C, H, H) and their styles (N, L, V).

    Images are meant for [-1, 1], but not bounded. Each resolution has two layers, and 4x4 one, on a learned constant;
    the image is the sum of what each resolution adds to the upsampled sum so far (Fig. 7b).
    """

    def __init__(
        self,
        latent_dim: int,
        style_dim: int,
        mapping_layers: int,
        channels: int,
        resolution: int,
        channel_base: int,
        channel_max: int,
        classes: int = 0,
    ):
        super().__init__()
        sizes = widths(resolution, channel_base, channel_max)
        self.classes = classes
        self.mapping = Mapping(latent_dim, style_dim, mapping_layers, classes)
        self.constant = nn.Parameter(torch.randn(sizes[0], BASE_RESOLUTION, BASE_RESOLUTION))
        layers = [StyledLayer(style_dim, sizes[0], sizes[0])]
        for inner, outer in itertools.pairwise(sizes):
            layers += [StyledLayer(style_dim, inner, outer, up=True), StyledLayer(style_dim, outer, outer)]
        self.layers = nn.ModuleList(layers)
        self.to_images = nn.ModuleList(ToImage(style_dim, size, channels) for size in sizes)
        self.upsample = upsample()
        self.style_count = len(layers) + 1
        """One for each layer and the last `ToImage`; every other one shares that of the layer after it."""
        self.noise_sides = [BASE_RESOLUTION << (number + 1) // 2 for number in range(len(layers))]
        self.noise_dim = sum(side**2 for side in self.noise_sides)
        """F: pixels of noise that one image takes."""

    def forward(
        self,
        latents_NZ: Tensor,
        noise_NF: Tensor,
        label_N: Tensor | None = None,
        mix: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`mix` holds other latents (N, Z) and the number of the style from which on they take over (N,), int64."""
        styles_NLV = self.mapping(latents_NZ, label_N)[:, None].expand(-1, self.style_count, -1)
        if mix is not None:
            other_NZ, crossover_N = mix
            numbers_L = torch.arange(self.style_count, device=crossover_N.device)
            before_NL1 = (numbers_L < crossover_N[:, None])[:, :, None]
            styles_NLV = torch.where(before_NL1, styles_NLV, self.mapping(other_NZ, label_N)[:, None])
        return self.synthesis(styles_NLV, noise_NF), styles_NLV

    def synthesis(self, styles_NLV: Tensor, noise_NF: Tensor) -> Tensor:
        """styles (N, L, V), noise (N, F) -> images (N, C, H, H)."""
        styles = styles_NLV.unbind(1)
        noises = noise_NF.split([side**2 for side in self.noise_sides], dim=1)
        features = self.constant.expand(len(noise_NF), -1, -1, -1)
        image: Tensor | None = None
        for number, (layer, side) in enumerate(zip(self.layers, self.noise_sides, strict=True)):
            features = layer(features, styles[number], noises[number].unflatten(1, (1, side, side)))
            if number % 2 == 0:
                added = self.to_images[number // 2](features, styles[number + 1])
                with torch.autocast(added.device.type, enabled=False):
                    image = added if image is None else self.upsample(image) + added
        assert image is not None
        return image


class Discriminator(nn.Module):
    """images (N, C, H, H), label (N,) when there are classes -> logits (N,).

    Residual blocks down to 4x4 (Fig. 7c), a map of the standard deviation over groups of images, two linear layers.
    With classes, the last one gives features, whose product with the class's vector is the logit (arXiv:2006.06676,
    Appendix D, after arXiv:1802.05637).
    """

    def __init__(self, channels: int, resolution: int, channel_base: int, channel_max: int, classes: int = 0):
        super().__init__()
        sizes = widths(resolution, channel_base, channel_max)[::-1]
        self.from_image = Conv(channels, sizes[0], 1, HE)
        self.blocks = nn.Sequential(*(ResidualBlock(inner, outer) for inner, outer in itertools.pairwise(sizes)))
        self.last = Conv(sizes[-1] + 1, sizes[-1], 3, HE)
        self.hidden = Linear(sizes[-1] * BASE_RESOLUTION**2, sizes[-1], HE)
        self.output = Linear(sizes[-1], sizes[-1] if classes else 1)
        self.labels = Mapping(0, sizes[-1], LABEL_LAYERS, classes) if classes else None

    def forward(self, images_NCHW: Tensor, label_N: Tensor | None = None) -> Tensor:
        features_NIHW = self.blocks(activate(self.from_image(images_NCHW)))
        features_NIHW = activate(self.last(with_deviation(features_NIHW)))
        outputs_NO = self.output(activate(self.hidden(features_NIHW.flatten(1))))
        if self.labels is None:
            return outputs_NO.flatten()
        return (outputs_NO * self.labels(label_N=label_N)).sum(1) / math.sqrt(outputs_NO.shape[1])


class ResidualBlock(nn.Module):
    """(N, I, H, H) -> (N, O, H/2, H/2): two 3x3 convolutions beside a 1x1 one, each over sqrt(2)."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.first = Conv(in_dim, in_dim, 3, HE)
        self.second = Conv(in_dim, out_dim, 3, HE / math.sqrt(2), down=True)
        self.shortcut = Conv(in_dim, out_dim, 1, 1 / math.sqrt(2), bias=False, down=True)

    def forward(self, features_NIHW: Tensor) -> Tensor:
        residual = activate(self.second(activate(self.first(features_NIHW))))
        return residual + self.shortcut(features_NIHW)


def with_deviation(features_NIHW: Tensor) -> Tensor:
    """(N, I, H, H) -> (N, I + 1, H, H): one more map with the standard deviation of the image's group, averaged over
    features and pixels (arXiv:1710.10196, Sec. 3).

    Groups are of 4 images that follow one another, or of 2 or 1 where the number of images is no multiple of it.
    """
    n, _, height, width = features_NIHW.shape
    group = math.gcd(n, GROUP)
    with torch.autocast(features_NIHW.device.type, enabled=False):
        groups = features_NIHW.float().unflatten(0, (-1, group))
        deviations = (groups.var(1, correction=0) + EPS).sqrt().mean((1, 2, 3))
    maps = deviations.repeat_interleave(group).to(features_NIHW.dtype)[:, None, None, None]
    return torch.cat([features_NIHW, maps.expand(-1, 1, height, width)], dim=1)


def _normalised(rows_NZ: Tensor) -> Tensor:
    """Each row scaled to unit second moment."""
    return rows_NZ * (rows_NZ.square().mean(1, keepdim=True) + EPS).rsqrt()
