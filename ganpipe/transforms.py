"""What augmentation does to images: DiffAugment's transforms and ADA's, as functions of draws. All are differentiable.

Legend: N images, C channels (1 or 3), H = W side. An image that no transform was drawn for passes bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .augmentconfig import AdaConfig, AugmentConfig
from .rng import StepRng


@dataclass(frozen=True)
class Draws:
    """The random choices for one batch of images: one stream for each, a row for each image."""

    rng: StepRng
    name: str
    """Begins the name of every stream."""
    n: int
    p: Tensor
    """Probability of each transform, on the device."""

    def normal(self, what: str, *shape: int) -> Tensor:
        """Standard normal, (N, *shape)."""
        return self.rng.normal(f"{self.name}-{what}", self.n, shape)

    def uniform(self, what: str, low: float, high: float, *shape: int) -> Tensor:
        """Uniform between two bounds, (N, *shape)."""
        return low + (high - low) * self.rng.uniform(f"{self.name}-{what}", self.n, shape)

    def integers(self, what: str, low: int, high: int, *shape: int) -> Tensor:
        """Uniform on low, ..., high - 1, int64 (N, *shape)."""
        return self.rng.integers(f"{self.name}-{what}", self.n, low, high, shape)

    def applied(self, transform: str, drawn: Tensor, neutral: float = 0, share: float = 1) -> Tensor:
        """Each row of `drawn` with probability share * p, else `neutral` in its place."""
        applied_N = self.rng.uniform(f"{self.name}-{transform}-p", self.n) < share * self.p
        return torch.where(applied_N.view(-1, *[1] * (drawn.dim() - 1)), drawn, neutral)


# --- DiffAugment (arXiv:2006.10738, Sec. 3) -------------------------------------------------------------------------


def color(images_NCHW: Tensor, brightness_N: Tensor, saturation_N: Tensor, contrast_N: Tensor) -> Tensor:
    """Add `brightness`; multiply distances from each pixel's grey by 1 + `saturation`, from the image's mean by
    1 + `contrast`."""
    images = images_NCHW + brightness_N[:, None, None, None]
    images = images + saturation_N[:, None, None, None] * (images - images.mean(1, keepdim=True))
    return images + contrast_N[:, None, None, None] * (images - images.mean((1, 2, 3), keepdim=True))


def translate(images_NCHW: Tensor, shifts_N2: Tensor) -> Tensor:
    """Shift each image by whole pixels (dy, dx), int64, at most half a side; what moves in is 0. Differentiable."""
    height, width = images_NCHW.shape[-2:]
    device = images_NCHW.device
    pad = max(height, width) // 2
    padded_NHWC = F.pad(images_NCHW, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    rows_NH1 = (torch.arange(height, device=device) + pad - shifts_N2[:, :1])[:, :, None]
    columns_N1W = (torch.arange(width, device=device) + pad - shifts_N2[:, 1:])[:, None, :]
    index_N11 = torch.arange(len(images_NCHW), device=device)[:, None, None]
    return padded_NHWC[index_N11, rows_NH1, columns_N1W].permute(0, 3, 1, 2)


def cut_out(images_NCHW: Tensor, corners_N2: Tensor, sides_N: Tensor) -> Tensor:
    """Set a square to 0 whose first row and column are `corners`, int64; it may reach beyond the image."""
    height, width = images_NCHW.shape[-2:]
    rows_NH = torch.arange(height, device=images_NCHW.device) - corners_N2[:, :1]
    columns_NW = torch.arange(width, device=images_NCHW.device) - corners_N2[:, 1:]
    in_rows_NH, in_columns_NW = ((there >= 0) & (there < sides_N[:, None]) for there in (rows_NH, columns_NW))
    return images_NCHW * ~(in_rows_NH[:, None, :, None] & in_columns_NW[:, None, None, :])


def diff_augment(images_NCHW: Tensor, config: AugmentConfig, draws: Draws) -> Tensor:
    """Colour, translation and cutout, as far as they are on."""
    side = images_NCHW.shape[-1]
    if config.color is not None:
        strengths = config.color.model_dump().items()
        amounts = [draws.applied(name, draws.uniform(name, -most, most)) for name, most in strengths]
        images_NCHW = color(images_NCHW, *amounts)
    if reach := round(config.translation * side):
        shifts_N2 = draws.integers("translation", -reach, reach + 1, 2)
        images_NCHW = translate(images_NCHW, draws.applied("translation", shifts_N2))
    if hole := round(config.cutout * side):
        corners_N2 = draws.integers("cutout", 0, side + 1 - hole % 2, 2) - hole // 2  # its middle is in the image
        sides_N = draws.applied("cutout", torch.full_like(corners_N2[:, 0], hole))
        images_NCHW = cut_out(images_NCHW, corners_N2, sides_N)
    return images_NCHW


# --- ADA: where pixels come from (arXiv:2006.06676, App. B) ---------------------------------------------------------


class Warp(torch.autograd.Function):
    """`grid_sample` with gradients of any order to the images; torch's own has the first alone, and R1 needs a second.

    Keys' cubic kernel stands in for the paper's wavelet filters about a bilinear lookup: it is one step, not five, and
    of the frequencies at half the highest one it keeps 97 % in a shift by half a pixel, where a bilinear lookup keeps
    71 %. Beyond the border images are mirrored, as in the paper.
    """

    @staticmethod
    def forward(ctx: Any, images_NCHW: Tensor, positions_NHW2: Tensor) -> Tensor:
        """Images at positions (x, y) from -1 to 1 between the centres of the outermost pixels."""
        ctx.save_for_backward(positions_NHW2)
        return F.grid_sample(images_NCHW, positions_NHW2, "bicubic", "reflection", align_corners=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return WarpTransposed.apply(gradients[0], *ctx.saved_tensors), None


class WarpTransposed(torch.autograd.Function):
    """The transpose of `Warp`, which is a linear map of images."""

    @staticmethod
    def forward(ctx: Any, images_NCHW: Tensor, positions_NHW2: Tensor) -> Tensor:
        ctx.save_for_backward(positions_NHW2)
        bicubic, reflection, align_corners = 2, 2, True
        return torch.ops.aten.grid_sampler_2d_backward(
            images_NCHW, images_NCHW, positions_NHW2, bicubic, reflection, align_corners, (True, False)
        )[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return Warp.apply(gradients[0], *ctx.saved_tensors), None


def warp(images_NCHW: Tensor, maps_N33: Tensor) -> Tensor:
    """Square images whose pixel at (x, y, 1) is what the given ones have at map (x, y, 1); the identity moves nothing.

    Positions run from -1 to 1 between the centres of the outermost pixels. Differentiable any number of times.
    """
    positions_NHW2 = F.affine_grid(maps_N33[:, :2], list(images_NCHW.shape), align_corners=True)
    moved_N = (maps_N33 != torch.eye(3, device=maps_N33.device)).flatten(1).any(1)
    return torch.where(moved_N[:, None, None, None], Warp.apply(images_NCHW, positions_NHW2), images_NCHW)


def scaling(x_N: Tensor, y_N: Tensor) -> Tensor:
    """(N, 3, 3) maps: both coordinates multiplied."""
    return torch.diag_embed(torch.stack([x_N, y_N, torch.ones_like(x_N)], 1))


def rotation(angle_N: Tensor) -> Tensor:
    """(N, 3, 3) maps: a turn from x towards y, radians."""
    cos, sin, zero, one = angle_N.cos(), angle_N.sin(), torch.zeros_like(angle_N), torch.ones_like(angle_N)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).unflatten(1, (3, 3))


def translation(xy_N2: Tensor) -> Tensor:
    """(N, 3, 3) maps: a shift."""
    return torch.eye(3, device=xy_N2.device) + F.pad(xy_N2[:, :, None], (2, 0, 0, 1))


def geometry(side: int, shares: AdaConfig, draws: Draws) -> Tensor:
    """(N, 3, 3) maps of all pixel blits and geometric transforms.

    A map leads from the result back into the image: each transform's inverse, in the order of the transforms.
    """
    pixel = 2 / (side - 1)
    flip_N = draws.applied("x_flip", 1 - 2.0 * draws.integers("flipped", 0, 2), 1, shares.x_flip)
    quarters_N = draws.applied("rotate90", draws.integers("quarters", 0, 4), 0, shares.rotate90)
    whole_N2 = draws.uniform("pixels", -side / 8, side / 8, 2).round()
    whole_N2 = draws.applied("integer_translation", whole_N2, 0, shares.integer_translation)
    size_N = torch.exp2(0.2 * draws.normal("size"))
    size_N = draws.applied("isotropic_scaling", size_N, 1, shares.isotropic_scaling)
    width_N = torch.exp2(0.2 * draws.normal("width"))
    width_N = draws.applied("anisotropic_scaling", width_N, 1, shares.anisotropic_scaling)
    fraction_N2 = side / 8 * draws.normal("fractions", 2)
    fraction_N2 = draws.applied("fractional_translation", fraction_N2, 0, shares.fractional_translation)
    # Two rotations, before and after the stretching; that there is any has the probability asked for.
    turned = replace(draws, p=1 - (1 - shares.rotation * draws.p).sqrt())
    before_N, after_N = (turned.applied(f"turn{i}", turned.uniform(f"angle{i}", -math.pi, math.pi)) for i in (1, 2))
    return (
        scaling(flip_N, torch.ones_like(flip_N))
        @ rotation(quarters_N * (math.pi / 2))
        @ translation(-whole_N2 * pixel)
        @ scaling(1 / size_N, 1 / size_N)
        @ rotation(before_N)
        @ scaling(1 / width_N, width_N)
        @ rotation(after_N)
        @ translation(-fraction_N2 * pixel)
    )


# --- ADA: colours (arXiv:2006.06676, App. B) -------------------------------------------------------------------------


def recolor(images_NCHW: Tensor, shift_N: Tensor, luma_N: Tensor, chroma_N: Tensor, hue_N: Tensor) -> Tensor:
    """Add `shift` to every channel; multiply a pixel's mean over channels by `luma` and what differs from it by
    `chroma`, turned about the grey axis by `hue` radians."""
    if images_NCHW.shape[1] == 1:
        return images_NCHW * luma_N[:, None, None, None] + shift_N[:, None, None, None]
    same = torch.eye(3, device=images_NCHW.device)
    across = (same.roll(-1, 1) - same.roll(1, 1)) / math.sqrt(3)  # the cross product with the grey axis
    along_N = chroma_N * hue_N.cos()
    mixing_N33 = (
        along_N[:, None, None] * same
        + (chroma_N * hue_N.sin())[:, None, None] * across
        + (luma_N - along_N)[:, None, None] / 3
    )
    mixed = [mixing_N33[:, :, channel, None, None] * images_NCHW[:, None, channel] for channel in range(3)]
    return mixed[0] + mixed[1] + mixed[2] + shift_N[:, None, None, None]


COLORS = {"brightness", "contrast", "luma_flip", "hue", "saturation"}


def colors(images_NCHW: Tensor, shares: AdaConfig, draws: Draws) -> Tensor:
    """All colour transforms, in the paper's order: brightness, contrast, luma flip, hue, saturation."""
    brightness_N = draws.applied("brightness", 0.2 * draws.normal("light"), 0, shares.brightness)
    contrast_N = draws.applied("contrast", torch.exp2(0.5 * draws.normal("range")), 1, shares.contrast)
    flip_N = draws.applied("luma_flip", 1 - 2.0 * draws.integers("negative", 0, 2), 1, shares.luma_flip)
    hue_N = draws.applied("hue", draws.uniform("angle", -math.pi, math.pi), 0, shares.hue)
    saturation_N = draws.applied("saturation", torch.exp2(draws.normal("strength")), 1, shares.saturation)
    luma_N = contrast_N * flip_N
    return recolor(images_NCHW, luma_N * brightness_N, luma_N, contrast_N * saturation_N, hue_N)


def ada(images_NCHW: Tensor, shares: AdaConfig, draws: Draws) -> Tensor:
    """Geometry, then colours, as far as they are on."""
    on = {name for name, share in shares.model_dump().items() if share}
    if on - COLORS:
        images_NCHW = warp(images_NCHW, geometry(images_NCHW.shape[-1], shares, draws))
    if on & COLORS:
        images_NCHW = colors(images_NCHW, shares, draws)
    return images_NCHW
