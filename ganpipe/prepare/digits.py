"""scikit-learn's digits: real data that is on every machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..sourceconfig import DigitsSource
from .found import Columns, Contents, Found, Picture, Stat

if TYPE_CHECKING:
    import numpy as np


def digits(source: DigitsSource | None = None) -> Found:
    """scikit-learn's 8x8 digits: values 0 to 16 scaled to 0 to 255, classes "0" to "9"."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("prepare.source: digits needs scikit-learn; install it, or use a folder of images")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    version = f"scikit-learn {importlib.metadata.version('scikit-learn')}"
    stats = (Stat.of(version, file.stat()),) if file.is_file() else (Stat(version, 0, 0, 0),)
    return Found(place="scikit-learn's digits", stats=stats, load=lambda work: _load())


def images_and_targets() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images uint8 (N, 8, 8), their digits int64 (N,), and the names of the classes."""
    import numpy as np
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return images, bunch.target.astype(np.int64), tuple(map(str, bunch.target_names))


def pictures_of(images_NHW: np.ndarray, rows: Sequence[int]) -> Iterator[Picture]:
    """Some of the images, each as a file that is named after its row."""
    from PIL import Image

    for row in rows:
        stream = io.BytesIO()
        Image.fromarray(images_NHW[row]).save(stream, "PNG")
        yield Picture.of_bytes(f"digits/{row:04d}.png", stream.getvalue())


def _load() -> Contents:
    images_NHW, digit_N, classes = images_and_targets()
    rows = range(len(images_NHW))
    return Contents(len(rows), lambda: pictures_of(images_NHW, rows), Columns(digit_N.tolist(), classes))
