"""scikit-learn's digits: real data that is on every machine; alone, and three of them as the channels of an image."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..prepareconfig import PrepareConfig
from ..sourceconfig import DigitsSource, StackedDigitsSource
from ..spec import MODES_OF_TRIPLES
from .found import Columns, Contents, Found, Picture, Stat

if TYPE_CHECKING:
    import numpy as np

    from .decode import Rows

DRAWS = 4096
"""Candidates that are drawn at a time."""


def digits(source: DigitsSource | StackedDigitsSource | None = None) -> Found:
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


def stacked(digits: Rows, config: PrepareConfig, source: StackedDigitsSource, spool: Path) -> Rows:
    """Triples of the digits, with their pixels in the file `spool`; the same for a seed on every machine.

    Digits are split by their content, and so are triples: a triple is drawn from one split's digits, and kept when its
    own content falls into that split. A split that is chosen as often as any other is then as large as it should be.
    Raises InputError when a split lacks one of the ten digits.
    """
    import numpy as np

    from .decode import Rows
    from .shards import split_of

    fractions = config.test_fraction, config.extractor_fraction
    labels = digits.columns.labels or []
    found: dict[str, list[list[int]]] = {}
    for row, (content, label) in enumerate(zip(digits.hashes, labels, strict=True)):
        found.setdefault(split_of(content, *fractions), [[] for _ in range(10)])[label].append(row)
    for split, rows in found.items():
        if not all(rows):
            field = "test_fraction" if split == "test" else "extractor_fraction"
            raise InputError(
                f"prepare.{field} {getattr(config, field)} leaves no {rows.index([])} among the digits of the {split} "
                "split, of which triples are to be made; raise it"
            )
    splits = sorted(found)
    generator = np.random.Generator(np.random.PCG64(source.seed))
    hashes: list[bytes] = []
    modes: list[int] = []
    with spool.open("wb") as stream:
        while len(hashes) < source.images:
            split_B = generator.integers(len(splits), size=DRAWS)
            digit_B3 = generator.integers(10, size=(DRAWS, 3))
            share_B3 = generator.random((DRAWS, 3))
            for number, triple, shares in zip(split_B, digit_B3, share_B3, strict=True):
                rows = [found[splits[number]][digit] for digit in triple]
                chosen = [of_digit[int(share * len(of_digit))] for of_digit, share in zip(rows, shares, strict=True)]
                pixels = np.concatenate(digits.values[chosen]).tobytes()
                content = hashlib.sha256(pixels).digest()
                if split_of(content, *fractions) == splits[number] and len(hashes) < source.images:
                    stream.write(pixels)
                    hashes.append(content)
                    modes.append(int(triple @ (100, 10, 1)))
    shape = (3, *digits.values.shape[2:])
    return Rows(
        keys=hashes,
        hashes=hashes,
        columns=Columns(modes, MODES_OF_TRIPLES),
        values=np.memmap(spool, np.uint8, "r", shape=(len(hashes), *shape)),
        column=digits.column.model_copy(update={"shape": shape}),
        decoded=digits.decoded,
        skipped=0,
        names=digits.names,
    )
