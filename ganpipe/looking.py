"""The commands that look around: at runs, logs, models, the store, and the machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .commands import Outcome, config_of, say
from .errors import InputError

if TYPE_CHECKING:
    from .settings import Settings

log = logging.getLogger(__name__)


def runs(_args: argparse.Namespace, settings: Settings) -> Outcome:
    from .runs import list_runs
    from .storage import open_store
    from .tables import aligned

    store = open_store(settings.store)
    listed = [summary.model_dump(mode="json") for summary in list_runs(store)]
    rows = [
        [
            entry["run_id"],
            entry["state"],
            "-" if entry["kimg"] is None else f"{entry['kimg']:g} kimg",
            "-" if entry["best"] is None else f"{entry['metric']} {float(entry['best']):.4g}",
            "-" if entry["protocol_hash"] is None else entry["protocol_hash"][:8],
        ]
        for entry in listed
    ]
    header = ["run", "state", "trained", "best", "protocol"]
    return Outcome({"runs": listed}, "\n".join(aligned([header, *rows])) if rows else f"no runs in {store.uri}")


def compare(args: argparse.Namespace, settings: Settings) -> Outcome:
    from .compare import comparison, readable
    from .storage import open_store

    if len(set(args.runs)) < 2:
        raise InputError("name two runs or more; `ganpipe runs` lists them")
    result = comparison(open_store(settings.store), list(dict.fromkeys(args.runs)))
    return Outcome(result, readable(result), InputError.exit_code if result["refused"] else 0)


def logs(args: argparse.Namespace, settings: Settings) -> Outcome:
    from .logs import follow, history, readable
    from .storage import open_store

    store = open_store(settings.store)
    found = history(store, args.run, settings)
    return Outcome(found, follow(store, args.run, settings) if args.follow else readable(found))


def trend(args: argparse.Namespace, settings: Settings) -> Outcome:
    from . import trend
    from .storage import open_store

    path = Path(args.out).expanduser()
    if path.suffix.lower() not in (".html", ".png"):
        raise InputError(f"--out {path}: a trend is written as .html or .png")
    rows = trend.nights(args.model, open_store(settings.store), args.nights)
    png = trend.picture(args.model, rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png if path.suffix.lower() == ".png" else trend.page(args.model, rows, png).encode())
    except OSError as error:
        raise InputError(f"--out {path}: {error}") from error
    result = {"path": str(path.resolve()), "nights": [row.model_dump(mode="json") for row in rows]}
    return Outcome(result, f"{len(rows)} nights of {args.model}: {path}")


def pull(args: argparse.Namespace, settings: Settings) -> Outcome:
    from .pull import pull

    result = pull(args.model, Path(args.out).expanduser(), settings)
    return Outcome(result, f"{result['checkpoint']}: {', '.join(result['files'])} in {result['path']}")


def gc(args: argparse.Namespace, settings: Settings) -> Outcome:
    from .gc import find_garbage
    from .registerconfig import KeepConfig
    from .storage import open_store

    given = {name: value for name in ("last", "best") if (value := getattr(args, f"keep_{name}")) is not None}
    found = list(find_garbage(open_store(settings.store), datetime.now(UTC), KeepConfig(**given) if given else None))
    if not args.dry_run:
        for item in found:
            item.remove()
    total = sum(item.size for item in found)
    lines = [f"{item.size / 1e6:9.3f} MB  {item.what}: {item.why}" for item in found]
    lines.append(f"{total / 1e6:9.3f} MB  {'could be' if args.dry_run else 'were'} removed")
    removed = [{"what": item.what, "bytes": item.size, "why": item.why} for item in found]
    return Outcome({"removed": removed, "bytes": total, "dry_run": args.dry_run}, "\n".join(lines))


def doctor(args: argparse.Namespace, settings: Settings) -> Outcome:
    from .doctor import examine

    checks = examine(config_of(args) if args.config else None, settings)
    problems = sum(check.verdict == "problem" for check in checks)
    lines = [f"{check.verdict:7}  {check.what}: {check.finding}" for check in checks]
    result = {"checks": [vars(check) for check in checks], "problems": problems}
    return Outcome(result, "\n".join(lines), InputError.exit_code if problems else 0)


def ui(args: argparse.Namespace, settings: Settings) -> Outcome:
    from .ui import serving

    if not settings.tracking_on:
        raise InputError("GANPIPE_TRACKING_URI is off: there is nothing to look at")
    with serving(settings, args.port, args.prefect_port) as pages:
        mlflow, prefect = pages.addresses["mlflow"], pages.addresses["prefect"]
        page = f"{mlflow}/#/experiments?workflowType=machine_learning"  # not its pages for language models
        outcome = Outcome(pages.addresses, f"MLflow   {page}\nPrefect  {prefect}")
        if not pages.servers:
            return outcome
        with contextlib.redirect_stdout(sys.__stdout__):
            say(json.dumps(outcome.result) if args.json else f"{outcome.text}\nCtrl-C ends what was started here")
        try:
            pages.stay()
        except KeyboardInterrupt:
            log.info("the pages are closed")
    sys.exit(0)
