from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganpipe import machine, tracking
from ganpipe.config import config_digest, load_config
from ganpipe.errors import InputError, WorkFailed
from ganpipe.refs import CheckpointRef, ControlScores, DatasetRef, EvalReport, SnapshotScores
from ganpipe.runs import RunRecord, begin_run, write_state
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store

RUN = "tiny-20261123t000000-abcdef"
CONFIG = {
    "name": "tiny",
    "prepare": {"source": {"name": "digits"}, "resolution": 8, "channels": 1},
    "gan": {"name": "classic", "objective": "non_saturating", "network": {"name": "mlp"}, "latent_dim": 2},
    "train": {"batch": 4, "stop": {"kimg": 1}, "seed": 1},
    "register": {"model": "tiny-digits"},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    return Settings(home=home, store=f"file://{tmp_path}/store", tracking_uri=f"sqlite:///{home}/mlflow.db")


@pytest.fixture
def store(settings: Settings) -> Store:
    store = open_store(settings.store)
    config = load_config(CONFIG)
    dataset = DatasetRef(digest="d" * 64, rows={"train": 8, "test": 4})
    created = datetime(2026, 11, 23, tzinfo=UTC)
    record = RunRecord(
        run_id=RUN,
        dataset=dataset,
        created=created,
        config_digest=config_digest(config),
        git={"sha": "f" * 40, "dirty": True},
    )
    begin_run(store, record, config)
    return store


def line(images_seen: int, **metrics: float) -> str:
    values = {"generator/loss": images_seen / 7, "progress/kimg": images_seen / 1000, **metrics}
    return json.dumps({"images_seen": images_seen, "seconds": images_seen / 10, "metrics": values}) + "\n"


def local_log(settings: Settings) -> Path:
    path = settings.home / "work" / RUN / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def grid(store: Store, images_seen: int) -> None:
    from ganpipe.grids import grid_png

    png = grid_png(np.full((4, 1, 8, 8), images_seen % 256, np.uint8))
    store.write_bytes(f"runs/{RUN}/samples/kimg-{images_seen / 1000:010.3f}.png", png)


def client(settings: Settings) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.tracking_uri)


def steps(settings: Settings, name: str = "generator/loss") -> list[int]:
    found = the_run(settings)
    return [metric.step for metric in client(settings).get_metric_history(found.info.run_id, name)] if found else []


def the_run(settings: Settings) -> Any:
    experiment = client(settings).get_experiment_by_name("tiny-digits")
    found = client(settings).search_runs([experiment.experiment_id]) if experiment else []
    assert len(found) <= 1
    return found[0] if found else None


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


def test_off_means_off(store: Store, settings: Settings) -> None:
    script = (
        "import sys, json; from ganpipe import tracking; from ganpipe.settings import Settings\n"
        "from ganpipe.storage import open_store\n"
        "settings = Settings.from_environment(); store = open_store(settings.store)\n"
        f"with tracking.Mirror(store, {RUN!r}, settings): pass\n"
        "sys.exit('mlflow' in sys.modules)"
    )
    environment = {**os.environ, **settings.to_environment(), "GANPIPE_TRACKING_URI": "off"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0
    with pytest.raises(InputError, match="tracking is off"):
        tracking.mirror_run(store, RUN, settings.model_copy(update={"tracking_uri": "off"}))


def test_a_run_is_followed_and_continued_without_duplicates(store: Store, settings: Settings) -> None:
    path = local_log(settings)
    path.write_text(line(100))
    with tracking.Mirror(store, RUN, settings, poll_seconds=0.1):
        until(lambda: steps(settings) == [100])
        assert the_run(settings).info.status == "RUNNING"
        with path.open("a") as stream:
            stream.write(line(200, bad=math.nan, worse=math.inf) + line(300)[:20])
        grid(store, 200)
    assert steps(settings) == [100, 200], "the last words are sent, a half-written line is not"
    assert the_run(settings).info.status == "FAILED", "no word of an end was left"

    path.write_text(line(100) + line(200) + line(300))
    write_state(store, RUN, "finished")
    grid(store, 300)
    with tracking.Mirror(store, RUN, settings, poll_seconds=0.1):
        pass
    assert steps(settings) == [100, 200, 300]
    run = the_run(settings)
    assert run.info.status == "FINISHED" and run.info.run_name == "tiny 2026-11-23 00:00"
    assert not {"bad", "worse"} & set(run.data.metrics)
    assert run.data.params["train.stop.kimg"] == "1.0" and run.data.params["gan.objective"] == "non_saturating"
    assert run.data.tags["mlflow.source.git.commit"] == "f" * 40
    assert run.info.artifact_uri.startswith(f"{store.uri}/mlflow")
    pictures = [item.path for item in client(settings).list_artifacts(run.info.run_id, "images")]
    assert sorted(name.split("+step+")[1].split("+")[0] for name in pictures if name.endswith(".png")) == ["200", "300"]


def test_back_fill_from_the_store_is_idempotent(store: Store, settings: Settings) -> None:
    store.write_bytes(f"runs/{RUN}/metrics.jsonl", "".join(line(step) for step in range(1, 1201)).encode())
    first = tracking.mirror_run(store, RUN, settings)
    assert tracking.mirror_run(store, RUN, settings) == first == the_run(settings).info.run_id
    assert steps(settings) == list(range(1, 1201)), "in several batches of whole lines"


def test_a_crash_after_sending_sends_nothing_twice(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    path, log_batch = local_log(settings), MlflowClient.log_batch
    path.write_text(line(100))

    def sends_and_fails(self: Any, *args: Any, **kwargs: Any) -> None:
        log_batch(self, *args, **kwargs)
        if kwargs.get("metrics"):
            monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
            raise ConnectionError("the answer got lost")

    monkeypatch.setattr(MlflowClient, "log_batch", sends_and_fails)
    with tracking.Mirror(store, RUN, settings, poll_seconds=0.1):
        until(lambda: MlflowClient.log_batch is log_batch)
        path.write_text(line(100) + line(200))
        until(lambda: steps(settings)[-1] == 200)
    assert steps(settings) == [100, 200]


def test_scores_are_logged_once(store: Store, settings: Settings) -> None:
    def scored(images_seen: int, value: float) -> SnapshotScores:
        prefix = f"runs/{RUN}/checkpoints/kimg-{images_seen / 1000:010.3f}"
        ref = CheckpointRef(run_id=RUN, images_seen=images_seen, prefix=prefix, generator_sha256="0" * 64)
        return SnapshotScores(checkpoint=ref, scores={"fid_domain": value}, by_seed={"fid_domain": [value]}, seeds=[1])

    report = EvalReport(
        run_id=RUN, dataset_digest="d" * 64, protocol={}, protocol_hash="p" * 64, metric="fid_domain",
        snapshots=[scored(100, 9.0), scored(200, math.nan), scored(300, 5.0)], best=scored(300, 5.25),
        controls=[ControlScores(name="real", n=4, scores={"fid_domain": 1.5})],
    )  # fmt: skip
    store.write_bytes(f"runs/{RUN}/reports/{'p' * 12}.json", report.model_dump_json().encode())
    for _ in range(2):
        tracking.log_scores(store, report, settings)
    assert steps(settings, "eval/fid_domain") == [100, 300]
    data = the_run(settings).data
    assert data.metrics["best/fid_domain"] == 5.25 and data.metrics["control_real/fid_domain"] == 1.5
    assert data.tags["ganpipe.best_checkpoint"].endswith("kimg-000000.300")
    assert [item.path for item in client(settings).list_artifacts(the_run(settings).info.run_id, "reports")] == [
        f"reports/{'p' * 12}.json"
    ]


def test_what_the_machine_did_is_sent_once(store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(machine, "EVERY_SECONDS", 0.2)
    log_batch = MlflowClient.log_batch
    fails = {"left": 2}

    def loses_the_answer(self: Any, *args: Any, **kwargs: Any) -> None:
        log_batch(self, *args, **kwargs)
        if kwargs.get("metrics") and fails["left"]:
            fails["left"] -= 1
            raise ConnectionError("the answer got lost")

    monkeypatch.setattr(MlflowClient, "log_batch", loses_the_answer)
    with tracking.Mirror(store, RUN, settings, poll_seconds=0.1):
        until(lambda: the_run(settings) is not None and len(system_times(settings)) >= 4)
    times = system_times(settings)
    assert fails["left"] == 0 and len(times) == len(set(times)), "no sample twice"
    known = the_run(settings).data.metrics
    assert 0 <= known["system/cpu_utilization_percentage"] <= 100 and known["system/disk_available_megabytes"] > 0
    tracking.mirror_run(store, RUN, settings)
    assert system_times(settings) == times


def system_times(settings: Settings) -> list[int]:
    name = "system/cpu_utilization_percentage"
    return [metric.timestamp for metric in client(settings).get_metric_history(the_run(settings).info.run_id, name)]


# --- a server that goes away -------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def serve(port: int, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        places = [
            "--backend-store-uri",
            f"sqlite:///{tmp_path}/server.db",
            "--artifacts-destination",
            f"{tmp_path}/art",
        ]
        log = (tmp_path / "server.log").open("ab")
        quick = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        started.append(subprocess.Popen([*command, *places], env=quick, stdout=log, stderr=log, start_new_session=True))
        until(lambda: answers(port), seconds=60)
        return started[-1]

    yield start
    for process in started:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_a_server_that_stops_in_mid_run_is_caught_up_with(
    store: Store,
    settings: Settings,
    port: int,
    serve: Callable[[], subprocess.Popen[bytes]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = settings.model_copy(update={"tracking_uri": f"http://127.0.0.1:{port}"})
    server, path = serve(), local_log(settings)
    path.write_text(line(100))
    with caplog.at_level(logging.WARNING), tracking.Mirror(store, RUN, settings, poll_seconds=0.2):
        until(lambda: steps(settings) == [100])
        stop(server)
        path.write_text(line(100) + line(200))
        grid(store, 200)
        time.sleep(1.5)
        server = serve()
        until(lambda: steps(settings) == [100, 200], seconds=60)
        stop(server)
        path.write_text(line(100) + line(200) + line(300))
        begun = time.monotonic()
    assert time.monotonic() - begun < tracking.LAST_WORDS_SECONDS + 1, "a dead server does not hold up the run's end"
    warnings = [record for record in caplog.records if record.name == "ganpipe.tracking"]
    assert len(warnings) == 1, "once a minute at most"
    with pytest.raises(WorkFailed, match="does not take the run"):
        tracking.mirror_run(store, RUN, settings)
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
