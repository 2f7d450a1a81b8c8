"""The services of compose.yaml without containers: their own commands and environments, as processes on loopback.

Only addresses and ports are others. It needs PostgreSQL's server and Ceph.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import INFRA, run, skip_loudly
from s3_server import Server, free_port
from test_compose import SERVICES, env, environment_of  # noqa: F401

pytestmark = [pytest.mark.stack, pytest.mark.slow]


@contextmanager
def process(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        started = subprocess.Popen(command, stdout=stream, stderr=stream, **options)
        try:
            yield started
        finally:
            started.terminate()
            started.wait(timeout=60)


def status(url: str, auth: str = "", **headers: str) -> int:
    """HTTP status of a GET; 0 when nobody answers."""
    if auth:
        headers["Authorization"] = f"Basic {b64encode(auth.encode()).decode()}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while status(url) != 200:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.3)


@pytest.fixture
def postgres(env: dict[str, str], tmp_path: Path) -> Iterator[int]:  # noqa: F811
    """The port of a new PostgreSQL, on which postgres-init.sql has run."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        skip_loudly("THE SERVICES ARE NOT RUN: there is no PostgreSQL; apt-get install postgresql")
    tools, port = found[-1].parent, free_port()
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    data = Path(tempfile.mkdtemp())  # outside the test's folder, which is root's alone
    if user:
        shutil.chown(data, "postgres", "postgres")
    made = run(*user, tools / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--auth-host=scram-sha-256")
    assert made.returncode == 0, made.stderr
    server = [*user, str(tools / "postgres"), "-D", str(data), "-p", str(port), "-k", str(data)]
    with process(server, tmp_path / "postgres.log"):
        deadline = time.monotonic() + 30
        while run(tools / "pg_isready", "-h", data, "-p", str(port)).returncode:
            assert time.monotonic() < deadline, (tmp_path / "postgres.log").read_text()
            time.sleep(0.1)
        sql = INFRA / "postgres-init.sql"
        asked = ["psql", "-X", "-h", str(data), "-p", str(port), "-U", "postgres", "-f", str(sql)]
        done = run(*user, *asked, env=environment_of("postgres", env))
        assert done.returncode == 0, done.stderr
        yield port
    shutil.rmtree(data)


@contextmanager
def service(name: str, folder: Path, port: int, environment: dict[str, str], health: str) -> Iterator[str]:
    """One of them at another port; its address."""
    given = [part for part in SERVICES[name]["command"] if not part.startswith(("--host=", "--port="))]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
    log, address = folder / f"{name}.log", f"http://127.0.0.1:{port}"
    command = [*given, "--host=127.0.0.1", f"--port={port}"]
    with process(command, log, env={**path, **environment}, cwd=folder) as started:
        healthy(address + health, started, log)
        yield address


def test_mlflow_and_prefect_serve_on_postgres_and_the_bucket_and_ask_for_passwords(
    env: dict[str, str],  # noqa: F811
    postgres: int,
    s3_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert s3_server.run("bucket", "ganpipe").returncode == 0
    mlflow = environment_of("mlflow", env) | s3_server.environment()
    mlflow |= {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(postgres),
        "MLFLOW_AUTH_CONFIG_PATH": str(INFRA / "mlflow-auth.ini"),
    }
    prefect = environment_of("prefect", env) | {"PREFECT_HOME": str(tmp_path / "prefect")}
    prefect |= {"PREFECT_SERVER_DATABASE_HOST": "127.0.0.1", "PREFECT_SERVER_DATABASE_PORT": str(postgres)}
    with ExitStack() as stack:
        tracking = stack.enter_context(service("mlflow", tmp_path, free_port(), mlflow, "/health"))
        server = stack.enter_context(service("prefect", tmp_path, free_port(), prefect, "/api/health"))

        search = f"{tracking}/api/2.0/mlflow/experiments/search?max_results=1"
        password = env["MLFLOW_ADMIN_PASSWORD"]
        assert status(search, Host="mlflow:5000") == 401 == status(search, "ganpipe:wrong", Host="mlflow:5000")
        assert status(search, f"ganpipe:{password}", Host="mlflow:5000") == 200
        assert status(search, f"ganpipe:{password}", Host="elsewhere.example") == 403
        version = f"{server}/api/admin/version"
        assert (status(version), status(version, "ganpipe:wrong")) == (401, 401)
        assert status(version, env["PREFECT_AUTH_STRING"]) == 200

        uploaded = {"MLFLOW_TRACKING_URI": tracking, "MLFLOW_TRACKING_USERNAME": "ganpipe"}
        uploaded |= {"MLFLOW_TRACKING_PASSWORD": password, "HOME": str(tmp_path)}
        code = "import mlflow\nwith mlflow.start_run():\n    mlflow.log_text('proof', 'proof.txt')"
        done = run("python", "-c", code, env=uploaded)
        assert done.returncode == 0, done.stderr
        for name, value in s3_server.environment().items():
            monkeypatch.setenv(name, value)
        from ganpipe.storage import open_store

        assert [item.key for item in open_store("s3://ganpipe/mlflow").list() if item.key.endswith("proof.txt")]

        lines = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        logs = b"".join(path.read_bytes() for path in tmp_path.glob("*.log"))
        assert b"mlflow.server" in lines
        assert not [name for name, value in env.items() if value.encode() in lines + logs]
