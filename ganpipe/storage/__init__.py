"""Where data sets, runs and models are kept: one interface, one module for each kind of place."""

from __future__ import annotations

from ..errors import InputError
from .base import (
    MANIFEST,
    Conflict,
    CorruptObject,
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
    "ObjectInfo",
    "Store",
    "open_store",
    "scratch_folder",
    "sha256_of_bytes",
    "sha256_of_file",
]


def open_store(uri: str) -> Store:
    """The store behind a URI. Raises InputError for a scheme that nothing serves."""
    if uri.startswith("file://"):
        return FileStore(uri)
    raise InputError(f"GANPIPE_STORE={uri!r}: only file:// stores are supported; use file:///absolute/folder")
