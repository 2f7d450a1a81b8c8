"""MLflow's copy of a run. The store has the original, so MLflow may be slow, away or off and no training notices.

    with Mirror(store, run_id, settings): run_child(...)    # while a training runs: lines and grids, as they appear
    mirror_run(store, run_id, settings)                     # afterwards: whatever is missing; returns MLflow's id
    log_scores(store, report, settings)                     # what an evaluation found

Nothing is sent twice: MLflow itself is asked how far it got. A line of `metrics.jsonl` goes there whole or not at all.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import config_to_json
from .errors import InputError, WorkFailed
from .refs import EvalReport
from .runs import open_run, read_state
from .settings import Settings, user_name
from .storage import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)

MARKER = "progress/kimg"
"""Metric that every line has; its largest step is how far MLflow got."""
RUN_TAG = "ganpipe.run_id"
MAX_METRICS = 1000  # of one log_batch, and so of one line; MLflow's limits, like the next two
MAX_PARAMS = 100
MAX_PARAM_LENGTH = 500
POLL_SECONDS = 5.0
LAST_WORDS_SECONDS = 15.0
WARN_EVERY_SECONDS = 60.0
STATUS = {"running": "RUNNING", "finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
SHORT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class Mirror:
    """Follows a run's `metrics.jsonl` and grids in a thread of the process that launched its training.

    Does nothing when tracking is off. When MLflow is away it says so once a minute at most and sends everything later.
    """

    def __init__(self, store: Store, run_id: str, settings: Settings, poll_seconds: float = POLL_SECONDS):
        self.store, self.run_id, self.settings, self.poll_seconds = store, run_id, settings, poll_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow-mirror", daemon=True)
        self._warned = -math.inf

    def __enter__(self) -> Mirror:
        if self.settings.tracking_on:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(LAST_WORDS_SECONDS)

    def _follow(self) -> None:
        sink, pause, ended = None, 0.0, False
        path = self.settings.home / "work" / self.run_id / "metrics.jsonl"
        with short_timeouts():
            while not ended:
                ended, pause = self._ended.wait(pause), self.poll_seconds
                try:
                    if sink is None:
                        sink = _Sink(self.store, self.run_id, self.settings)
                        sink.set_status("RUNNING")
                    if path.exists():
                        sink.send_lines(path.read_text(encoding="utf-8"))
                    sink.send_grids()
                    if ended:
                        sink.set_status(_status(self.store, self.run_id))
                except Exception as error:  # whatever it is, it must not touch the training
                    sink = None
                    self._warn(error)

    def _warn(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned >= WARN_EVERY_SECONDS:
            self._warned = now
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning(
                "MLflow at %s does not take metrics; they are kept in the run's folder and sent later: %.200s",
                self.settings.tracking_uri, reason,
            )  # fmt: skip


def mirror_run(store: Store, run_id: str, settings: Settings) -> str:
    """Bring MLflow up to date with a run of the store. Returns MLflow's id of it.

    Raises InputError when tracking is off or there is no such run, WorkFailed when MLflow is away.
    """
    with short_timeouts(), _explained(settings):
        return _up_to_date(store, run_id, settings).id


def log_scores(store: Store, report: EvalReport, settings: Settings) -> None:
    """Send an evaluation: every snapshot's scores at its step, the best and the controls, and the files of the report.

    A score that is there already is not sent again. Does nothing when tracking is off.
    """
    if not settings.tracking_on:
        return
    with short_timeouts(), _explained(settings):
        _up_to_date(store, report.run_id, settings).send_scores(report)


@contextmanager
def short_timeouts() -> Iterator[None]:
    """MLflow's own limits make a call to a dead server last minutes. What the user has set is kept."""
    ours = {name: value for name, value in SHORT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def _explained(settings: Settings) -> Iterator[None]:
    if not settings.tracking_on:
        raise InputError("tracking is off; set GANPIPE_TRACKING_URI, or unset it for SQLite under GANPIPE_HOME")
    try:
        yield
    except mlflow_errors() as error:
        raise WorkFailed(f"MLflow at {settings.tracking_uri} does not take the run: {error}") from error


def mlflow_errors() -> tuple[type[Exception], ...]:
    """What an MLflow that is away raises: its own errors, and those of its connection, its database and its bucket."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError, Boto3Error, BotoCoreError, ClientError


def _up_to_date(store: Store, run_id: str, settings: Settings) -> _Sink:
    sink = _Sink(store, run_id, settings)
    key = f"runs/{run_id}/metrics.jsonl"
    with suppress(FileNotFoundError):
        sink.send_lines(store.read_bytes(key).decode())
    sink.send_grids()
    sink.set_status(_status(store, run_id))
    return sink


def _status(store: Store, run_id: str) -> str:
    """MLflow's word for how the run's training ended last."""
    state = read_state(store, run_id)
    return STATUS[state] if state else "FAILED"


class _Sink:
    """One run in MLflow, found or created, and what it holds already."""

    def __init__(self, store: Store, run_id: str, settings: Settings):
        from mlflow import MlflowClient

        self.store, self.run_id = store, run_id
        self.record, self.config = open_run(store, run_id)
        self.started = round(self.record.created.timestamp() * 1000)
        self.client: MlflowClient = MlflowClient(tracking_uri=settings.prepared_tracking_uri())
        proxied = settings.tracking_uri.startswith("http")
        run = self._find_or_create(None if proxied else f"{store.uri}/mlflow")
        self.id: str = run.info.run_id
        self.status: str = run.info.status
        self.step = round(run.data.metrics.get(MARKER, -1) * 1000)
        """Of the newest line that MLflow has; negative when it has none."""
        self._send_params(run)

    def _find_or_create(self, artifact_location: str | None) -> Run:
        experiment = self._experiment(self.config.registration.model, artifact_location)
        found = self.client.search_runs(
            [experiment], f"tags.`{RUN_TAG}` = '{self.run_id}'", order_by=["start_time ASC"]
        )
        if found:
            return found[0]
        tags = {
            RUN_TAG: self.run_id,
            "ganpipe.config_digest": self.record.config_digest,
            "ganpipe.dataset_digest": self.record.dataset.digest,
            "mlflow.user": user_name(),
            "mlflow.source.name": "ganpipe",
        }
        if "sha" in self.record.git:
            tags["mlflow.source.git.commit"] = str(self.record.git["sha"])
            tags["ganpipe.git_dirty"] = str(bool(self.record.git.get("dirty"))).lower()
        if self.record.flow_run_id:
            tags["ganpipe.flow_run_id"] = self.record.flow_run_id
        return self.client.create_run(experiment, start_time=self.started, tags=tags, run_name=self.run_id)

    def _experiment(self, name: str, artifact_location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, artifact_location))
            except MlflowException:  # another process was first
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _send_params(self, run: Run) -> None:
        """Those that are missing: MLflow refuses to send one twice with another value."""
        from mlflow.entities import Param

        values = _flattened(config_to_json(self.config))
        missing = [Param(name, value) for name, value in values.items() if name not in run.data.params]
        for start in range(0, len(missing), MAX_PARAMS):
            self.client.log_batch(self.id, params=missing[start : start + MAX_PARAMS], synchronous=True)

    def set_status(self, status: str) -> None:
        if status != self.status and status == "RUNNING":
            self.client.update_run(self.id, status=status)
        elif status != self.status:
            self.client.set_terminated(self.id, status)
        self.status = status

    def send_lines(self, text: str) -> None:
        """Send the complete lines that are newer than what MLflow has, as many at once as it takes."""
        batch: list[Metric] = []
        for line in _complete_lines(text):
            images_seen = line["images_seen"]
            if images_seen <= self.step:
                continue
            metrics = self._metrics_of(line)
            if len(batch) + len(metrics) > MAX_METRICS:
                self._send(batch)
                batch = []
            batch += metrics
        self._send(batch)

    def _send(self, batch: list[Metric]) -> None:
        if batch:
            self.client.log_batch(self.id, metrics=batch, synchronous=True)
            self.step = batch[-1].step

    def _metrics_of(self, line: Mapping[str, Any]) -> list[Metric]:
        """Timed by the run's own clock: the same line is the same row whenever it is sent."""
        values = {MARKER: line["images_seen"] / 1000, **line["metrics"]}
        time_ms = self.started + round(line["seconds"] * 1000)
        return list(islice(_metrics(values, time_ms, line["images_seen"]), MAX_METRICS))

    def send_grids(self) -> None:
        """Log the sample grids that are missing, for the step slider of MLflow's page."""
        from PIL import Image

        grids = {}
        for item in self.store.list(f"runs/{self.run_id}/samples"):
            if found := re.search(r"/kimg-([0-9.]+)\.png$", item.key):
                grids[round(float(found[1]) * 1000)] = item.key
        if not grids:
            return
        names = [artifact.path for artifact in self.client.list_artifacts(self.id, "images")]
        logged = {
            int(found[1]) for name in names if (found := re.search(r"\+step\+(\d+)\+.*\+compressed\.webp$", name))
        }
        for step, key in sorted(grids.items()):
            if step not in logged:
                image = Image.open(io.BytesIO(self.store.read_bytes(key)))
                self.client.log_image(self.id, image, key="samples", step=step, synchronous=True)

    def send_scores(self, report: EvalReport) -> None:
        step = report.best.checkpoint.images_seen
        values = [(f"eval/{name}", value, snapshot.checkpoint.images_seen)
                  for snapshot in report.snapshots for name, value in snapshot.scores.items()]  # fmt: skip
        values += [(f"best/{name}", value, step) for name, value in report.best.scores.items()]
        values += [(f"control_{control.name}/{name}", value, step)
                   for control in report.controls for name, value in control.scores.items()]  # fmt: skip
        known = {name: self.client.get_metric_history(self.id, name) for name in {name for name, _, _ in values}}
        rows = {(name, metric.step, metric.value) for name, history in known.items() for metric in history}
        now = round(time.time() * 1000)
        new = [metric for name, value, step in values if (name, step, value) not in rows
               for metric in _metrics({name: value}, now, step)]  # fmt: skip
        for start in range(0, len(new), MAX_METRICS):
            self.client.log_batch(self.id, metrics=new[start : start + MAX_METRICS], synchronous=True)
        self.client.set_tag(self.id, "ganpipe.best_checkpoint", report.best.checkpoint.prefix)
        self.client.set_tag(self.id, "ganpipe.protocol_hash", report.protocol_hash)
        self._send_report_files()

    def _send_report_files(self) -> None:
        prefix = f"runs/{self.run_id}/reports"
        with tempfile.TemporaryDirectory() as folder:
            for item in self.store.list(prefix):
                path = Path(folder, item.key.removeprefix(f"{prefix}/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.store.read_bytes(item.key))
            if any(Path(folder).iterdir()):
                self.client.log_artifacts(self.id, folder, "reports")


def _metrics(values: Mapping[str, float], time_ms: int, step: int) -> Iterator[Metric]:
    """The finite ones: MLflow stores an infinity as 1.8e308, and a NaN can win its rankings."""
    from mlflow.entities import Metric

    for name, value in values.items():
        if math.isfinite(value):
            yield Metric(name, value, time_ms, step)


def _complete_lines(text: str) -> Iterable[dict[str, Any]]:
    """What follows the last newline is still being written."""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flattened(value, f"{prefix}{name}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[f"{prefix}{name}"] = text[:MAX_PARAM_LENGTH]
    return flat
