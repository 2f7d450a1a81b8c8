"""What a source says of itself: first without reading any content, then all its rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..spec import Meanings

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""What image files end in, whatever the case."""
MAX_BYTES = 1 << 30
"""Of one image file: more than the largest image takes that is decoded, and little enough to be read whole."""


class Stat(NamedTuple):
    """What is known of a file without reading it.

    Any change of its bytes changes ctime, which only file systems have, or the ETag, which only S3 has.
    """

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int
    etag: str = ""

    @classmethod
    def of(cls, name: str, stat: os.stat_result) -> Stat:
        return cls(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@dataclass(frozen=True)
class Remote:
    """The bytes of an image file that is elsewhere."""

    size: int
    read: Callable[[], bytes]
    """Called by one of several threads, and only when the bytes are needed. Raises InputError and WorkFailed."""

    def __len__(self) -> int:
        return self.size


class Picture(NamedTuple):
    """One encoded image, or a pair."""

    name: str
    """For messages."""
    data: bytes | str | Remote | tuple[bytes, bytes] | tuple[str, str]
    """The bytes of an image file, or where they are: the path of a local one, or elsewhere. Two such are a source and
    its target."""
    key: bytes
    """32 bytes: equal keys of one source mean equal bytes, also from one night to the next."""

    @classmethod
    def of_bytes(cls, name: str, data: bytes) -> Picture:
        return cls(name, data, hashlib.sha256(data).digest())

    @classmethod
    def of_file(cls, path: str, stat: Stat, read: Callable[[], bytes] | None = None) -> Picture:
        """`read` is for files that are elsewhere; `path` is then only their name."""
        data = path if read is None else Remote(stat.size, read)
        return cls(path, data, hashlib.sha256(repr(tuple(stat)).encode()).digest())


@dataclass(frozen=True)
class Columns:
    """What rows have besides their image."""

    labels: list[int] | None = None
    """Number of each row's class."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, by number."""
    captions: list[str] | None = None
    said: list[tuple[int, ...]] | None = None
    """What each row's caption means: the value of every attribute of `meanings`, -1 where it says nothing of it."""
    meanings: Meanings | None = None
    splits: list[Literal["train", "test"]] | None = None
    """What each row is for, where its folder says so."""

    def of_rows(self, rows: Sequence[int]) -> Columns:
        """Those of some rows."""
        given = {name: getattr(self, name) for name in ("labels", "captions", "said", "splits")}
        some: dict[str, Any] = {name: [of[row] for row in rows] for name, of in given.items() if of is not None}
        return replace(self, **some)


@dataclass(frozen=True)
class Contents:
    """All rows of a source, in any order."""

    count: int
    pictures: Callable[[], Iterator[Picture]]
    """`count` of them, one at a time. Raises InputError when the source turns out to be damaged."""
    columns: Columns
    halves: Literal["AtoB", "BtoA"] | None = None
    """Each picture is two side by side, of which one is translated to the other."""
    enlarged: bool = True
    """Images smaller than what they are prepared to may be enlarged; otherwise they are refused."""


@dataclass(frozen=True)
class Found:
    """What a source holds now, known without reading any content."""

    place: str
    """For messages."""
    stats: tuple[Stat, ...]
    """Unchanged as long as the content is."""
    load: Callable[[Path], Contents]
    """Called with an empty folder for copies, which is removed when the rows have been read.

    Raises InputError when the content is not laid out as the configuration says.
    """
    tables: Mapping[str, Found] = field(default_factory=dict)
    """Of unpaired data: what each of the tables `a` and `b` is made of."""
