"""Runs side by side: what they are made of, how far they came, how they score."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from .config import config_to_json, differences
from .errors import InputError
from .evaluate.protocol import Protocol, headline, require_same
from .refs import EvalReport
from .runs import checkpoints, open_run, read_state, reports
from .storage import Store
from .tables import aligned


def comparison(store: Store, run_ids: Sequence[str]) -> dict[str, Any]:
    """All that there is to say about two runs or more, as JSON values.

    `runs`: each run's state and progress; `differences`: of every other run to the first, `field: first -> other`;
    `scores`: metric -> run -> mean, spread (standard deviation) and number of sample seeds of its best snapshot;
    `protocol`: all its fields; `refused`: why scores are missing, when they were measured under unlike protocols.
    Raises InputError for no run.
    """
    evaluations = {run_id: reports(store, run_id) for run_id in run_ids}
    made = {run_id: _made_of(store, run_id) for run_id in run_ids}
    first, *others = run_ids
    chosen, refused = _comparable(evaluations)
    return {
        "runs": [_progress(store, run_id, chosen.get(run_id)) for run_id in run_ids],
        "differences": {run_id: differences(made[first], made[run_id]) for run_id in others},
        "protocol_hash": None if refused else next((report.protocol_hash for report in chosen.values()), None),
        "protocol": None if refused else next((report.protocol for report in chosen.values()), None),
        "scores": {} if refused else _scores(chosen),
        "refused": refused,
    }


def _made_of(store: Store, run_id: str) -> dict[str, Any]:
    record, config = open_run(store, run_id)
    raw = {name: value for name, value in config_to_json(config).items() if name != "name"}
    return {**raw, "data set": record.dataset.digest, "code": record.git.get("sha")}


def _comparable(evaluations: dict[str, list[EvalReport]]) -> tuple[dict[str, EvalReport], str | None]:
    """One evaluation of each run that has any, all under one protocol if there is such; otherwise why not."""
    known = {
        run_id: {report.protocol_hash: report for report in found} for run_id, found in evaluations.items() if found
    }
    shared = [name for name in next(iter(known.values()), {}) if all(name in by_hash for by_hash in known.values())]
    chosen = {run_id: by_hash[shared[-1] if shared else [*by_hash][-1]] for run_id, by_hash in known.items()}
    picked = list(chosen.values())
    try:
        for other in picked[1:]:
            _require_same(picked[0], other)
    except InputError as error:
        return chosen, str(error)
    return chosen, None


def _require_same(first: EvalReport, other: EvalReport) -> None:
    if (first.protocol_hash, first.best.seeds) == (other.protocol_hash, other.best.seeds):
        return
    try:
        protocols = [Protocol.model_validate(report.protocol) for report in (first, other)]
    except ValidationError as error:
        raise InputError(
            f"the protocol of {first.run_id} or {other.run_id} is of another version; evaluate both afresh"
        ) from error
    try:
        require_same(protocols[0], protocols[1], (first.best.seeds, other.best.seeds))
    except InputError as error:
        raise InputError(f"{first.run_id} and {other.run_id}: {error}") from error


def _progress(store: Store, run_id: str, report: EvalReport | None) -> dict[str, Any]:
    there = checkpoints(store, run_id)
    best = report.best.checkpoint.images_seen if report else None
    hours = _hours(store, run_id)
    return {
        "run_id": run_id,
        "state": read_state(store, run_id) or "begun",
        "kimg": there[-1].images_seen / 1000 if there else None,
        "hours": max(hours.values(), default=None),
        "best_kimg": None if best is None else best / 1000,
        "hours_to_best": next((spent for images, spent in sorted(hours.items()) if best and images >= best), None),
    }


def _hours(store: Store, run_id: str) -> dict[int, float]:
    """images_seen -> hours of training until then."""
    try:
        lines = store.read_bytes(f"runs/{run_id}/metrics.jsonl").decode().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return {entry["images_seen"]: entry["seconds"] / 3600 for entry in entries}


def _scores(chosen: dict[str, EvalReport]) -> dict[str, dict[str, dict[str, float]]]:
    table: dict[str, dict[str, dict[str, float]]] = {}
    for run_id, report in chosen.items():
        for metric, value in report.best.scores.items():
            by_seed = report.best.by_seed[metric]
            spread = statistics.stdev(by_seed) if len(by_seed) > 1 else 0.0
            table.setdefault(metric, {})[run_id] = {"mean": value, "spread": spread, "seeds": len(by_seed)}
    return table


def readable(result: dict[str, Any]) -> str:
    """The comparison as plain text."""
    runs = result["runs"]
    rows = [
        ["", *(run["run_id"] for run in runs)],
        ["state", *(run["state"] for run in runs)],
        ["trained", *(_amount(run["kimg"], run["hours"]) for run in runs)],
        ["best snapshot", *(_amount(run["best_kimg"], run["hours_to_best"]) for run in runs)],
    ]
    for metric, by_run in result["scores"].items():
        rows.append([metric, *(_score(by_run.get(run["run_id"])) for run in runs)])
    lines = [line.rstrip() for line in aligned(rows)]
    if result["refused"]:
        lines += ["", f"no scores: {result['refused']}"]
    elif result["scores"]:
        seeds = {entry["seeds"] for by_run in result["scores"].values() for entry in by_run.values()}
        many = "/".join(map(str, sorted(seeds)))
        under = headline(result["protocol"], result["protocol_hash"])
        lines.append(f"(mean ± standard deviation over {many} sample seeds, protocol {under})")
    for run_id, changed in result["differences"].items():
        lines += ["", f"{runs[0]['run_id']} -> {run_id}", *(f"  {line}" for line in changed or ["no difference"])]
    return "\n".join(lines)


def _amount(kimg: float | None, hours: float | None) -> str:
    return "-" if kimg is None else f"{kimg:g} kimg" + ("" if hours is None else f" in {hours:.3g} h")


def _score(entry: dict[str, float] | None) -> str:
    return "-" if entry is None else f"{entry['mean']:.4g} ± {entry['spread']:.2g}"
