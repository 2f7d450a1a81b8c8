"""compare, logs, pull, runs: on the store of the fixtures, whose one run is doubled here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ganpipe import runs
from ganpipe.cli import main
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store, sha256_of_file

FIXTURE = Path(__file__).parent / "fixtures" / "store-format-1"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    shutil.copytree(FIXTURE, tmp_path / "store")
    monkeypatch.setenv("GANPIPE_STORE", f"file://{tmp_path}/store")
    return open_store(f"file://{tmp_path}/store")


def doubled(store: Store, run_id: str, protocol: dict[str, Any] | None = None) -> str:
    """A second run like the first, of half the learning rate, that scores 10 % worse."""
    (first,) = runs.run_ids(store)
    for item in list(store.list(f"runs/{first}")):
        data = store.read_bytes(item.key)
        if not item.key.endswith((".safetensors", ".png")):
            data = data.replace(first.encode(), run_id.encode())
        if item.key.endswith("config.yaml"):
            data = data.replace(b"batch: 16", b"batch: 32")
        if "/reports/" in item.key and item.key.endswith(".json"):
            report = json.loads(data)
            best = report["best"]
            best["by_seed"] = {name: [1.1 * v for v in values] for name, values in best["by_seed"].items()}
            best["scores"] = {name: 1.1 * value for name, value in best["scores"].items()}
            report["protocol"] |= protocol or {}
            if protocol:
                report["protocol_hash"] = "f" * 16
            data = json.dumps(report).encode()
        store.write_bytes(item.key.replace(first, run_id), data)
    return first


def told(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*command, "--json"]) == code
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_compare_shows_configurations_scores_and_progress(old: Store, capsys: pytest.CaptureFixture[str]) -> None:
    first = doubled(old, "other")
    result = told(capsys, "compare", first, "other")
    report = runs.reports(old, first)[0]
    assert result["differences"] == {"other": ["train.batch: 16 -> 32"]} and result["refused"] is None
    assert result["protocol_hash"] == report.protocol_hash
    scores = result["scores"][report.metric]
    assert scores[first]["mean"] == report.best.scores[report.metric]
    assert scores["other"]["mean"] == pytest.approx(1.1 * scores[first]["mean"])
    assert scores[first]["seeds"] == len(report.best.seeds)
    assert result["runs"][0]["best_kimg"] == report.best.checkpoint.images_seen / 1000
    assert result["runs"][0]["hours_to_best"] <= result["runs"][0]["hours"]
    assert main(["compare", first, "other"]) == 0
    out = capsys.readouterr().out
    assert "train.batch: 16 -> 32" in out and "±" in out and report.protocol_hash in out


def test_scores_of_unlike_protocols_are_refused_and_the_rest_is_shown(
    old: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = doubled(old, "other", {"n_generated": 7})
    result = told(capsys, "compare", first, "other", code=2)
    assert result["scores"] == {} and "n_generated:" in result["refused"] and "-> 7" in result["refused"]
    assert result["differences"] == {"other": ["train.batch: 16 -> 32"]}
    assert main(["compare", first, "other"]) == 2
    out = capsys.readouterr().out
    assert "n_generated" in out and "train.batch: 16 -> 32" in out and "±" not in out


def test_compare_wants_runs(old: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (first,) = runs.run_ids(old)
    assert "two runs" in told(capsys, "compare", first, first, code=2)["error"]
    assert "'nowhere'" in told(capsys, "compare", first, "nowhere", code=2)["error"]


def test_a_run_that_was_not_evaluated_stands_beside_one_that_was(
    old: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = doubled(old, "other")
    old.remove("runs/other/reports")
    result = told(capsys, "compare", first, "other")
    assert all(list(by_run) == [first] for by_run in result["scores"].values()) and result["scores"]
    assert result["runs"][1]["best_kimg"] is None


def test_runs_tells_the_best_score(old: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = told(capsys, "runs")["runs"]
    report = runs.reports(old, run["run_id"])[0]
    assert run["best"] == report.best.scores[report.metric] and run["metric"] == report.metric
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert f"{report.metric} {run['best']:.4g}" in out and report.protocol_hash[:8] in out


# --- pull --------------------------------------------------------------------------------------------------------


def test_pull_brings_all_of_a_champion(old: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    result = told(capsys, "pull", "models:/fixture@champion", "--out", str(out))
    names = {"generator.safetensors", "config.yaml", "run.json", "report.json", "lineage.json", "lineage.md"}
    assert names <= set(result["files"]) == {path.name for path in out.iterdir()}
    manifest = old.manifest(result["checkpoint"])["files"]["generator.safetensors"]
    assert sha256_of_file(out / "generator.safetensors") == manifest["sha256"]
    assert load_file(out / "generator.safetensors")
    assert json.loads((out / "lineage.json").read_text())["product"] == "fixture"
    assert main(["generate", str(out / "generator.safetensors"), "--n", "1", "--out", f"{tmp_path}/x.png"]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["model"], "nothing half-made lies about"


def test_pull_leaves_what_is_there(old: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (run_id,) = runs.run_ids(old)
    out = tmp_path / "model"
    out.mkdir()
    for _ in range(2):
        assert "lineage.md" not in told(capsys, "pull", run_id, "--out", str(out))["files"]
    (out / "config.yaml").write_text("mine")
    assert "holds something else" in told(capsys, "pull", run_id, "--out", str(out), code=2)["error"]
    assert (out / "config.yaml").read_text() == "mine"
    damaged = Path(old.uri.removeprefix("file://"), runs.checkpoints(old, run_id)[-1].prefix, "generator.safetensors")
    damaged.write_bytes(b"damaged")
    assert "sha256" in told(capsys, "pull", run_id, "--out", str(tmp_path / "new"), code=1)["error"]
    assert not (tmp_path / "new").exists()
    assert told(capsys, "pull", "nothing", "--out", str(tmp_path / "new"), code=2)


# --- logs --------------------------------------------------------------------------------------------------------


def test_logs_tells_state_log_and_newest_metrics(
    old: Store, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_id,) = runs.run_ids(old)
    old.write_bytes(f"runs/{run_id}/log.txt", b"2026-11-23T00:00:00Z first\n")
    work = settings.local_folder("work", run_id)
    (work / "log.txt").write_text("2026-11-23T00:00:00Z first\n2026-11-23T00:01:00Z second, here only\nhalf")
    result = told(capsys, "logs", run_id)
    assert result["state"] == "finished" and result["metrics"]["images_seen"] == 64
    assert [line[21:] for line in result["log"]] == ["first", "second, here only"]
    assert main(["logs", run_id]) == 0
    out = capsys.readouterr().out
    assert "second, here only" in out and "generator/loss" in out and "half" not in out
    assert main(["logs", "nowhere"]) == 2


def test_logs_follows_until_the_training_ends(old: Store) -> None:
    (run_id,) = runs.run_ids(old)
    key = f"runs/{run_id}/log.txt"
    runs.write_state(old, run_id, "running")
    old.write_bytes(key, b"2026-11-23T00:00:00Z first\n")
    command = [sys.executable, "-m", "ganpipe", "logs", run_id, "--follow"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    threading.Timer(120, process.kill).start()
    for line in process.stdout:
        if "first" in line:
            break
    old.write_bytes(key, b"2026-11-23T00:00:00Z first\n2026-11-23T00:01:00Z second\n")
    time.sleep(0.1)
    runs.write_state(old, run_id, "finished")
    rest = process.stdout.read()
    assert process.wait(60) == 0
    assert rest.count("Z second") == 1 and "first" not in rest and "generator/loss" in rest
