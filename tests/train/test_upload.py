"""Snapshots between the training and a store that is away."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import pytest
from test_kill import all_weights, begin
from tiny import tiny_raw

from ganpipe import runs
from ganpipe.cli import main
from ganpipe.errors import Interrupted, of_the_disk
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import Store
from ganpipe.train import process, upload
from ganpipe.train.trainer import Trainer

NAMES = ["kimg-000000.128", "kimg-000000.256", "kimg-000000.320"]


def blocked(store: Store, run_id: str) -> Path:
    """A file where the store wants a folder: no snapshot of this run gets in until it is gone."""
    path = Path(store.uri.removeprefix("file://"), "runs", run_id, "samples")
    path.write_text("in the way")
    return path


def names(store: Store, run_id: str) -> list[str]:
    return [ref.prefix.rpartition("/")[2] for ref in runs.checkpoints(store, run_id)]


def spooled(settings: Settings, run_id: str) -> list[str]:
    return sorted(path.name for path in (settings.home / "work" / run_id / "spool").glob("*"))


def train(run_id: str) -> None:
    process.train({"run_id": run_id}, StopSignal())


def test_a_store_that_comes_back_gets_everything(
    digits: Dataset, store: Store, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    begin("run", digits, store)
    obstacle = blocked(store, "run")

    def come_back() -> None:
        while spooled(settings, "run") != NAMES:
            time.sleep(0.05)
        obstacle.unlink()

    threading.Thread(target=come_back, daemon=True).start()
    train("run")
    assert names(store, "run") == NAMES
    assert len([record for record in caplog.records if "Training goes on" in record.message]) == 1
    samples = [item.key.rpartition("/")[2] for item in store.list("runs/run/samples")]
    assert samples == [f"{name}.png" for name in NAMES]


def test_what_waits_is_uploaded_by_resume_and_equals_a_run_without_trouble(
    digits: Dataset, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("straight", digits, store)
    train("straight")
    begin("run", digits, store)
    obstacle = blocked(store, "run")
    monkeypatch.setattr(upload, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(upload.StillWaiting, match=r"3 checkpoints wait in .*/work/run/spool; `ganpipe train --resume"):
        train("run")
    assert names(store, "run") == [] and spooled(settings, "run") == NAMES
    assert runs.read_state(store, "run") == "running", "it is not over"
    with pytest.raises(upload.StillWaiting):
        train("run")
    assert spooled(settings, "run") == NAMES, "a second try loses nothing, and trains nothing twice"
    obstacle.unlink()
    train("run")
    assert names(store, "run") == NAMES and runs.read_state(store, "run") == "finished"
    assert not (settings.home / "work" / "run" / "spool").exists()
    for ours, theirs in zip(runs.checkpoints(store, "run"), runs.checkpoints(store, "straight"), strict=True):
        weights, straight = all_weights(store, ours), all_weights(store, theirs)
        assert all(weights[name].equal(straight[name]) for name in straight)
    lines = store.read_bytes("runs/run/log.txt").decode().splitlines()
    assert sum("training run: classic" in line for line in lines) == 3, "one log over all resumes"
    assert any(" error: " in line and "3 checkpoints wait" in line for line in lines)
    assert all(line[:2] == "20" and line[19] == "Z" for line in lines), "every line has its time"


@pytest.mark.slow
def test_the_command_says_where_what_was_trained_waits(
    store: Store, settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(tiny_raw()))
    Path(store.uri.removeprefix("file://"), "runs", "run").mkdir(parents=True)
    obstacle = blocked(store, "run")
    assert main(["train", str(config), "--run", "run"]) == 1
    err = capsys.readouterr().err
    spool = settings.home / "work" / "run" / "spool"
    assert f"3 checkpoints wait in {spool}; `ganpipe train --resume run` on this machine uploads them" in err
    assert "Traceback" not in err
    obstacle.unlink()
    assert main(["train", "--resume", "run"]) == 0
    assert names(store, "run") == NAMES


def test_a_half_made_snapshot_is_not_taken_for_one(digits: Dataset, store: Store, settings: Settings) -> None:
    begin("run", digits, store)
    partial = settings.local_folder("work", "run", "spool", ".kimg-000000.128", "checkpoint")
    (partial / "generator.safetensors").write_bytes(b"half")
    train("run")
    assert names(store, "run") == NAMES and not partial.exists()


def test_a_run_that_went_on_elsewhere_keeps_its_newer_checkpoints(
    digits: Dataset, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin("run", digits, store)
    obstacle = blocked(store, "run")
    monkeypatch.setattr(upload, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(upload.StillWaiting):
        train("run")
    obstacle.unlink()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("GANPIPE_HOME", str(settings.home.parent / "elsewhere"))
        elsewhere.setenv("GANPIPE_STORE", store.uri)
        train("run")
    before = {item.key: store.read_bytes(item.key) for item in store.list("runs/run/checkpoints")}
    train("run")
    assert {item.key: store.read_bytes(item.key) for item in store.list("runs/run/checkpoints")} == before
    assert "from another machine" in caplog.text and not spooled(settings, "run")


@pytest.mark.parametrize("away", [False, True])
def test_an_interruption_uploads_its_last_checkpoint_if_it_can(
    away: bool, digits: Dataset, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    begin("run", digits, store)
    if away:
        blocked(store, "run")
    monkeypatch.setattr(upload, "INTERRUPTED_SECONDS", 2.0)
    stop = StopSignal()
    step = Trainer.step

    def stop_after_five(self: Trainer) -> None:
        step(self)
        if self.progress.steps == 5:
            stop.request("SIGTERM")

    monkeypatch.setattr(Trainer, "step", stop_after_five)
    began = time.monotonic()
    with pytest.raises(Interrupted, match="--resume run"):
        process.train({"run_id": "run"}, stop)
    assert time.monotonic() - began < 15
    assert names(store, "run") == ([] if away else ["kimg-000000.080"])
    assert spooled(settings, "run") == (["kimg-000000.080"] if away else [])
    assert ("1 checkpoint waits in" in caplog.text) == away
    assert json.loads(store.read_bytes("runs/run/state.json"))["state"] == "interrupted"


def test_a_full_disk_ends_the_training_with_what_was_complete(
    digits: Dataset, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("run", digits, store)
    fsync = upload.fsync

    def onto_a_full_disk(path: Path) -> None:
        if "kimg-000000.256" in str(path):
            Path("/dev/full").write_text("x")
        fsync(path)

    with monkeypatch.context() as full:
        full.setattr(upload, "fsync", onto_a_full_disk)
        with pytest.raises(OSError) as raised:
            train("run")
    assert "No space left on device" in str(of_the_disk(raised.value))
    assert names(store, "run") == NAMES[:1] and spooled(settings, "run") == []
    assert "GANPIPE_HOME" in json.loads(store.read_bytes("runs/run/state.json"))["detail"]
    train("run")
    assert names(store, "run") == NAMES


def test_errors_of_rust_libraries_are_of_the_disk_too() -> None:
    from safetensors import SafetensorError

    told = of_the_disk(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert "No space left on device" in str(told)
    assert of_the_disk(SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)")) is None


def test_the_log_stays_out_of_what_others_log(digits: Dataset, store: Store) -> None:
    begin("run", digits, store)
    handlers = list(logging.getLogger("ganpipe").handlers)
    train("run")
    assert logging.getLogger("ganpipe").handlers == handlers
    text = store.read_bytes("runs/run/log.txt").decode()
    assert "training ends at 0.320 kimg" in text and "kimg-000000.128 is in the store" in text
    assert "%|" not in text
