"""The servers of a night as plain processes on this machine: PostgreSQL, S3 (Ceph), MLflow, Prefect, and a worker.

    python infra/stack.py up                  install what is missing (root on Debian), start what does not run, wait until healthy
    python infra/stack.py status              one line for each; exit code 1 unless all are healthy
    python infra/stack.py stop|start NAME     one of them, by the process id on record
    python infra/stack.py down                all of them; the data stay
    python infra/stack.py delete              down, and remove all data

    set -a && . .ganpipe/stack/environment && set +a       then every ganpipe command uses these servers

STACK_FOLDER (default .ganpipe/stack) holds data, logs, process ids and the random passwords, which are in files of mode 0600 and
in the servers' environments, never on a command line. STACK_PORT (default 9000) is the first of six ports, all on 127.0.0.1.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("STACK_FOLDER", ".ganpipe/stack")).resolve()
BUCKET = "ganpipe"
WAIT_SECONDS = 120.0
STOP_SECONDS = 45.0
"""The worker's flows write a checkpoint first."""
POSTGRES_USER = "postgres"
"""Of the operating system, made by Debian's package."""


class StackError(Exception):
    """What keeps the stack from running, in words."""


# --- what it is made of ------------------------------------------------------------------------------------------


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
class Stack:
    """The servers of a folder, which remembers their ports and passwords."""

    folder: Path
    values: dict[str, str]
    """Ports and passwords: what `secrets` in the folder says."""

    @classmethod
    def of(cls, folder: Path) -> Stack:
        """The one that is there, or a new one with random passwords."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        path = folder / "secrets"
        if not path.exists():
            values = {f"{name}_password": secrets.token_urlsafe(24) for name in ("postgres", "mlflow", "prefect")}
            write_private(
                path, {"port": os.environ.get("STACK_PORT", "9000"), **values, "cookie": secrets.token_hex(32)}
            )
        return cls(folder, read_values(path))

    def port(self, offset: int) -> int:
        return int(self.values["port"]) + offset

    @property
    def s3_port(self) -> int:
        return self.port(0)  # and the next one, of its monitor

    @property
    def postgres_port(self) -> int:
        return self.port(2)

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.port(3)}"

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.port(4)}"

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
            "GANPIPE_TRACKING_URI": self.mlflow_url,
            "MLFLOW_TRACKING_USERNAME": "ganpipe",
            "MLFLOW_TRACKING_PASSWORD": self.values["mlflow_password"],
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_API_AUTH_STRING": f"ganpipe:{self.values['prefect_password']}",
        }

    def database(self, driver: str, name: str) -> str:
        """Without its password, which is in PGPASSFILE."""
        return f"postgresql+{driver}://ganpipe@127.0.0.1:{self.postgres_port}/{name}"

    def servers(self) -> list[Server]:
        """In the order of their start."""
        worker_port = self.port(5)
        passfile = {"PGPASSFILE": str(self.folder / "pgpass")}
        data = self.folder / "postgres"
        mlflow = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        mlflow += ["--host", "127.0.0.1", "--port", str(self.port(3)), "--allowed-hosts", "127.0.0.1:*,localhost:*"]
        prefect = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port(4)),
        ]
        return [
            Server(
                "postgres",
                [*as_postgres(), f"{postgres_bin()}/postgres", "-D", str(data), "-p", str(self.postgres_port)],
                healthy=self.postgres_answers,
                prepare=self.make_cluster,
                stop_signal=signal.SIGINT,  # its fast shutdown: SIGTERM waits for the clients to leave
            ),
            Server(
                "mlflow",
                mlflow,
                healthy=lambda: answers(f"{self.mlflow_url}/health"),
                environment={
                    **passfile,
                    **self.s3_environment(),
                    "MLFLOW_BACKEND_STORE_URI": self.database("psycopg", "mlflow"),
                    "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
                    "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "mlflow-auth.ini"),
                    "MLFLOW_AUTH_ADMIN_USERNAME": "ganpipe",
                    "MLFLOW_AUTH_ADMIN_PASSWORD": self.values["mlflow_password"],
                    "MLFLOW_FLASK_SERVER_SECRET_KEY": self.values["cookie"],
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
                    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                },
                prepare=self.configure_mlflow,
            ),
            Server(
                "prefect",
                prefect,
                healthy=lambda: answers(f"{self.prefect_url}/api/health"),
                environment={
                    **passfile,
                    "PREFECT_HOME": str(self.folder / "prefect"),
                    "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.database("asyncpg", "prefect"),
                    "PREFECT_SERVER_API_AUTH_STRING": f"ganpipe:{self.values['prefect_password']}",
                    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
                    "PREFECT_SERVER_UI_API_URL": f"{self.prefect_url}/api",
                    "DO_NOT_TRACK": "1",
                },
            ),
            Server(
                "worker",
                [sys.executable, "-m", "ganpipe", "worker"],
                healthy=lambda: answers(f"http://127.0.0.1:{worker_port}/health"),
                environment={**self.client_environment(), "PREFECT_WORKER_WEBSERVER_PORT": str(worker_port)},
            ),
        ]

    # PostgreSQL

    def make_cluster(self) -> None:
        data = self.folder / "postgres"
        passfile = self.folder / "pgpass"
        password = self.values["postgres_password"]
        if not passfile.exists():
            write_private(passfile, f"127.0.0.1:{self.postgres_port}:*:ganpipe:{password}\n")
        if (data / "made").exists():
            return
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        if os.getuid() == 0:
            shutil.chown(data, POSTGRES_USER, None)
        pwfile = self.folder / "postgres-password"
        write_private(pwfile, password)
        initdb = [*as_postgres(), f"{postgres_bin()}/initdb", "-D", str(data), "-U", "ganpipe", "-A", "scram-sha-256"]
        log = self.log("postgres")
        try:
            with log.open("ab") as stream:
                done = subprocess.run(
                    [*initdb, "-E", "UTF8", f"--pwfile={pwfile}"], stdout=stream, stderr=stream, check=False
                )
        finally:
            pwfile.unlink()
        if done.returncode:
            raise StackError(f"initdb failed: {last_lines(log)}")
        with (data / "postgresql.conf").open("a") as stream:
            stream.write("listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\n")
        (data / "made").touch()

    def postgres_answers(self) -> bool:
        """And has our databases: they are made here when they are not there."""
        import psycopg

        os.environ["PGPASSFILE"] = str(self.folder / "pgpass")
        try:
            with psycopg.connect(
                self.database("psycopg", "postgres").replace("+psycopg", ""), autocommit=True
            ) as database:
                there = {name for (name,) in database.execute("SELECT datname FROM pg_database").fetchall()}
                for name in ("mlflow", "prefect"):
                    if name not in there:
                        database.execute(f"CREATE DATABASE {name}")
        except psycopg.OperationalError:
            return False
        return True

    def configure_mlflow(self) -> None:
        text = (
            "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
            f"database_uri = {self.database('psycopg', 'mlflow')}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        write_private(self.folder / "mlflow-auth.ini", text)

    # processes

    def log(self, name: str) -> Path:
        (self.folder / "logs").mkdir(exist_ok=True)
        return self.folder / f"logs/{name}.log"

    def process(self, server: Server) -> psutil.Process | None:
        """The one that was started here, if it runs: process ids are given away again, times of birth are not."""
        try:
            pid, born = (self.folder / f"{server.name}.pid").read_text().split()
            process = psutil.Process(int(pid))
            if process.create_time() == float(born) and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except (FileNotFoundError, psutil.NoSuchProcess):
            pass
        return None

    def start(self, server: Server) -> None:
        """Start it unless it runs, and wait until it is healthy."""
        if self.process(server) is None:
            if server.healthy():
                raise StackError(f"another {server.name} answers at its port; set STACK_PORT to other ports")
            server.prepare()
            with self.log(server.name).open("ab") as stream:
                process = subprocess.Popen(
                    server.command,
                    cwd=self.folder,
                    env={**os.environ, "PYTHONPATH": str(ROOT), **server.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
            (self.folder / f"{server.name}.pid").write_text(
                f"{process.pid} {psutil.Process(process.pid).create_time()}"
            )
        deadline = time.monotonic() + WAIT_SECONDS
        while not server.healthy():
            if self.process(server) is None:
                raise StackError(f"{server.name} ended: {last_lines(self.log(server.name))}")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{server.name} is not healthy after {WAIT_SECONDS:.0f} s, see {self.log(server.name)}"
                )
            time.sleep(0.2)
        say(f"{server.name} is healthy")

    def stop(self, server: Server) -> None:
        """End it and all that it started."""
        process = self.process(server)
        if process is None:
            return
        family = [process, *process.children(recursive=True)]
        process.send_signal(server.stop_signal)
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for left in alive:
            left.kill()
        psutil.wait_procs(alive, timeout=5)
        (self.folder / f"{server.name}.pid").unlink(missing_ok=True)

    def start_s3(self) -> None:
        self.s3("start")
        self.s3("bucket", BUCKET)
        say("s3 is healthy")

    def s3(self, *arguments: str) -> None:
        """infra/s3-server.sh for this stack."""
        variables = {
            "S3_FOLDER": str(self.folder / "s3"),
            "S3_PORT": str(self.s3_port),
            "S3_LOGS": str(self.log("s3").parent),
        }
        done = subprocess.run(
            [ROOT / "infra/s3-server.sh", *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(done.stderr.strip())


# --- small things ------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


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


def as_postgres() -> list[str]:
    """PostgreSQL refuses to be root. Its user may still pass through root's folders, in which the data may lie."""
    if os.getuid() != 0:
        return []
    user = pwd.getpwnam(POSTGRES_USER)
    drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [*drop, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def postgres_bin() -> Path | None:
    """Where PostgreSQL's programs are: Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def install(stack: Stack) -> None:
    """Debian's packages, unless they are there."""
    stack.s3("install")
    if postgres_bin():
        return
    if not shutil.which("apt-get") or os.getuid() != 0:
        raise StackError("PostgreSQL is missing; on Debian or Ubuntu, `apt-get install postgresql` as root installs it")
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "check": True}
    try:
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql-common"], **quiet)
        conf = Path("/etc/postgresql-common/createcluster.conf")
        conf.write_text(
            conf.read_text() + "\ncreate_main_cluster = false\n"
        )  # one that nobody asked for, at once started
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql"], **quiet)
    except subprocess.CalledProcessError as error:
        raise StackError(f"apt-get could not install postgresql: {error.stderr.decode()[-300:]}") from error


# --- commands ----------------------------------------------------------------------------------------------------


def up(stack: Stack) -> None:
    install(stack)
    stack.start_s3()
    for server in stack.servers():
        stack.start(server)
    write_private(stack.folder / "environment", stack.client_environment())
    say(
        f"\nMLflow    {stack.mlflow_url}\nPrefect   {stack.prefect_url}\nuser and passwords are in {stack.folder}/environment:"
    )
    say(f"  set -a && . {stack.folder}/environment && set +a")


def down(stack: Stack) -> None:
    for server in reversed(stack.servers()):
        stack.stop(server)
    stack.s3("stop")


def delete(stack: Stack) -> None:
    down(stack)
    shutil.rmtree(stack.folder)


def status(stack: Stack) -> None:
    sick = []
    for server in stack.servers():
        process = stack.process(server)
        health = "not running" if process is None else "healthy" if server.healthy() else "running, not healthy"
        say(f"{server.name:9} {health}" + (f", process {process.pid}" if process else ""))
        sick += [server.name] if health != "healthy" else []
    health = "healthy" if answers(f"http://127.0.0.1:{stack.s3_port}") else "not running"
    say(f"{'s3':9} {health}")
    sick += ["s3"] if health != "healthy" else []
    if sick:
        raise StackError(f"not healthy: {', '.join(sick)}; `python infra/stack.py up` starts what does not run")


def one(stack: Stack, name: str) -> Server:
    found = {server.name: server for server in stack.servers()}
    if name not in found:
        raise StackError(f"{name!r} is none of {', '.join(found)}")
    return found[name]


def main(arguments: list[str]) -> int:
    commands = {"up": up, "down": down, "delete": delete, "status": status}
    try:
        match arguments:
            case [("up" | "down" | "delete" | "status") as command]:
                commands[command](Stack.of(FOLDER))
            case ["start", name]:
                stack = Stack.of(FOLDER)
                stack.start_s3() if name == "s3" else stack.start(one(stack, name))
            case ["stop", name]:
                stack = Stack.of(FOLDER)
                stack.s3("stop") if name == "s3" else stack.stop(one(stack, name))
            case _:
                say(__doc__ or "")
                return 2
    except StackError as error:
        say(f"stack: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
