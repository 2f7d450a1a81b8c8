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
    from .earlier import Earlier

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
        check_rows(manifest, config)
        left_out = f", {entry.skipped:,} unreadable ones left out" if entry.skipped else ""
        log.info("already prepared: data set %s, %s images%s", ref.digest, f"{sum(ref.rows.values()):,}", left_out)
        return ref
    return _prepare(config, config.prepare, settings, store, found)


def _prepare(config: RunConfig, prepare: PrepareConfig, settings: Settings, store: Store, found: Found) -> DatasetRef:
    from .earlier import Earlier

    log.info("preparing %s", found.place)
    earlier = None if found.tables else Earlier.find(settings.home / "index", store, prepare)
    with scratch_folder(settings.local_folder("work"), "prepare-") as work:
        tables = _decode(prepare, found, work, earlier)
        manifest = _publish(tables, config, store, work / "shards")
    keys, hashes = ([one for rows in tables.values() for one in getattr(rows, name)] for name in ("keys", "hashes"))
    skipped = sum(rows.skipped for rows in tables.values())
    index.record(settings.home / "index", prepare, found, manifest.digest, skipped, keys, hashes)
    log.info(
        "prepared data set %s: %s images (%s), %s of them exact duplicates of others",
        manifest.digest,
        f"{len(hashes):,}",
        "; ".join(
            ("" if name == "main" else f"{name}: ")
            + ", ".join(f"{split} {stop - start:,}" for split, (start, stop) in table.splits.items())
            for name, table in manifest.tables.items()
        ),
        f"{sum(len(rows.hashes) - len(set(rows.hashes)) for rows in tables.values()):,}",
    )
    if earlier is not None:
        added, removed = earlier.difference(hashes)
        decoded = tables["main"].decoded
        log.info(
            "+%s -%s against data set %s; %s images decoded, %s taken from there",
            *(f"{n:,}" for n in (added, removed)),
            earlier.digest,
            *(f"{n:,}" for n in (decoded, len(hashes) - decoded)),
        )
    return manifest.ref


def _decode(prepare: PrepareConfig, found: Found, work: Path, earlier: Earlier | None) -> dict[str, Rows]:
    """Rows of every table."""
    from .decode import decode

    if found.tables:
        from .unpaired import decode_sides

        return decode_sides(found, prepare, work)
    (copies := work / "source").mkdir()
    if isinstance(prepare.source, StackedDigitsSource):
        from .digits import stacked

        single = decode(found.load(copies), prepare.model_copy(update={"channels": 1}), work / "digits")
        return {"main": stacked(single, prepare, prepare.source, work / "pixels")}
    return {"main": decode(found.load(copies), prepare, work / "pixels", earlier)}


def _draw_points(config: RunConfig, prepare: PointsConfig, settings: Settings, store: Store) -> DatasetRef:
    """Points are drawn every time: it takes no longer than to look up whether they were."""
    from .mixtures import draw_rows

    with scratch_folder(settings.local_folder("work"), "prepare-") as work:
        ref = _publish({"main": draw_rows(prepare)}, config, store, work / "shards").ref
    log.info("data set %s: %s points of %s", ref.digest, f"{sum(ref.rows.values()):,}", prepare.source.name)
    return ref


def _publish(tables: dict[str, Rows], config: RunConfig, store: Store, folder: Path) -> DataManifest:
    """Rows as a data set in the store, by way of a new local folder. Raises InputError when they are too few."""
    from .shards import write_shards

    folder.mkdir()
    manifest = write_shards(tables, config.prepare, folder)
    check_rows(manifest, config)
    if DataManifest.read(store, manifest.digest) is None:
        store.publish(f"datasets/{manifest.digest}", folder, manifest.model_dump(mode="json"))
    return manifest
