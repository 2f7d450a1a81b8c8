"""Folders of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..errors import InputError
from ..sourceconfig import FolderSource
from .files import found_files
from .found import Found, Stat

FIELD = "prepare.source.path"


def folder(source: FolderSource, field: str = FIELD) -> Found:
    """Image files by suffix, in the folder and below; hidden ones are left out, links out of it are not followed.

    `field` is what messages call the folder.
    """
    root = source.path.expanduser().resolve()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        other = "; for an archive, set prepare.source.name to `archive`" if root.is_file() and field == FIELD else ""
        raise InputError(f"{field}: {source.path} {what} ({root}); name a folder of images{other}")

    def stat(name: str, entry: os.DirEntry[str]) -> Stat | str:
        if entry.is_symlink() and not _links_inside(entry, root):
            return "links to elsewhere"
        return Stat.of(name, entry.stat())

    try:
        files = ((name, partial(stat, name, entry)) for name, entry in _walk(root, field))
        return found_files(files, source, field, str(root), lambda stat: (root / stat.name).read_bytes())
    except OSError as error:
        raise InputError(f"{field}: {error.filename} cannot be read: {error.strerror}") from error


def _walk(root: Path, field: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
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
                    raise InputError(f"{field}: the name {name!r} is not UTF-8; rename it") from error
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{name}/", entry.path))
                elif entry.is_file() or entry.is_symlink():
                    yield name, entry


def _links_inside(link: os.DirEntry[str], root: Path) -> bool:
    target = Path(link.path).resolve()
    return target.is_file() and target.is_relative_to(root)
