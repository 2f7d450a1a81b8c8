"""Images from anywhere, for `ganpipe score`: files, a prepared data set, or what a generator draws."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, WorkFailed
from ..prepare.decode import decoded_in_order, listing, natural_pixels_of
from ..prepare.found import Contents
from ..prepare.manifest import SPLITS, Dataset
from ..prepare.sources import find
from ..sample import draw, load_generator, to_uint8
from ..settings import Settings
from ..sourceconfig import ArchiveSource, FolderSource, S3Source
from ..spec import sampled
from ..storage import Store, open_store
from ..ways import ways_of
from .asked import captions_asked, classes_asked

log = logging.getLogger(__name__)

Shape = tuple[int, ...]
MIN_DIGITS = 6
"""Of a data set's digest, to name it by."""
DIGEST_DIGITS = 32


@dataclass(frozen=True, eq=False)
class Images:
    """One side of a comparison: images, or points."""

    side: str
    """REAL or GENERATED, for messages."""
    place: str
    shapes: Sequence[Shape]
    """Of each one: (1 or 3, H, W), the same number of channels for all; (2,) of points."""
    read: Callable[[Sequence[int]], Tensor]
    """Some of one shape, by number: uint8 (n, C, H, W) or float32 (n, 2). Raises WorkFailed when they cannot be had."""
    digest: str = ""
    """Of all pixels, in order; empty for what a generator draws."""
    classes: tuple[str, ...] | None = None
    """What a generator was asked for, row by row."""

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def kinds(self) -> set[Shape]:
        """The shapes that occur."""
        return set(self.shapes)


def find_dataset(name: str, store: Store) -> Dataset | None:
    """The data set whose digest begins so, of pairs their targets; None when there is none.

    Raises InputError when there are several, and for unpaired data.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},}}", name):
        return None
    digests = [prefix.rpartition("/")[2] for prefix in store.published("datasets")]
    found = [digest for digest in digests if digest.startswith(name)]
    if len(found) > 1:
        raise InputError(f"{name}: several data sets begin so ({', '.join(found)}); write more digits")
    if not found:
        return None
    dataset = Dataset.open(store, found[0])
    directions = ways_of(dataset)
    if len(directions) > 1:
        raise InputError(f"{name}: this data set has two sides; name a folder with the images of one of them")
    return directions[0].view() if directions else dataset


def open_images(
    name: str,
    side: str,
    most: int,
    work: Path,
    settings: Settings,
    draws: tuple[int, int] | None = None,
    against: Dataset | None = None,
) -> Images:
    """What a name stands for: a folder or an archive of image files, `s3://bucket/prefix`, a data set, or a model.

    At most `most` are taken, in the order of their names. Pixels of files are kept in the folder `work`, as long as
    they are needed. A model draws `draws` = (seed, how many), and is refused without them; one of classes draws them as
    often as they are in the training images of `against`, if there are any. Raises InputError naming the side, and all
    unreadable files.
    """
    path = Path(name).expanduser()
    with _blaming(side):
        if name.startswith("s3://"):
            return _of_files(S3Source(uri=name, labels="none"), side, most, work)
        if path.is_dir():
            return _of_files(FolderSource(path=path, labels="none"), side, most, work)
        if path.is_file() and path.suffix != ".safetensors":
            return _of_files(ArchiveSource(path=path, labels="none"), side, most, work)
    if (dataset := find_dataset(name, open_store(settings.store))) is not None:
        return of_dataset(dataset, side, SPLITS, most)
    nothing = f"{side}: {name} is no folder, no archive, no s3://bucket/prefix, and no data set of {settings.store}"
    if draws is None:
        raise InputError(f"{nothing}; name real images first, and what is scored against them second")
    try:
        return _drawn(name, side, *draws, settings, against)
    except InputError as error:
        raise InputError(f"{nothing}, and no model: {error}") from error


@contextmanager
def _blaming(side: str) -> Iterator[None]:
    """Sources know themselves as a field of a configuration."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"prepare\.source(\.path|\.uri)?", side, str(error))) from error


# --- files -------------------------------------------------------------------------------------------------------


def _of_files(source: FolderSource | ArchiveSource | S3Source, side: str, most: int, work: Path) -> Images:
    found = find(source)
    (copies := work / f"{side}-copies").mkdir()
    contents = _first(found.load(copies), side, most)
    shapes: list[Shape] = []
    entries: list[tuple[str, int, bytes]] = []
    unreadable: list[str] = []
    spool = work / f"{side}-pixels"
    with spool.open("wb") as stream, closing(decoded_in_order(contents, natural_pixels_of)) as pictures:
        for picture, encoded, _ in pictures:
            if isinstance(encoded, str):
                unreadable.append(f"{picture.name}: {encoded}")
                continue
            pixels: np.ndarray = np.load(io.BytesIO(encoded), allow_pickle=False)
            entries.append((picture.name, stream.tell(), hashlib.sha256(f"{pixels.shape}".encode() + encoded).digest()))
            shapes.append(pixels.shape)
            stream.write(pixels.tobytes())
    if unreadable:
        raise InputError(
            f"{side}: {len(unreadable):,} of {contents.count:,} images of {found.place} cannot be read:\n  "
            f"{listing(unreadable)}\nmend or remove them"
        )
    order = sorted(range(len(entries)), key=lambda row: entries[row][0])  # archives have an order of their own
    data = np.memmap(spool, np.uint8, "r")
    channels = max(shape[0] for shape in shapes)

    def read(rows: Sequence[int]) -> Tensor:
        parts = [data[entries[order[row]][1] :][: math.prod(shapes[order[row]])] for row in rows]
        images = [part.reshape(shapes[order[row]]) for part, row in zip(parts, rows, strict=True)]
        return torch.from_numpy(np.stack([image.repeat(channels // len(image), 0) for image in images]))

    digest = hashlib.sha256(b"".join(entries[row][2] for row in order)).hexdigest()[:DIGEST_DIGITS]
    return Images(side, found.place, [(channels, *shapes[row][1:]) for row in order], read, digest)


def _first(contents: Contents, side: str, most: int) -> Contents:
    if contents.count <= most:
        return contents
    log.info("%s: the first %s of %s images are taken", side, f"{most:,}", f"{contents.count:,}")
    pictures = contents.pictures
    return replace(contents, count=most, pictures=lambda: itertools.islice(pictures(), most))


# --- the store ---------------------------------------------------------------------------------------------------


def of_dataset(dataset: Dataset, side: str, splits: Sequence[str], most: int) -> Images:
    """The rows of some splits of a data set, at most so many."""
    column = sampled(dataset.spec())
    parts = [dataset.column(column.kind, split) for split in splits]
    rows = [(part, row) for part in parts for row in range(len(part))][:most]

    def read(wanted: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.stack([rows[number][0][rows[number][1]] for number in wanted]))

    return Images(side, f"data set {dataset.digest[:12]}", [column.shape] * len(rows), read, dataset.digest)


def _drawn(name: str, side: str, seed: int, count: int, settings: Settings, against: Dataset | None) -> Images:
    from .. import register

    weights = register.resolve(name, settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_generator(weights, device)
    if loaded.directions:
        raise InputError("it translates images; translate some with `ganpipe generate --input`, and name their folder")
    classes = None if against is None else classes_asked(loaded, against, seed, range(count))
    label = None if classes is None else loaded.class_numbers(classes)
    texts = None if against is None else captions_asked(loaded, against, seed, range(count))

    def read(rows: Sequence[int]) -> Tensor:
        asked = None if label is None else [label[row] for row in rows]
        said = None if texts is None else [texts[row] for row in rows]
        (part,) = draw(loaded.gan, loaded.module, seed, rows, device, asked, caption=said)
        if not part.isfinite().all():
            raise WorkFailed(f"{side}: {name} makes NaN or infinite pixels: it has no scores")
        return part if loaded.output == "point" else to_uint8(part)

    shapes = [sampled(loaded.spec).shape] * count
    return Images(side, f"{name}, seed {seed}", shapes, read, classes=classes)
