"""One small interface over the places that keep data sets, runs and models.

Keys are slash-separated and relative to the store. Two kinds of thing live under them:

* single objects, written whole or not at all (`write_bytes`, `create`, `compare_and_set`);
* published folders: objects first, `manifest.json` last. Without its manifest a folder does not exist.
  The manifest lists each object's sha256 and size; `fetch` verifies them.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from ..errors import InputError, WorkFailed

MANIFEST = "manifest.json"
STAGING = ".staging"
"""For what is not visible yet, or never will be; no list shows it."""
TRANSFER_THREADS = 8
PROGRESS_BYTES = 64 << 20

AnyModel = TypeVar("AnyModel", bound=BaseModel)


class ObjectInfo(BaseModel):
    """One object of a listing."""

    model_config = ConfigDict(frozen=True)

    key: str
    size: int
    """Bytes."""
    modified: datetime
    """When it was written, in UTC."""


@dataclass(frozen=True)
class Leftover:
    """What a writer that was killed left where no list shows it."""

    name: str
    size: int
    """Bytes."""
    remove: Callable[[], None]


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
    def leftovers(self, before: datetime) -> Iterator[Leftover]:
        """Parts of writes that were begun before that moment and are not going on."""

    @abstractmethod
    def _publish_files(self, prefix: str, files: dict[str, Path], manifest: bytes) -> None:
        """Put the files by their names under `prefix`, and last its manifest."""

    @abstractmethod
    def _copies(self, key: str, sha256: str, size: int) -> Iterator[Path]:
        """Local files that should have these bytes, `size` of them: each one only when those before had others.

        Raises FileNotFoundError when the store has no such object.
        """

    def exists(self, key: str) -> bool:
        try:
            self.read_bytes(key)
        except FileNotFoundError:
            return False
        return True

    def read_model(self, key: str, kind: type[AnyModel]) -> AnyModel:
        """The JSON object at `key`, as what it is. Raises FileNotFoundError, and CorruptObject when it is not one."""
        return self.parse(key, kind, self.read_bytes(key))

    def parse(self, key: str, kind: type[AnyModel], data: bytes) -> AnyModel:
        """The bytes read at `key` as what they are. Raises CorruptObject when they are something else."""
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, problem["loc"]))
            raise CorruptObject(
                f"{self.uri}/{key} cannot be read as {kind.__name__}: {field and field + ': '}{problem['msg']}; "
                "restore it from a copy"
            ) from error

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
        hashes = list(in_parallel(sha256_of_file, paths))
        files = {
            name: {"sha256": digest, "bytes": path.stat().st_size}
            for name, path, digest in zip(names, paths, hashes, strict=True)
        }
        complete = {**manifest, "files": files}
        self._publish_files(prefix, dict(zip(names, paths, strict=True)), json.dumps(complete, indent=1).encode())
        return complete

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
            sha256, size = files[name]["sha256"], files[name]["bytes"]
            try:
                for path in self._copies(f"{prefix}/{name}", sha256, size):
                    if sha256_of_file(path) == sha256:
                        return path
            except FileNotFoundError as error:
                raise CorruptObject(
                    f"{self.uri}/{prefix}/{name} stands in the manifest and is gone; "
                    f"restore it, or remove {prefix} and make it again"
                ) from error
            raise CorruptObject(
                f"{self.uri}/{prefix}/{name} does not have the sha256 that its manifest states; "
                f"restore it, or remove {prefix} and make it again"
            )

        sizes = sum(files[name]["bytes"] for name in wanted if name in files)
        return dict(zip(wanted, transfer(fetch_one, wanted, sizes, "reading"), strict=True))

    def published(self, prefix: str) -> Iterator[str]:
        """Prefixes of the published folders right under or below `prefix`, in order."""
        for item in self.list(prefix):
            if item.key.endswith(f"/{MANIFEST}"):
                yield item.key.removesuffix(f"/{MANIFEST}")


def in_parallel(function: Any, items: list[Any]) -> Iterator[Any]:
    """The function's result for each item, in order, computed by TRANSFER_THREADS threads."""
    with ThreadPoolExecutor(TRANSFER_THREADS) as pool:
        yield from pool.map(function, items)


def transfer(function: Any, items: list[Any], total_bytes: int, what: str) -> list[Any]:
    """Apply to all items in parallel, with a progress bar when there is something to wait for."""
    quiet = True if total_bytes < PROGRESS_BYTES else None  # None: quiet unless there is a terminal
    return list(
        tqdm(in_parallel(function, items), total=len(items), desc=what, unit="file", disable=quiet, leave=False)
    )
