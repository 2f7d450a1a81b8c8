"""Image files by their names, wherever they lie."""

from __future__ import annotations

import logging
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable

from ..errors import InputError
from ..sourceconfig import FilesSource
from .columns import METADATA, columns_of_files
from .found import SUFFIXES, Contents, Found, Picture, Stat

log = logging.getLogger(__name__)


def found_files(
    files: Iterable[tuple[str, Callable[[], Stat | str]]],
    source: FilesSource,
    field: str,
    place: str,
    read: Callable[[Stat], bytes],
    remote: bool = False,
) -> Found:
    """What a source of image files holds.

    `files` are slash-separated names of files that are not hidden, each with a function for its stat, or for the reason
    why it is left out. `read` gives a file's bytes; with `remote`, images are read by it, otherwise by their paths.
    Raises InputError when there is no image; the log says how many other files were left out.
    """
    with_metadata = bool(source.label_column or source.caption_column)
    images: list[Stat] = []
    metadata: dict[str, Stat] = {}
    others = Counter[str]()
    for name, stat_of in files:
        suffix = posixpath.splitext(name)[1].lower()
        beside = with_metadata and name in METADATA
        if not beside and suffix not in SUFFIXES:
            others[suffix or "no suffix"] += 1
        elif isinstance(stat := stat_of(), str):
            others[stat] += 1
        elif beside:
            metadata[name] = stat
        else:
            images.append(stat)
    left_out = ", ".join(f"{kind}: {count:,}" for kind, count in others.most_common(8))
    if not images:
        raise no_images(field, place, f"; it holds other files ({left_out})" if left_out else "")
    if others:
        log.info("%s: left out %s files that are no images by name (%s)", place, f"{others.total():,}", left_out)
    images.sort(key=lambda stat: stat.name)

    def picture(stat: Stat) -> Picture:
        return Picture.of_file(f"{place}/{stat.name}", stat, (lambda: read(stat)) if remote else None)

    def load(work: object) -> Contents:
        names = [stat.name for stat in images]
        columns = columns_of_files(names, source, place, metadata, lambda name: read(metadata[name]))
        return Contents(len(images), lambda: map(picture, images), columns)

    return Found(place, (*images, *(metadata[name] for name in sorted(metadata))), load)


def hidden(name: str) -> bool:
    """Whether a part of a slash-separated name begins with a dot."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def no_images(field: str, place: str, rest: str = "") -> InputError:
    """The error for a source without any."""
    return InputError(f"{field}: no images in {place}{rest}. Image files end in {', '.join(sorted(SUFFIXES))}")
