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
    rows, columns = _layout(n, columns)
    canvas = np.zeros((rows * columns, channels, height, width), np.uint8)
    canvas[:n] = images_NCHW
    sheet = canvas.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


def enlarged_grid(images_NCHW: np.ndarray, columns: int | None = None, scale_to: int = 64) -> Image:
    """`grid` with each image enlarged to at least `scale_to` pixels."""
    from PIL import Image

    n, _, height, width = images_NCHW.shape
    size = enlarged_size(n, height, width, columns, scale_to)
    return grid(images_NCHW, columns).resize(size, Image.Resampling.NEAREST)


def enlarged_size(n: int, height: int, width: int, columns: int | None = None, scale_to: int = 64) -> tuple[int, int]:
    """(width, height) of an `enlarged_grid` of n images, pixels."""
    rows, columns = _layout(n, columns)
    scale = max(1, -(-scale_to // max(height, width)))
    return columns * width * scale, rows * height * scale


def _layout(n: int, columns: int | None) -> tuple[int, int]:
    """Rows and columns: about as many of each, unless told otherwise; never more columns than images."""
    columns = min(columns or max(1, round(n**0.5)), n)
    return -(-n // columns), columns


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
