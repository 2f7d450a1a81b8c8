"""What StyleGAN2 is made of (arXiv:1912.04958): equalised learning rate, FIR resampling, modulated convolutions.

Equalised learning rate (arXiv:1710.10196, Sec. 4.1): weights are drawn from N(0, 1) and scaled in the forward pass by
gain / sqrt(inputs), so that Adam, whose steps do not depend on a weight's scale, learns all layers at one speed.

Legend: N images, I inputs, O outputs, H = W resolution, V style vector, K kernel size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-8
HE = math.sqrt(2)
"""Gain of a layer before LeakyReLU, which halves the second moment."""


def activate(features: Tensor) -> Tensor:
    """LeakyReLU(0.2)."""
    return F.leaky_relu(features, 0.2)


class Linear(nn.Module):
    """(N, I) -> (N, O), with an equalised learning rate that is `lr_multiplier` times the optimizer's."""

    def __init__(self, in_dim: int, out_dim: int, gain: float = 1.0, bias: float = 0.0, lr_multiplier: float = 1.0):
        """`bias` is its initial value."""
        super().__init__()
        self.lr_multiplier = lr_multiplier
        self.scale = gain * lr_multiplier / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_dim,), bias / lr_multiplier))

    def forward(self, inputs_NI: Tensor) -> Tensor:
        return F.linear(inputs_NI, self.weight * self.scale, self.bias * self.lr_multiplier)


class Blur(nn.Module):
    """Low-pass filter taps x taps of sum `gain`, channel by channel; outside of the image lies 0.

    (N, I, H, H) -> (N, I, H', H') with H' = H + 2 padding - len(taps) + 1.
    """

    kernel_KK: Tensor

    def __init__(self, taps: tuple[int, ...], padding: int, gain: float = 1.0):
        super().__init__()
        self.padding = padding
        taps_K = torch.tensor(taps) / sum(taps)
        self.register_buffer("kernel_KK", torch.outer(taps_K, taps_K) * gain, persistent=False)

    def forward(self, features_NIHW: Tensor) -> Tensor:
        channels = features_NIHW.shape[1]
        kernel = self.kernel_KK.to(features_NIHW.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(features_NIHW, kernel, padding=self.padding, groups=channels)


FIR = (1, 3, 3, 1)
FIR_BY_BOX = (1, 2, 1)
"""[1, 2, 1] * [1, 1] = [1, 3, 3, 1]: repeating or averaging two pixels is the rest of the filter, and far faster than
a stride in it."""


def upsample() -> nn.Module:
    """(N, I, H, H) -> (N, I, 2H, 2H): zeros between the pixels, then the filter [1, 3, 3, 1], brightness kept."""
    return nn.Sequential(nn.Upsample(scale_factor=2), Blur(FIR_BY_BOX, padding=1))


def downsample() -> nn.Module:
    """(N, I, H, H) -> (N, I, H/2, H/2): the filter [1, 3, 3, 1], then every second pixel."""
    return nn.Sequential(Blur(FIR_BY_BOX, padding=1), nn.AvgPool2d(2))


class Conv(nn.Module):
    """(N, I, H, H) -> (N, O, H, H), or (N, O, H/2, H/2) with `down`: filtered, then every second pixel."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel_size: int,
        gain: float = 1.0,
        bias: bool = True,
        down: bool = False,
    ):
        super().__init__()
        self.scale = gain / math.sqrt(in_dim * kernel_size**2)
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_dim)) if bias else None
        self.stride, self.padding = 1, kernel_size // 2
        self.filter: nn.Module = nn.Identity()
        if down and kernel_size == 1:
            self.filter = downsample()
        elif down:
            self.filter, self.stride, self.padding = Blur(FIR, padding=2), 2, 0

    def forward(self, features_NIHW: Tensor) -> Tensor:
        features_NIHW = self.filter(features_NIHW)
        return F.conv2d(features_NIHW, self.weight * self.scale, self.bias, self.stride, self.padding)


class ModulatedConv(nn.Module):
    """features (N, I, H, H), styles (N, V) -> (N, O, H, H), or (N, O, 2H, 2H) with `up`.

    Each image has weights of its own, w'_oik = s_i w_oik, which demodulation divides by their norm over i and k (Eq. 1
    and 3). Scaling inputs by s and outputs by 1 / norm is the same, and shares one convolution. Demodulated outputs are
    for a LeakyReLU, and have its gain.
    """

    def __init__(
        self, style_dim: int, in_dim: int, out_dim: int, kernel_size: int, demodulate: bool = True, up: bool = False
    ):
        super().__init__()
        self.scale = 1 / math.sqrt(in_dim * kernel_size**2)
        self.affine = Linear(style_dim, in_dim, bias=1.0)
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim, kernel_size, kernel_size))
        self.demodulate, self.padding = demodulate, kernel_size // 2
        self.filter = Blur(FIR, padding=1, gain=4) if up else None

    def forward(self, features_NIHW: Tensor, styles_NV: Tensor) -> Tensor:
        scales_NI = self.affine(styles_NV)
        weight_OIKK = self.weight * self.scale
        features = features_NIHW * scales_NI.to(features_NIHW.dtype)[:, :, None, None]
        if self.filter is None:
            features = F.conv2d(features, weight_OIKK, padding=self.padding)
        else:
            features = self.filter(F.conv_transpose2d(features, weight_OIKK.transpose(0, 1), stride=2))
        if not self.demodulate:
            return features
        with torch.autocast(features.device.type, enabled=False):
            squares_NO = scales_NI.float().square() @ weight_OIKK.square().sum((2, 3)).T
            norms_NO = HE * (squares_NO + EPS).rsqrt()
        return features * norms_NO.to(features.dtype)[:, :, None, None]
