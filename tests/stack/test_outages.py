"""Servers that go away in mid-training: nothing stops, nothing is lost, nothing is sent twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from on_servers import ROOT, Stack, ganpipe, night_raw, until
from test_deployments import deployed
from test_endings import final, training_of

from ganpipe.configfile import to_yaml
from ganpipe.runs import checkpoints
from ganpipe.settings import Settings
from ganpipe.storage import open_store

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

AWAY_SECONDS = 60.0
TRAINING_HOURS = 175 / 3600


def test_records_are_filled_in_once(stack: Stack, client: Any, tmp_path: Path) -> None:
    """MLflow is away, then PostgreSQL, and so MLflow and Prefect: the night goes on, and every line arrives."""
    raw = night_raw("outage", stop={"hours": TRAINING_HOURS}, snapshot_kimg=1000, log_every_kimg=1)
    deployment = deployed(tmp_path, raw)
    run = client.create_flow_run_from_deployment(deployment)
    store = open_store(Settings.from_environment().store)
    run_id = until(lambda: training_of(store, stack, run), 240, "metrics of the training")
    lines = Path(stack.environment["GANPIPE_HOME"], "work", run_id, "metrics.jsonl")
    until(lambda: steps_in_mlflow(run_id), 60, "MLflow has the first lines")

    for server in ("mlflow", "postgres"):
        stack.run("stop", server)
        before = lines.read_text().count("\n")
        time.sleep(AWAY_SECONDS)
        assert lines.read_text().count("\n") > before + 3, f"training waited for {server}"
        stack.run("start", server)

    state = until(lambda: final(client, run), 400, "the end of the night")
    assert state.name == "Completed", state
    written = [
        json.loads(line)["images_seen"] for line in store.read_bytes(f"runs/{run_id}/metrics.jsonl").splitlines()
    ]
    assert len(written) == len(set(written))
    assert steps_in_mlflow(run_id) == Counter(written)


def test_training_goes_on_without_the_bucket(stack: Stack, tmp_path: Path) -> None:
    """Killed for 30 s between two checkpoints, one of which it should have taken: all of them are there in the end."""
    raw = night_raw("bucket", stop={"hours": 70 / 3600}, snapshot_kimg=8, log_every_kimg=1)
    path, run_id = tmp_path / "night.yaml", f"bucket-{os.getpid()}"
    path.write_text(to_yaml(raw))
    command = [sys.executable, "-m", "ganpipe", "train", str(path), "--run", run_id, "--num-processes", "2"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=variables, stderr=log, stdout=log) as training,
    ):
        lines = Path(stack.environment["GANPIPE_HOME"], "work", run_id, "metrics.jsonl")
        until(lambda: lines.exists() and lines.read_text().count("\n") > 3, 120, "metrics of the training")
        script = {
            "S3_FOLDER": str(stack.folder / "s3"),
            "S3_PORT": stack.environment["AWS_ENDPOINT_URL"].rpartition(":")[2],
        }
        subprocess.run([ROOT / "infra/s3-server.sh", "kill"], env={**os.environ, **script}, check=True)
        before = lines.read_text().count("\n")
        time.sleep(30)
        assert lines.read_text().count("\n") > before + 3, "training waited for the bucket"
        stack.run("start", "s3")
        assert training.wait(300) == 0, (tmp_path / "log").read_text()
    seen = [json.loads(line)["images_seen"] for line in lines.read_text().splitlines()] if lines.exists() else []
    store = open_store(Settings.from_environment().store)
    kept = [checkpoint.images_seen for checkpoint in checkpoints(store, run_id)]
    newest = json.loads(store.read_bytes(f"runs/{run_id}/metrics.jsonl").splitlines()[-1])["images_seen"]
    assert kept[-1] == newest and len(kept) == -(-newest // 8000), (kept, seen)
    assert "finished" in ganpipe("runs").stdout


def steps_in_mlflow(run_id: str) -> Counter[int]:
    """How often MLflow has each line of a run."""
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["GANPIPE_TRACKING_URI"])
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`ganpipe.run_id` = '{run_id}'")
    if not found:
        return Counter()
    history = client.get_metric_history(found[0].info.run_id, "progress/kimg")
    return Counter(metric.step for metric in history)
