"""What a run leaves in a bucket is what it leaves on files."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from s3_objects import listed
from s3_server import BUCKET
from tiny import tiny_raw

from ganpipe import prepare, runs, train
from ganpipe.cli import main
from ganpipe.config import load_config
from ganpipe.night import new_record
from ganpipe.refs import CheckpointRef
from ganpipe.settings import Settings
from ganpipe.storage import open_store, sha256_of_bytes


def trained(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointRef:
    """Prepare and train the tiny configuration into a store, by a machine that has nothing yet."""
    monkeypatch.setenv("GANPIPE_HOME", str(folder / "home"))
    monkeypatch.setenv("GANPIPE_STORE", uri)
    settings = Settings.from_environment()
    config = load_config(tiny_raw())
    dataset = prepare.run(config, settings)
    started = datetime(2026, 11, 23, tzinfo=UTC)
    return train.run(config, new_record(config, dataset, settings, started), settings)


@pytest.mark.slow
def test_a_run_in_s3_is_the_run_on_files(
    client: Any, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Plain boto3 lists it all, every file of a manifest has its sha256, and nothing depends on the kind of store."""
    here = trained(f"file://{tmp_path}/store", tmp_path / "here", monkeypatch)
    there = trained(s3_uri, tmp_path / "there", monkeypatch)
    assert there == here
    local, remote = open_store(f"file://{tmp_path}/store"), open_store(s3_uri)
    sizes = listed(client, s3_uri)
    assert sorted(sizes) == [item.key for item in local.list()]
    published = list(remote.published(""))
    assert len([prefix for prefix in published if prefix.startswith("datasets/")]) == 1
    assert len([prefix for prefix in published if "/checkpoints/" in prefix]) >= 2
    same = {"generator.safetensors", "training.safetensors", "rank-00000.safetensors"}
    for prefix in published:
        files = remote.manifest(prefix)["files"]
        for name, facts in files.items():
            body = client.get_object(Bucket=BUCKET, Key=f"{s3_uri.rpartition('/')[2]}/{prefix}/{name}")["Body"].read()
            assert (sha256_of_bytes(body), len(body)) == (facts["sha256"], facts["bytes"])
            if prefix.startswith("datasets/") or name in same:
                assert facts == local.manifest(prefix)["files"][name]


@pytest.mark.slow
def test_a_night_in_s3_is_the_night_on_files(
    client: Any, s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole chain, MLflow's artifacts too: the same objects of the same content, times and names of runs aside."""
    (tmp_path / "tiny.yaml").write_text(json.dumps(tiny_raw()))
    kept = []
    for uri in (f"file://{tmp_path}/store", s3_uri):
        home = tmp_path / uri.partition(":")[0]
        monkeypatch.setenv("GANPIPE_HOME", str(home))
        monkeypatch.setenv("GANPIPE_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
        monkeypatch.setenv("GANPIPE_STORE", uri)
        assert main(["run", str(tmp_path / "tiny.yaml"), "--no-orchestrator"]) == 3
        store = open_store(uri)
        kept.append(
            {
                prefix.partition("/checkpoints/")[2] or prefix: {
                    name: facts["sha256"]
                    for name, facts in store.manifest(prefix)["files"].items()
                    if name.endswith((".npy", ".safetensors")) and name != "generator.safetensors"  # names its run
                }
                for prefix in store.published("")
            }
        )
        for prefix in store.published(""):
            store.fetch(prefix)
    assert kept[0] == kept[1] and len(kept[0]) >= 4
    there = listed(client, s3_uri)
    assert any(key.startswith("mlflow/") and key.endswith("generator.safetensors") for key in there)
    assert not any(key.startswith(".") for key in there)


@pytest.mark.slow
def test_two_processes_train_into_a_bucket_and_resume_from_it(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On another machine, that is, without anything that the first one has on its disk."""
    (tmp_path / "tiny.yaml").write_text(json.dumps(tiny_raw(micro_batch=8)))
    monkeypatch.setenv("GANPIPE_STORE", s3_uri)
    for run_id, home in (("straight", "one"), ("moved", "one")):
        monkeypatch.setenv("GANPIPE_HOME", str(tmp_path / home))
        command = ["train", str(tmp_path / "tiny.yaml"), "--run", run_id, "--num-processes", "2"]
        assert main(command) == 0
    store = open_store(s3_uri)
    *_, newest = runs.checkpoints(store, "moved")
    store.remove(newest.prefix)
    monkeypatch.setenv("GANPIPE_HOME", str(tmp_path / "two"))
    assert main(["train", "--resume", "moved", "--num-processes", "2"]) == 0
    again, straight = (runs.checkpoints(open_store(s3_uri), run_id)[-1] for run_id in ("moved", "straight"))
    facts = [store.manifest(ref.prefix)["files"]["training.safetensors"] for ref in (again, straight)]
    assert again.images_seen == newest.images_seen and facts[0] == facts[1]
