"""Pictures with a caption beside each row of images."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..grids import grid_png

LETTERS, LINES = 34, 4
"""Of a caption beside its row, at most; the rest is cut off."""
SIZE, MARGIN = 13, 8
"""Of letters, and beside them, pixels."""


def captioned_png(images_NCHW: np.ndarray, columns: int, captions: Sequence[str]) -> bytes:
    """PNG of a grid of uint8 images, one caption to the right of each row of `columns` images.

    Letters are those of DejaVu Sans (Latin, Greek, Cyrillic, ...); others are drawn as boxes.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.open(io.BytesIO(grid_png(images_NCHW, columns))).convert("RGB")
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), SIZE)
    lines = [textwrap.wrap(caption, LETTERS, max_lines=LINES, placeholder=" ...") for caption in captions]
    width = max((round(font.getlength(line)) for row in lines for line in row), default=0) + 2 * MARGIN
    picture = Image.new("RGB", (sheet.width + width, sheet.height), "white")
    picture.paste(sheet)
    pen, height = ImageDraw.Draw(picture), sheet.height // len(captions)
    for number, row in enumerate(lines):
        middle = (sheet.width + MARGIN, round((number + 0.5) * height))
        pen.multiline_text(middle, "\n".join(row), "black", font, anchor="lm")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
