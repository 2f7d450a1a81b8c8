"""What was prepared before: a note per source and preparation of the files' stats and the digest they led to."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..config import PrepareConfig
from .sources import Found

FORMAT: Final = 1


class Entry(BaseModel):
    """One file of the index."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal[1] = FORMAT
    stats_sha256: str
    """Over name, size, mtime and ctime of every file of the source."""
    digest: str
    """The data set that they were prepared to."""
    skipped: int
    """Unreadable images that were left out."""


def look_up(folder: Path, config: PrepareConfig, found: Found) -> Entry | None:
    """The entry whose files are those found now; None when there is none, or none that can be read."""
    try:
        entry = Entry.model_validate_json(_path(folder, config).read_bytes())
    except (OSError, ValidationError):
        return None
    return entry if entry.stats_sha256 == _stats_sha256(found) else None


def record(folder: Path, config: PrepareConfig, found: Found, digest: str, skipped: int) -> None:
    """Write the entry; readers see the old one or the new one."""
    path = _path(folder, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = Entry(stats_sha256=_stats_sha256(found), digest=digest, skipped=skipped)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".new", delete=False) as stream:
        stream.write(entry.model_dump_json(indent=1))
    Path(stream.name).replace(path)


def _path(folder: Path, config: PrepareConfig) -> Path:
    described = config.model_dump(mode="json")
    if "path" in described["source"]:
        described["source"]["path"] = os.path.realpath(Path(described["source"]["path"]).expanduser())
    return folder / f"{_sha256_of_json(described)[:32]}.json"


def _stats_sha256(found: Found) -> str:
    return _sha256_of_json(found.stats)


def _sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
