"""Every line of the written rule of `images.py`, against expectations computed another way."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganpipe.prepare.images import UnreadableImage, read_image

SIDE = 8


def encode(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def chw(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 0, 1)


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601."""
    return rgb @ np.array([0.299, 0.587, 0.114])


def test_rgb_of_the_right_size_is_kept_bit_for_bit() -> None:
    rgb = noise(SIDE, SIDE, 3)
    pixels = read_image(encode(Image.fromarray(rgb)), SIDE)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, chw(rgb))


def test_one_channel_is_luma() -> None:
    rgb = noise(SIDE, SIDE, 3)
    pixels = read_image(encode(Image.fromarray(rgb)), SIDE, channels=1)
    assert pixels.shape == (1, SIDE, SIDE)
    np.testing.assert_allclose(pixels[0], luma(rgb), atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_bilevel_are_repeated(channels: Any) -> None:
    grey = noise(SIDE, SIDE)
    pixels = read_image(encode(Image.fromarray(grey)), SIDE, channels)
    np.testing.assert_array_equal(pixels, np.repeat(grey[None], channels, 0))
    bilevel = Image.fromarray(grey > 127)
    assert bilevel.mode == "1"
    pixels = read_image(encode(bilevel), SIDE, channels)
    np.testing.assert_array_equal(pixels, np.repeat(np.where(grey > 127, 255, 0)[None], channels, 0))


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 100, 200)])
def test_rgba_is_composited_over_the_background(background: tuple[int, int, int]) -> None:
    rgba = noise(SIDE, SIDE, 4)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + np.array(background) * (1 - alpha)
    data = encode(Image.fromarray(rgba))
    np.testing.assert_allclose(read_image(data, SIDE, background=background), chw(expected), atol=1)
    np.testing.assert_allclose(read_image(data, SIDE, 1, background=background)[0], luma(expected), atol=2)


def test_grey_with_alpha_is_composited_over_the_background() -> None:
    grey_alpha = noise(SIDE, SIDE, 2)
    alpha = grey_alpha[..., 1:] / 255
    expected = grey_alpha[..., :1] * alpha + np.array([200, 10, 60]) * (1 - alpha)
    data = encode(Image.merge("LA", [Image.fromarray(grey_alpha[..., part]) for part in (0, 1)]))
    np.testing.assert_allclose(read_image(data, SIDE, background=(200, 10, 60)), chw(expected), atol=1)


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
@pytest.mark.parametrize("transparent", [None, 2])
def test_palette_with_and_without_transparency(file_format: str, transparent: int | None) -> None:
    indices = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 4
    palette = np.array([[255, 0, 0], [0, 255, 0], [9, 9, 9], [10, 20, 30]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    expected = palette[indices]
    if transparent is not None:
        expected[indices == transparent] = (1, 2, 3)
    options = {} if transparent is None else {"transparency": transparent}
    pixels = read_image(encode(image, file_format, **options), SIDE, background=(1, 2, 3))
    np.testing.assert_array_equal(pixels, chw(expected))


def test_rgb_with_one_transparent_colour() -> None:
    rgb = noise(SIDE, SIDE, 3)
    rgb[2, 3] = (7, 8, 9)
    expected = rgb.copy()
    expected[2, 3] = (50, 60, 70)
    data = encode(Image.fromarray(rgb), transparency=(7, 8, 9))
    np.testing.assert_array_equal(read_image(data, SIDE, background=(50, 60, 70)), chw(expected))


def test_cmyk_jpeg() -> None:
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:8] = (255, 0, 0, 0)  # cyan ink
    cmyk[8:] = (0, 0, 0, 128)  # half black
    data = encode(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100, subsampling=0)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    pixels = read_image(data, 16)
    np.testing.assert_allclose(pixels[:, 1, 1], (0, 255, 255), atol=3)
    np.testing.assert_allclose(pixels[:, 14, 14], (127, 127, 127), atol=3)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_not_clipped(file_format: str, channels: Any) -> None:
    values = np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    pixels = read_image(encode(Image.fromarray(values), file_format), SIDE, channels)
    np.testing.assert_array_equal(pixels, np.repeat(np.rint(values / 257)[None], channels, 0))
    assert pixels.min() == 0
    assert pixels.max() == 255


def test_sixteen_bits_with_a_transparent_value() -> None:
    values = np.full((SIDE, SIDE), 257 * 40, np.uint16)
    values[1, 1] = 5
    image = Image.fromarray(values)
    pixels = read_image(encode(image, transparency=5), SIDE, background=(9, 90, 200))
    assert pixels[:, 1, 1].tolist() == [9, 90, 200]
    assert pixels[:, 0, 0].tolist() == [40, 40, 40]


def test_mode_i_within_sixteen_bits() -> None:
    values = np.array([[0, 257], [65535, 128 * 257]], np.int32).repeat(4, 0).repeat(4, 1)
    pixels = read_image(encode(Image.fromarray(values), "TIFF"), SIDE, 1)
    np.testing.assert_array_equal(pixels[0], values // 257)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((SIDE, SIDE), 70_000, np.int32), "grey values from 70000 to 70000 do not fit in 16 bits"),
        (np.ones((SIDE, SIDE), np.float32), "mode F"),
    ],
)
def test_other_modes_are_refused_by_name(values: np.ndarray, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        read_image(encode(Image.fromarray(values), "TIFF"), SIDE)


UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_comes_first(orientation: int) -> None:
    rgb = noise(SIDE, SIDE, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_image(encode(Image.fromarray(rgb), exif=exif), SIDE)
    np.testing.assert_array_equal(pixels, chw(UPRIGHT[orientation](rgb)))


@pytest.mark.parametrize("size", [(40, 64), (64, 41), (33, 33), (5, 7)])
def test_crop_and_resize_are_those_of_pillow(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(size[1], size[0], 3))
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    square = image.crop((left, top, left + side, top + side))
    for crop, expected in (("center", square), ("none", image)):
        resized = np.asarray(expected.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(read_image(encode(image), SIDE, crop=crop), chw(resized))  # type: ignore[arg-type]


def test_reduction_is_antialiased() -> None:
    """A one-pixel checkerboard becomes mid-grey, where plain interpolation would pick black or white pixels."""
    board = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255
    pixels = read_image(encode(Image.fromarray(board)), SIDE)
    assert np.abs(pixels[:, 1:-1, 1:-1].astype(int) - 127).max() <= 3


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(data, SIDE)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_files_are_refused(file_format: str) -> None:
    data = encode(Image.fromarray(noise(48, 64, 3)), file_format)
    for part in (0.1, 0.5, 0.9):
        with pytest.raises(UnreadableImage):
            read_image(data[: int(len(data) * part)], SIDE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"hello", "no image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image")],
)
def test_what_is_no_image_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        read_image(data, SIDE)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 40_000])
def test_decompression_bombs_are_refused_before_they_are_decoded(side: int) -> None:
    data = bytearray(encode(Image.new("1", (8, 8)), "BMP"))
    data[18:22] = data[22:26] = side.to_bytes(4, "little")
    with pytest.raises(UnreadableImage, match="pixels"):
        read_image(bytes(data), SIDE)
