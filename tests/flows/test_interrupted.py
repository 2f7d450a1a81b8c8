"""`ganpipe run` with a Prefect server of its own, and what a terminal's Ctrl-C or `kill -9` leaves."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tiny import tiny_raw


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A night in a process group of its own, as a shell starts one, whose training has begun; and its home."""
    home = Path(os.environ["GANPIPE_HOME"])
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_raw(stop={"kimg": 1e6})))
    environment = {name: value for name, value in os.environ.items() if name != "GANPIPE_TRACKING_URI"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ganpipe", "run", str(config)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 240
    while not list(home.glob("work/*/metrics.jsonl")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        yield process, home
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_neither_servers_nor_doubts_are_left(
    running: tuple[subprocess.Popen[str], Path], number: signal.Signals
) -> None:
    process, home = running
    (log,) = (home / "prefect").glob("server-*.log")
    port = int(log.stem.removeprefix("server-"))
    assert answers(port)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130 and "interrupted; `ganpipe train --resume" in err, err
        assert "Traceback" not in err and "Error" not in err
        with sqlite3.connect(home / "prefect" / "prefect.db") as database:
            assert database.execute("SELECT state_type FROM flow_run").fetchall() == [("CRASHED",)]
        assert not log.exists()
    deadline = time.monotonic() + 20
    while answers(port) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not answers(port)
