"""A training's progress as an artifact of Prefect's, from the run's metrics; nothing of it may touch the training."""

from __future__ import annotations

import contextvars
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from ganpipe.config import RunConfig
from ganpipe.runs import RunRecord
from ganpipe.settings import Settings

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
LAST_WORDS_SECONDS = 5.0


@contextmanager
def progress_of(config: RunConfig, record: RunRecord, settings: Settings) -> Iterator[None]:
    """While the block trains, its task shows how far it is. Whatever goes wrong with that is logged, and no more."""
    ended = threading.Event()
    path = settings.home / "work" / record.run_id / "metrics.jsonl"
    key = f"training-{config.registration.model}".lower().replace("_", "-").replace(".", "-")

    def follow() -> None:
        artifact: UUID | None = None
        told = None
        over = False
        while not over:
            over = ended.wait(EVERY_SECONDS)
            try:
                line = _newest_line(path)
                if line is None or line == told:
                    continue
                percent, text = _so_far(line, config)
                if artifact is None:
                    artifact = create_progress_artifact(percent, key=key, description=text)  # type: ignore[assignment]
                else:
                    update_progress_artifact(artifact, percent, description=text)
                told = line
            except Exception as error:
                log.debug("the progress of %s was not told: %s", record.run_id, error)

    # in a copy of the task's context, to which the artifact then belongs
    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LAST_WORDS_SECONDS)


def _newest_line(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - (1 << 16)))
            lines = stream.read().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    whole = [line for line in lines if line.endswith(b"\n")]
    return json.loads(whole[-1]) if whole else None


def _so_far(line: dict[str, Any], config: RunConfig, now: datetime | None = None) -> tuple[float, str]:
    """Percent of the nearest limit, and a sentence."""
    stop, kimg, hours = config.train.stop, line["images_seen"] / 1000, line["seconds"] / 3600
    shares, limits = [0.0], []
    if stop.kimg is not None:
        shares.append(kimg / stop.kimg)
        limits.append(f"of {stop.kimg:g} kimg")
    if stop.hours is not None:
        shares.append(hours / stop.hours)
        limits.append(f"within {stop.hours:g} h")
    if stop.at is not None:
        limits.append(f"until {stop.at}")
        hour, minute = map(int, stop.at.split(":"))
        now = now or datetime.now()
        left = ((hour * 60 + minute - stop.reserve_minutes - now.hour * 60 - now.minute) % (24 * 60)) / 60
        shares.append(hours / (hours + left) if hours + left else 1.0)
    speed = line["metrics"].get("progress/images_per_second", 0)
    text = f"{kimg:.1f} kimg {', '.join(limits)}: {speed:,.0f} images/s, {hours:.2f} h"
    return min(100.0, 100 * max(shares)), text
