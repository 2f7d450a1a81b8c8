"""scikit-learn's digits with sentences of what can be measured on them: which digit, how much ink, how it leans.

Ink and lean are told beside the median of all images of the same digit: a bold one has more ink than most ones, and may
have less than a thin eight. Images near a median, the middle fifth, have no word for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..sourceconfig import CaptionedDigitsSource
from ..spec import Meanings
from . import captions
from .digits import digits, images_and_targets, pictures_of
from .found import Columns, Contents, Found, Picture, Stat

SIDE = 8
"""Pixels that digits are measured at: those they come with."""
UNCLEAR = (0.4, 0.6)
"""Quantiles of a digit's ink and lean between which nothing is said of it."""


def captioned_digits(source: CaptionedDigitsSource) -> Found:
    """The digits, those of `source.leave_out` left out."""
    found = digits()
    wording = Stat(f"captions {captions.version()}", 0, 0, 0)
    return replace(found, stats=(*found.stats, wording), load=lambda work: _load(source))


def ink_and_lean(images_NCHW: np.ndarray) -> np.ndarray:
    """Of uint8 images whose side is a multiple of 8: float64 (N, 2), measured on means of blocks, at 8 px.

    Ink is the mean value, 0 to 1. Lean is -mu11 / mu02, central moments with y downwards: the shear that would set the
    digit upright, above 0 when its top is to the right; 0 of an empty image.
    """
    n, _, _, side = images_NCHW.shape
    block = side // SIDE
    pixels = images_NCHW.mean(1).reshape(n, SIDE, block, SIDE, block).mean((2, 4)) / 255
    y, x = np.mgrid[:SIDE, :SIDE]
    mass = np.maximum(pixels.sum((1, 2)), 1e-9)
    dx, dy = (axis - ((pixels * axis).sum((1, 2)) / mass)[:, None, None] for axis in (x, y))
    lean = -(pixels * dx * dy).sum((1, 2)) / np.maximum((pixels * dy * dy).sum((1, 2)), 1e-9)
    return np.stack([pixels.mean((1, 2)), lean], axis=1)


def read_sides(measured_N2: np.ndarray, digit_N: np.ndarray, meanings: Meanings) -> np.ndarray:
    """Values of weight and slant, int64 (N, 2), of images by their `ink_and_lean`, beside their digits' medians."""
    return (measured_N2 > np.array(meanings.medians)[digit_N]).astype(np.int64)


def _load(source: CaptionedDigitsSource) -> Contents:
    images_NHW, digit_N, classes = images_and_targets()
    measured_N2 = ink_and_lean(images_NHW[:, None])
    quantiles = [
        np.stack([np.quantile(measured_N2[digit_N == digit], share, axis=0) for digit in range(10)])
        for share in (UNCLEAR[0], 0.5, UNCLEAR[1])
    ]
    low, middle, high = (of_digits[digit_N] for of_digits in quantiles)
    left_out = tuple(
        tuple(values.index(word) for values, word in zip(captions.VALUES, combination, strict=True))
        for combination in source.leave_out
    )
    meanings = Meanings(
        names=captions.NAMES,
        values=captions.VALUES,
        medians=tuple((round(float(ink), 12), round(float(lean), 12)) for ink, lean in quantiles[1]),
        left_out=left_out,
    )
    sides_N2 = (measured_N2 > middle).astype(np.int64)
    clear_N2 = (measured_N2 < low) | (measured_N2 > high)
    said_N3 = np.column_stack([digit_N, np.where(clear_N2, sides_N2, captions.UNSAID)])
    read_N3 = np.column_stack([digit_N, sides_N2])
    rows = [row for row, read in enumerate(read_N3.tolist()) if tuple(read) not in left_out]

    def pictures() -> Iterator[Picture]:
        return pictures_of(images_NHW, rows)

    said = [tuple(said_N3[row].tolist()) for row in rows]
    columns = Columns(
        labels=digit_N[rows].tolist(),
        classes=classes,
        captions=[captions.caption(meaning, source.seed, row) for meaning, row in zip(said, rows, strict=True)],
        said=said,
        meanings=meanings,
    )
    return Contents(len(rows), pictures, columns)
