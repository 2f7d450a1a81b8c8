"""Stage 1: from a source of images or points to content-addressed shards in the store.

Importing this is cheap: what is prepared already is found without decoding, or loading the libraries that decode.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import RunConfig
from ..prepareconfig import PointsConfig, PrepareConfig
from ..refs import DatasetRef
from ..settings import Settings
from ..sourceconfig import StackedDigitsSource
from ..storage import Store, open_store, scratch_folder
from . import index
from .checks import check_rows
from .found import Found
from .manifest import DataManifest
from .sources import find

if TYPE_CHECKING:
    from .decode import Rows

log = logging.getLogger(__name__)


def run(config: RunConfig, settings: Settings) -> DatasetRef:
    """Prepare the data of a run, unless that was done before and no file has changed since.

    Raises InputError when the source is missing or empty, images are unreadable, or there are too few for the run's
    batch or metric. Nothing is published then.
    """
    store = open_store(settings.store)
    if isinstance(config.prepare, PointsConfig):
        return _draw_points(config, config.prepare, settings, store)
    found = find(config.prepare.source)
    entry = index.look_up(settings.home / "index", config.prepare, found)
    if entry is not None and (manifest := DataManifest.read(store, entry.digest)) is not None:
        ref = manifest.ref
        check_rows(ref.rows, config)
        left_out = f", {entry.skipped:,} unreadable ones left out" if entry.skipped else ""
        log.info("already prepared: data set %s, %s images%s", ref.digest, f"{sum(ref.rows.values()):,}", left_out)
        return ref
    return _prepare(config, config.prepare, settings, store, found)


def _prepare(config: RunConfig, prepare: PrepareConfig, settings: Settings, store: Store, found: Found) -> DatasetRef:
    from .decode import decode
    from .earlier import Earlier

    log.info("preparing %s", found.place)
    earlier = None
    with scratch_folder(settings.local_folder("work"), "prepare-") as work:
        (copies := work / "source").mkdir()
        if isinstance(prepare.source, StackedDigitsSource):
            from .digits import stacked

            single = decode(found.load(copies), prepare.model_copy(update={"channels": 1}), work / "digits")
            rows = stacked(single, prepare, prepare.source, work / "pixels")
        else:
            earlier = Earlier.find(settings.home / "index", store, prepare)
            rows = decode(found.load(copies), prepare, work / "pixels", earlier)
        ref = _publish(rows, config, store, work / "shards")
    index.record(settings.home / "index", prepare, found, ref.digest, rows.skipped, rows.keys, rows.hashes)
    log.info(
        "prepared data set %s: %s images (%s), %s of them exact duplicates of others",
        ref.digest,
        f"{len(rows.hashes):,}",
        ", ".join(f"{name} {count:,}" for name, count in ref.rows.items()),
        f"{len(rows.hashes) - len(set(rows.hashes)):,}",
    )
    if earlier is not None:
        added, removed = earlier.difference(rows.hashes)
        log.info(
            "+%s -%s against data set %s; %s images decoded, %s taken from there",
            *(f"{n:,}" for n in (added, removed)),
            earlier.digest,
            *(f"{n:,}" for n in (rows.decoded, len(rows.hashes) - rows.decoded)),
        )
    return ref


def _draw_points(config: RunConfig, prepare: PointsConfig, settings: Settings, store: Store) -> DatasetRef:
    """Points are drawn every time: it takes no longer than to look up whether they were."""
    from .mixtures import draw_rows

    with scratch_folder(settings.local_folder("work"), "prepare-") as work:
        ref = _publish(draw_rows(prepare), config, store, work / "shards")
    log.info("data set %s: %s points of %s", ref.digest, f"{sum(ref.rows.values()):,}", prepare.source.name)
    return ref


def _publish(rows: Rows, config: RunConfig, store: Store, folder: Path) -> DatasetRef:
    """Rows as a data set in the store, by way of a new local folder. Raises InputError when they are too few."""
    from .shards import write_shards

    folder.mkdir()
    manifest = write_shards(rows, config.prepare, folder)
    ref = manifest.ref
    check_rows(ref.rows, config)
    if DataManifest.read(store, ref.digest) is None:
        store.publish(f"datasets/{ref.digest}", folder, manifest.model_dump(mode="json"))
    return ref
