"""One run in MLflow: found or created, and sent what is missing there."""

from __future__ import annotations

import io
import json
import math
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import notes
from .config import RunConfig, config_to_json
from .machine import Sample
from .refs import EvalReport
from .runs import RunRecord, open_run
from .settings import Settings, user_name
from .storage import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run

MARKER = "progress/kimg"
"""Metric that every line has; its largest step is how far MLflow got."""
SYSTEM_MARKER = "system/cpu_utilization_percentage"
"""The same of the machine's samples."""
RUN_TAG = "ganpipe.run_id"
MAX_METRICS = 1000  # of one log_batch, and so of one line; MLflow's limits, like the next three
MAX_PARAMS = 100
MAX_PARAM_LENGTH = 500
MAX_DIGEST_LENGTH = 36


class Sink:
    """A run in MLflow, and what it holds already."""

    def __init__(self, store: Store, run_id: str, settings: Settings):
        from mlflow import MlflowClient

        self.store, self.run_id = store, run_id
        self.record, self.config = open_run(store, run_id)
        self.started = round(self.record.created.timestamp() * 1000)
        self.client: MlflowClient = MlflowClient(tracking_uri=settings.prepared_tracking_uri())
        proxied = settings.tracking_uri.startswith("http")
        self.experiment = self._experiment(None if proxied else f"{store.uri}/mlflow")
        run = self._find_or_create()
        self.id: str = run.info.run_id
        self.status: str = run.info.status
        self.tags: dict[str, str] = dict(run.data.tags)
        self.step = round(run.data.metrics.get(MARKER, -1) * 1000)
        """Of the newest line that MLflow has; negative when it has none."""
        self._send_params(run)

    def _find_or_create(self) -> Run:
        experiment_id = self.experiment.experiment_id
        found = self.client.search_runs(
            [experiment_id], f"tags.`{RUN_TAG}` = '{self.run_id}'", order_by=["start_time ASC"]
        )
        if found:
            return found[0]
        tags = {
            RUN_TAG: self.run_id,
            "ganpipe.config_digest": self.record.config_digest,
            "ganpipe.dataset_digest": self.record.dataset.digest,
            "mlflow.user": user_name(),
            "mlflow.source.name": "ganpipe",
            notes.NOTE: notes.of_run(self.record, self.config),
        }
        if "sha" in self.record.git:
            tags["mlflow.source.git.commit"] = str(self.record.git["sha"])
            tags["ganpipe.git_dirty"] = str(bool(self.record.git.get("dirty"))).lower()
        if self.record.flow_run_id:
            tags["ganpipe.flow_run_id"] = self.record.flow_run_id
        name = run_name(self.record, self.config)
        run = self.client.create_run(experiment_id, start_time=self.started, tags=tags, run_name=name)
        self._send_dataset(run.info.run_id)
        return run

    def _experiment(self, artifact_location: str | None) -> Experiment:
        """The product's, created or taken out of the bin, with its note and its view of the nights."""
        from mlflow.exceptions import MlflowException

        name = self.config.registration.model
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                found = self.client.get_experiment(self.client.create_experiment(name, artifact_location))
            except MlflowException:  # another process was first
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        for tag, value in notes.experiment_tags(found.experiment_id, self.config).items():
            if tag not in found.tags:  # what somebody has changed is theirs
                self.client.set_experiment_tag(found.experiment_id, tag, value)
        return found

    def _send_dataset(self, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = self.record.dataset.digest
        dataset = Dataset(
            name=self.config.prepare.source.name,
            digest=digest[:MAX_DIGEST_LENGTH],
            source_type="ganpipe",
            source=json.dumps({"uri": f"{self.store.uri}/datasets/{digest}"}),
            profile=json.dumps(self.record.dataset.rows),
        )
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])])

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
            self._log(batch)
            self.step = batch[-1].step

    def _metrics_of(self, line: Mapping[str, Any]) -> list[Metric]:
        """Timed by the run's own clock: the same line is the same row whenever it is sent."""
        values = {MARKER: line["images_seen"] / 1000, **line["metrics"]}
        time_ms = self.started + round(line["seconds"] * 1000)
        return list(islice(_metrics(values, time_ms, line["images_seen"]), MAX_METRICS))

    def send_samples(self, samples: list[Sample]) -> None:
        """Send what the machine did, in their order; what MLflow has is not sent again."""
        if not samples:
            return
        history = self.client.get_metric_history(self.id, SYSTEM_MARKER)
        there = max((metric.timestamp for metric in history), default=-1)
        batch: list[Metric] = []
        for sample in samples:
            time_ms = round(sample.at * 1000)
            if time_ms <= there:
                continue
            metrics = list(_metrics(sample.values, time_ms, max(0, round((time_ms - self.started) / 1000))))
            if len(batch) + len(metrics) > MAX_METRICS:
                self._log(batch)
                batch = []
            batch += metrics
        self._log(batch)

    def _log(self, metrics: list[Metric]) -> None:
        if metrics:
            self.client.log_batch(self.id, metrics=metrics, synchronous=True)

    def send_grids(self) -> None:
        """Log the sample grids that are missing, for the step slider of MLflow's page."""
        grids = {}
        for item in self.store.list(f"runs/{self.run_id}/samples"):
            if found := re.search(r"/kimg-([0-9.]+)\.png$", item.key):
                grids[round(float(found[1]) * 1000)] = item.key
        if not grids:
            return
        names = [artifact.path for artifact in self.client.list_artifacts(self.id, "images")]
        logged = {
            int(found[1])
            for name in names
            if (found := re.search(r"/samples\+step\+(\d+)\+.*\+compressed\.webp$", name))
        }
        for step, key in sorted(grids.items()):
            if step not in logged:
                self._send_grid(key, "samples", step)

    def _send_grid(self, key: str, name: str, step: int) -> None:
        from PIL import Image

        image = Image.open(io.BytesIO(self.store.read_bytes(key)))
        self.client.log_image(self.id, image, key=name, step=step, synchronous=True)

    def _send_best_grid(self, best: str) -> None:
        """Of the best snapshot, at step 0: where MLflow's image grid of several runs begins, and so shows all."""
        if self.tags.get("ganpipe.best_checkpoint") != best:
            with suppress(FileNotFoundError):
                self._send_grid(f"runs/{self.run_id}/samples/{best.rpartition('/')[2]}.png", "best_samples", 0)

    def send_scores(self, report: EvalReport) -> None:
        step = report.best.checkpoint.images_seen
        values = [(f"eval/{name}", value, snapshot.checkpoint.images_seen)
                  for snapshot in report.snapshots for name, value in snapshot.scores.items()]  # fmt: skip
        values += [(f"best/{name}", value, step) for name, value in report.best.scores.items()]
        values += [(f"control_{control.name}/{name}", value, step)
                   for control in report.controls for name, value in control.scores.items()]  # fmt: skip
        there = self.client.get_run(self.id).data.metrics.keys() & {name for name, _, _ in values}
        known = {name: self.client.get_metric_history(self.id, name) for name in there}
        rows = {(name, metric.step, metric.value) for name, history in known.items() for metric in history}
        now = round(time.time() * 1000)
        new = [metric for name, value, step in values if (name, step, value) not in rows
               for metric in _metrics({name: value}, now, step)]  # fmt: skip
        for start in range(0, len(new), MAX_METRICS):
            self._log(new[start : start + MAX_METRICS])
        self._send_best_grid(report.best.checkpoint.prefix)
        self.client.set_tag(self.id, "ganpipe.best_checkpoint", report.best.checkpoint.prefix)
        self.client.set_tag(self.id, "ganpipe.protocol_hash", report.protocol_hash)
        self.client.set_tag(self.id, "ganpipe.best", notes.best_score(report))
        if "ganpipe.decision" not in self.tags:  # whose note says more
            self.set_note(notes.of_run(self.record, self.config, report))
        self.send_report_files()

    def set_note(self, note: str) -> None:
        if notes.may_replace(self.tags.get(notes.NOTE)):
            self.client.set_tag(self.id, notes.NOTE, note)

    def send_report_files(self) -> None:
        """Whatever lies in the run's `reports/`."""
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


def run_name(record: RunRecord, config: RunConfig) -> str:
    """What MLflow's pages call a run: `debug 2026-11-24 00:25` (UTC), or the id that somebody chose."""
    ours = record.run_id.startswith(f"{config.name}-{record.created:%Y%m%dt%H%M%S}-")
    return f"{config.name} {record.created:%Y-%m-%d %H:%M}" if ours else record.run_id
