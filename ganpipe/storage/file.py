"""Stores on a file system."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlparse

from ..errors import InputError
from ..settings import file_uri
from .base import MANIFEST, STAGING, Conflict, Leftover, ObjectInfo, Store, check_key


class FileStore(Store):
    """A folder of this machine (or a mounted share)."""

    def __init__(self, uri: str):
        parsed = urlparse(uri)
        if parsed.scheme != "file" or parsed.netloc or not parsed.path.startswith("/"):
            raise InputError(f"{uri!r} is not a file store: use file:///absolute/folder")
        if parsed.query or parsed.fragment:
            raise InputError(f"{uri!r}: write ? and # of a folder's name as %3F and %23")
        self.root = Path(unquote(parsed.path))
        self.uri = file_uri(self.root)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def read_bytes(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{self.uri}/{key} does not exist") from error

    def write_bytes(self, key: str, data: bytes) -> None:
        with self._new_file(self._path(key)) as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def _new_file(self, target: Path) -> Iterator[Path]:
        """A temporary file that is fsynced and renamed to `target` when the block ends well."""
        temporary = self._staging(target) / uuid.uuid4().hex
        try:
            yield temporary
            fsync(temporary)
            temporary.replace(target)
            fsync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _staging(self, target: Path) -> Path:
        """The folder for what is not visible yet, on the file system of `target`, whose parent is made."""
        staging = self.root / STAGING
        try:
            staging.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write to the store {self.uri}: {error}; set GANPIPE_STORE to a writable folder"
            ) from error
        return staging

    def create(self, key: str, data: bytes) -> None:
        self.compare_and_set(key, data, expected=None)

    def compare_and_set(self, key: str, data: bytes, expected: bytes | None) -> None:
        path = self._path(key)
        with self._locked(path):
            current = path.read_bytes() if path.exists() else None
            if current != expected:
                raise Conflict(f"{self.uri}/{key} was changed by somebody else in the meantime; try again")
            self.write_bytes(key, data)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Keeps other writers away from what lies beside `path`."""
        self._staging(path)
        with locked(path.parent / ".lock"):
            yield

    def _publish_files(self, prefix: str, files: dict[str, Path], manifest: bytes) -> None:
        """A folder appears by one rename, so a reader that ignores manifests sees nothing half-written either."""
        target = self._path(prefix)
        with scratch_folder(self._staging(target)) as staging:
            for name, path in files.items():
                copy = staging / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                fsync(copy)
            (staging / MANIFEST).write_bytes(manifest)
            fsync(staging / MANIFEST)
            fsync(staging)
            with self._locked(target), scratch_folder(self._staging(target)) as before:
                if target.exists():
                    target.rename(before / target.name)
                staging.rename(target)
            fsync(target.parent)

    def _copies(self, key: str, sha256: str, size: int) -> Iterator[Path]:
        path = self._path(key)
        if not path.is_file():
            raise FileNotFoundError(f"{self.uri}/{key} does not exist")
        yield path

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        top = self._path(prefix) if prefix else self.root
        found = []
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if name != STAGING]
            for name in files:
                path = Path(folder) / name
                with suppress(FileNotFoundError):  # removed meanwhile
                    if name != ".lock":
                        key, facts = path.relative_to(self.root).as_posix(), path.stat()
                        found.append(ObjectInfo(key=key, size=facts.st_size, modified=_moment(facts)))
        yield from sorted(found, key=lambda item: item.key)

    def remove(self, prefix: str) -> None:
        target = self._path(prefix)
        if target.is_dir():
            (target / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def leftovers(self, before: datetime) -> Iterator[Leftover]:
        staging = self.root / STAGING
        for path in sorted(staging.iterdir()) if staging.is_dir() else []:
            with suppress(FileNotFoundError):  # it was being written
                files = [path, *path.rglob("*")]
                newest = max(_moment(file.stat()) for file in files)
                size = sum(file.stat().st_size for file in files if file.is_file())
                if newest < before and path.is_file():
                    yield Leftover(f"{STAGING}/{path.name}", size, path.unlink)
                elif newest < before and _is_nobodys(path):
                    yield Leftover(f"{STAGING}/{path.name}", size, partial(shutil.rmtree, path))


def _moment(facts: os.stat_result) -> datetime:
    return datetime.fromtimestamp(facts.st_mtime, UTC)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps out the other threads and processes that want this lock file."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch_folder(parent: Path, prefix: str = "") -> Iterator[Path]:
    """A new folder in `parent` that is gone in the end. Those that killed processes left there go too.

    Whoever works in one holds a lock on it: what can be locked is nobody's.
    """
    guard = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        for left in parent.glob(f"{prefix}*"):
            if left.is_dir() and _is_nobodys(left):
                shutil.rmtree(left, ignore_errors=True)
        folder = parent / f"{prefix}{uuid.uuid4().hex}"
        folder.mkdir()
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    finally:
        os.close(guard)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _is_nobodys(folder: Path) -> bool:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # it became what it was made for
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def fsync(path: Path) -> None:
    """What was written to the file, or changed in the folder, is on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
