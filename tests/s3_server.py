"""A real S3 server, started by infra/s3-server.sh once for all workers of a test session."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ganpipe.storage.file import locked

SCRIPT = Path(__file__).parents[1] / "infra/s3-server.sh"
BUCKET = "tests"


@dataclass(frozen=True)
class Server:
    """What `infra/s3-server.sh` keeps in a folder."""

    folder: Path
    port: int

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "S3_FOLDER": str(self.folder), "S3_PORT": str(self.port)}
        command = [str(SCRIPT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)

    def environment(self) -> dict[str, str]:
        """The variables with which boto3 gets there."""
        lines = (self.folder / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @contextmanager
    def another_gateway(self) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        """A second way into the same buckets, to be killed: its address and its process."""
        url = f"http://127.0.0.1:{free_port()}"
        frontend = f"--rgw-frontends=beast endpoint={url.removeprefix('http://')} tcp_nodelay=1"
        command = ["radosgw", "-c", str(self.folder / "ceph.conf"), "-n", "client.another", frontend, "-f"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not serves(url):
                assert process.poll() is None
                time.sleep(0.1)
            yield url, process
        finally:
            process.kill()
            process.wait()


def serves(url: str) -> bool:
    """Whether something answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, with the bucket BUCKET. The first worker that wants it starts it, the last one removes it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    users = folder / "s3-users"
    port = folder / "s3-port"
    with locked(folder / "s3-lock"):
        if not port.exists():
            port.write_text(str(free_port()))
        server = Server(folder / "s3", int(port.read_text()))
        _installed_or_skipped(server)
        started = server.run("start")
        assert started.returncode == 0, started.stderr
        assert server.run("bucket", BUCKET).returncode == 0
        with users.open("a") as stream:
            stream.write("+")
    yield server
    with locked(folder / "s3-lock"):
        left = users.read_text()[1:]
        users.write_text(left)
        if not left:
            assert server.run("delete").returncode == 0


@pytest.fixture
def s3_uri(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in the bucket, for a test and the processes that it starts."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def _installed_or_skipped(server: Server) -> None:
    installed = server.run("install")
    if installed.returncode:
        reason = f"NOTHING ABOUT S3 IS TESTED: {installed.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def free_port() -> int:
    """A port that is free, and so is the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
