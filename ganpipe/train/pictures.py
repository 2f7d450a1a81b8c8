"""What a snapshot looks like: samples of the same noise as ever."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .. import sample
from ..gans.base import GAN
from ..prepare.manifest import Dataset
from ..seeds import derive_seed

GRID_SAMPLES = 64
POINT_SAMPLES = 2500
"""Generated points in a picture, and most real ones."""


def snapshot_picture(
    gan: GAN, generator: nn.Module, discriminator: nn.Module | None, dataset: Dataset, device: torch.device
) -> bytes:
    """PNG: a grid of images, or points over real ones with the discriminator's surface beside them."""
    spec = dataset.spec()
    if gan.output(spec) == "image":
        images = sample.draw_images(gan, generator, derive_seed("grid"), GRID_SAMPLES, device)
        return sample.grid_png(images.numpy())

    from ..plane import picture

    @torch.no_grad()
    def logits(points_N2: np.ndarray) -> np.ndarray:
        assert discriminator is not None
        return discriminator(torch.from_numpy(points_N2).to(device)).float().cpu().numpy()

    points = sample.draw_points(gan, generator, derive_seed("grid"), POINT_SAMPLES, device)
    return picture(
        points.numpy(),
        spec["point"].mixture,
        dataset.column("point", "train")[:POINT_SAMPLES],
        None if discriminator is None else logits,
    )
