"""Copies of a remote store's objects on this machine: `<folder>/<sha256>/<name>`.

Whoever uses a copy holds a lock on its folder until its process ends; what can be locked is nobody's and may go.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import InputError, of_the_disk
from .file import locked

log = logging.getLogger(__name__)

HOLDS = 512
"""Copies that one process keeps from being removed; with more, those that it asked for first may go."""

_held: dict[Path, int] = {}
_holding = threading.Lock()


class Cache:
    """Shared by all processes of a machine. What was used least recently goes when there is more than `max_bytes`.

    What running processes use stays, whatever the cap, and transfers that run at the same time may exceed it.
    """

    def __init__(self, folder: Path, max_bytes: float):
        self.folder, self.max_bytes = folder, max_bytes

    def copies(self, sha256: str, name: str, size: int, download: Callable[[Path], None]) -> Iterator[Path]:
        """The copy that is there, if one is, and for a caller who finds its bytes wrong a fresh one.

        `size` bytes are made free before `download` fills a file. Raises what `download` raises, and InputError when
        the folder cannot be made.
        """
        folder = self._held_folder(sha256)
        path = folder / name
        refused = False
        if path.exists():
            yield path
            refused = True
        with locked(folder / ".lock"):  # of several that want it, one downloads
            if refused or not path.exists():
                self._make_room(size)
                fresh = folder / f".{uuid.uuid4().hex}"
                try:
                    download(fresh)
                    fresh.replace(path)
                finally:
                    fresh.unlink(missing_ok=True)
        yield path

    def _held_folder(self, sha256: str) -> Path:
        folder = self.folder / sha256
        with _holding:
            while folder not in _held or not _is_at(_held[folder], folder):
                if folder in _held:  # the cache was removed by hand
                    os.close(_held.pop(folder))
                self._make(folder)
                try:
                    handle = os.open(folder, os.O_RDONLY)
                except FileNotFoundError:  # another process made room
                    continue
                fcntl.flock(handle, fcntl.LOCK_SH)
                _held[folder] = handle
            if len(_held) > HOLDS:
                os.close(_held.pop(next(iter(_held))))
            os.utime(folder)
        return folder

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if of_the_disk(error):
                raise
            raise InputError(
                f"GANPIPE_HOME: {self.folder} cannot be written to: {error}; set it to another folder"
            ) from error

    def _make_room(self, size: int) -> None:
        with locked(self.folder / ".lock"):
            sizes = {folder: _bytes_in(folder) for folder in self.folder.iterdir() if folder.is_dir()}
            excess = sum(sizes.values()) + size - self.max_bytes
            for folder in sorted(sizes, key=lambda folder: folder.stat().st_mtime):
                if excess > 0 and sizes[folder] and _removed(folder):
                    excess -= sizes[folder]
        if excess > 0:
            log.warning(
                "%s holds %.3g GB more than GANPIPE_CACHE_GB=%g allows, all of it in use",
                self.folder, excess / 1e9, self.max_bytes / 1e9,
            )  # fmt: skip


def _is_at(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def _bytes_in(folder: Path) -> int:
    total = 0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # it was a download, which is complete now
            total += entry.stat().st_size
    return total


def _removed(folder: Path) -> bool:
    """Remove a copy, unless somebody uses it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
