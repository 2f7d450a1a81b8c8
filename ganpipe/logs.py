"""What happened in a run: its state, its log, its newest metrics; read from this machine where it is newer there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from .runs import open_run, read_state_record
from .settings import Settings
from .storage import Store

POLL_SECONDS = 1.0


def history(store: Store, run_id: str, settings: Settings) -> dict[str, Any]:
    """`run_id, created, state, detail, at, log` (lines) and `metrics` (the newest line), as JSON values.

    Raises InputError for a run that is not in the store.
    """
    record, _ = open_run(store, run_id)
    state = read_state_record(store, run_id)
    metrics = _lines(store, run_id, "metrics.jsonl", settings)
    return {
        "run_id": run_id,
        "created": record.created.isoformat(),
        "state": state.state if state else "begun",
        "detail": state.detail if state else "",
        "at": state.at.isoformat() if state else None,
        "log": _lines(store, run_id, "log.txt", settings),
        "metrics": json.loads(metrics[-1]) if metrics else None,
    }


def _lines(store: Store, run_id: str, name: str, settings: Settings) -> list[str]:
    """Complete lines of the longer copy: the store has those up to the last checkpoint, the machine that trains all."""
    found = []
    with suppress(FileNotFoundError):
        found.append(store.read_bytes(f"runs/{run_id}/{name}"))
    with suppress(FileNotFoundError):
        found.append((settings.home / "work" / run_id / name).read_bytes())
    longest = max(found, key=len, default=b"").decode(errors="replace")
    return longest[: longest.rfind("\n") + 1].splitlines()


def readable(found: dict[str, Any]) -> str:
    """The history as plain text."""
    return "\n".join([*_head(found), "", *(found["log"] or ["no log yet"]), *_tail(found)])


def _head(found: dict[str, Any]) -> list[str]:
    since = f", {found['at']}" if found["at"] else ""
    detail = f": {found['detail']}" if found["detail"] else ""
    return [f"run {found['run_id']}, begun {found['created']}", f"{found['state']}{since}{detail}"]


def _tail(found: dict[str, Any]) -> list[str]:
    if found["metrics"] is None:
        return ["", "no metrics yet"]
    values = found["metrics"]["metrics"]
    width = max(map(len, values), default=0)
    lines = [f"  {name.ljust(width)}  {value:.5g}" for name, value in sorted(values.items())]
    seen, hours = found["metrics"]["images_seen"] / 1000, found["metrics"]["seconds"] / 3600
    return ["", f"at {seen:g} kimg, after {hours:.3g} h", *lines]


def follow(store: Store, run_id: str, settings: Settings) -> Iterator[str]:
    """The history as it grows, line by line, until the training ends or Ctrl-C."""
    told = 0
    found = history(store, run_id, settings)
    yield from [*_head(found), ""]
    with suppress(KeyboardInterrupt):
        while True:
            yield from found["log"][told:]
            told = len(found["log"])
            if found["state"] not in ("begun", "running"):
                break
            time.sleep(POLL_SECONDS)
            found = history(store, run_id, settings)
    yield from _tail(found)
