"""Folders of image files."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from ..sourceconfig import FolderSource
from .columns import METADATA, columns_of_files
from .found import SUFFIXES, Contents, Found, Picture, Stat

log = logging.getLogger(__name__)


def folder(source: FolderSource) -> Found:
    """Image files by suffix, in the folder and below; hidden ones are left out, links out of it are not followed."""
    root = source.path.expanduser().resolve()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        other = "; for an archive, set prepare.source.name to `archive`" if root.is_file() else ""
        raise InputError(f"prepare.source.path: {source.path} {what} ({root}); name a folder of images{other}")
    with_metadata = bool(source.label_column or source.caption_column)
    images, metadata, others = [], [], Counter[str]()
    try:
        for name, entry in _walk(root):
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path per file costs more than the walk)
            if name in METADATA and with_metadata:
                metadata.append(Stat.of(name, entry.stat()))
            elif suffix not in SUFFIXES:
                others[suffix or "no suffix"] += 1
            elif entry.is_symlink() and not _links_inside(entry, root):
                others["links to elsewhere"] += 1
            else:
                images.append(Stat.of(name, entry.stat()))
    except OSError as error:
        raise InputError(f"prepare.source.path: {error.filename} cannot be read: {error.strerror}") from error
    left_out = ", ".join(f"{kind}: {count:,}" for kind, count in others.most_common(8))
    if not images:
        rest = f"; it holds other files ({left_out})" if left_out else ""
        raise InputError(
            f"prepare.source.path: no images in {root}{rest}. Image files end in {', '.join(sorted(SUFFIXES))}"
        )
    if others:
        log.info("%s: left out %s files that are no images by name (%s)", root, f"{others.total():,}", left_out)
    images.sort(key=lambda stat: stat.name)

    def load(work: Path) -> Contents:
        names, beside = ([stat.name for stat in stats] for stats in (images, metadata))
        columns = columns_of_files(names, source, str(root), beside, lambda name: (root / name).read_bytes())
        return Contents(len(images), lambda: (Picture.of_file(f"{root}/{stat.name}", stat) for stat in images), columns)

    return Found(place=str(root), stats=(*images, *metadata), load=load)


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
