"""Stores in an S3 bucket.

Endpoint, region and keys come from boto3's own variables (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, ...).
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import boto3.session
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ..errors import InputError, WorkFailed
from .base import (
    MANIFEST,
    TRANSFER_THREADS,
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
from .s3errors import ERRORS, endpoint_variable, explained, without_secrets

SCHEME = "s3://"
BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}"
STAGING = ".staging"
"""Where the server is tried out; no list shows it."""
CONNECT_SECONDS = 5
READ_SECONDS = 30
ATTEMPTS = 4
"""Of one request; boto3 waits between them, 7 s at most in all."""
PART_BYTES = 16 << 20
PART_THREADS = 16
"""Parts and files in transfer at the same time."""
WRITE_TRIES = 20
WRITER = "ganpipe-write"
"""Metadata that tells whose write a racing one sees."""

_probed: set[tuple[str, str]] = set()
_probing = threading.Lock()


@dataclass(frozen=True)
class _Connection:
    """Clients do not survive a fork, so each process has its own."""

    pid: int
    client: Any
    transfers: Any
    endpoint: str


@dataclass(frozen=True)
class _Object:
    data: bytes
    etag: str
    writer: str | None


class S3Store(Store):
    """A prefix of a bucket, with a cache on this machine for the files of published folders."""

    def __init__(self, uri: str, cache: Cache):
        self.bucket, self.prefix = _bucket_and_prefix(uri)
        self.uri = f"{SCHEME}{self.bucket}/{self.prefix}".removesuffix("/")
        self.cache = cache
        self._connecting = threading.Lock()
        self._connection: _Connection | None = None

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
            if found is not None and found.writer == writer:  # it was done, and the answer got lost
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
        top = self._name(prefix) if prefix else self.prefix
        with self._explained(prefix):
            pages = self._connected().client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=f"{top}/" if top else ""):
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(f"{self.prefix}/") if self.prefix else item["Key"]
                    if not key.endswith("/") and not key.startswith(f"{STAGING}/"):  # / ends a console's "folder"
                        yield ObjectInfo(key=key, size=item["Size"], modified=item["LastModified"])

    def remove(self, prefix: str) -> None:
        self._delete(f"{prefix}/{MANIFEST}")
        self._delete(prefix)
        for _ in in_parallel(self._delete, [item.key for item in self.list(prefix)]):
            pass

    def leftovers(self, before: datetime) -> Iterator[Leftover]:
        """Uploads in parts that nobody completed: stored, and paid for, until they are aborted."""
        client, here = self._connected().client, f"{self.prefix}/" if self.prefix else ""
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

    def _get(self, key: str) -> _Object | None:
        place = self._place(key)
        with self._explained(key):
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    answer = self._connected().client.get_object(**place)
                except ClientError as error:
                    if _code(error) == "NoSuchKey":
                        return None
                    raise
                try:
                    data = answer["Body"].read()
                except BotoCoreError:  # boto3 itself repeats requests only
                    if attempt == ATTEMPTS:
                        raise
                else:
                    return _Object(data, answer["ETag"].strip('"'), answer["Metadata"].get(WRITER))
        raise AssertionError("the last attempt returns or raises")

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
                    if _code(error) in ("404", "NoSuchKey"):
                        raise FileNotFoundError(f"{self.uri}/{key} does not exist") from error
                    raise

        if re.fullmatch("[0-9a-f]{64}", sha256):
            yield from self.cache.copies(sha256, PurePosixPath(key).name, size, download)

    # --- the server ----------------------------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        """The object's whole key in the bucket."""
        return f"{self.prefix}/{PurePosixPath(check_key(key))}".removeprefix("/")

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._name(key)}

    def _connected(self) -> _Connection:
        with self._connecting:
            if self._connection is None or self._connection.pid != os.getpid():
                self._connection = _connect(self.uri)
            return self._connection

    @contextmanager
    def _explained(self, key: str, but: tuple[str, ...] = ()) -> Iterator[None]:
        """Speaks of what went wrong, save for answers whose status begins like one of `but`."""
        try:
            yield
        except ERRORS as error:
            if isinstance(error, ClientError) and _status(error).startswith(but or ("none",)):
                raise
            raise explained(error, f"{self.uri}/{key}".removesuffix("/"), self._connected().endpoint) from error

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


def _bucket_and_prefix(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix(SCHEME).partition("/")
    parts = [part for part in prefix.split("/") if part]
    if not uri.startswith(SCHEME) or not re.fullmatch(BUCKET, bucket) or {".", ".."} & {*parts}:
        raise InputError(f"{uri!r} is not an S3 store: set GANPIPE_STORE to s3://bucket/prefix")
    return bucket, "/".join(parts)


def _connect(uri: str) -> _Connection:
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=PART_THREADS + 2 * TRANSFER_THREADS,
    )
    try:
        client = boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        raise InputError(f"{uri}: {endpoint_variable()} is no address of a server: {error}") from error
    except ERRORS as error:
        raise explained(error, uri, "the S3 server") from error
    parts = TransferConfig(
        multipart_threshold=2 * PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=PART_THREADS,
        preferred_transfer_client="classic",
    )
    endpoint = without_secrets(client.meta.endpoint_url)
    return _Connection(os.getpid(), client, create_transfer_manager(client, parts), endpoint)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> str:
    return str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
