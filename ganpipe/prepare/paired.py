"""Folders of image files that hold pairs: side by side in one file, or in two folders by equal names."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InputError
from ..sourceconfig import FolderSource
from ..translationconfig import PairedFolderSource, PairedSource
from .folder import folder
from .found import Columns, Contents, Found, Picture, Stat

log = logging.getLogger(__name__)

NAMED = 5
"""Names that a message lists."""


def paired_folder(source: PairedFolderSource) -> Found:
    """Files each of which holds a pair."""
    found = folder(FolderSource(path=source.path, labels="none"))
    kept = _published([stat.name for stat in found.stats], found.place)
    stats = tuple(found.stats[row] for row in kept.rows)

    def load(work: Path) -> Contents:
        everything = found.load(work)

        def pictures() -> Iterator[Picture]:
            wanted = set(kept.rows)
            return (picture for row, picture in enumerate(everything.pictures()) if row in wanted)

        columns = Columns(splits=kept.splits)
        return Contents(len(stats), pictures, columns, halves=source.direction, enlarged=False)

    return Found(found.place, stats, load)


def paired(source: PairedSource) -> Found:
    """Files of two folders, by their paths there without suffix. Raises InputError naming those that are alone."""
    sides = [
        folder(FolderSource(path=path, labels="none"), f"prepare.source.{name}")
        for name, path in (("source", source.source), ("target", source.target))
    ]
    by_stem = [_by_stem(side) for side in sides]
    for one, other in ((0, 1), (1, 0)):
        alone = [by_stem[one][stem].name for stem in sorted(by_stem[one].keys() - by_stem[other].keys())]
        if alone:
            shown = ", ".join(alone[:NAMED]) + (f", ... and {len(alone) - NAMED:,} more" if len(alone) > NAMED else "")
            raise InputError(
                f"prepare.source: {len(alone):,} images of {sides[one].place} have none of the same name in "
                f"{sides[other].place}: {shown}; add what is missing, or remove what is alone"
            )
    stems = sorted(by_stem[0])
    kept = _published([by_stem[0][stem].name for stem in stems], sides[0].place)
    pairs = [(by_stem[0][stems[row]], by_stem[1][stems[row]]) for row in kept.rows]

    def pictures() -> Iterator[Picture]:
        for of_source, of_target in pairs:
            paths = f"{sides[0].place}/{of_source.name}", f"{sides[1].place}/{of_target.name}"
            key = Picture.of_bytes("", repr((tuple(of_source), tuple(of_target))).encode()).key
            yield Picture(" and ".join(paths), paths, key)

    stats = tuple(
        stat._replace(name=f"{side}/{stat.name}")
        for side, number in (("source", 0), ("target", 1))
        for stat in (pair[number] for pair in pairs)
    )
    columns = Columns(splits=kept.splits)
    place = f"{sides[0].place} and {sides[1].place}"
    return Found(place, stats, lambda work: Contents(len(pairs), pictures, columns, enlarged=False))


def _by_stem(found: Found) -> dict[str, Stat]:
    stats: dict[str, Stat] = {}
    for stat in found.stats:
        stem = posixpath.splitext(stat.name)[0]
        if stem in stats:
            raise InputError(
                f"prepare.source: {found.place} holds both {stats[stem].name} and {stat.name}, which would be of one "
                "pair; rename or remove one"
            )
        stats[stem] = stat
    return stats


@dataclass(frozen=True)
class _Published:
    """Which files are taken, and for what."""

    rows: list[int]
    splits: list[Literal["train", "test"]] | None


def _published(names: Sequence[str], place: str) -> _Published:
    """By the first folder of each name: all are taken, and split by content, unless there are train/ and test/ or val/.

    Raises InputError when some files lie in such folders and others beside them, or the folders are written otherwise.
    """
    folders = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    tested = next((name for name in ("test", "val") if name in folders), None)
    known = ("train", "val", "test")
    if "train" not in folders or tested is None:
        like = sorted({of for of in folders if of.casefold() in (*known, "training", "testing", "validation")})
        if len(like) > 1:
            raise InputError(
                f"prepare.source: {place} has the folders {' and '.join(f'{of}/' for of in like)}, and what is trained "
                "and tested on is told by train/ and test/, or val/; rename them"
            )
        return _Published(list(range(len(names))), None)
    if (stray := next((name for name, of in zip(names, folders, strict=True) if of not in known), None)) is not None:
        raise InputError(
            f"prepare.source: {place} has the folders train/ and {tested}/, and {stray} lies in none of train/, val/ "
            "and test/; move it there, or remove it"
        )
    rows = [row for row, of in enumerate(folders) if of in ("train", tested)]
    if left_out := len(names) - len(rows):
        log.info("%s: left out the %s images of val/, as there is a test/", place, f"{left_out:,}")
    return _Published(rows, ["train" if folders[row] == "train" else "test" for row in rows])
