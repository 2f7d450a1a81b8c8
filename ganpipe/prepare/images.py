"""From the bytes of an image file to pixels, by one written rule."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..spec import WHITE

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs
SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class UnreadableImage(ValueError):
    """The bytes are no image that can be read; the message is the reason, in plain words."""


def read_image(
    data: bytes,
    resolution: int,
    channels: Literal[1, 3] = 3,
    crop: Literal["center", "none"] = "center",
    background: tuple[int, int, int] = WHITE,
    least: int = 0,
) -> np.ndarray:
    """Decode one image file to uint8 (C, H, W), values 0 to 255, H = W = `resolution`.

    The rule, in this order:

    1. Of an animation or a file of several pages, the first picture counts.
    2. The EXIF orientation is applied. Colour profiles are not.
    3. 16-bit grey (modes I;16, I) becomes 8-bit by value / 257, rounded, so that 65535 is 255; nothing is clipped.
       (16 bits per colour channel arrive from Pillow with their upper 8 bits.)
    4. Whatever has transparency (RGBA, LA, PA, a transparent palette entry or colour) is composited over `background`.
    5. 1, L, P, CMYK and YCbCr become RGB, or grey by ITU-R 601 luma when `channels` is 1. Other modes are refused.
    6. `crop="center"` keeps the largest centred square; an odd pixel is lost at the right or at the bottom.
    7. Lanczos resize, antialiased: its support grows with the reduction. Smaller images are enlarged by it too.

    Raises UnreadableImage for corrupt, truncated, unknown, too large files, for modes that the rule does not name, and
    for images smaller than `least` pixels in height or width.
    """
    picture, _ = open_image(data, channels, background)
    require_size(picture, least)
    return fitted(picture, resolution, crop)


def require_size(picture: Image.Image, least: int) -> None:
    """Raises UnreadableImage for fewer pixels in height or width."""
    if min(picture.size) < least:
        raise UnreadableImage(
            f"{picture.width} x {picture.height} pixels are fewer than the {least} of prepare.resolution: lower that, "
            "or leave such images out"
        )


def open_image(data: bytes, channels: Literal[1, 3], background: tuple[int, int, int]) -> tuple[Image.Image, bool]:
    """Steps 1 to 5 of the rule: the whole image in its own size, and whether it was saved in grey.

    Raises as `read_image` does.
    """
    grey = []

    def to_mode(image: Image.Image) -> Image.Image:
        grey.append(_saved_in_grey(image))
        return _to_mode(image, "L" if channels == 1 else "RGB", background)

    return _opened(data, to_mode), grey[0]


def fitted(picture: Image.Image, resolution: int, crop: Literal["center", "none"]) -> np.ndarray:
    """Steps 6 and 7 of the rule, as uint8 (C, H, W)."""
    if crop == "center":
        picture = _centred_square(picture)
    pixels = np.asarray(picture.resize((resolution, resolution), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(pixels.reshape(resolution, resolution, -1).transpose(2, 0, 1))


def read_natural(data: bytes) -> np.ndarray:
    """Decode one image file to uint8 (C, H, W) in its own size: steps 1 to 5 of `read_image`, over white.

    C is 1 for the modes 1, L, I;16 and I without transparency, else 3. Raises as `read_image` does.
    """

    def to_mode(image: Image.Image) -> Image.Image:
        grey = _saved_in_grey(image) and not image.has_transparency_data
        return _to_mode(image, "L" if grey else "RGB", WHITE)

    pixels = np.asarray(_opened(data, to_mode))
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _opened(data: bytes, to_mode: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Steps 1 to 5 of the rule, the last three by `to_mode`."""
    if not data:
        raise UnreadableImage("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS:,} allowed")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return to_mode(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"no image in any of the formats {', '.join(FORMATS)}, or a damaged header") from error
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged bytes, SyntaxError among them
        raise UnreadableImage(f"cannot be decoded: {error or type(error).__name__}") from error


def _saved_in_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", *SIXTEEN_BIT_MODES)


def _to_mode(image: Image.Image, mode: Literal["L", "RGB"], background: tuple[int, int, int]) -> Image.Image:
    if image.mode in SIXTEEN_BIT_MODES:
        image = _sixteen_to_eight_bits(image)
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    elif image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise UnreadableImage(f"pixels of mode {image.mode} are not supported; save it as 8-bit RGB or grey")
    if mode == "L" and image.mode not in ("1", "L"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    """Mode L, or LA when the file declares one value transparent."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImage(f"grey values from {values.min()} to {values.max()} do not fit in 16 bits")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _centred_square(image: Image.Image) -> Image.Image:
    if image.width == image.height:
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
