"""From the bytes of image files to pairs of images: both by the rule of `images.py`, and both with one crop."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from .derived import DERIVED
from .images import UnreadableImage, fitted, open_image, require_size


def read_pair(
    data: bytes | tuple[bytes, bytes],
    resolution: int,
    channels: Literal[1, 3],
    crop: Literal["center", "none"],
    background: tuple[int, int, int],
    halves: Literal["AtoB", "BtoA"] | None = None,
    derive: str | None = None,
    least: int = 0,
) -> np.ndarray:
    """Two images, uint8 (2, C, H, W), H = W = `resolution`: the source, and its target.

    They are two files, the `halves` of one (A is the left one), or what `derive` makes of an image, and the image.
    Raises UnreadableImage as `read_image` does; also for images of a pair that are of unlike size, or one in grey and
    one in colour, for a file of odd width that is to hold two, and for images smaller than `least` pixels.
    """
    if derive is not None:
        assert isinstance(data, bytes)
        whole, _ = open_image(data, channels, background)
        require_size(whole, least)
        image = fitted(whole, resolution, crop)
        return np.stack([DERIVED[derive](image), image])
    if isinstance(data, bytes):
        whole, _ = open_image(data, channels, background)
        pair = _halves(whole) if halves == "AtoB" else _halves(whole)[::-1]
    else:
        pair = _two_files(data, channels, background)
    require_size(pair[0], least)
    return np.stack([fitted(image, resolution, crop) for image in pair])


def _halves(whole: Image.Image) -> tuple[Image.Image, Image.Image]:
    width, height = whole.size
    if width % 2:
        raise UnreadableImage(f"its width, {width} pixels, is odd: these are no two images side by side")
    return whole.crop((0, 0, width // 2, height)), whole.crop((width // 2, 0, width, height))


def _two_files(
    data: tuple[bytes, bytes], channels: Literal[1, 3], background: tuple[int, int, int]
) -> tuple[Image.Image, Image.Image]:
    images, in_grey = [], []
    for side, of_side in zip(("source", "target"), data, strict=True):
        try:
            image, grey = open_image(of_side, channels, background)
        except UnreadableImage as error:
            raise UnreadableImage(f"the {side}: {error}") from error
        images.append(image)
        in_grey.append(grey)
    (width, height), (other_width, other_height) = (image.size for image in images)
    if images[0].size != images[1].size:
        raise UnreadableImage(
            f"the source has {width} x {height} pixels and the target {other_width} x {other_height}: bring both to "
            "one size"
        )
    if channels == 3 and in_grey[0] != in_grey[1]:
        one, other = ("source", "target") if in_grey[0] else ("target", "source")
        raise UnreadableImage(
            f"the {one} is grey and the {other} in colour: save both in colour, or set prepare.channels to 1"
        )
    return images[0], images[1]
