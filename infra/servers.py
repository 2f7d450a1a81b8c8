"""The servers of the stack: how each is started, what has to be there before, and when it is healthy."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "ganpipe"
USER = "ganpipe"
"""On every server."""
POSTGRES_ACCOUNT = "postgres"
"""Of the operating system, made by Debian's package."""


class StackError(Exception):
    """What keeps the stack from running, in words."""


@dataclass(frozen=True)
class Server:
    """One process, its health, and what has to be there before its first start."""

    name: str
    command: list[str]
    healthy: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True)
class Place:
    """Where a stack lives: its folder, which remembers its ports and its passwords."""

    folder: Path
    values: dict[str, str]

    @classmethod
    def of(cls, folder: Path, port: str) -> Place:
        """The one that is there, or a new one: `port` is the first of its ports, passwords are random."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        path = folder / "secrets"
        if not path.exists():
            passwords = {f"{name}_password": secrets.token_urlsafe(24) for name in ("postgres", "mlflow", "prefect")}
            write_private(path, {"port": port, **passwords, "cookie": secrets.token_hex(32)})
        return cls(folder, read_values(path))

    def port(self, offset: int) -> int:
        """0 and 1: S3 and its monitor, 2: PostgreSQL, 3: MLflow, 4: Prefect, 5: the worker's health."""
        return int(self.values["port"]) + offset

    def url(self, offset: int) -> str:
        return f"http://127.0.0.1:{self.port(offset)}"

    def log(self, name: str) -> Path:
        (self.folder / "logs").mkdir(exist_ok=True)
        return self.folder / f"logs/{name}.log"

    def database(self, driver: str, name: str) -> str:
        """Without its password, which is in PGPASSFILE."""
        return f"postgresql+{driver}://{USER}@127.0.0.1:{self.port(2)}/{name}"

    def passfile(self) -> dict[str, str]:
        return {"PGPASSFILE": str(self.folder / "pgpass")}

    def s3_environment(self) -> dict[str, str]:
        """Address and keys, once the server has made them."""
        path = self.folder / "s3/environment"
        return read_values(path) if path.exists() else {}

    def client_environment(self) -> dict[str, str]:
        """What a ganpipe needs that works on this stack."""
        return {
            **self.s3_environment(),
            "GANPIPE_HOME": str(self.folder / "home"),
            "GANPIPE_STORE": f"s3://{BUCKET}/store",
            "GANPIPE_TRACKING_URI": self.url(3),
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.values["mlflow_password"],
            "PREFECT_API_URL": f"{self.url(4)}/api",
            "PREFECT_API_AUTH_STRING": f"{USER}:{self.values['prefect_password']}",
        }


def servers(place: Place) -> list[Server]:
    """In the order of their start; S3 comes before them, see `s3`."""
    return [postgres(place), mlflow(place), prefect(place), worker(place)]


def s3(place: Place, *arguments: str) -> None:
    """infra/s3-server.sh for this stack. Raises StackError with what it says."""
    variables = {"S3_FOLDER": f"{place.folder}/s3", "S3_PORT": str(place.port(0)), "S3_LOGS": f"{place.folder}/logs"}
    script = [str(ROOT / "infra/s3-server.sh"), *arguments]
    done = subprocess.run(script, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(done.stderr.strip())


# --- PostgreSQL --------------------------------------------------------------------------------------------------


def postgres(place: Place) -> Server:
    return Server(
        "postgres",
        [*as_postgres(), f"{postgres_programs()}/postgres", "-D", f"{place.folder}/postgres", "-p", str(place.port(2))],
        healthy=lambda: has_databases(place),
        prepare=lambda: make_cluster(place),
        stop_signal=signal.SIGINT,  # its fast shutdown: SIGTERM waits for the clients to leave
    )


def postgres_programs() -> Path | None:
    """Where they are: Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def as_postgres() -> list[str]:
    """PostgreSQL refuses to be root. Its user may still pass through root's folders, in which the data may lie."""
    if os.getuid() != 0:
        return []
    account = pwd.getpwnam(POSTGRES_ACCOUNT)
    drop = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    return [*drop, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def make_cluster(place: Place) -> None:
    """Files of a database server that asks everybody for the password. Does nothing when they are there."""
    data, made = place.folder / "postgres", place.folder / "postgres/made"
    if made.exists():
        return
    password = place.values["postgres_password"]
    write_private(place.folder / "pgpass", f"127.0.0.1:{place.port(2)}:*:{USER}:{password}\n")
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    if os.getuid() == 0:
        shutil.chown(data, POSTGRES_ACCOUNT)
    pwfile = place.folder / "postgres-password"
    write_private(pwfile, password)
    initdb = [*as_postgres(), f"{postgres_programs()}/initdb", "-D", str(data), "-U", USER, "-A", "scram-sha-256"]
    try:
        with place.log("postgres").open("ab") as log:
            command = [*initdb, "-E", "UTF8", f"--pwfile={pwfile}"]
            done = subprocess.run(command, stdout=log, stderr=log, check=False)
    finally:
        pwfile.unlink()
    if done.returncode:
        raise StackError(f"initdb failed: {last_lines(place.log('postgres'))}")
    with (data / "postgresql.conf").open("a") as stream:
        stream.write("listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 200\n")
    made.touch()


def has_databases(place: Place) -> bool:
    """Whether it answers; the databases of the others are made here when they are not there."""
    import psycopg

    address = f"postgresql://{USER}@127.0.0.1:{place.port(2)}/postgres"
    try:
        passfile = f"{place.folder}/pgpass"
        with psycopg.connect(address, passfile=passfile, connect_timeout=5, autocommit=True) as server:
            there = {name for (name,) in server.execute("SELECT datname FROM pg_database").fetchall()}
            for name in {"mlflow", "prefect"} - there:
                server.execute(f"CREATE DATABASE {name}")
    except psycopg.OperationalError:
        return False
    return True


# --- MLflow, Prefect, the worker ---------------------------------------------------------------------------------


def mlflow(place: Place) -> Server:
    auth = place.folder / "mlflow-auth.ini"

    def configure() -> None:
        text = "[mlflow]\ndefault_permission = NO_PERMISSIONS\nauth_cache_ttl_seconds = 60\n"
        write_private(auth, f"{text}database_uri = {place.database('psycopg', 'mlflow')}\n")

    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    return Server(
        "mlflow",
        [*command, "--host", "127.0.0.1", "--port", str(place.port(3)), "--allowed-hosts", "127.0.0.1:*,localhost:*"],
        healthy=lambda: answers(f"{place.url(3)}/health"),
        environment={
            **place.passfile(),
            **place.s3_environment(),
            "MLFLOW_BACKEND_STORE_URI": place.database("psycopg", "mlflow"),
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
            "MLFLOW_AUTH_CONFIG_PATH": str(auth),
            "MLFLOW_AUTH_ADMIN_USERNAME": USER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": place.values["mlflow_password"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": place.values["cookie"],
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        },
        prepare=configure,
    )


def prefect(place: Place) -> Server:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(place.port(4))]
    return Server(
        "prefect",
        command,
        healthy=lambda: answers(f"{place.url(4)}/api/health"),
        environment={
            **place.passfile(),
            "PREFECT_HOME": f"{place.folder}/prefect",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": place.database("asyncpg", "prefect"),
            "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{place.values['prefect_password']}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # in memory, they would be forgotten by a restart, and GPUs given away twice
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_UI_API_URL": f"{place.url(4)}/api",
            "DO_NOT_TRACK": "1",
        },
    )


def worker(place: Place) -> Server:
    return Server(
        "worker",
        [sys.executable, "-m", "ganpipe", "worker"],
        healthy=lambda: answers(f"{place.url(5)}/health"),
        environment={**place.client_environment(), "PREFECT_WORKER_WEBSERVER_PORT": str(place.port(5))},
    )


# --- small things ------------------------------------------------------------------------------------------------


def write_private(path: Path, content: str | dict[str, str]) -> None:
    """A file that only its owner reads, from its first byte on."""
    text = content if isinstance(content, str) else "".join(f"{name}={value}\n" for name, value in content.items())
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)


def read_values(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def last_lines(path: Path) -> str:
    return f"{' | '.join(path.read_text(errors='replace').splitlines()[-3:])} (see {path})"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
