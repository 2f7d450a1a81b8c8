"""Stores in an S3 bucket."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath

from botocore.exceptions import ClientError

from ..errors import InputError, WorkFailed
from .base import (
    MANIFEST,
    STAGING,
    Conflict,
    CorruptObject,
    Leftover,
    ObjectInfo,
    Store,
    check_key,
    in_parallel,
    transfer,
)
from .cache import Cache
from .s3errors import endpoint_variable
from .s3place import S3Object, S3Place, error_code

WRITE_TRIES = 20
WRITER = "ganpipe-write"
"""Metadata that tells whose write a racing one sees."""

_probed: set[tuple[str, str]] = set()
_probing = threading.Lock()


class S3Store(S3Place, Store):
    """A prefix of a bucket, with a cache on this machine for the files of published folders."""

    def __init__(self, uri: str, cache: Cache):
        super().__init__(uri, "GANPIPE_STORE")
        self.cache = cache

    # --- single objects ------------------------------------------------------------------------------------------

    def read_bytes(self, key: str) -> bytes:
        found = self._get(key)
        if found is None:
            raise FileNotFoundError(f"{self.uri}/{key} does not exist")
        return found.data

    def write_bytes(self, key: str, data: bytes) -> None:
        place = self._place(key)
        with self._explained(key):
            self._connected().client.put_object(**place, Body=data)

    def create(self, key: str, data: bytes) -> None:
        self.compare_and_set(key, data, expected=None)

    def compare_and_set(self, key: str, data: bytes, expected: bytes | None) -> None:
        """Raises InputError when the server does not honour conditional writes, as well."""
        place, writer = self._place(key), uuid.uuid4().hex
        self._require_conditional_writes()
        for attempt in range(WRITE_TRIES):
            found = self._get(key)
            if found is not None and found.metadata.get(WRITER) == writer:  # it was done, and the answer got lost
                return
            if (found.data if found else None) != expected:
                raise Conflict(f"{self.uri}/{key} was changed by somebody else in the meantime; try again")
            condition = {"IfMatch": found.etag} if found else {"IfNoneMatch": "*"}
            try:
                with self._explained(key, but=("409", "412", "404", "5")):
                    self._connected().client.put_object(**place, Body=data, Metadata={WRITER: writer}, **condition)
                return
            except ClientError:  # another was first, or a race confused the server: the object itself knows
                time.sleep(0.01 * attempt)
        raise WorkFailed(f"{self.uri}/{key} could not be written in {WRITE_TRIES} tries; try again")

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for item in self.objects(_checked(prefix) if prefix else ""):
            if not item.key.startswith(f"{STAGING}/"):
                yield ObjectInfo(key=item.key, size=item.size, modified=item.modified)

    def remove(self, prefix: str) -> None:
        self._delete(f"{prefix}/{MANIFEST}")
        self._delete(prefix)
        for _ in in_parallel(self._delete, [item.key for item in self.list(prefix)]):
            pass

    def leftovers(self, before: datetime) -> Iterator[Leftover]:
        """Uploads in parts that nobody completed: stored, and paid for, until they are aborted."""
        client, here = self._connected().client, self.whole_key("")
        with self._explained(""):
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=here):
                for upload in page.get("Uploads", []):
                    which = {"Bucket": self.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    if upload["Initiated"] < before:
                        parts = client.get_paginator("list_parts").paginate(**which)
                        size = sum(part["Size"] for listed in parts for part in listed.get("Parts", []))
                        name = upload["Key"].removeprefix(here)
                        yield Leftover(f"{name} (parts of an upload)", size, partial(self._abort, name, which))

    def _abort(self, key: str, upload: dict[str, str]) -> None:
        with self._explained(key):
            self._connected().client.abort_multipart_upload(**upload)

    def _get(self, key: str) -> S3Object | None:
        return self.read(_checked(key))

    def _delete(self, key: str) -> None:
        place = self._place(key)
        with self._explained(key):
            self._connected().client.delete_object(**place)

    # --- published folders ---------------------------------------------------------------------------------------

    def _publish_files(self, prefix: str, files: dict[str, Path], manifest: bytes) -> None:
        """Files that replace others make the folder disappear until they are all there; equal ones do not."""
        try:
            replaced = self.manifest(prefix)["files"] != json.loads(manifest)["files"]
        except FileNotFoundError:
            replaced = False
        except CorruptObject:
            replaced = True
        if replaced:
            self._delete(f"{prefix}/{MANIFEST}")
        sizes = sum(path.stat().st_size for path in files.values())
        transfer(lambda item: self._upload(f"{prefix}/{item[0]}", item[1]), list(files.items()), sizes, "uploading")
        self.write_bytes(f"{prefix}/{MANIFEST}", manifest)
        ours = {self._name(f"{prefix}/{name}") for name in (*files, MANIFEST)}
        for item in self.list(prefix):
            if self._name(item.key) not in ours:  # of the folder before, or of a publisher that was killed
                self._delete(item.key)

    def _upload(self, key: str, path: Path) -> None:
        name = self._name(key)
        with self._explained(key):
            self._connected().transfers.upload(str(path), self.bucket, name).result()

    def _copies(self, key: str, sha256: str, size: int) -> Iterator[Path]:
        name = self._name(key)

        def download(path: Path) -> None:
            with self._explained(key):
                try:
                    self._connected().transfers.download(self.bucket, name, str(path)).result()
                except ClientError as error:
                    if error_code(error) in ("404", "NoSuchKey"):
                        raise FileNotFoundError(f"{self.uri}/{key} does not exist") from error
                    raise

        if re.fullmatch("[0-9a-f]{64}", sha256):
            yield from self.cache.copies(sha256, PurePosixPath(key).name, size, download)

    # --- the server ----------------------------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        """The object's whole key in the bucket."""
        return self.whole_key(_checked(key))

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._name(key)}

    def _require_conditional_writes(self) -> None:
        """Raises InputError when the server lets a writer win who should not; each process asks once."""
        server = (self._connected().endpoint, self.bucket)
        with _probing:
            if server in _probed:
                return
            if missing := self._ignored() and self._ignored():  # a lost answer looks the same: once is no proof
                raise InputError(
                    f"{self.uri}: the server at {server[0]} does not honour {' and '.join(missing)} when it writes, so "
                    f"two processes could both win a race; set GANPIPE_STORE or {endpoint_variable()} to a server with "
                    "conditional writes, like AWS S3 or Ceph's radosgw"
                )
            _probed.add(server)

    def _ignored(self) -> tuple[str, ...]:
        """The conditional headers that the server does not honour, found by writing."""
        key = f"{STAGING}/{uuid.uuid4().hex}"

        def write(**condition: str) -> str | None:
            with self._explained(key, but=("409", "412", "400", "501")):
                try:
                    answer = self._connected().client.put_object(
                        **self._place(key), Body=uuid.uuid4().bytes, **condition
                    )
                except ClientError:
                    return None
                return str(answer["ETag"]).strip('"')

        try:
            first = write(IfNoneMatch="*")
            again = write(IfNoneMatch="*")
            now = write()
            matching = write(IfMatch=now or "")
            stale = write(IfMatch=now or "")
        finally:
            self._delete(key)
        honoured = {"If-None-Match": first and not again, "If-Match": matching and not stale}
        return tuple(name for name, well in honoured.items() if not well)


def _checked(key: str) -> str:
    return str(PurePosixPath(check_key(key)))
