"""Many small images as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


def grid(images_NCHW: np.ndarray, columns: int | None = None) -> Image:
    """A picture of uint8 images (N, C, H, W) side by side, row by row."""
    from PIL import Image

    n, channels, height, width = images_NCHW.shape
    columns = columns or max(1, round(n**0.5))
    rows = -(-n // columns)
    canvas = np.zeros((rows * columns, channels, height, width), np.uint8)
    canvas[:n] = images_NCHW
    sheet = canvas.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


def enlarged_grid(images_NCHW: np.ndarray, columns: int | None = None, scale_to: int = 64) -> Image:
    """`grid` with each image enlarged to at least `scale_to` pixels."""
    from PIL import Image

    picture = grid(images_NCHW, columns)
    scale = max(1, -(-scale_to // max(images_NCHW.shape[2:])))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def stacked(images: Sequence[np.ndarray], axis: int = 0) -> np.ndarray:
    """Arrays (..., C, H, W) stacked, grey ones in three channels where others are in colour."""
    channels = max(one.shape[-3] for one in images)
    shapes = ((*one.shape[:-3], channels, *one.shape[-2:]) for one in images)
    return np.stack([np.broadcast_to(one, shape) for one, shape in zip(images, shapes, strict=True)], axis)


def grid_png(images_NCHW: np.ndarray, columns: int | None = None, scale_to: int = 64) -> bytes:
    """A PNG of `enlarged_grid`."""
    buffer = io.BytesIO()
    enlarged_grid(images_NCHW, columns, scale_to).save(buffer, "PNG")
    return buffer.getvalue()
