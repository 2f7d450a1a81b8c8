"""Where data sets, runs and models are kept: one interface, one module for each kind of place."""

from __future__ import annotations

from ..errors import InputError
from ..settings import Settings
from .base import (
    MANIFEST,
    Conflict,
    CorruptObject,
    Leftover,
    ObjectInfo,
    Store,
    sha256_of_bytes,
    sha256_of_file,
)
from .file import FileStore, scratch_folder

__all__ = [
    "MANIFEST",
    "Conflict",
    "CorruptObject",
    "FileStore",
    "Leftover",
    "ObjectInfo",
    "Store",
    "open_store",
    "scratch_folder",
    "sha256_of_bytes",
    "sha256_of_file",
]


def open_store(uri: str) -> Store:
    """The store behind a URI. Raises InputError for a scheme that nothing serves.

    Copies of what is in S3 are kept in the folder, and up to the size, that the settings of this process name.
    """
    if uri.startswith("file://"):
        return FileStore(uri)
    if uri.startswith("s3://"):
        from .cache import Cache
        from .s3 import S3Store

        settings = Settings.from_environment()
        return S3Store(uri, Cache(settings.home / "cache", settings.cache_gb * 1e9))
    raise InputError(f"GANPIPE_STORE={uri!r}: use file:///absolute/folder or s3://bucket/prefix")
