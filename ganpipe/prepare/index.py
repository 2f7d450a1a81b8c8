"""What was prepared before: a note per source and preparation of the files' stats and the digest they led to.

Beside it lies which picture became which row, so that a source that has grown is not decoded from the start.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ..prepareconfig import PrepareConfig
from .found import Found

FORMAT: Final = 1


class Entry(BaseModel):
    """One file of the index."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal[1] = FORMAT
    stats_sha256: str
    """Over what is known of every file of the source without reading it; see `Stat`."""
    digest: str
    """The data set that they were prepared to."""
    skipped: int
    """Unreadable images that were left out."""
    decoder: str = ""
    """Library and version that the rows were decoded with: another one may decode to other pixels."""


def look_up(folder: Path, config: PrepareConfig, found: Found) -> Entry | None:
    """The entry whose files are those found now; None when there is none, or none that can be read."""
    try:
        entry = Entry.model_validate_json(_path(folder, config).read_bytes())
    except (OSError, ValidationError):
        return None
    return entry if entry.stats_sha256 == _stats_sha256(found) else None


def rows(folder: Path, config: PrepareConfig) -> tuple[str, list[bytes], list[bytes]] | None:
    """The newest data set's digest, with the key of the picture and the sha256 of the pixels of each of its rows.

    None when there is none that can be read, or it was decoded by another version.
    """
    path = _path(folder, config)
    try:
        entry = Entry.model_validate_json(path.read_bytes())
        pairs = np.load(path.with_suffix(".npy"), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if entry.decoder != _decoder() or pairs.dtype != np.uint8 or pairs.shape[1:] != (2, 32):
        return None
    return entry.digest, [key.tobytes() for key in pairs[:, 0]], [pixels.tobytes() for pixels in pairs[:, 1]]


def record(
    folder: Path, config: PrepareConfig, found: Found, digest: str, skipped: int, keys: list[bytes], hashes: list[bytes]
) -> None:
    """Write the entry, and `keys` and `hashes` as `rows` returns them; readers see old files or new ones."""
    path = _path(folder, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = io.BytesIO()
    columns = [np.frombuffer(b"".join(column), np.uint8).reshape(-1, 32) for column in (keys, hashes)]
    np.save(pairs, np.stack(columns, 1), allow_pickle=False)
    entry = Entry(stats_sha256=_stats_sha256(found), digest=digest, skipped=skipped, decoder=_decoder())
    _replace(path.with_suffix(".npy"), pairs.getvalue())
    _replace(path, entry.model_dump_json(indent=1).encode())


def _replace(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=".new", delete=False) as stream:
        stream.write(data)
    Path(stream.name).replace(path)


def _decoder() -> str:
    return f"Pillow {importlib.metadata.version('pillow')}"


def _path(folder: Path, config: PrepareConfig) -> Path:
    described = config.model_dump(mode="json")
    if "path" in described["source"]:
        described["source"]["path"] = os.path.realpath(Path(described["source"]["path"]).expanduser())
    return folder / f"{_sha256_of_json(described)[:32]}.json"


def _stats_sha256(found: Found) -> str:
    return _sha256_of_json(found.stats)


def _sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
