"""Moving pictures: frames as an animated GIF or WebP, or as an MP4."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FRAME_MS = 40
FORMATS: dict[str, dict[str, Any]] = {
    ".gif": {},
    ".webp": {"lossless": True},
    ".mp4": {"crf": "17", "preset": "medium"},
}
"""What moving pictures are written as -> how. A .gif has 256 colours a frame, a .webp keeps every pixel."""
LONGEST_SIDE = {".gif": 65_535, ".webp": 16_383, ".mp4": 16_384}
"""Pixels: of the formats, and of H.264 as it is encoded here."""


def check(path: Path, size: tuple[int, int]) -> None:
    """Raise InputError when no moving picture of a size (width, height) can be written to a file of this name."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f"--out {path}: an interpolation is written as {', '.join(FORMATS)}; give one of these suffixes"
        )
    if suffix == ".mp4" and importlib.util.find_spec("av") is None:
        raise InputError(
            f"--out {path}: an .mp4 needs the package av, the extra `video`: `pip install av`; .gif and .webp need "
            "nothing more"
        )
    if max(size) > LONGEST_SIDE[suffix]:
        raise InputError(
            f"--out {path}: frames of {size[0]:,} x {size[1]:,} pixels are larger than the "
            f"{LONGEST_SIDE[suffix]:,} that a {suffix} holds; ask for fewer walks (--n), or another number of --columns"
        )


def encoded(frames: Iterator[Image], suffix: str) -> bytes:
    """The file of such frames, all of one even size, 25 a second; a .gif and a .webp begin again at their end."""
    options, buffer = FORMATS[suffix], io.BytesIO()
    if suffix == ".mp4":
        _mp4(frames, buffer, options)
    else:
        first = next(frames)
        first.save(buffer, suffix[1:], save_all=True, append_images=frames, duration=FRAME_MS, loop=0, **options)
    return buffer.getvalue()


def _mp4(frames: Iterator[Image], buffer: io.BytesIO, options: dict[str, str]) -> None:
    """H.264 with halved chroma, which every browser plays."""
    import av

    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1000 // FRAME_MS, options=options)
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(frames):
            if number == 0:
                stream.width, stream.height = picture.size
            container.mux(stream.encode(av.VideoFrame.from_image(picture.convert("RGB"))))
        container.mux(stream.encode())
