"""Augmentation at the discriminator's door: recipes are handed augment + D and do not know of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rng import StepRng


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


class Augment:
    """DiffAugment's translation (arXiv:2006.10738), applied to each image with probability p."""

    def __init__(self, translation: float, device: torch.device):
        self.translation = translation
        """Largest shift, as a share of the side."""
        self.p = torch.zeros((), device=device)
        """Probability, on the device: schedules and controllers write it, nobody reads it back."""

    def __call__(self, images_NCHW: Tensor, rng: StepRng, name: str) -> Tensor:
        """Augmented images, float as they came; draws from the stream `name`."""
        reach = round(self.translation * images_NCHW.shape[-1])
        if reach == 0:
            return images_NCHW
        n = len(images_NCHW)
        shifts_N2 = rng.integers(f"{name}-translation", n, -reach, reach + 1, (2,))
        apply_N1 = rng.uniform(f"{name}-p", n, (1,)) < self.p
        return translate(images_NCHW, shifts_N2 * apply_N1)


class Door(nn.Module):
    """What recipes get as `nets.discriminator`: every image is augmented, then judged, under its conditions if any."""

    def __init__(self, discriminator: nn.Module, augment: Augment):
        super().__init__()
        self.discriminator = discriminator
        self.augment = augment
        self.rng: StepRng | None = None
        self.calls = 0

    def open(self, rng: StepRng) -> None:
        """Begin a micro-batch: its draws come from `rng`, one stream per call."""
        self.rng, self.calls = rng, 0

    def forward(self, images_NCHW: Tensor, *conditions: Tensor) -> Tensor:
        assert self.rng is not None, "the trainer opens the door before each loss"
        self.calls += 1
        return self.discriminator(self.augment(images_NCHW, self.rng, f"augment{self.calls}"), *conditions)
