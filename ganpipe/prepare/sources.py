"""Where data comes from. A source finds out cheaply what it holds, and loads it as a Hugging Face `datasets.Dataset`.

The data set has the features `image: Image(decode=False)` and, with labels, `label: ClassLabel(names)`. Further sources
are further functions in SOURCES.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import DigitsSource, FolderSource
from ..errors import InputError

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
CLOCK_TICK_SECONDS = 0.02


class Stat(NamedTuple):
    """What the file system says of a file. Any change of its bytes changes ctime, whatever else is restored."""

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, name: str, stat: os.stat_result) -> Stat:
        return cls(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@dataclass(frozen=True)
class Found:
    """What a source holds now, known without reading any content."""

    place: str
    """For messages."""
    stats: tuple[Stat, ...]
    """Unchanged as long as the content is."""
    load: Callable[[], datasets.Dataset]
    """Loads the rows, in no particular order."""


def find(source: DigitsSource | FolderSource) -> Found:
    """What the source holds. Raises InputError when it is missing, holds no images, or is not laid out as asked."""
    found = SOURCES[source.name](source)
    newest = max((stat.ctime_ns for stat in found.stats), default=0)
    if time.time_ns() - newest < CLOCK_TICK_SECONDS * 1e9:
        # A file changed again within the same tick of the file system's clock would look unchanged later on.
        time.sleep(CLOCK_TICK_SECONDS)
        found = SOURCES[source.name](source)
    return found


# --- digits ------------------------------------------------------------------------------------------------------


def digits(source: DigitsSource) -> Found:
    """scikit-learn's 8x8 digits: values 0 to 16 scaled to 0 to 255, classes "0" to "9"."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("prepare.source: digits needs scikit-learn; install it, or use a folder of images")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    version = f"scikit-learn {importlib.metadata.version('scikit-learn')}"
    stats = (Stat.of(version, file.stat()),) if file.is_file() else (Stat(version, 0, 0, 0),)
    return Found(place="scikit-learn's digits", stats=stats, load=_load_digits)


def _load_digits() -> datasets.Dataset:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    files = []
    for number, values in enumerate(bunch.images):
        stream = io.BytesIO()
        Image.fromarray(np.rint(values * (255 / 16)).astype(np.uint8)).save(stream, "PNG")
        files.append({"bytes": stream.getvalue(), "path": f"digits/{number:04d}.png"})
    return _dataset(files, bunch.target.tolist(), [str(name) for name in bunch.target_names])


# --- folder ------------------------------------------------------------------------------------------------------


def folder(source: FolderSource) -> Found:
    """Image files by suffix, in the folder and below; hidden ones are left out, links out of it are not followed."""
    root = source.path.expanduser().resolve()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"prepare.source.path: {source.path} {what} ({root}); name a folder of images")
    stats, others = [], Counter[str]()
    try:
        for name, entry in _walk(root):
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path per file costs more than the walk)
            if suffix not in SUFFIXES:
                others[suffix or "no suffix"] += 1
            elif entry.is_symlink() and not _links_inside(entry, root):
                others["links to elsewhere"] += 1
            else:
                stats.append(Stat.of(name, entry.stat()))
    except OSError as error:
        raise InputError(f"prepare.source.path: {error.filename} cannot be read: {error.strerror}") from error
    left_out = ", ".join(f"{kind}: {count:,}" for kind, count in others.most_common(8))
    if not stats:
        rest = f"; it holds other files ({left_out})" if left_out else ""
        raise InputError(
            f"prepare.source.path: no images in {root}{rest}. Image files end in {', '.join(sorted(SUFFIXES))}"
        )
    if others:
        log.info("%s: left out %s files that are no images by name (%s)", root, f"{others.total():,}", left_out)
    stats.sort(key=lambda stat: stat.name)
    names = [stat.name for stat in stats]
    labelled = _labelled(names, source, root)
    return Found(place=str(root), stats=tuple(stats), load=lambda: _load_folder(root, names, labelled))


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files below the folder with their slash-separated names, hidden ones left out, linked folders not entered."""
    waiting = [("", str(root))]
    while waiting:
        prefix, path = waiting.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    name = prefix + entry.name
                    name.encode()
                except UnicodeEncodeError as error:
                    raise InputError(f"prepare.source.path: the name {name!r} is not UTF-8; rename it") from error
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{name}/", entry.path))
                elif entry.is_file() or entry.is_symlink():
                    yield name, entry


def _links_inside(link: os.DirEntry[str], root: Path) -> bool:
    target = Path(link.path).resolve()
    return target.is_file() and target.is_relative_to(root)


def _labelled(names: list[str], source: FolderSource, root: Path) -> bool:
    at_top = next((name for name in names if "/" not in name), None)
    if source.labels == "subfolders" and at_top is not None:
        raise InputError(
            f"prepare.source.labels is `subfolders`, but {root / at_top} lies in no sub-folder; "
            "move it into its class's folder, or set prepare.source.labels to `none`"
        )
    return source.labels != "none" and at_top is None


def _load_folder(root: Path, names: list[str], labelled: bool) -> datasets.Dataset:
    files = [{"bytes": None, "path": str(root / name)} for name in names]
    if not labelled:
        return _dataset(files)
    folders = [name.split("/", 1)[0] for name in names]
    classes = sorted(set(folders))
    numbers = {name: number for number, name in enumerate(classes)}
    return _dataset(files, [numbers[name] for name in folders], classes)


def _dataset(
    files: list[dict[str, Any]], labels: list[int] | None = None, classes: list[str] | None = None
) -> datasets.Dataset:
    from datasets import ClassLabel, Dataset, Features, Image

    columns: dict[str, Any] = {"image": files}
    features: dict[str, Any] = {"image": Image(decode=False)}
    if labels is not None:
        columns["label"] = labels
        features["label"] = ClassLabel(names=classes)
    return Dataset.from_dict(columns, features=Features(features))


SOURCES: dict[str, Callable[[Any], Found]] = {
    "digits": digits,
    "folder": folder,
}
