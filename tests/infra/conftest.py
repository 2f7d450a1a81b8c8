"""What the checks of infra/ share. Nothing here needs a Docker engine or a cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ganpipe.storage.file import locked

INFRA = Path(__file__).parents[2] / "infra"


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command's output, with the environment's own tools on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"HOME": os.environ.get("HOME", "/"), "PATH": path, **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300, **options)


def documents(path: Path) -> list[Any]:
    """All documents of a YAML file, merges resolved."""
    return list(YAML(typ="safe").load_all(path))


@pytest.fixture(scope="session")
def compose(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The Compose that is there, installed on Debian when it is not."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with locked(folder / "s3-lock"):  # which holds while Ceph is installed: one apt-get at a time
        if shutil.which("apt-get") and os.getuid() == 0 and not _compose():
            run("apt-get", "update", "-qq")
            run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "docker-compose")
    return _compose() or skip_loudly("compose.yaml IS NOT RESOLVED: there is no `docker compose`")


def _compose() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and run(*command, "version").returncode == 0:
            return command
    return []


def skip_loudly(reason: str) -> Any:
    """In continuous integration what is not tested is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
