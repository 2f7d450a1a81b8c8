from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from nights import decision, replace_stages
from PIL import Image
from tiny import tiny_raw

from ganpipe.cli import main
from ganpipe.config import load_config
from ganpipe.errors import InputError
from ganpipe.night import git_state, night
from ganpipe.refs import Alarm, Diagnostics
from ganpipe.settings import Settings
from ganpipe.storage import Store
from ganpipe.summary import markdown, score_rows, summary
from ganpipe.tables import aligned, compared


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(tiny_raw()))
    return str(path)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON object on stdout."""
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from ganpipe.cli import main
try: main(["--help"])
except SystemExit: pass
heavy = {"torch", "prefect", "mlflow", "pydantic", "numpy"} & set(sys.modules)
sys.exit(str(heavy) if heavy else 0)
"""
    done = python(script)
    assert done.returncode == 0, done.stderr
    assert "promote" in done.stdout and "study" not in done.stdout


def test_wrong_usage_and_wrong_input_are_one_message_and_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["nonsense"]) == 2
    assert "ganpipe: error: " in capsys.readouterr().err
    assert main(["train", "--json", "--bogus"]) == 2
    assert said(capsys)["exit_code"] == 2
    assert main(["prepare", str(tmp_path / "none.yaml"), "--json"]) == 2
    answer = said(capsys)
    assert answer["exit_code"] == 2 and "none.yaml" in answer["error"]
    assert main(["train"]) == 2
    assert main(["train", "--resume", "no-such-run"]) == 2
    assert "no-such-run" in capsys.readouterr().err


def test_a_wrong_field_is_named(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    for orchestrated in ([], ["--no-orchestrator"]):
        assert main(["run", config, *orchestrated, "--set", "train.batch=many"]) == 2
        err = capsys.readouterr().err
        assert "train.batch" in err and "Traceback" not in err


def test_places_that_cannot_be_used_are_named(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANPIPE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("GANPIPE_TRACKING_URI", "sqlite:///nowhere.db")
    for command in (["run", config], ["run", config, "--no-orchestrator"], ["train", config]):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert "GANPIPE_HOME" in err and "Traceback" not in err
    monkeypatch.setenv("GANPIPE_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    for port in ("0", "99999"):
        assert main(["ui", "--port", port]) == 2
    assert "GANPIPE_TRACKING_URI" in capsys.readouterr().err


def test_runs_passes_over_what_is_no_run(capsys: pytest.CaptureFixture[str], settings: Settings, store: Store) -> None:
    store.write_bytes("runs/.DS_Store", b"")
    assert main(["runs", "--json"]) == 0
    assert said(capsys) == {"runs": []}


def test_a_damaged_record_is_named_and_hides_no_other_run(
    config: str, capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    for run_id in ("sound", "damaged"):
        assert main(["train", config, "--run", run_id]) == 0
    path = Path(store.uri.removeprefix("file://"), "runs/damaged/run.json")
    path.write_bytes(path.read_bytes()[:40])
    capsys.readouterr()
    assert main(["runs", "--json"]) == 0
    captured = capsys.readouterr()
    assert [run["run_id"] for run in json.loads(captured.out)["runs"]] == ["sound"]
    assert "runs/damaged/run.json" in captured.err
    assert main(["train", "--resume", "damaged"]) == 1
    err = capsys.readouterr().err
    assert "runs/damaged/run.json cannot be read as RunRecord" in err and "Traceback" not in err


def test_libraries_write_nothing_to_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MPLCONFIGDIR", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    assert main(["runs"]) == 0
    assert os.environ["MPLCONFIGDIR"] == str(settings.home / "matplotlib")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_unexpected_errors_have_a_traceback(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ganpipe.prepare.run", lambda *_: 1 / 0)
    assert main(["prepare", config, "--json"]) == 1
    captured = capsys.readouterr()
    assert "ZeroDivisionError" in json.loads(captured.out)["error"] and "Traceback" in captured.err


def test_a_full_disk_is_one_message(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def onto_a_full_disk(*_: object) -> None:
        Path("/dev/full").write_text("x")

    monkeypatch.setattr("ganpipe.prepare.run", onto_a_full_disk)
    assert main(["prepare", config]) == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err and "Traceback" not in err


def test_interruption_says_how_to_go_on(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ganpipe.train.run", interrupted)
    assert main(["train", config, "--run", "mine"]) == 130
    assert "ganpipe train --resume mine" in capsys.readouterr().err


def test_the_gates_no_is_exit_3(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_stages(monkeypatch)
    monkeypatch.setenv("GANPIPE_TRACKING_URI", "sqlite:///nowhere.db")
    assert main(["promote", "tiny", "--version", "7"]) == 3
    assert main(["run", config, "--no-orchestrator"]) == 3
    out = capsys.readouterr().out
    assert "not promoted: 5 is not below 4.9" in out and "floor (n=4)" in out and f"protocol {'p' * 16}" in out
    monkeypatch.setattr("ganpipe.register.promote", lambda *_, **__: decision(promoted=True))
    assert main(["run", config, "--no-orchestrator", "--json"]) == 0
    assert said(capsys)["decision"]["promoted"] is True


def test_a_night_calls_every_stage_once_in_order(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    calls = replace_stages(monkeypatch)
    config = load_config(tiny_raw(seed="auto"))
    started = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)
    with pytest.raises(InputError, match="GANPIPE_TRACKING_URI is off"):
        night(config, settings, started=started)
    settings = settings.model_copy(update={"tracking_uri": "sqlite:///nowhere.db"})
    first, second = (night(config, settings, started=started) for _ in range(2))
    assert first.run_id == second.run_id and first.run_id.startswith("tiny-20261123t023000-")
    assert [name for name, _ in calls[:5]] == ["prepare", "train", "evaluate", "register", "promote"]
    record = calls[1][1]
    assert record.created == started and record.git == git_state()
    assert night(config, settings, started=datetime.now(UTC)).run_id != first.run_id, "a new night is a new run"


def test_controls_of_another_protocol_do_not_stand_beside_the_gates_scores(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    replace_stages(monkeypatch)
    monkeypatch.setattr(
        "ganpipe.register.promote", lambda *_, **__: decision().model_copy(update={"protocol_hash": "q" * 16})
    )
    settings = settings.model_copy(update={"tracking_uri": "sqlite:///nowhere.db"})
    result = night(load_config(tiny_raw()), settings, started=datetime.now(UTC))
    assert score_rows(result)[0] == ["metric", "model", "champion"]
    assert "q" * 16 in summary(result, settings)


def test_the_morning_names_the_alarms(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    replace_stages(monkeypatch)
    settings = settings.model_copy(update={"tracking_uri": "sqlite:///nowhere.db"})
    quiet = night(load_config(tiny_raw()), settings, started=datetime.now(UTC))
    alarm = Alarm(name="duplicates", raised=True, statistic=1, threshold=0.05, detail="9 of 9 samples are alike")
    found = Diagnostics(generated=9, held_out=9, alarms=[alarm], kind="classes", classes=[])
    loud = quiet.model_copy(update={"report": quiet.report.model_copy(update={"diagnostics": found})})
    assert "\nalarm    duplicates: 9 of 9 samples are alike\n" in summary(loud, settings)
    assert "\n- **alarm** duplicates: 9 of 9 samples are alike\n" in markdown(loud)
    assert "alarm" not in summary(quiet, settings) + markdown(quiet)


def test_missing_inception_weights_are_told_before_a_training(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    calls = replace_stages(monkeypatch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = load_config(tiny_raw(), ["evaluate.extractor=inception"])
    settings = settings.model_copy(update={"tracking_uri": "sqlite:///nowhere.db"})
    with pytest.raises(InputError, match="GANPIPE_INCEPTION_WEIGHTS"):
        night(config, settings, started=datetime.now(UTC))
    assert [name for name, _ in calls] == ["prepare"]


def test_kid_stands_first_beside_the_metric_of_comparison_where_images_are_few() -> None:
    scores = {"fid_domain": 1.0, "fid_inf_domain": 0.5, "kid_domain": 0.1, "recall_domain": 0.9}
    few, many = (
        [row[0] for row in compared("recall_domain", {"model": scores}, {"n_generated": n})[1:]] for n in (385, 50_000)
    )
    assert few == ["recall_domain", "kid_domain", "fid_domain", "fid_inf_domain"]
    assert many == ["recall_domain", "fid_domain", "fid_inf_domain", "kid_domain"]


def test_tables_are_aligned() -> None:
    assert aligned([["metric", "model"], ["fid", "12.5"]]) == ["metric  model", "fid      12.5"]


def test_train_evaluate_generate_without_prefect_and_mlflow(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = """
import sys
from ganpipe.cli import main
for command in (["train", sys.argv[1], "--run", "mine", "--json"], ["evaluate", "--run", "mine", "--json"]):
    assert main(command) == 0
loaded = {"prefect", "mlflow"} & set(sys.modules)
sys.exit(str(loaded) if loaded else 0)
"""
    done = python(script, config)
    assert done.returncode == 0, done.stderr
    trained, evaluated = map(json.loads, done.stdout.splitlines())
    assert trained["run_id"] == evaluated["run_id"] == "mine"

    assert main(["train", config, "--run", "mine", "--json"]) == 0, "finished: continued for nothing"
    assert said(capsys) == trained
    assert main(["train", config, "--resume", "mine", "--set", "train.batch=32"]) == 2
    assert "train.batch: 16 -> 32" in capsys.readouterr().err
    assert main(["runs", "--json"]) == 0
    (listed,) = said(capsys)["runs"]
    assert listed["state"] == "finished" and listed["evaluated"] and listed["kimg"] == trained["images_seen"] / 1000

    out = Path(config).parent
    assert main(["generate", "mine", "--n", "4", "--out", f"{out}/grid.png", "--json"]) == 0
    assert said(capsys)["n"] == 4 and Image.open(out / "grid.png").size == (128, 128)
    assert main(["generate", "mine", "--n", "3", "--seed", "5", "--out", f"{out}/singles"]) == 0
    assert sorted(path.name for path in (out / "singles").iterdir()) == [f"seed5-{i:06d}.png" for i in range(3)]
    assert Image.open(out / "singles" / "seed5-000002.png").size == (8, 8)


def test_sigterm_leaves_a_checkpoint_that_resume_continues(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "ganpipe", "train", config, "--run", "mine", "--set", "train.stop.kimg=10000"]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line = Path(os.environ["GANPIPE_HOME"]) / "work" / "mine" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (line.exists() and line.read_text()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and json.loads(out)["exit_code"] == 143, err.decode()
    assert b"--resume mine" in err and b"Traceback" not in err
    assert main(["runs", "--json"]) == 0
    (listed,) = said(capsys)["runs"]
    assert listed["state"] == "interrupted" and listed["kimg"] > 0
