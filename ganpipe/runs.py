"""A run's folder in the store.

runs/<run id>/ config.yaml, run.json, state.json, metrics.jsonl, log.txt, samples/, checkpoints/, reports/
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from .config import RunConfig, config_digest, config_to_json, config_to_yaml, differences, load_config
from .configfile import parse_yaml
from .errors import InputError
from .refs import CheckpointRef, DatasetRef, EvalReport, Ref
from .seeds import derive_seed
from .storage import CorruptObject, Store

log = logging.getLogger(__name__)


class RunRecord(Ref):
    """`runs/<run id>/run.json`: what a run is, written once when it begins."""

    run_id: str
    dataset: DatasetRef
    created: datetime
    config_digest: str
    start_checkpoint: CheckpointRef | None = None
    """Where a warm start took its weights from."""
    git: dict[str, Any] = {}
    """`sha` and `dirty` of the working directory's repository, when it is one."""
    flow_run_id: str | None = None


def new_run_id(config: RunConfig, dataset: DatasetRef, started: datetime) -> str:
    """`<config name>-<UTC start>-<6 hex of config + dataset digest>`."""
    digest = hashlib.sha256(f"{config_digest(config)}{dataset.digest}".encode()).hexdigest()[:6]
    return f"{config.name}-{started.astimezone(UTC):%Y%m%dt%H%M%S}-{digest}"


def with_seed(config: RunConfig, started: datetime) -> RunConfig:
    """The config with `train.seed: auto` replaced by one derived from the start of the run."""
    if config.train.seed != "auto":
        return config
    seed = derive_seed("auto", started.astimezone(UTC).isoformat(timespec="seconds")) % 2**31
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def begin_run(store: Store, record: RunRecord, config: RunConfig) -> None:
    """Write the run's record, once. A run that exists is checked to be the same.

    Raises InputError listing the differences when the run was begun with another config or data set.
    """
    run_id = record.run_id
    if run_exists(store, run_id):
        existing, existing_config = open_run(store, run_id)
        lines = differences(_what_trains(existing_config), _what_trains(config))
        if existing.dataset.digest != record.dataset.digest:
            lines.append(f"data set: {existing.dataset.digest} -> {record.dataset.digest}")
        if lines:
            raise InputError(
                f"run {run_id} cannot be continued with another configuration:\n  "
                + "\n  ".join(lines)
                + "\nChange these back, or start a new run."
            )
        return
    store.write_bytes(f"runs/{run_id}/config.yaml", config_to_yaml(config).encode())
    store.create(f"runs/{run_id}/run.json", record.model_dump_json(indent=1).encode())


def _what_trains(config: RunConfig) -> dict[str, Any]:
    """All that may not change within a run; how it is judged may."""
    data = config_to_json(config)
    return {section: data[section] for section in ("name", "prepare", "gan", "train")}


def open_run(store: Store, run_id: str) -> tuple[RunRecord, RunConfig]:
    """Record and resolved config of a run. Raises InputError when the store has no such run."""
    key = f"runs/{run_id}/config.yaml"
    try:
        record = store.read_model(f"runs/{run_id}/run.json", RunRecord)
        text = store.read_bytes(key).decode(errors="replace")
    except FileNotFoundError as error:
        raise InputError(f"there is no run {run_id!r} in {store.uri}; `ganpipe runs` lists them") from error
    return record, load_config(parse_yaml(text, f"{store.uri}/{key}"))


def run_exists(store: Store, run_id: str) -> bool:
    return store.exists(f"runs/{run_id}/run.json")


def run_ids(store: Store) -> list[str]:
    """All runs of the store, by name and then age."""
    keys = (item.key.split("/") for item in store.list("runs"))
    return sorted(parts[1] for parts in keys if len(parts) == 3 and parts[2] == "run.json")


def checkpoint_name(images_seen: int) -> str:
    """`kimg-000012.288`: sorts by progress."""
    return f"kimg-{images_seen / 1000:010.3f}"


def checkpoints(store: Store, run_id: str) -> list[CheckpointRef]:
    """The run's complete checkpoints, oldest first."""
    return [_checkpoint_ref(store, prefix) for prefix in sorted(store.published(f"runs/{run_id}/checkpoints"))]


def _checkpoint_ref(store: Store, prefix: str) -> CheckpointRef:
    manifest = store.manifest(prefix)
    return CheckpointRef(
        run_id=manifest["run_id"],
        images_seen=manifest["images_seen"],
        prefix=prefix,
        generator_sha256=manifest["files"]["generator.safetensors"]["sha256"],
    )


def sound_checkpoints(store: Store, run_id: str) -> Iterator[CheckpointRef]:
    """Complete checkpoints, newest first, passing over damaged ones with a warning."""
    for prefix in sorted(store.published(f"runs/{run_id}/checkpoints"), reverse=True):
        try:
            store.fetch(prefix)
        except CorruptObject as error:
            log.warning("passing over a damaged checkpoint: %s", error)
        else:
            yield _checkpoint_ref(store, prefix)


RunState = Literal["running", "finished", "interrupted", "failed"]


class StateRecord(Ref):
    """`runs/<run id>/state.json`."""

    state: RunState
    detail: str = ""
    """What ended it, when that was no end of its own."""
    at: datetime


def write_state(store: Store, run_id: str, state: RunState, detail: str = "") -> None:
    """Record how the run's training stands, or ended last."""
    record = StateRecord(state=state, detail=detail, at=datetime.now(UTC).replace(microsecond=0))
    store.write_bytes(f"runs/{run_id}/state.json", record.model_dump_json().encode())


def read_state_record(store: Store, run_id: str) -> StateRecord | None:
    """How the run's training stands, or ended last, and since when; None when it never began."""
    try:
        return store.read_model(f"runs/{run_id}/state.json", StateRecord)
    except FileNotFoundError:
        return None


def read_state(store: Store, run_id: str) -> RunState | None:
    """How the run's training stands, or ended last; None when it never began."""
    record = read_state_record(store, run_id)
    return record.state if record else None


def reports(store: Store, run_id: str) -> list[EvalReport]:
    """The run's evaluations; the last one saw most of it. Those of unlike protocols cannot be compared."""
    keys = [item.key for item in store.list(f"runs/{run_id}/reports") if item.key.endswith(".json")]
    found = [store.read_model(key, EvalReport) for key in keys]
    return sorted(found, key=lambda report: report.snapshots[-1].checkpoint.images_seen)


class RunSummary(Ref):
    """One line of a list of runs."""

    run_id: str
    created: datetime
    state: RunState | Literal["begun"]
    kimg: float | None
    """Progress of the newest checkpoint."""
    evaluated: bool
    metric: str | None = None
    """What the best snapshot was chosen by, in the last evaluation..."""
    best: float | None = None
    """...and its score. Those of unlike protocols cannot be compared: `ganpipe compare` looks at that."""
    protocol_hash: str | None = None


def list_runs(store: Store) -> list[RunSummary]:
    """All runs of the store, oldest first."""
    objects: dict[str, list[list[str]]] = {}
    for item in store.list("runs"):
        _, run_id, *rest = item.key.split("/")
        objects.setdefault(run_id, []).append(rest)
    found = []
    for run_id, paths in objects.items():
        if ["run.json"] not in paths:
            continue
        kimg = [float(path[1].removeprefix("kimg-")) for path in paths if path[::2] == ["checkpoints", "manifest.json"]]
        try:
            created = store.read_model(f"runs/{run_id}/run.json", RunRecord).created
            state = read_state(store, run_id) or "begun"
            evaluated = any(path[:1] == ["reports"] for path in paths)
            last = next(reversed(reports(store, run_id)), None) if evaluated else None
        except CorruptObject as error:
            log.warning("%s is left out: %s", run_id, error)
            continue
        summary = RunSummary(
            run_id=run_id, created=created, state=state, kimg=max(kimg, default=None), evaluated=evaluated
        )
        if last is not None:
            score = {"metric": last.metric, "best": last.best.scores[last.metric], "protocol_hash": last.protocol_hash}
            summary = summary.model_copy(update=score)
        found.append(summary)
    return sorted(found, key=lambda summary: summary.created)
