"""What a store need not keep: checkpoints beyond `register.keep`, and what killed writers left.

Only what is known to be garbage is named: unknown files, runs in progress and anything younger than a day stay.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from . import retention
from .errors import GanpipeError
from .registerconfig import KeepConfig
from .runs import open_run, read_state, run_ids
from .storage import MANIFEST, ObjectInfo, Store

log = logging.getLogger(__name__)

MIN_AGE = timedelta(days=1)
"""A writer that has not finished by then will not."""
PUBLISHED = {
    r"runs/[^/]+/checkpoints/kimg-\d{6}\.\d{3}": r"(generator|training|rank-\d{5})\.safetensors|progress\.json",
    r"datasets/[0-9a-f]{32}": r"[\w.-]+\.(npy|json)",
    r"extractors/(inception|[0-9a-f]{64})": r"\w+\.safetensors",
}
"""Folders that do not exist without their manifest, and the files that ganpipe writes there."""


@dataclass(frozen=True)
class Garbage:
    """Something that may go."""

    what: str
    """Key, or prefix, in the store."""
    size: int
    """Bytes."""
    why: str
    remove: Callable[[], None]


def find_garbage(store: Store, now: datetime, default: KeepConfig | None = None) -> Iterator[Garbage]:
    """All that may go. `default` is the rule for runs whose own configuration has no `register.keep`."""
    objects = list(store.list())
    running = {run_id for run_id in run_ids(store) if read_state(store, run_id) == "running"}
    for run_id in sorted(running):
        log.info("run %s is in progress and left alone; if its process was killed, resume it first", run_id)
    yield from _beyond_keep(store, objects, default)
    yield from _unpublished(store, objects, running, now - MIN_AGE)
    for left in store.leftovers(now - MIN_AGE):
        yield Garbage(left.name, left.size, "left by a writer that was killed", left.remove)


def _beyond_keep(store: Store, objects: list[ObjectInfo], default: KeepConfig | None) -> Iterator[Garbage]:
    safe = retention.protected(store)
    for run_id in run_ids(store):
        try:
            keep = open_run(store, run_id)[1].registration.keep or default
            refs = retention.removable(store, run_id, keep, safe)
        except GanpipeError as error:
            log.warning("the checkpoints of %s are left alone: %s", run_id, error)
            continue
        for ref in refs:
            size = sum(item.size for item in objects if item.key.startswith(f"{ref.prefix}/"))
            assert keep is not None
            why = f"neither among the last {keep.last} nor the best {keep.best}, and never champion"
            yield Garbage(ref.prefix, size, why, partial(store.remove, ref.prefix))


def _unpublished(store: Store, objects: list[ObjectInfo], running: set[str], before: datetime) -> Iterator[Garbage]:
    """Folders whose publication was begun long ago and never completed."""
    for prefix, items in _by_folder(objects).items():
        if not (prefix.startswith("runs/") and prefix.split("/")[1] in running) and _abandoned(prefix, items, before):
            size = sum(item.size for item in items)
            remove = partial(_remove_abandoned, store, prefix, before)
            yield Garbage(prefix, size, "without a manifest: its publication was killed", remove)


def _by_folder(objects: list[ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    folders: dict[str, list[ObjectInfo]] = {}
    for item in objects:
        folders.setdefault(item.key.rpartition("/")[0], []).append(item)
    return folders


def _abandoned(prefix: str, items: list[ObjectInfo], before: datetime) -> bool:
    files = next((files for folder, files in PUBLISHED.items() if re.fullmatch(folder, prefix)), None)
    names = [item.key.rpartition("/")[2] for item in items]
    return (
        files is not None
        and MANIFEST not in names
        and all(re.fullmatch(files, name) for name in names)
        and all(item.modified < before for item in items)
    )


def _remove_abandoned(store: Store, prefix: str, before: datetime) -> None:
    """Unless somebody has begun to publish there."""
    items = list(store.list(prefix))
    if items and _abandoned(prefix, items, before):
        store.remove(prefix)
