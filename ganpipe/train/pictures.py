"""What a snapshot looks like: samples of the same noise as ever."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .. import grids, sample
from ..gans.base import GAN
from ..prepare.manifest import Dataset
from ..seeds import derive_seed
from ..spec import class_count
from ..ways import translations, ways_of
from .captioned import captioned_png

GRID_SAMPLES = 64
GRID_CLASSES, OF_A_CLASS = 16, 8
"""Most classes in a grid, and samples of each: one row for each class."""
TRANSLATED = 12
"""Images of each side that are translated: the first ones of the test split."""
GRID_CAPTIONS = 10
"""Most captions in a grid: the first ones of the test split."""
POINT_SAMPLES = 2500
"""Generated points in a picture, and most real ones."""


def snapshot_picture(
    gan: GAN, generator: nn.Module, discriminator: nn.Module | None, dataset: Dataset, device: torch.device
) -> bytes:
    """PNG: a grid of images, or points over real ones with the discriminator's surface beside them.

    Of a generator of classes or captions, images above one another are of the same noise; captions stand beside them.
    Rows of translations are a source, what it is translated to, and its target where that is known.
    """
    spec, seed = dataset.spec(), derive_seed("grid")
    if "label" in gan.columns(spec):
        classes = min(class_count(spec), GRID_CLASSES)
        label = [number for number in range(classes) for _ in range(OF_A_CLASS)]
        parts = sample.draw(gan, generator, seed, list(range(OF_A_CLASS)) * classes, device, label)
        return grids.grid_png(torch.cat([sample.to_uint8(part) for part in parts]).cpu().numpy(), OF_A_CLASS)
    if "caption" in gan.columns(spec):
        texts = list(dict.fromkeys(dataset.texts("caption", "test")))[:GRID_CAPTIONS]
        caption = [text for text in texts for _ in range(OF_A_CLASS)]
        parts = sample.draw(gan, generator, seed, list(range(OF_A_CLASS)) * len(texts), device, caption=caption)
        rows = torch.cat([sample.to_uint8(part) for part in parts]).cpu().numpy()
        return captioned_png(rows, OF_A_CLASS, texts)
    if gan.output(spec) == "translation":
        sheets = [translations(gan, generator, way, seed, TRANSLATED, device) for way in ways_of(dataset)]
        common = min(len(sheet) for sheet in sheets)
        sheet_NKCHW = np.concatenate([sheet[:common] for sheet in sheets], axis=1)
        return grids.grid_png(sheet_NKCHW.reshape(-1, *sheet_NKCHW.shape[2:]), sheet_NKCHW.shape[1])
    if gan.output(spec) == "image":
        images = sample.draw_images(gan, generator, seed, GRID_SAMPLES, device)
        return grids.grid_png(images.numpy())

    from ..plane import picture

    @torch.no_grad()
    def logits(points_N2: np.ndarray) -> np.ndarray:
        assert discriminator is not None
        return discriminator(torch.from_numpy(points_N2).to(device)).float().cpu().numpy()

    points = sample.draw_points(gan, generator, seed, POINT_SAMPLES, device)
    return picture(
        points.numpy(),
        spec["point"].mixture,
        dataset.column("point", "train")[:POINT_SAMPLES],
        None if discriminator is None else logits,
    )
