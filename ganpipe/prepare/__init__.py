"""Stage 1: from a source of images to content-addressed shards in the store.

Importing this is cheap: what is prepared already is found without decoding, or loading the libraries that decode.
"""

from __future__ import annotations

import logging

from ..config import RunConfig
from ..refs import DatasetRef
from ..settings import Settings
from ..storage import Store, open_store, scratch_folder
from . import index
from .checks import check_rows
from .manifest import DataManifest
from .sources import Found, find

log = logging.getLogger(__name__)


def run(config: RunConfig, settings: Settings) -> DatasetRef:
    """Prepare the data of a run, unless that was done before and no file has changed since.

    Raises InputError when the source is missing or empty, images are unreadable, or there are too few for the run's
    batch or metric. Nothing is published then.
    """
    store = open_store(settings.store)
    found = find(config.prepare.source)
    entry = index.look_up(settings.home / "index", config.prepare, found)
    if entry is not None and (manifest := DataManifest.read(store, entry.digest)) is not None:
        ref = manifest.ref
        check_rows(ref.rows, config)
        left_out = f", {entry.skipped:,} unreadable ones left out" if entry.skipped else ""
        log.info("already prepared: data set %s, %s images%s", ref.digest, f"{sum(ref.rows.values()):,}", left_out)
        return ref
    return _prepare(config, settings, store, found)


def _prepare(config: RunConfig, settings: Settings, store: Store, found: Found) -> DatasetRef:
    from .decode import decode
    from .shards import write_shards

    log.info("preparing %s", found.place)
    with scratch_folder(settings.local_folder("work"), "prepare-") as work:
        rows = decode(found.load(), config.prepare, work / "pixels")
        shards = work / "shards"
        shards.mkdir()
        manifest = write_shards(rows, config.prepare, shards)
        ref = manifest.ref
        check_rows(ref.rows, config)
        if DataManifest.read(store, ref.digest) is None:
            store.publish(f"datasets/{ref.digest}", shards, manifest.model_dump(mode="json"))
    index.record(settings.home / "index", config.prepare, found, ref.digest, rows.skipped)
    log.info(
        "prepared data set %s: %s images (%s), %s of them exact duplicates of others",
        ref.digest,
        f"{len(rows.hashes):,}",
        ", ".join(f"{name} {count:,}" for name, count in ref.rows.items()),
        f"{len(rows.hashes) - len(set(rows.hashes)):,}",
    )
    return ref
