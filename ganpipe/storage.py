"""One small interface over the places that keep data sets, runs and models.

Keys are slash-separated and relative to the store. Two kinds of thing live under them:

* single objects, written whole or not at all (`write_bytes`, `create`, `compare_and_set`);
* published folders: objects first, `manifest.json` last. Without its manifest a folder does not exist.
  The manifest lists each object's sha256 and size; `fetch` verifies them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlparse

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from .errors import InputError, WorkFailed
from .settings import file_uri

MANIFEST = "manifest.json"
TRANSFER_THREADS = 8
PROGRESS_BYTES = 64 << 20


class ObjectInfo(BaseModel):
    """One object of a listing."""

    model_config = ConfigDict(frozen=True)

    key: str
    size: int
    """Bytes."""


class CorruptObject(WorkFailed):
    """An object's bytes are not those that were published."""


class Conflict(WorkFailed):
    """Somebody else changed the object first; read it again and decide afresh."""


def sha256_of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_key(key: str) -> str:
    """The key itself. Raises InputError when it could leave the store."""
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts or "\\" in key or "\0" in key:
        raise InputError(f"{key!r} is not a key of a store: use relative, slash-separated names")
    return key


class Store(ABC):
    """Where things are kept. All methods are safe to call from several threads and processes."""

    uri: str

    @abstractmethod
    def read_bytes(self, key: str) -> bytes:
        """The object's bytes. Raises FileNotFoundError."""

    @abstractmethod
    def write_bytes(self, key: str, data: bytes) -> None:
        """Put one object; readers see the old bytes or the new ones, never a part."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Put an object that must not exist yet. Raises Conflict when it does."""

    @abstractmethod
    def compare_and_set(self, key: str, data: bytes, expected: bytes | None) -> None:
        """Replace `expected` (None: no such object) by `data`. Raises Conflict when the object is something else."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects under `prefix/`, in the order of their keys; nothing half-written is listed."""

    @abstractmethod
    def remove(self, prefix: str) -> None:
        """Remove everything under `prefix/`, its manifest first. Missing is fine."""

    @abstractmethod
    def _put_file(self, key: str, path: Path) -> None:
        """Upload one file; atomic like `write_bytes`."""

    @abstractmethod
    def _local(self, key: str) -> Path:
        """A local file with the object's bytes: the object itself, or a cached copy. Raises FileNotFoundError."""

    def exists(self, key: str) -> bool:
        try:
            self.read_bytes(key)
        except FileNotFoundError:
            return False
        return True

    def manifest(self, prefix: str) -> dict[str, Any]:
        """The manifest of a published folder. Raises FileNotFoundError when it is not (completely) there."""
        key = f"{prefix}/{MANIFEST}"
        try:
            manifest: dict[str, Any] = json.loads(self.read_bytes(key))
            manifest["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptObject(
                f"{self.uri}/{key} is not a manifest ({error}); remove the folder and make it again"
            ) from error
        return manifest

    def publish(self, prefix: str, folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """Upload every file under `folder`, then `manifest.json` with their hashes. Returns the manifest as written."""
        check_key(prefix)
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
        names = [path.relative_to(folder).as_posix() for path in paths]
        hashes = list(_in_parallel(sha256_of_file, paths))
        files = {
            name: {"sha256": digest, "bytes": path.stat().st_size}
            for name, path, digest in zip(names, paths, hashes, strict=True)
        }
        complete = {**manifest, "files": files}
        self._publish_files(prefix, dict(zip(names, paths, strict=True)), json.dumps(complete, indent=1).encode())
        return complete

    def _publish_files(self, prefix: str, files: dict[str, Path], manifest: bytes) -> None:
        sizes = sum(path.stat().st_size for path in files.values())
        _transfer(lambda item: self._put_file(f"{prefix}/{item[0]}", item[1]), list(files.items()), sizes, "uploading")
        self.write_bytes(f"{prefix}/{MANIFEST}", manifest)

    def fetch(self, prefix: str, names: Iterable[str] | None = None) -> dict[str, Path]:
        """Verified local files of a published folder, by name: all of them, or `names`.

        Raises FileNotFoundError when the folder is not published, CorruptObject when a file is gone or its bytes differ
        from the manifest.
        """
        files = self.manifest(prefix)["files"]
        wanted = list(files if names is None else names)

        def fetch_one(name: str) -> Path:
            if name not in files:
                raise FileNotFoundError(f"{self.uri}/{prefix} holds no {name}")
            try:
                path = self._local(f"{prefix}/{name}")
            except FileNotFoundError as error:
                raise CorruptObject(
                    f"{self.uri}/{prefix}/{name} stands in the manifest and is gone; "
                    f"restore it, or remove {prefix} and make it again"
                ) from error
            if sha256_of_file(path) != files[name]["sha256"]:
                raise CorruptObject(
                    f"{self.uri}/{prefix}/{name} does not have the sha256 that its manifest states; "
                    f"restore it, or remove {prefix} and make it again"
                )
            return path

        sizes = sum(files[name]["bytes"] for name in wanted if name in files)
        return dict(zip(wanted, _transfer(fetch_one, wanted, sizes, "reading"), strict=True))

    def published(self, prefix: str) -> Iterator[str]:
        """Prefixes of the published folders right under or below `prefix`, in order."""
        for item in self.list(prefix):
            if item.key.endswith(f"/{MANIFEST}"):
                yield item.key.removesuffix(f"/{MANIFEST}")


def _in_parallel(function: Any, items: list[Any]) -> Iterator[Any]:
    with ThreadPoolExecutor(TRANSFER_THREADS) as pool:
        yield from pool.map(function, items)


def _transfer(function: Any, items: list[Any], total_bytes: int, what: str) -> list[Any]:
    """Apply to all items in parallel, with a progress bar when there is something to wait for."""
    quiet = True if total_bytes < PROGRESS_BYTES else None  # None: quiet unless there is a terminal
    return list(
        tqdm(_in_parallel(function, items), total=len(items), desc=what, unit="file", disable=quiet, leave=False)
    )


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

    def _put_file(self, key: str, path: Path) -> None:
        with self._new_file(self._path(key)) as temporary:
            shutil.copyfile(path, temporary)

    @contextmanager
    def _new_file(self, target: Path) -> Iterator[Path]:
        """A temporary file that is fsynced and renamed to `target` when the block ends well."""
        temporary = self._staging(target) / uuid.uuid4().hex
        try:
            yield temporary
            _fsync(temporary)
            temporary.replace(target)
            _fsync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _staging(self, target: Path) -> Path:
        """The folder for what is not visible yet, on the file system of `target`, whose parent is made."""
        staging = self.root / ".staging"
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
        with (path.parent / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _publish_files(self, prefix: str, files: dict[str, Path], manifest: bytes) -> None:
        """A folder appears by one rename, so a reader that ignores manifests sees nothing half-written either."""
        target = self._path(prefix)
        with scratch_folder(self._staging(target)) as staging:
            for name, path in files.items():
                copy = staging / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                _fsync(copy)
            (staging / MANIFEST).write_bytes(manifest)
            _fsync(staging / MANIFEST)
            _fsync(staging)
            with self._locked(target), scratch_folder(self._staging(target)) as before:
                if target.exists():
                    target.rename(before / target.name)
                staging.rename(target)
            _fsync(target.parent)

    def _local(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_file():
            raise FileNotFoundError(f"{self.uri}/{key} does not exist")
        return path

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        top = self._path(prefix) if prefix else self.root
        found = []
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if name != ".staging"]
            for name in files:
                path = Path(folder) / name
                with suppress(FileNotFoundError):  # removed meanwhile
                    if name != ".lock":
                        found.append(ObjectInfo(key=path.relative_to(self.root).as_posix(), size=path.stat().st_size))
        yield from sorted(found, key=lambda item: item.key)

    def remove(self, prefix: str) -> None:
        target = self._path(prefix)
        if target.is_dir():
            (target / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


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


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_store(uri: str) -> Store:
    """The store behind a URI. Raises InputError for a scheme that nothing serves."""
    if uri.startswith("file://"):
        return FileStore(uri)
    raise InputError(f"GANPIPE_STORE={uri!r}: only file:// stores are supported; use file:///absolute/folder")
