"""scikit-learn's digits: real data that is on every machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from ..sourceconfig import DigitsSource
from .found import Columns, Contents, Found, Picture, Stat


def digits(source: DigitsSource) -> Found:
    """scikit-learn's 8x8 digits: values 0 to 16 scaled to 0 to 255, classes "0" to "9"."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("prepare.source: digits needs scikit-learn; install it, or use a folder of images")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    version = f"scikit-learn {importlib.metadata.version('scikit-learn')}"
    stats = (Stat.of(version, file.stat()),) if file.is_file() else (Stat(version, 0, 0, 0),)
    return Found(place="scikit-learn's digits", stats=stats, load=_load)


def _load(work: Path) -> Contents:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()

    def pictures() -> Iterator[Picture]:
        for number, values in enumerate(bunch.images):
            stream = io.BytesIO()
            Image.fromarray(np.rint(values * (255 / 16)).astype(np.uint8)).save(stream, "PNG")
            yield Picture.of_bytes(f"digits/{number:04d}.png", stream.getvalue())

    columns = Columns(bunch.target.tolist(), tuple(map(str, bunch.target_names)))
    return Contents(len(bunch.images), pictures, columns)
