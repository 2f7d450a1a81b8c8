"""What is left of an image: the source of a pair whose target is the image itself. All take uint8 (C, H, W) to such."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

HIDDEN = 128
"""Value of pixels under the mask: neither of the digits' black nor of their white."""
FACTOR = 4
"""Of `downscale`, in height and width."""


def edges(image_CHW: np.ndarray) -> np.ndarray:
    """White lines on black: Canny's edges of the luma, by scikit-image; sigma is 1 pixel up to 128 px, 2 at 256."""
    from skimage.feature import canny

    sigma = max(1.0, image_CHW.shape[-1] / 128)
    found_HW = canny(_luma(image_CHW) / 255, sigma, mode="nearest")
    return np.broadcast_to(255 * found_HW.astype(np.uint8), image_CHW.shape)


def mask(image_CHW: np.ndarray) -> np.ndarray:
    """The lower half is hidden under grey."""
    hidden = image_CHW.copy()
    hidden[:, image_CHW.shape[1] // 2 :] = HIDDEN
    return hidden


def grey(image_CHW: np.ndarray) -> np.ndarray:
    """Luma (ITU-R 601) in every channel."""
    return np.broadcast_to(np.rint(_luma(image_CHW)).astype(np.uint8), image_CHW.shape)


def downscale(image_CHW: np.ndarray) -> np.ndarray:
    """Means of blocks of FACTOR x FACTOR pixels, enlarged again by bicubic interpolation."""
    channels, height, width = image_CHW.shape
    blocks = image_CHW.reshape(channels, height // FACTOR, FACTOR, width // FACTOR, FACTOR)
    small = np.rint(blocks.mean((2, 4))).astype(np.uint8)
    resized = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC) for channel in small]
    return np.stack([np.asarray(channel) for channel in resized])


def restyle(image_CHW: np.ndarray) -> np.ndarray:
    """Inverted and outlined: dark outlines on white, the darker the steeper the image is there (the morphological
    gradient; over 3 x 3 pixels up to 32 px, over 5 x 5 at 64)."""
    from scipy import ndimage

    side = 2 * max(1, image_CHW.shape[-1] // 32) + 1
    return 255 - ndimage.morphological_gradient(image_CHW, size=(1, side, side))


def _luma(image_CHW: np.ndarray) -> np.ndarray:
    """float64 (H, W), 0 to 255."""
    return image_CHW[0].astype(float) if len(image_CHW) == 1 else np.tensordot((0.299, 0.587, 0.114), image_CHW, 1)


DERIVED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "edges": edges,
    "mask": mask,
    "grey": grey,
    "downscale": downscale,
    "restyle": restyle,
}
