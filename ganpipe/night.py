"""A night: prepare -> train -> evaluate -> register -> promote, in the one place that knows this order.

`night` calls every stage through `call`. By default that is a plain function call; flows/nightly.py hands in one that
makes each stage a task of Prefect's.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from .config import RunConfig, config_digest
from .errors import InputError, WorkFailed
from .refs import CheckpointRef, DatasetRef, Decision, EvalReport, ModelRef, Ref, SnapshotScores
from .runs import RunRecord, checkpoints, new_run_id, with_seed
from .settings import Settings
from .storage import Store, open_store

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Call = Callable[..., Any]
"""(stage's name, function, *arguments) -> what the function returns."""


class Night(Ref):
    """What a night made."""

    run_id: str
    dataset: DatasetRef
    checkpoint: CheckpointRef
    """The last one of the training."""
    report: EvalReport
    model: ModelRef
    decision: Decision
    grid: str
    """URI of the best snapshot's sample grid."""
    report_picture: str
    """URI of the evaluation's picture."""
    report_page: str | None = None
    """URI of the evaluation's page."""
    run_page: str | None = None
    """Address of the run on MLflow's pages; None without a server."""
    side_by_side: str | None = None
    """URI of a picture: the candidate's samples beside the champion's, of the same noise."""
    trend: str | None = None
    """URI of a picture: score, speed and cost over the product's nights."""
    seconds: dict[str, float] = {}
    """What each stage took, without what calls it."""


def direct(_name: str, stage: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Call the stage, and nothing else."""
    return stage(*arguments, **options)


def night(
    config: RunConfig,
    settings: Settings,
    *,
    started: datetime,
    call: Call = direct,
    flow_run_id: str | None = None,
    where: str = "ganpipe run",
) -> Night:
    """The whole chain, for a new run. Calling it again with the same `started` continues that run.

    Raises what the stages raise; a gate that says no is a result, not an error.
    """
    from . import evaluate, morning, prepare, register, retention, train, trend

    if not settings.tracking_on:
        raise InputError(
            "a night ends in MLflow's model registry, but GANPIPE_TRACKING_URI is off; unset it, or run "
            "`ganpipe prepare`, `ganpipe train` and `ganpipe evaluate` one by one"
        )
    seconds: dict[str, float] = {}
    call = _timed(call, seconds)
    product = config.registration.model
    train.check(config, settings)
    register.check(config, settings)

    _headline(1, "prepare", f"{config.prepare.source.name}, {config.prepare.described()}")
    dataset: DatasetRef = call("prepare", prepare.run, config, settings)
    log.info("data set %s: %s", dataset.digest[:12], ", ".join(f"{n} {split}" for split, n in dataset.rows.items()))

    evaluate.check(config, settings)
    config = with_seed(config, started)
    record = new_record(config, dataset, settings, started, flow_run_id=flow_run_id)
    _headline(2, "train", f"run {record.run_id}, {config.gan.name}, seed {config.train.seed}")
    threading.Thread(target=trend.import_matplotlib, daemon=True).start()  # a second, while others train
    checkpoint: CheckpointRef = call("train", train.run, config, record, settings)

    _headline(3, "evaluate", f"snapshots up to {checkpoint.images_seen / 1000:g} kimg, by {config.evaluate.extractor}")
    report: EvalReport = call("evaluate", evaluate.run, config, record.run_id, settings)
    mirror_scores(report, settings)

    _headline(4, "register", f"the best snapshot ({kimg(report.best)}) as {product}")
    model: ModelRef = call("register", register.run, config, report, settings)

    _headline(5, "promote", f"{product} version {model.version} asks the gate")
    decision: Decision = call("promote", register.promote, product, settings, version=model.version, where=where)
    retention.tidy(config, record.run_id, settings)
    pictures = morning.pictures(decision, settings)
    store_uri, run = settings.store, f"runs/{record.run_id}"
    return Night(
        run_id=record.run_id,
        dataset=dataset,
        checkpoint=checkpoint,
        report=report,
        model=model,
        decision=decision,
        grid=f"{store_uri}/{run}/samples/{report.best.checkpoint.prefix.rpartition('/')[2]}.png",
        report_picture=f"{store_uri}/{run}/reports/{report.protocol_hash}.png",
        report_page=f"{store_uri}/{run}/reports/{report.protocol_hash}.html",
        seconds=seconds,
        **pictures,
    )


def _timed(call: Call, seconds: dict[str, float]) -> Call:
    """`call`, which also notes what a stage takes by itself, over all tries."""

    def timed_call(name: str, stage: Callable[..., Result], *arguments: Any, **options: Any) -> Any:
        def timed_stage(*arguments: Any, **options: Any) -> Result:
            began = time.monotonic()
            try:
                return stage(*arguments, **options)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began

        return call(name, timed_stage, *arguments, **options)

    return timed_call


def _headline(number: int, stage: str, what: str) -> None:
    log.info("[%d/5] %s: %s", number, stage, what)


def new_record(
    config: RunConfig,
    dataset: DatasetRef,
    settings: Settings,
    started: datetime,
    *,
    run_id: str | None = None,
    flow_run_id: str | None = None,
) -> RunRecord:
    """The record of a run that begins now; its id says what it is, unless one is given."""
    return RunRecord(
        run_id=run_id or new_run_id(config, dataset, started),
        dataset=dataset,
        created=started.astimezone(UTC).replace(microsecond=0),
        config_digest=config_digest(config),
        start_checkpoint=_start_checkpoint(config, open_store(settings.store)),
        git=git_state(),
        flow_run_id=flow_run_id,
    )


def _start_checkpoint(config: RunConfig, store: Store) -> CheckpointRef | None:
    """Where `train.start_from` takes its weights. Raises InputError when there is no such run."""
    start = config.train.start_from
    if start == "scratch":
        return None
    if start == "champion":
        from .register.audit import read_pointer

        champion = read_pointer(store, config.registration.model)[0].champion
        if champion is None:
            log.info("train.start_from: %s has no champion yet, starting from scratch", config.registration.model)
        return champion.checkpoint if champion else None
    found = checkpoints(store, start)
    if not found:
        raise InputError(f"train.start_from: {start!r} is neither scratch, champion, nor a run with a checkpoint")
    return found[-1]


def git_state() -> dict[str, Any]:
    """Commit of the working directory, and whether there are changes besides; empty where there is no repository."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def mirror_scores(report: EvalReport, settings: Settings) -> None:
    """Send the scores to MLflow, if it takes them: the report in the store is what counts."""
    from . import tracking

    try:
        tracking.log_scores(open_store(settings.store), report, settings)
    except WorkFailed as error:
        log.warning("%s", error)


def kimg(snapshot: SnapshotScores) -> str:
    return f"{snapshot.checkpoint.images_seen / 1000:g} kimg"
