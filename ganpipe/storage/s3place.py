"""A prefix of an S3 bucket as boto3 reaches it, with its errors in words.

Endpoint, region and keys come from boto3's own variables (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, ...).
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import boto3.session
import botocore.session
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader, create_loader

from ..errors import InputError
from .s3errors import ERRORS, endpoint_variable, explained, without_secrets

SCHEME = "s3://"
BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}"
CONNECT_SECONDS = 5
READ_SECONDS = 30
ATTEMPTS = 4
"""Of one request; boto3 waits between them, 7 s at most in all."""
PART_BYTES = 16 << 20
PART_THREADS = 16
"""Parts and files in transfer at the same time."""
CONNECTIONS = 32
"""Kept open: for parts, and for requests beside them."""


@dataclass(frozen=True)
class _Connection:
    """Clients do not survive a fork, so each process has its own."""

    pid: int
    client: Any
    transfers: Any
    endpoint: str


@functools.cache
def _descriptions() -> Loader:
    """Of services and their endpoints, many megabytes of JSON that every session would read for itself."""
    return create_loader(botocore.session.Session().get_config_variable("data_path"))


class S3Listed(NamedTuple):
    """One object of a listing."""

    key: str
    """Relative to the prefix."""
    size: int
    """Bytes."""
    etag: str
    """Another one whenever the bytes are others."""
    modified: datetime
    """When it was written, to the second or millisecond."""


@dataclass(frozen=True)
class S3Object:
    """One object that was read."""

    data: bytes
    etag: str
    metadata: Mapping[str, str]


class S3Place:
    """A prefix of a bucket. All methods are safe to call from several threads and processes.

    All of them raise InputError for what a setting mends (no such bucket, wrong keys), WorkFailed for what may go
    better later (nobody answers).
    """

    def __init__(self, uri: str, setting: str):
        """`setting` is where the URI stands, for messages. Raises InputError when it is no s3://bucket/prefix."""
        bucket, _, prefix = uri.removeprefix(SCHEME).partition("/")
        parts = [part for part in prefix.split("/") if part]
        if not uri.startswith(SCHEME) or not re.fullmatch(BUCKET, bucket) or {".", ".."} & {*parts}:
            raise InputError(f"{uri!r} is no place in S3: set {setting} to s3://bucket/prefix")
        self.bucket, self.prefix, self.setting = bucket, "/".join(parts), setting
        self.uri = f"{SCHEME}{bucket}/{self.prefix}".removesuffix("/")
        self._connecting = threading.Lock()
        self._connection: _Connection | None = None

    def whole_key(self, key: str) -> str:
        """The key in the bucket, of one relative to the prefix."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def objects(self, under: str = "") -> Iterator[S3Listed]:
        """Objects below the prefix, or below its "folder" `under`, in the order of their keys.

        Empty objects whose names end in a slash, as consoles make them for folders, are left out.
        """
        top = self.whole_key(under).removesuffix("/")
        with self._explained(under):
            pages = self._connected().client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=f"{top}/" if top else ""):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        yield S3Listed(
                            item["Key"].removeprefix(self.whole_key("")),
                            item["Size"],
                            item["ETag"].strip('"'),
                            item["LastModified"],
                        )

    def read(self, key: str, etag: str | None = None) -> S3Object | None:
        """The object at a key relative to the prefix; None when there is none, or none with this ETag."""
        with self._explained(key):
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    answer = self._connected().client.get_object(Bucket=self.bucket, Key=self.whole_key(key))
                except ClientError as error:
                    if error_code(error) == "NoSuchKey":
                        return None
                    raise
                found = answer["ETag"].strip('"')
                if etag not in (None, found):
                    answer["Body"].close()
                    return None
                try:
                    return S3Object(answer["Body"].read(), found, answer["Metadata"])
                except BotoCoreError:  # boto3 itself repeats requests only
                    if attempt == ATTEMPTS:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def _connected(self) -> _Connection:
        with self._connecting:
            if self._connection is None or self._connection.pid != os.getpid():
                self._connection = self._connect()
            return self._connection

    def _connect(self) -> _Connection:
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS,
        )
        try:
            core = botocore.session.Session()
            core.register_component("data_loader", _descriptions())
            client = boto3.session.Session(botocore_session=core).client("s3", config=config)
        except ValueError as error:
            raise InputError(f"{self.uri}: {endpoint_variable()} is no address of a server: {error}") from error
        except ERRORS as error:
            raise explained(error, self.uri, "the S3 server", self.setting) from error
        parts = TransferConfig(
            multipart_threshold=2 * PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=PART_THREADS,
            preferred_transfer_client="classic",
        )
        endpoint = without_secrets(client.meta.endpoint_url)
        return _Connection(os.getpid(), client, create_transfer_manager(client, parts), endpoint)

    @contextmanager
    def _explained(self, key: str, but: tuple[str, ...] = ()) -> Iterator[None]:
        """Speaks of what went wrong, save for answers whose status begins like one of `but`."""
        try:
            yield
        except ERRORS as error:
            if isinstance(error, ClientError) and _status(error).startswith(but or ("none",)):
                raise
            place = f"{self.uri}/{key}".removesuffix("/")
            raise explained(error, place, self._connected().endpoint, self.setting) from error


def error_code(error: ClientError) -> str:
    """S3's word for what went wrong, `NoSuchKey` for one."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> str:
    return str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
