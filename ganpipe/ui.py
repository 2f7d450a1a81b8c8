"""Both web pages on this machine: MLflow's and Prefect's, over what lies under GANPIPE_HOME, on loopback only.

    with serving(settings, port, prefect_port) as pages:
        print(pages.addresses)
        pages.stay()

A server that the settings or PREFECT_API_URL name is not started, its address is told.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .errors import InputError, WorkFailed
from .quiet import quiet_orchestrator
from .servers import HOST, POLL_SECONDS, start, stop, wait
from .settings import Settings


@dataclass(frozen=True)
class Pages:
    """Where the pages are, and the servers that were started for them."""

    addresses: dict[str, str] = field(default_factory=dict)
    """By `mlflow` and `prefect`."""
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def stay(self) -> None:
        """As long as what was started runs; returns at once when nothing was. Raises WorkFailed when a server ends."""
        while self.servers:
            for name, process in self.servers.items():
                if process.poll() is not None:
                    raise WorkFailed(f"{name}'s server ended with exit code {process.returncode}")
            time.sleep(POLL_SECONDS)


@contextmanager
def serving(settings: Settings, port: int, prefect_port: int) -> Iterator[Pages]:
    """The pages, once they answer; what was started ends with the block.

    Raises InputError for a port that cannot be had, WorkFailed when a server does not come up.
    """
    settings.prepared_tracking_uri()
    quiet_orchestrator(settings)
    logs = settings.local_folder("ui")
    pages = Pages()
    remote_mlflow = settings.tracking_uri if settings.tracking_uri.startswith("http") else None
    remote_prefect = os.environ.get("PREFECT_API_URL")
    if not remote_mlflow:
        _require_free("--port", port)
    if not remote_prefect:
        _require_free("--prefect-port", prefect_port)
    if port == prefect_port:
        raise InputError(f"--port and --prefect-port are both {port}; give them different ones")
    pages.addresses["mlflow"] = (remote_mlflow or f"http://{HOST}:{port}").rstrip("/")
    pages.addresses["prefect"] = (
        (os.environ.get("PREFECT_UI_URL") or remote_prefect or f"http://{HOST}:{prefect_port}")
        .rstrip("/")
        .removesuffix("/api")
    )
    try:
        if not remote_mlflow:
            pages.servers["MLflow"] = _mlflow(settings, port, logs)
        if not remote_prefect:
            pages.servers["Prefect"] = _prefect(settings, prefect_port, logs)
        for name, health in (("MLflow", "health"), ("Prefect", "api/health")):
            if name in pages.servers:
                page = pages.addresses[name.lower()]
                wait(name, pages.servers[name], f"{page}/{health}", logs / f"{name.lower()}.log")
        yield pages
    finally:
        for process in pages.servers.values():
            stop(process)


def _require_free(option: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if port == 0:
                raise OverflowError("it must be 1-65535")
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"{option} {port} cannot be had ({error}); give another one") from error


def _mlflow(settings: Settings, port: int, logs: Path) -> subprocess.Popen[bytes]:
    places = ["--backend-store-uri", settings.tracking_uri, "--default-artifact-root", f"{settings.store}/mlflow"]
    arguments = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1", *places]
    return start(arguments, logs / "mlflow.log", {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def _prefect(settings: Settings, port: int, logs: Path) -> subprocess.Popen[bytes]:
    """The pages alone: schedules and the like are the business of the server that runs flows."""
    quiet = {
        "PREFECT_UI_STATIC_DIRECTORY": str(settings.local_folder("ui") / "prefect"),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_UI_API_URL": f"http://{HOST}:{port}/api",
    }
    arguments = ["prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-services"]
    return start(arguments, logs / "prefect.log", quiet)
