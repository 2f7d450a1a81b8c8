"""Image files in an S3 bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from tqdm import tqdm

from ..errors import InputError, WorkFailed
from ..sourceconfig import S3Source
from .files import found_files, hidden
from .found import Found, Stat

FIELD = "prepare.source.uri"


def s3(source: S3Source) -> Found:
    """Image files by suffix, below the prefix; hidden ones are left out, as in a folder. Reads the listing only.

    Raises InputError also for wrong keys and a bucket that is not there, WorkFailed when no server answers.
    """
    from ..storage.s3place import S3Listed, S3Place

    place = S3Place(source.uri, FIELD)

    def stat(item: S3Listed) -> Stat:
        if {"", ".", ".."}.intersection(item.key.split("/")):
            raise InputError(
                f"{FIELD}: in {place.uri}, the key {item.key!r} has a part that is empty, `.` or `..`, which names no "
                "file; rename the object, or remove it"
            )
        return Stat(item.key, item.size, round(item.modified.timestamp() * 1e9), 0, item.etag)

    def files() -> Iterator[tuple[str, Callable[[], Stat | str]]]:
        for item in tqdm(place.objects(), desc="listing", unit="object", delay=1, leave=False, disable=None):
            if not hidden(item.key):
                yield item.key, partial(stat, item)

    def read(file: Stat) -> bytes:
        found = place.read(file.name, file.etag)
        if found is None:
            raise WorkFailed(
                f"{place.uri}/{file.name} was removed or replaced after the bucket was listed; run it again when "
                "nobody writes there"
            )
        return found.data

    return found_files(files(), source, FIELD, place.uri, read, remote=True)
