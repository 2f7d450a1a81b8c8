"""The commands that measure images of any origin, and those of the weights they are measured with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .commands import Outcome
from .errors import InputError

if TYPE_CHECKING:
    from .settings import Settings


def score(args: argparse.Namespace, settings: Settings) -> Outcome:
    from .evaluate.metrics import default_metric
    from .evaluate.protocol import headline
    from .evaluate.scoring import score_images
    from .tables import INTERVAL, INTERVAL_NOTE, aligned, compared, control_columns

    result = score_images(
        args.real,
        args.generated,
        settings,
        extractor=args.extractor,
        weights=Path(args.weights).expanduser() if args.weights else None,
        protocol=args.protocol,
        count=args.n,
        seed=args.seed,
        allow_few=args.allow_few,
    )
    floor = control_columns([control for control in result.controls if control.name == "real"])
    columns = {"generated": result.scores, **floor}
    rows = compared(default_metric(result.scores), columns, result.protocol, result.intervals)
    lines = [
        f"{result.generated} against {result.real}",
        "",
        *aligned(rows),
        *([f"({INTERVAL_NOTE})"] if INTERVAL in rows[0] else []),
        "",
        f"protocol {headline(result.protocol, result.protocol_hash)}",
        *_fields(result.protocol),
    ]
    return Outcome(result, "\n".join(lines))


def _fields(protocol: dict[str, Any]) -> list[str]:
    rows = {name: value for name, value in protocol.items() if not isinstance(value, dict)}
    rows |= {
        f"{name}.{key}": value
        for name, part in protocol.items()
        if isinstance(part, dict)
        for key, value in part.items()
    }
    width = max(map(len, rows))
    return [f"  {name.ljust(width)}  {'-' if value is None else value}" for name, value in rows.items()]


def weights(args: argparse.Namespace, settings: Settings) -> Outcome:
    from .evaluate.weights import add, listed
    from .storage import open_store

    store = open_store(settings.store)
    if args.action is None:
        entries = listed(store)
        lines = [_entry(entry) for entry in entries]
        return Outcome({"weights": entries}, "\n".join(lines) if lines else f"no weights in {store.uri}")
    if args.file is None:
        raise InputError("name the file to add: `ganpipe weights add FILE`")
    entry = add(Path(args.file).expanduser(), store, args.extractor)
    return Outcome(entry, f"kept in {store.uri}\n{_entry(entry)}")


def _entry(entry: dict[str, Any]) -> str:
    return f"{entry['extractor']:<20}  {entry['sha256'][:16]}  {entry['bytes'] / 1e6:9.3f} MB  {entry['origin']}"
