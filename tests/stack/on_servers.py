"""What the tests on real servers have in common."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tiny import tiny_raw

SCRIPT = Path(__file__).parents[2] / "infra/stack.py"
ROOT = SCRIPT.parents[1]


@dataclass(frozen=True)
class Stack:
    """Servers on this machine."""

    folder: Path
    port: int

    def run(self, *arguments: str) -> None:
        variables = {**os.environ, "STACK_FOLDER": str(self.folder), "STACK_PORT": str(self.port)}
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments], env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    @property
    def environment(self) -> dict[str, str]:
        """Of a user of these servers."""
        lines = shlex.split((self.folder / "environment").read_text())
        return dict(line.split("=", 1) for line in lines)

    def worker(self) -> psutil.Process:
        return psutil.Process(int((self.folder / "worker.pid").read_text().split()[0]))

    def nights(self) -> list[psutil.Process]:
        """The processes of flow runs, which the worker starts."""
        return [process for process in psutil.process_iter() if "prefect.engine" in command(process)]

    def ranks(self) -> list[psutil.Process]:
        """The processes that train or evaluate for this stack's worker, and torchrun over them."""
        home = self.environment["GANPIPE_HOME"]
        return [
            process for process in psutil.process_iter() if home in command(process) and "ganpipe." in command(process)
        ]


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What the condition returns once it holds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)
    return found


def night_raw(name: str, **train: Any) -> dict[str, Any]:
    """A night of two processes."""
    raw = tiny_raw(micro_batch=8, **train)
    return {**raw, "name": name, "register": {"model": name}}


def ganpipe(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One command, as a user of the stack; one thread, so that two runs can be equal bit for bit."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ganpipe", *arguments],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert not check or done.returncode == 0, done.stderr
    return done
