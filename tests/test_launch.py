from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from ganpipe.errors import InputError, Interrupted, WorkFailed
from ganpipe.launch import run_child
from ganpipe.settings import Settings

CHILD = "launch_children"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    return Settings(home=tmp_path / "home", store=f"file://{tmp_path}/store", tracking_uri="off")


@pytest.fixture
def pair(settings: Settings) -> Settings:
    return settings.model_copy(update={"num_processes": 2})


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def written(path: Path) -> bool:
    return path.exists() and len(path.read_text().split()) == 2


def test_result_and_clean_stdout(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    result = run_child(CHILD, {"what": "work", "number": 0.1 + 0.2}, settings)
    assert result["number"] == 0.1 + 0.2 and result["pid"] != os.getpid()
    assert result["note"] == str(settings.home), "the child has the parent's settings"
    out, err = capfd.readouterr()
    assert out == "" and "this is no result" in err
    assert list((settings.home / "work").iterdir()) == []


def test_errors_pass_through(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^train\.batch: is not a number$"):
        run_child(CHILD, {"what": "refuse"}, settings)
    with pytest.raises(WorkFailed, match=r"^bytes differ$"):
        run_child(CHILD, {"what": "corrupt"}, settings)
    assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(WorkFailed, match="KeyError: 'unexpected'"):
        run_child(CHILD, {"what": "bug"}, settings)
    assert "Traceback" in capfd.readouterr().err


def test_progress_that_nobody_reads_any_more_is_no_failure(settings: Settings) -> None:
    """The night's own reader was killed: what its training shows goes nowhere, and the training goes on."""
    reader, writer = os.pipe()
    os.close(reader)
    own = os.dup(2)
    os.dup2(writer, 2)
    try:
        assert run_child(CHILD, {"what": "progress"}, settings)["number"] == 3
    finally:
        os.dup2(own, 2)
        os.close(own)
        os.close(writer)


def test_a_child_that_dies_is_a_failure(settings: Settings) -> None:
    with pytest.raises(WorkFailed, match=r"killed by SIGKILL \(out of memory\?\)"):
        run_child(CHILD, {"what": "die"}, settings)
    with pytest.raises(WorkFailed, match="exit code 7"):
        run_child(CHILD, {"what": "exit"}, settings)


def test_several_processes_return_one_result(pair: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_child(CHILD, {"what": "meet"}, pair) == {"pid": 0, "number": 1.0, "note": "2"}
    assert list((pair.home / "work").iterdir()) == []
    assert "Traceback" not in capfd.readouterr().err


def test_the_first_error_of_several_processes_is_the_reason(pair: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    """The other process waits for the one that refuses, and its own complaint is only about that."""
    with pytest.raises(InputError, match=r"^train\.batch: is not a number$"):
        run_child(CHILD, {"what": "refuse on one"}, pair)
    assert "Traceback" not in capfd.readouterr().err


def test_one_of_several_processes_that_dies_is_named(pair: Settings) -> None:
    with pytest.raises(WorkFailed, match=r"of 2 processes, number 1 ended without a result"):
        run_child(CHILD, {"what": "die on one"}, pair)


def test_interrupting_the_wait_ends_the_child(settings: Settings, tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    alarm = Thread(target=lambda: until(lambda: written(pids)) and os.kill(os.getpid(), signal.SIGALRM))
    alarm.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_child(CHILD, {"what": "stubborn", "pids": str(pids)}, settings, grace_seconds=0.5)
    finally:
        alarm.join()
        signal.signal(signal.SIGALRM, before)
    assert written(pids) and not any(alive(int(pid)) for pid in pids.read_text().split())


def test_a_signal_to_the_child_itself_is_an_interruption(settings: Settings, tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def terminate() -> None:
        if until(lambda: written(pids)):
            os.kill(int(pids.read_text().split()[0]), signal.SIGTERM)

    killer = Thread(target=terminate)
    killer.start()
    with pytest.raises(Interrupted, match="SIGTERM"):
        run_child(CHILD, {"what": "wait", "pids": str(pids)}, settings)
    killer.join()


@pytest.mark.parametrize(
    ("what", "number", "reason"),
    [
        ("wait", signal.SIGTERM, "SIGTERM"),
        ("wait", signal.SIGKILL, "the parent process is gone"),
        ("stubborn", signal.SIGTERM, None),
        ("stubborn", signal.SIGKILL, None),
    ],
)
def test_no_orphan_is_left(
    what: str, number: signal.Signals, reason: str | None, settings: Settings, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    environment = {**os.environ, **settings.to_environment()}
    parent = subprocess.Popen([sys.executable, "-m", CHILD, "parent", what, str(pids), "1"], env=environment)
    try:
        assert until(lambda: written(pids))
        family = [int(pid) for pid in pids.read_text().split()]
        parent.send_signal(number)
        parent.wait(20)
        assert until(lambda: not any(map(alive, family)), seconds=5), "child or grandchild outlived the parent"
    finally:
        parent.kill()
    assert parent.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    if reason:
        assert pids.with_suffix(".stopped").read_text() == reason
