"""The servers of a night as plain processes on this machine: PostgreSQL, S3 (Ceph), MLflow, Prefect, and a worker.

    python infra/stack.py up                 install what is missing (as root, on Debian), start what does not run,
                                             and wait until all of it is healthy
    python infra/stack.py status             one line for each; exit code 1 unless all are healthy
    python infra/stack.py stop|start NAME    one of them
    python infra/stack.py down               all of them; the data stay
    python infra/stack.py delete             down, and remove all data

    set -a && . .ganpipe/stack/environment && set +a      then every ganpipe command uses these servers

STACK_FOLDER (default .ganpipe/stack) holds data, logs, process ids and the random passwords. Those are in files of mode
0600 and in the servers' environments, never on a command line. STACK_PORT (default 9000) is the first of six ports, all
of them on 127.0.0.1; a folder keeps the ports that it was made with.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from servers import (
    BUCKET,
    ROOT,
    Place,
    Server,
    StackError,
    answers,
    last_lines,
    postgres_programs,
    s3,
    servers,
    write_private,
)

WAIT_SECONDS = 120.0
STOP_SECONDS = 45.0
"""The worker's nights write a checkpoint first."""


def up(place: Place) -> None:
    install(place)
    start_s3(place)
    for server in servers(place):
        start(place, server)
    quoted = {name: shlex.quote(value) for name, value in place.client_environment().items()}
    write_private(place.folder / "environment", quoted)
    say(f"\nMLflow    {place.url(3)}\nPrefect   {place.url(4)}\nfor ganpipe, and for the user and the passwords:")
    say(f"  set -a && . {place.folder}/environment && set +a")


def down(place: Place) -> None:
    for server in reversed(servers(place)):
        stop(place, server)
    s3(place, "stop")


def delete(place: Place) -> None:
    down(place)
    s3(place, "delete")
    shutil.rmtree(place.folder)


def status(place: Place) -> None:
    sick = []
    for server in servers(place):
        process = running(place, server)
        health = "not running" if process is None else "healthy" if server.healthy() else "running, not healthy"
        say(f"{server.name:9} {health}" + (f", process {process.pid}" if process else ""))
        sick += [server.name] if health != "healthy" else []
    s3_health = "healthy" if answers(place.url(0)) else "not running"
    say(f"{'s3':9} {s3_health}")
    sick += ["s3"] if s3_health != "healthy" else []
    if sick:
        raise StackError(f"not healthy: {', '.join(sick)}; `make stack-up` starts what does not run")


def start_s3(place: Place) -> None:
    place.log("s3")
    s3(place, "start")
    s3(place, "bucket", BUCKET)
    say("s3 is healthy")


def start(place: Place, server: Server) -> None:
    """Start it unless it runs, and wait until it is healthy."""
    if running(place, server) is None:
        if server.healthy():
            raise StackError(f"another {server.name} answers at its port; set STACK_PORT to the first of six free ones")
        server.prepare()
        with place.log(server.name).open("ab") as log:
            process = subprocess.Popen(
                server.command,
                cwd=place.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **server.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        record(place, server).write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")
    deadline = time.monotonic() + WAIT_SECONDS
    while not server.healthy():
        if running(place, server) is None:
            raise StackError(f"{server.name} ended: {last_lines(place.log(server.name))}")
        if time.monotonic() > deadline:
            raise StackError(f"{server.name} is not healthy after {WAIT_SECONDS:.0f} s, see {place.log(server.name)}")
        time.sleep(0.2)
    say(f"{server.name} is healthy")


def stop(place: Place, server: Server) -> None:
    """End it and all that it started."""
    process = running(place, server)
    if process is None:
        return
    family = [process, *process.children(recursive=True)]
    process.send_signal(server.stop_signal)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=5)
    record(place, server).unlink()


def record(place: Place, server: Server) -> Path:
    return place.folder / f"{server.name}.pid"


def running(place: Place, server: Server) -> psutil.Process | None:
    """The process on record, if it runs: process ids are given away again, times of birth are not."""
    try:
        pid, born = record(place, server).read_text().split()
        process = psutil.Process(int(pid))
        alive = process.create_time() == float(born) and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if alive else None


def install(place: Place) -> None:
    """Debian's packages, unless they are there."""
    s3(place, "install")
    if postgres_programs():
        return
    if not shutil.which("apt-get") or os.getuid() != 0:
        raise StackError("PostgreSQL is missing; on Debian or Ubuntu, `apt-get install postgresql` as root installs it")
    apt_get("update", "-qq")
    apt_get("install", "-y", "-qq", "--no-install-recommends", "postgresql-common")
    conf = Path("/etc/postgresql-common/createcluster.conf")
    conf.write_text(f"{conf.read_text()}\ncreate_main_cluster = false\n")  # no server that nobody asked for
    apt_get("install", "-y", "-qq", "--no-install-recommends", "postgresql")


def apt_get(*arguments: str) -> None:
    variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", *arguments], env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"`apt-get {' '.join(arguments)}` failed: {done.stderr[-300:]}")


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


COMMANDS: dict[str, Callable[[Place], None]] = {"up": up, "down": down, "delete": delete, "status": status}


def carry_out(arguments: list[str], place: Place) -> None:
    if len(arguments) == 1:
        COMMANDS[arguments[0]](place)
    elif arguments[1] == "s3":
        start_s3(place) if arguments[0] == "start" else s3(place, "stop")
    else:
        by_name = {server.name: server for server in servers(place)}
        if arguments[1] not in by_name:
            raise StackError(f"{arguments[1]!r} is none of s3, {', '.join(by_name)}")
        (start if arguments[0] == "start" else stop)(place, by_name[arguments[1]])


def main(arguments: list[str]) -> int:
    known = (len(arguments) == 1 and arguments[0] in COMMANDS) or (
        len(arguments) == 2 and arguments[0] in ("start", "stop")
    )
    if not known:
        say(__doc__ or "")
        return 2
    folder = Path(os.environ.get("STACK_FOLDER", ".ganpipe/stack")).resolve()
    try:
        carry_out(arguments, Place.of(folder, os.environ.get("STACK_PORT", "9000")))
    except StackError as error:
        say(f"stack: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
