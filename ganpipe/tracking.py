"""MLflow's copy of a run. The store has the original, so MLflow may be slow, away or off and no training notices.

    with Mirror(store, run_id, settings): run_child(...)    # while a training runs: lines and grids, as they appear
    mirror_run(store, run_id, settings)                     # afterwards: whatever is missing; returns MLflow's id
    log_scores(store, report, settings)                     # what an evaluation found
    send_reports(store, run_id, settings)                   # pictures and pages made since

Nothing is sent twice: MLflow itself is asked how far it got. A line of `metrics.jsonl` goes there whole or not at all.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .errors import InputError, WorkFailed
from .machine import Machine, Sample
from .refs import EvalReport
from .runs import read_state
from .settings import Settings
from .sink import Sink
from .storage import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
LAST_WORDS_SECONDS = 15.0
WARN_EVERY_SECONDS = 60.0
STATUS = {"running": "RUNNING", "finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
SHORT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class Mirror:
    """Follows a run's `metrics.jsonl` and grids, and what the machine does, in a thread of the process that launched
    its training.

    Does nothing when tracking is off. When MLflow is away it says so once a minute at most and sends everything later.
    """

    def __init__(self, store: Store, run_id: str, settings: Settings, poll_seconds: float = POLL_SECONDS):
        self.store, self.run_id, self.settings, self.poll_seconds = store, run_id, settings, poll_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow-mirror", daemon=True)
        self._warned = -math.inf
        self._samples: list[Sample] = []

    def __enter__(self) -> Mirror:
        if self.settings.tracking_on:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(LAST_WORDS_SECONDS)

    def _follow(self) -> None:
        sink, machine, pause, ended = None, Machine(), 0.0, False
        path = self.settings.home / "work" / self.run_id / "metrics.jsonl"
        with short_timeouts():
            while not ended:
                ended, pause = self._ended.wait(pause), self.poll_seconds
                if ended or machine.due():
                    self._samples.append(machine.sample())
                try:
                    if sink is None:
                        sink = Sink(self.store, self.run_id, self.settings)
                        sink.set_status("RUNNING")
                    if path.exists():
                        sink.send_lines(path.read_text(encoding="utf-8"))
                    sink.send_grids()
                    sink.send_samples(self._samples)
                    self._samples = []
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


def send_reports(store: Store, run_id: str, settings: Settings) -> str | None:
    """Send whatever lies in the run's `reports/`. Raises as `mirror_run` does.

    Returns the run's address on MLflow's pages; None without a server.
    """
    with short_timeouts(), _explained(settings):
        sink = Sink(store, run_id, settings)
        sink.send_report_files()
    if not settings.tracking_uri.startswith("http"):
        return None
    return f"{settings.tracking_uri.rstrip('/')}/#/experiments/{sink.experiment.experiment_id}/runs/{sink.id}"


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


def _up_to_date(store: Store, run_id: str, settings: Settings) -> Sink:
    sink = Sink(store, run_id, settings)
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
