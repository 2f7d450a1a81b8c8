"""Checkpoints on their way to a server that is slow, dies, comes back, or does not."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from proxy import Proxy
from s3_objects import listed
from s3_server import BUCKET, Server
from tiny import tiny_raw

from ganpipe import prepare, runs
from ganpipe.cli import main
from ganpipe.config import load_config
from ganpipe.launch import StopSignal
from ganpipe.night import new_record
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.train import process, upload
from ganpipe.train.trainer import Trainer

pytestmark = pytest.mark.slow

SLOW = 10_000.0
"""Bytes per second: seconds for each checkpoint of the tiny nets."""
SNAPSHOTS = 3


@pytest.fixture
def proxy(s3_server: Server, s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to the server that the runs of a test know; plain boto3 goes straight there."""
    proxy = Proxy(s3_server.port)
    monkeypatch.setenv("GANPIPE_STORE", s3_uri)
    yield proxy
    proxy.close()


def begun(run_id: str) -> Settings:
    settings = Settings.from_environment()
    config = load_config(tiny_raw())
    store = open_store(settings.store)
    record = new_record(config, prepare.run(config, settings), settings, datetime.now(UTC), run_id=run_id)
    runs.begin_run(store, record, config)
    return settings


def require_whole(client: Any, uri: str, run_id: str) -> None:
    """Plain boto3 finds every checkpoint, each file of it with the sha256 of its manifest, and nothing besides."""
    sizes = {key: size for key, size in listed(client, uri).items() if key.startswith(f"runs/{run_id}/")}
    prefix = uri.removeprefix(f"s3://{BUCKET}/")

    def body(key: str) -> bytes:
        return bytes(client.get_object(Bucket=BUCKET, Key=f"{prefix}/{key}")["Body"].read())

    manifests = [key for key in sizes if key.endswith("/manifest.json")]
    assert [key.split("/")[3] for key in manifests] == ["kimg-000000.128", "kimg-000000.256", "kimg-000000.320"]
    seen = set(manifests)
    for key in manifests:
        for name, facts in json.loads(body(key))["files"].items():
            file = key.replace("manifest.json", name)
            assert hashlib.sha256(body(file)).hexdigest() == facts["sha256"]
            seen.add(file)
    assert {key for key in sizes if "/checkpoints/" in key} == seen
    assert len([key for key in sizes if "/samples/" in key]) == SNAPSHOTS
    assert {"config.yaml", "run.json", "state.json", "metrics.jsonl", "log.txt"} <= {key.split("/")[2] for key in sizes}
    lines = [json.loads(line)["images_seen"] for line in body(f"runs/{run_id}/metrics.jsonl").splitlines()]
    assert lines == [64, 128, 192, 256, 320]


def test_training_does_not_wait_for_a_slow_server(
    proxy: Proxy, client: Any, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun("slow")
    waits, ended = [], []
    snapshot = Trainer.snapshot

    def timed(self: Trainer, **options: Any) -> None:
        began = time.monotonic()
        snapshot(self, **options)
        waits.append(time.monotonic() - began)
        ended.append(time.monotonic())

    monkeypatch.setattr(Trainer, "snapshot", timed)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.bytes_per_second = SLOW
    process.train({"run_id": "slow"}, StopSignal())
    uploading = time.monotonic() - ended[0]
    sys.stderr.write(f"longest wait {max(waits):.3f} s, uploads {uploading:.1f} s for {proxy.sent:,} bytes\n")
    assert uploading > 5 and max(waits) < 1
    require_whole(client, s3_uri, "slow")


def test_a_server_killed_in_mid_training_gets_everything_once_it_is_back(
    proxy: Proxy, client: Any, s3_server: Server, s3_uri: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    begun("outage")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    back = proxy.target
    with s3_server.another_gateway() as (url, gateway):
        proxy.target = int(url.rpartition(":")[2])
        proxy.bytes_per_second = SLOW

        def kill_in_mid_upload() -> None:
            sent = proxy.sent
            until(lambda: proxy.sent > sent + 30_000)
            gateway.kill()
            gateway.wait()
            time.sleep(15)
            proxy.bytes_per_second = float("inf")
            proxy.target = back

        killer = threading.Thread(target=kill_in_mid_upload)
        killer.start()
        process.train({"run_id": "outage"}, StopSignal())
        killer.join()
    warnings = [record.message for record in caplog.records if "Training goes on" in record.message]
    assert len(warnings) == 1 and "AWS_ENDPOINT_URL" in warnings[0]
    require_whole(client, s3_uri, "outage")


def test_a_server_that_does_not_come_back_keeps_nothing_from_resume(
    proxy: Proxy, client: Any, s3_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = begun("waits")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr(upload, "PATIENCE_SECONDS", 2.0)
    back, proxy.bytes_per_second = proxy.target, SLOW

    def vanish() -> None:
        sent = proxy.sent
        until(lambda: proxy.sent > sent + 60_000)
        proxy.lead_nowhere()

    threading.Thread(target=vanish).start()
    spool = settings.home / "work" / "waits" / "spool"
    with pytest.raises(upload.StillWaiting, match=f"wait in {spool}; `ganpipe train --resume waits` on this machine"):
        process.train({"run_id": "waits"}, StopSignal())
    proxy.target, proxy.bytes_per_second = back, float("inf")
    assert main(["train", "--resume", "waits"]) == 0
    assert not spool.exists()
    require_whole(client, s3_uri, "waits")


def test_a_trainer_killed_in_mid_upload_leaves_nothing_half_visible(
    proxy: Proxy, client: Any, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = begun("killed")
    proxy.bytes_per_second = SLOW
    environment = {**os.environ, **settings.to_environment(), "AWS_ENDPOINT_URL": proxy.url}
    child = subprocess.Popen([sys.executable, "-m", "ganpipe", "train", "--resume", "killed"], env=environment)
    until(lambda: any(key.startswith("runs/killed/samples/") for key in listed(client, s3_uri)))
    sent = proxy.sent
    until(lambda: proxy.sent > sent + 30_000)
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    time.sleep(1)
    store = open_store(s3_uri)
    for ref in runs.checkpoints(store, "killed"):
        store.fetch(ref.prefix)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.bytes_per_second = float("inf")
    until(lambda: main(["train", "--resume", "killed"]) == 0, 40)  # the orphan ends by itself
    require_whole(client, s3_uri, "killed")


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
