"""doctor: what it finds, that it is quick, and that it leaves nothing behind."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import tiny_raw

from ganpipe.cli import main
from ganpipe.settings import Settings


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of somebody who takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code; what -> verdict and finding. No check may take long, whatever it meets."""
    capsys.readouterr()
    code = main(["doctor", "--json", *arguments])
    result = json.loads(capsys.readouterr().out)
    checks = {check["what"]: (check["verdict"], check["finding"]) for check in result["checks"]}
    assert max(check["seconds"] for check in result["checks"]) < 15
    assert result["problems"] == sum(verdict == "problem" for verdict, _ in checks.values())
    return code, checks


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_sound_place_has_no_problem_and_stays_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(tiny_raw()))
    code, checks = found(capsys, str(config))
    assert code == 0
    assert list(checks) == ["python", "torch", "disk", "store", "tracking", "code", "data", "weights"]
    assert all(verdict in ("ok", "warning") for verdict, _ in checks.values())
    assert checks["tracking"][0] == "warning" and "GANPIPE_TRACKING_URI" in checks["tracking"][1]
    assert files(settings.home) == set()
    monkeypatch.setenv("GANPIPE_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    _, checks = found(capsys)
    assert checks["tracking"][0] == "ok" and not (tmp_path / "new").exists()
    assert main(["doctor", str(config)]) == 0
    assert capsys.readouterr().out.startswith("ok       python: 3.")


def test_what_is_missing_is_named_with_its_cure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raw = tiny_raw()
    raw["prepare"]["source"] = {"name": "folder", "path": str(tmp_path / "nowhere")}
    raw["evaluate"] = {"extractor": "inception"}
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(raw))
    (tmp_path / "mlflow.db").write_text("this is no database")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("GANPIPE_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANPIPE_STORE", f"file://{tmp_path}/file/store")
    code, checks = found(capsys, str(config))
    assert code == 2
    for what, cure in {
        "store": "GANPIPE_STORE", "tracking": "GANPIPE_TRACKING_URI", "data": "nowhere",
        "weights": "GANPIPE_INCEPTION_WEIGHTS",
    }.items():  # fmt: skip
        assert checks[what][0] == "problem" and cure in checks[what][1], checks[what]
    assert main(["doctor", str(tmp_path / "none.yaml")]) == 2


def test_a_database_is_only_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
    before = path.read_bytes()
    monkeypatch.setenv("GANPIPE_TRACKING_URI", f"sqlite:///{path}")
    _, checks = found(capsys)
    assert checks["tracking"] == ("ok", f"{path}, 0 runs") and path.read_bytes() == before


def test_servers_that_never_answer_are_given_up_soon(
    deaf: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANPIPE_STORE", "s3://bucket/prefix")
    monkeypatch.setenv("AWS_ENDPOINT_URL", deaf)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("GANPIPE_TRACKING_URI", deaf)
    code, checks = found(capsys)
    assert code == 2 and checks["store"][0] == checks["tracking"][0] == "problem"
