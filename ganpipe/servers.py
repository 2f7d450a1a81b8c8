"""Servers on loopback that live no longer than this process, even when it is killed: each runs on a leash."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import WorkFailed
from .quiet import quiet_orchestrator
from .settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

HOST = "127.0.0.1"
START_SECONDS = 120.0
POLL_SECONDS = 0.2
STOP_SECONDS = 10.0


@contextmanager
def orchestrator(settings: Settings) -> Iterator[None]:
    """Flows of the block report to the server that Prefect's settings name, or else to one of this process.

    Prefect would start one itself, among the processes that a terminal's Ctrl-C reaches: flows could then not say how
    they ended. Raises WorkFailed when the server does not come up.
    """
    quiet_orchestrator(settings)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    application = ["uvicorn", "--factory", f"{__name__}:prefect_application", "--log-level", "error"]
    log = settings.local_folder("prefect") / f"server-{port}.log"
    server = start([*application, "--host", HOST, "--port", str(port)], log)
    atexit.register(log.unlink, missing_ok=True)
    atexit.register(stop, server)  # not with the block: Prefect sends its last events when the interpreter ends
    wait("Prefect", server, f"http://{HOST}:{port}/api/health", log)
    with temporary_settings({PREFECT_API_URL: f"http://{HOST}:{port}/api"}):
        yield


def prefect_application() -> FastAPI:
    """Prefect's API without pages and schedules, over the database under PREFECT_HOME."""
    from prefect.server.api.server import create_app

    return create_app(ephemeral=True, final=True)


def start(arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """`python -m ARGUMENTS`, until `stop` or the end of this process; its words go to the log."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "ganpipe.leash", *arguments],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,  # never written to: its end tells the leash that we are gone
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def wait(name: str, process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    """Until the address answers. Raises WorkFailed with the end of the log when it does not."""
    deadline = time.monotonic() + START_SECONDS
    while not _answers(health):
        if process.poll() is not None or time.monotonic() > deadline:
            text = log.read_text(errors="replace").strip()
            raise WorkFailed(f"{name}'s server did not start:\n{text[-2000:]}")
        time.sleep(POLL_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started."""
    if process.stdin:
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
